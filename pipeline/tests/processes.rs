//! Several processes: the same answer as the oracle's, whatever crashes; and what they refuse.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater::operators::cluster::form::Secret;
use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, Script, Shape};
use support::processes::{Together, end_all, hosts, start_all, start_with};
use support::whole::Whole;
use tempfile::TempDir;

fn settings(rng: &mut StdRng, processes: u64) -> Settings {
    Settings {
        processes,
        in_flight_changes: rng.random_range(4..400),
        checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
        ..support::settings("".into(), rng.random_range(1..=2))
    }
}

#[test]
fn the_oracle_agrees_on_two_and_three_processes() {
    let seeds = match support::only_seed() {
        Some(seed) => seed..seed + 1,
        None => 0..support::seeds(8),
    };
    for seed in seeds {
        for processes in [2, 3] {
            let mut rng = StdRng::seed_from_u64(seed);
            let keys = rng.random_range(1..12);
            let shape = Shape { partitions: rng.random_range(1..=7), items: 80, keys, trouble: true };
            let settings = settings(&mut rng, processes);
            let run = || {
                let mut whole = Whole::new(seed, Input::seeded(seed, shape), None);
                whole.store = Some(Together::at(whole.data()));
                let reports = end_all(start_all(&settings, &whole.folder, &whole.build()));
                let reports: Vec<_> = reports.into_iter().map(|report| report.expect("no error")).collect();
                assert!(reports.iter().all(|report| report.ended));
                whole.check(&reports[0], 0);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                eprintln!("failed with HIGHWATER_SEED={seed} in {processes} processes");
                resume_unwind(panic);
            }
        }
    }
}

/// Crashes one process of several, some times, each time with other numbers of processes and workers, and runs to the end.
fn crash_and_resume(seed: u64, failpoint: &'static str) -> usize {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x00c1_0570);
    let shape = Shape { partitions: rng.random_range(2..=5), items: 40, keys: rng.random_range(1..6), trouble: true };
    let mut whole = Whole::new(seed, Input::seeded(seed, shape), None);
    whole.store = Some(Together::at(whole.data()));
    let build = whole.build();
    let mut crashes = 0;
    for _ in 0..3 {
        let processes = rng.random_range(2..=3);
        let settings = settings(&mut rng, processes);
        let controls: Vec<Control> = (0..processes).map(|_| Control::default()).collect();
        controls[rng.random_range(0..processes) as usize].crash_at(failpoint, rng.random_range(1..12));
        let reports = end_all(start_with(&settings, &whole.folder, &build, &controls));
        let lost = reports.iter().filter_map(|report| report.as_ref().err()).map(|error| error.to_string());
        for sentence in lost {
            // One that crashes while it opens says so itself; one that is asked for its files while it crashes has nobody to ask.
            let words = ["is lost: its connection has ended", "the thread that writes output files has ended"];
            let fits = words.iter().any(|words| sentence.contains(words)) || sentence.ends_with("crashed");
            assert!(fits, "{sentence}");
        }
        crashes += usize::from(reports.iter().any(|report| !report.as_ref().is_ok_and(|report| report.ended)));
        whole.record.next_run();
    }
    let processes = rng.random_range(1..=3);
    let reports = end_all(start_all(&settings(&mut rng, processes), &whole.folder, &build));
    let reports: Vec<_> = reports.into_iter().map(|report| report.expect("no error")).collect();
    whole.check(&reports[0], crashes);
    crashes
}

#[test]
fn one_of_several_that_crashes_anywhere_loses_nothing() {
    let mut crashes = 0;
    for (number, failpoint) in failpoint::ALL.iter().enumerate() {
        let seeds = match support::only_seed() {
            Some(seed) => vec![seed],
            None => (0..support::seeds(2)).map(|seed| number as u64 * 1_000_000 + seed).collect(),
        };
        for seed in seeds {
            match catch_unwind(AssertUnwindSafe(|| crash_and_resume(seed, failpoint))) {
                Ok(crashed) => crashes += crashed,
                Err(panic) => {
                    eprintln!("failed with HIGHWATER_SEED={seed} at failpoint {failpoint}");
                    resume_unwind(panic);
                }
            }
        }
    }
    assert!(crashes > 10, "only {crashes} crashes: the failpoints are not reached");
}

