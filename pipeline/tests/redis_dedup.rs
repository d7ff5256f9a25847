//! Whole pipelines whose seen-set is in a real Redis: the same answers as in memory, through crashes of either side.

mod support;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use highwater::operators::testing::failpoint;
use highwater::operators::testing::redis::{Keeps, Server, Settings as RedisSettings};
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, Item, STEP_MS, Script, Shape};
use support::whole::Whole;

/// One for all tests that do it no harm: no checkpoint's ids say anything to another.
fn shared() -> String {
    static SHARED: OnceLock<Server> = OnceLock::new();
    let server = SHARED.get_or_init(|| RedisSettings::default().keeps(Keeps::All).start().expect("a private Redis"));
    server.url().reveal().to_owned()
}

fn whole(seed: u64, shape: Shape, window_ms: Option<i64>, redis: &str) -> Whole {
    Whole { redis: Some(redis.to_owned()), ..Whole::new(seed, Input::seeded(seed, shape), window_ms) }
}

/// Runs seeds, and says which one failed.
fn each_seed(first: u64, few: u64, run: impl Fn(u64)) {
    let seeds = match support::only_seed() {
        Some(seed) => seed..seed + 1,
        None => first..first + support::seeds(few),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("failed with HIGHWATER_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn some_settings(rng: &mut StdRng, data: std::path::PathBuf, workers: u64) -> Settings {
    Settings {
        in_flight_changes: rng.random_range(4..400),
        checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
        checkpoint_interval: Some(rng.random_range(1..5)),
        ..support::settings(data, workers)
    }
}

#[test]
fn the_same_answers_as_an_oracle_on_any_number_of_workers() {
    each_seed(0, 8, |seed| {
        for workers in [1, 2, 4] {
            let mut rng = StdRng::seed_from_u64(seed);
            let windowed = rng.random_bool(0.5);
            let partitions = if windowed { 1 } else { rng.random_range(1..=5) };
            let shape = Shape { partitions, items: 400 / partitions, keys: rng.random_range(1..12), trouble: true };
            let whole = whole(seed, shape, windowed.then(|| STEP_MS * rng.random_range(1..30)), &shared());
            let settings = some_settings(&mut rng, whole.data(), workers);
            let report = support::run(&settings, &whole.build()).expect("no error");
            whole.check(&report, 0);
        }
    });
}

/// The pipeline crashes at named places, and goes on with other numbers of workers.
#[test]
fn a_crash_of_the_pipeline_loses_nothing_and_repeats_nothing_that_was_noted() {
    for point in ["dedup.passed", failpoint::SAVE_SYNCED, failpoint::SAVE_COMMITTED] {
        each_seed(1_000, 6, |seed| {
            let mut rng = StdRng::seed_from_u64(seed ^ 0x00c0_ffee);
            let windowed = rng.random_bool(0.3);
            let partitions = if windowed { 1 } else { rng.random_range(2..=4) };
            let shape = Shape { partitions, items: 120 / partitions, keys: rng.random_range(1..6), trouble: true };
            let whole = whole(seed, shape, windowed.then_some(STEP_MS * 12), &shared());
            let (build, mut crashes) = (whole.build(), 0);
            for _ in 0..3 {
                let workers = [1, 2, 4][rng.random_range(0..3)];
                let settings = some_settings(&mut rng, whole.data(), workers);
                let report = support::run_and_crash(&settings, &build, point, rng.random_range(1..12)).expect("no error");
                crashes += usize::from(!report.ended);
                whole.record.next_run();
            }
            let settings = some_settings(&mut rng, whole.data(), 2);
            let report = support::run(&settings, &build).expect("no error");
            whole.check(&report, crashes);
        });
    }
}

/// Makes a server suffer while a pipeline runs, until it has ended.
fn suffer(running: support::Started, seed: u64, mut harm: impl FnMut(&mut StdRng)) -> Report {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        harm(&mut rng);
        if let Some(ended) = running.ended() {
            return ended.expect("no error");
        }
    }
}

#[test]
fn a_redis_that_is_killed_with_its_log_on_repeats_nothing() {
    each_seed(2_000, 1, |seed| {
        let server = RedisSettings::default().keeps(Keeps::All).start().unwrap();
        let shape = Shape { partitions: 3, items: 300, keys: 40, trouble: true };
        let whole = whole(seed, shape, None, server.url().reveal());
        let mut rng = StdRng::seed_from_u64(seed);
        let settings = Settings { in_flight_changes: 60, ..some_settings(&mut rng, whole.data(), 2) };
        let running = support::start(&settings, &whole.build(), Control::default());
        let report = suffer(running, seed, |rng| match rng.random_range(0..3) {
            0 => {
                server.freeze().unwrap();
                std::thread::yield_now();
                server.thaw().unwrap();
            }
            _ => {
                server.kill().unwrap();
                server.start_again().unwrap();
            }
        });
        whole.check(&report, 0);
    });
}

/// Ids `c0..`, each twice, the second well behind the first.
fn twice(ids: usize, apart: usize) -> Input {
    let item = |n: usize| Item::good(format!("c{n}"), format!("k{}", n % 50));
    let mut items = Vec::new();
    for n in 0..ids + apart {
        if n < ids {
            items.push(item(n));
        }
        if n >= apart {
            items.push(item(n - apart));
        }
    }
    Input::of(items)
}

/// A pipeline with one action that records ids; a moment's wait each, so that there is something to interrupt.
struct Plain {
    done: std::sync::Arc<parking_lot::Mutex<Vec<String>>>,
    build: Build,
}

fn plain(input: Input, dedup: Dedup) -> Plain {
    let done = std::sync::Arc::<parking_lot::Mutex<Vec<String>>>::default();
    let (record, input) = (done.clone(), std::sync::Arc::new(input));
    let build = support::build(move |flow| {
        let record = record.clone();
        let act = run(move |change| {
            let record = record.clone();
            async move {
                tokio::time::sleep(Duration::from_micros(100)).await;
                record.lock().push(change.id().to_owned());
                Ok(())
            }
        });
        flow.source(Script { input: input.clone(), seed: 3 })
            .dedup(dedup.clone())
            .fan_out([action("act", act).max_parallelism(8)])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    Plain { done, build }
}

impl Plain {
    fn distinct(&self) -> usize {
        self.done.lock().iter().collect::<BTreeSet<_>>().len()
    }

    fn repeats(&self) -> usize {
        let done = self.done.lock().len();
        done - self.distinct()
    }
}

/// Copies come close behind their firsts, in the next group of ids, while the groups before may have to be asked again.
#[test]
fn a_copy_never_takes_the_place_of_its_first() {
    let seed = support::only_seed().unwrap_or(7);
    println!("HIGHWATER_SEED={seed}");
    let server = RedisSettings::default().keeps(Keeps::All).start().unwrap();
    let folder = support::folder();
    let plain = plain(twice(20_000, 900), Dedup::within(hours(1)).in_redis(server.url().reveal()));
    let settings = Settings { in_flight_changes: 20_000, ..support::settings(folder.path().join("data"), 1) };
    let running = support::start(&settings, &plain.build, Control::default());
    let report = suffer(running, seed, |rng| {
        std::thread::park_timeout(Duration::from_millis(rng.random_range(1..80)));
        server.kill().unwrap();
        server.start_again().unwrap();
    });
    assert!(report.ended);
    assert_eq!((plain.distinct(), plain.repeats()), (20_000, 0));
    let mut last = vec![None; 50];
    for id in plain.done.lock().iter() {
        let number: usize = id[1..].parse().unwrap();
        assert!(last[number % 50].replace(number) < Some(number), "{id} came after a later change of its key");
    }
}

/// The only value of a metric.
fn figure(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_redis_that_forgets_loses_nothing_and_is_found_out() {
    let server = Server::start().unwrap();
    let folder = support::folder();
    let plain = plain(twice(4_000, 500), Dedup::within(hours(1)).in_redis(server.url().reveal()));
    let settings =
        Settings { in_flight_changes: 100, listen: web::anywhere(), ..support::settings(folder.path().join("data"), 2) };
    let running = support::start(&settings, &plain.build, Control::default());
    let url = web::monitor(&folder.path().join("data"));
    support::until("a thousand done", || plain.done.lock().len() > 1_000);
    server.kill().unwrap();
    server.start_again().unwrap();
    let status = web::wait("it is found out", || {
        let status = web::json(&format!("{url}/api/status"));
        status["seen"]["dedup"]["forgotten"].as_u64().is_some_and(|times| times > 0).then_some(status)
    });
    assert!(status["seen"]["dedup"]["weaknesses"][0].as_str().is_some_and(|text| text.contains("appendonly")), "{status}");
    let report = running.end().expect("no error");
    assert!(report.ended);
    assert_eq!(plain.distinct(), 4_000, "lost");
    assert!((1..=700).contains(&plain.repeats()), "{} repeats: only those of what Redis forgot", plain.repeats());
}

#[test]
fn an_emptied_redis_is_found_out_by_the_next_run() {
    let server = Server::start().unwrap();
    let folder = support::folder();
    let dedup = Dedup::within(hours(1)).in_redis(server.url().reveal());
    // Its readers rest at the end, so that it can be looked at.
    let plain = plain(Input { follows: true, ..twice(2_000, 300) }, dedup);
    let settings = Settings { in_flight_changes: 50, ..support::settings(folder.path().join("data"), 2) };
    let report = support::run_and_crash(&settings, &plain.build, failpoint::SAVE_COMMITTED, 12).expect("no error");
    assert!(!report.ended, "it crashes half-way");
    server.flush().unwrap();
    let settings = Settings { listen: web::anywhere(), ..settings };
    let running = support::start(&settings, &plain.build, Control::default());
    let url = web::monitor(&folder.path().join("data"));
    web::wait("it is found out", || {
        let metrics = web::get(&format!("{url}/metrics")).1;
        figure(&metrics, "highwater_dedup_forgotten_total").filter(|times| *times == 1.0)
    });
    support::until("all is done", || plain.distinct() == 2_000);
    running.control.stop();
    running.end().expect("no error");
    assert_eq!(plain.distinct(), 2_000, "lost");
}

#[test]
fn while_redis_is_away_changes_wait_and_why_says_so() {
    let server = RedisSettings::default().keeps(Keeps::All).start().unwrap();
    let folder = support::folder();
    let data = folder.path().join("data");
    let plain = plain(twice(3_000, 100), Dedup::within(hours(1)).in_redis(server.url().reveal()));
    let settings = Settings { in_flight_changes: 100, listen: web::anywhere(), ..support::settings(data.clone(), 2) };
    let running = support::start(&settings, &plain.build, Control::default());
    let url = web::monitor(&data);
    support::until("some done", || plain.done.lock().len() > 200);
    server.kill().unwrap();
    web::wait("why says what is waited for", || {
        let why = web::get(&format!("{url}/api/why")).1;
        let said = why.contains("asking the seen-set") || why.contains("connecting to redis");
        (why.contains("\"kind\":\"dedup\"") && said).then_some(())
    });
    web::wait("a metric says so too", || {
        let metrics = web::get(&format!("{url}/metrics")).1;
        figure(&metrics, "highwater_dedup_away").filter(|away| *away == 1.0)
    });
    server.start_again().unwrap();
    assert!(running.end().expect("no error").ended);
    assert_eq!((plain.distinct(), plain.repeats()), (3_000, 0));
}

#[test]
fn ids_move_from_the_checkpoint_to_redis() {
    let folder = support::folder();
    let settings = Settings { in_flight_changes: 50, ..support::settings(folder.path().join("data"), 2) };
    let memory = plain(twice(2_000, 400), Dedup::within(hours(1)));
    let report = support::run_and_crash(&settings, &memory.build, failpoint::SAVE_COMMITTED, 10).expect("no error");
    assert!(!report.ended, "it crashes half-way");
    let settings = support::settings(folder.path().join("data"), 4);
    let mut redis = plain(twice(2_000, 400), Dedup::within(hours(1)).in_redis(shared()));
    assert!(support::run(&settings, &redis.build).expect("no error").ended);
    let repeated: BTreeSet<String> = redis.done.lock().iter().cloned().collect();
    redis.done.lock().extend(memory.done.lock().iter().cloned());
    assert_eq!(redis.distinct(), 2_000, "lost");
    let repeated = memory.done.lock().iter().filter(|id| repeated.contains(*id)).count();
    assert!(repeated <= 8, "{repeated} repeats: what was under way at the crash, no more");
    redis.done = memory.done;
}

#[test]
fn what_another_checkpoint_left_says_nothing() {
    let redis = shared();
    for _ in 0..2 {
        let folder = support::folder();
        let plain = plain(twice(300, 20), Dedup::within(hours(1)).in_redis(&redis));
        assert!(support::run(&support::settings(folder.path().join("data"), 2), &plain.build).expect("no error").ended);
        assert_eq!((plain.distinct(), plain.repeats()), (300, 0));
    }
}

#[test]
fn ids_go_by_themselves_and_not_before_their_time() {
    let server = RedisSettings::default().keeps(Keeps::All).start().unwrap();
    let folder = support::folder();
    let dedup = Dedup::within(millis(1)).in_redis(server.url().reveal()).kept_for(hours(2));
    let plain = plain(twice(50, 5), dedup);
    assert!(support::run(&support::settings(folder.path().join("data"), 1), &plain.build).expect("no error").ended);
    let keys = server.ask(&["KEYS", "highwater:seen:*:????????????????????????????????"]).unwrap();
    assert_eq!(keys.lines().count(), 50, "{keys}");
    let left: u64 = server.ask(&["PTTL", keys.lines().next().unwrap()]).unwrap().parse().unwrap();
    assert!((7_000_000..=7_200_000).contains(&left), "{left} ms left");
}

/// The line that docs/redis.md gives.
#[test]
fn the_rights_that_the_documentation_names_are_enough_and_no_more() {
    let page = include_str!("../../docs/redis.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER dedup ")).expect("docs/redis.md has the line");
    let rules = line.strip_prefix("ACL SETUSER ").unwrap().replace(">PASSWORD", ">secret");
    let server = RedisSettings::default().keeps(Keeps::All).password("admin").user(&rules).start().unwrap();
    let folder = support::folder();
    let dedup = Dedup::within(hours(1)).in_redis(server.url_of("dedup", "secret").reveal());
    let allowed = plain(twice(300, 20), dedup);
    assert!(support::run(&support::settings(folder.path().join("data"), 2), &allowed.build).expect("no error").ended);
    assert_eq!((allowed.distinct(), allowed.repeats()), (300, 0));
    // Too few rights stop the run, with the word for it.
    let server = RedisSettings::default().user("poor on >secret ~highwater:seen:* +get +info").start().unwrap();
    let folder = support::folder();
    let refused = plain(twice(30, 2), Dedup::within(hours(1)).in_redis(server.url_of("poor", "secret").reveal()));
    let error = support::run(&support::settings(folder.path().join("data"), 2), &refused.build).unwrap_err().to_string();
    assert!(error.contains("dedup \"dedup\"") && error.contains("NOPERM") && !error.contains("secret"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_before_the_first_step() {
    for (dedup, said) in [
        (Dedup::within(hours(1)).in_redis("http://elsewhere"), "redis://"),
        (Dedup::within(hours(1)).in_redis(shared()).kept_for(minutes(5)), "shorter than the window"),
    ] {
        let folder = support::folder();
        let plain = plain(twice(3, 1), dedup);
        let error = support::run(&support::settings(folder.path().join("data"), 1), &plain.build).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("dedup"), "{error}");
    }
}