/// A pipeline that passes everything on at once.
fn plain(store: &Together, name: &'static str, slow: bool) -> Build {
    let input = Arc::new(Input::seeded(1, Shape { partitions: 6, items: 50, keys: 5, trouble: false }));
    let store = store.clone();
    support::build(move |flow| {
        flow.source(Script { input: input.clone(), seed: 1 })
            .filter(move |change| {
                if slow && change.id() == "c7" {
                    std::thread::sleep(Duration::from_secs(8));
                }
                true
            })
            .fan_out([action(name, run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(5)).in_store(store.clone()));
        Ok(())
    })
}

fn two(folder: &TempDir) -> Settings {
    Settings { processes: 2, gather_timeout: Duration::from_secs(3), ..support::settings(folder.path().join("data"), 1) }
}

fn errors(reports: Vec<highwater::Result<highwater::report::Report>>) -> Vec<String> {
    reports.into_iter().map(|report| report.map_or_else(|error| error.to_string(), |_| String::new())).collect()
}

#[test]
fn a_data_directory_takes_one_process_and_says_which_store_takes_more() {
    let folder = support::folder();
    let build = plain(&Together::at(folder.path().join("data")), "all", false);
    let build = support::build(move |flow| {
        let _ = &build;
        flow.source(Script { input: Arc::default(), seed: 1 })
            .fan_out([action("all", run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    for error in errors(end_all(start_all(&two(&folder), &folder, &build))) {
        assert!(error.contains("written by one process alone") && error.contains("--checkpoint postgres://"), "{error}");
    }
}

#[test]
fn who_does_not_fit_is_refused_with_a_reason() {
    let folder = support::folder();
    let store = Together::at(folder.path().join("data"));
    let build = plain(&store, "all", false);
    let settings = Settings { hostfile: Some(hosts(&folder, 2)), ..two(&folder) };
    let both = |member: Settings, its: &Build| {
        let leader = support::start(&settings, &build, Control::default());
        let member = support::start(&Settings { process: 1, ..member }, its, Control::default());
        [leader.end().unwrap_err().to_string(), member.end().unwrap_err().to_string()]
    };
    let missing = "did not come within 3s (gather_timeout)";
    let [leader, member] = both(Settings { workers: Some(2), ..settings.clone() }, &build);
    assert!(leader.contains(missing) && leader.contains("process 1 (127.0.0.1:"), "{leader}");
    assert!(member.contains("it has 2 workers, and process 0 has 1: say --workers alike everywhere"), "{member}");
    let [leader, member] = both(settings.clone(), &plain(&store, "others", false));
    assert!(member.contains("another shape"), "{member}; {leader}");
    let secret = Some(Secret::new("open sesame"));
    let [leader, member] = both(Settings { cluster_secret: secret, ..settings.clone() }, &build);
    assert!(member.contains("HIGHWATER_CLUSTER_SECRET") && !member.contains("sesame"), "{member}; {leader}");
    let three = hosts(&folder, 3);
    let [_, member] = both(Settings { processes: 3, hostfile: Some(same_first(&settings, &three)), ..settings.clone() }, &build);
    assert!(member.contains("it expects 3 processes, and process 0 expects 2"), "{member}");
}

/// The hosts of another file, with the leader of these settings in front.
fn same_first(settings: &Settings, others: &Path) -> PathBuf {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let first = read(settings.hostfile.as_ref().unwrap()).lines().next().unwrap().to_owned();
    let rest: Vec<String> = read(others).lines().skip(1).map(str::to_owned).collect();
    let path = others.with_extension("mixed");
    std::fs::write(&path, [vec![first], rest].concat().join("\n")).unwrap();
    path
}

#[test]
fn an_address_that_is_taken_and_one_that_others_can_reach_are_refused() {
    let folder = support::folder();
    let build = plain(&Together::at(folder.path().join("data")), "all", false);
    let hostfile = hosts(&folder, 2);
    let first = std::fs::read_to_string(&hostfile).unwrap().lines().next().unwrap().to_owned();
    let _taken = std::net::TcpListener::bind(&first).unwrap();
    let settings = Settings { hostfile: Some(hostfile), ..two(&folder) };
    let error = support::run(&settings, &build).unwrap_err().to_string();
    assert!(error.contains(&format!("process 0 cannot listen at {first}; another program has it")), "{error}");
    let open = folder.path().join("open");
    std::fs::write(&open, "0.0.0.0:4000\n0.0.0.0:4001\n").unwrap();
    let error = support::run(&Settings { hostfile: Some(open), ..two(&folder) }, &build).unwrap_err().to_string();
    assert!(error.contains("neither encrypted nor signed") && error.contains("--trusted-network"), "{error}");
}

#[test]
fn a_worker_that_hangs_ends_all_processes_in_time() {
    let folder = support::folder();
    let build = plain(&Together::at(folder.path().join("data")), "all", true);
    let settings = Settings { processes: 3, process_timeout: Duration::from_secs(2), ..two(&folder) };
    let began = Instant::now();
    let errors = errors(end_all(start_all(&settings, &folder, &build)));
    assert!(began.elapsed() < Duration::from_secs(5), "noticed after {:?}", began.elapsed());
    for error in errors {
        assert!(error.contains("has not come back from a step for 2.") && error.contains("process_timeout"), "{error}");
    }
}

#[test]
fn an_error_in_one_process_ends_all_and_is_told_everywhere() {
    let folder = support::folder();
    let store = Together::at(folder.path().join("data"));
    let input = Arc::new(Input::seeded(1, Shape { partitions: 6, items: 50, keys: 5, trouble: false }));
    let build = support::build(move |flow| {
        flow.source(Script { input: input.clone(), seed: 1 })
            .fan_out([action(
                "stops",
                run(|change| async move { if change.id() == "c7" { Err(Error::stop("the sky has fallen")) } else { Ok(()) } }),
            )])
            .checkpoint(Checkpoint::every(millis(5)).in_store(store.clone()));
        Ok(())
    });
    for error in errors(end_all(start_all(&Settings { processes: 3, ..two(&folder) }, &folder, &build))) {
        assert!(error.contains("the sky has fallen"), "{error}");
    }
}

#[test]
fn who_is_told_to_stop_stops_all_and_all_is_saved() {
    let folder = support::folder();
    let store = Together::at(folder.path().join("data"));
    let endless = support::build(move |flow| {
        flow.source(Generator::new(1).rate(2_000).partitions(4))
            .fan_out([action("all", run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(5)).in_store(store.clone()));
        Ok(())
    });
    let started = start_all(&Settings { processes: 3, ..two(&folder) }, &folder, &endless);
    support::until("changes are delivered", || {
        started[0].control.books().is_some_and(|books| books.get("all").is_some_and(|books| books.delivered > 100))
    });
    // Told to a member, not to the leader.
    started[2].control.stop();
    let reports = end_all(started);
    let reports: Vec<_> = reports.into_iter().map(|report| report.expect("no error")).collect();
    let books = &reports[0].actions["all"];
    assert_eq!((books.in_flight, books.delivered), (0, books.read));
}
