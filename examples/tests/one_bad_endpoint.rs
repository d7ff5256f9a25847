//! Three webhooks in the example `webhooks`, of which one is healthy, one takes two seconds for every answer, and one closes every connection.
//! The healthy one goes on at its speed, the mark goes on too, the dead one is asked by its breaker's probes alone; and when both are well
//! again, they get all that was set aside for them, in the order of each key.
//!
//! `HIGHWATER_EVENTS`, `HIGHWATER_REPETITIONS` and `HIGHWATER_LATENCY_MS` (of the healthy one) set the size, `HIGHWATER_RATIO` what is asked. In
//! turns: the healthy one alone, and beside the others.

use std::collections::HashMap;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use highwater::operators::checkpoint::embedded::EmbeddedStore;
use highwater::prelude::millis;
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::Report;
use highwater_examples::receiver::Receiver;

const KEYS: u64 = 1_000;
const MAX_PARALLELISM: u64 = 100;
/// Seconds that a breaker stays open, and calls it lets through then.
const REST: u64 = 1;
const PROBES: u64 = 3;
/// Failures that open it.
const FAILURES: u64 = 5;
const DEADLINE: Duration = Duration::from_secs(900);

/// What one run beside bad endpoints came to.
struct Beside {
    per_second: f64,
    bad_seconds: f64,
    attempts: u64,
    saves: u64,
    set_aside: [usize; 2],
    drained_seconds: f64,
}

#[test]
fn one_bad_endpoint_stops_neither_the_others_nor_the_mark() {
    let events: u64 = setting("HIGHWATER_EVENTS", 3_000);
    let repetitions: u64 = setting("HIGHWATER_REPETITIONS", 1);
    let latency_ms: u64 = setting("HIGHWATER_LATENCY_MS", 10);
    let folder = tempfile::tempdir().unwrap();
    let mut input = File::create(folder.path().join("in.jsonl")).unwrap();
    for n in 0..events {
        writeln!(input, r#"{{"id":"{n}","op":"update","key":"k-{}","after":{{"n":{n}}}}}"#, n * 7 % KEYS).unwrap();
    }
    let bad = "[action.hook-2]\nhold_budget = \"1s\"\n[action.hook-3]\nhold_budget = \"1s\"\n";
    fs::write(folder.path().join("bad.toml"), bad).unwrap();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    println!("{events} changes, {KEYS} keys, {MAX_PARALLELISM} at once, a healthy endpoint that takes {latency_ms} ms");
    println!(
        "| alone, changes/s | beside | ratio | bad for, s | attempts at the dead one | marks saved meanwhile | set aside: slow, dead | drained in, s |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for repetition in 0..repetitions {
        alone.push(run_alone(folder.path(), repetition, events, latency_ms));
        let run = run_beside(folder.path(), repetition, events, latency_ms);
        let Beside { per_second, bad_seconds, attempts, saves, set_aside: [slow, dead], drained_seconds } = run;
        let ratio = per_second / alone[alone.len() - 1];
        println!(
            "| {:.0} | {per_second:.0} | {ratio:.2} | {bad_seconds:.1} | {attempts} | {saves} | {slow}, {dead} | {drained_seconds:.1} |",
            alone[alone.len() - 1]
        );
        beside.push(per_second);
    }
    let ratio = median(&mut beside) / median(&mut alone);
    println!("ratio of the medians: {ratio:.2}");
    // How fast it is tells a run of the whole, with nothing else on the machine.
    let least: f64 = setting("HIGHWATER_RATIO", 0.0);
    assert!(ratio >= least, "beside bad endpoints the healthy one goes at {ratio:.2} of its speed, where {least} are asked");
}

/// The healthy endpoint alone: changes per second.
fn run_alone(folder: &Path, repetition: u64, events: u64, latency_ms: u64) -> f64 {
    let mut healthy = receiver(folder, &format!("alone-{repetition}"));
    healthy.slow(latency_ms);
    let mut run = start(folder, &format!("data-alone-{repetition}"), &[&healthy]);
    let per_second = speed(&mut run, &mut healthy, events);
    let report = report(run);
    assert_eq!(report.actions["hook-1"].delivered, events);
    per_second
}

fn run_beside(folder: &Path, repetition: u64, events: u64, latency_ms: u64) -> Beside {
    let [mut healthy, mut slow, mut dead] =
        ["healthy", "slow", "dead"].map(|name| receiver(folder, &format!("{name}-{repetition}")));
    healthy.slow(latency_ms);
    slow.slow(2_000);
    dead.refuse();
    let data = format!("data-beside-{repetition}");
    let began = Instant::now();
    let mut run = start(folder, &data, &[&healthy, &slow, &dead]);
    let data = folder.join(data);
    let per_second = speed(&mut run, &mut healthy, events);
    // The bad ones are as bad as ever, and yet all is below the mark in the end: what they have not done is set aside.
    let end = fs::metadata(folder.join("in.jsonl")).unwrap().len();
    let mut saves = 0;
    wait(&mut run, "the mark is at the end of the input", millis(100), || {
        let (mark, saved) = mark(&data);
        saves = saved;
        mark >= end
    });
    let bad_seconds = began.elapsed().as_secs_f64();
    let (attempts, came) = (dead.counts().connections, dead.counts().requests);
    // Those under way when it opened, and then probes; one period more, for time is not cut where it opens.
    let allowed = MAX_PARALLELISM + FAILURES + PROBES * (bad_seconds as u64 / REST + 2);
    assert!(
        attempts <= allowed && attempts >= FAILURES && came == 0,
        "{attempts} connections to the dead one, {allowed} allowed"
    );
    let set_aside = ["hook-2", "hook-3"].map(|action| parked(&data, action));
    assert_eq!(set_aside[1] as u64, events, "the dead one has done nothing, and all of it is set aside");
    let well = Instant::now();
    slow.slow(0);
    dead.slow(0);
    let report = report(run);
    let drained_seconds = well.elapsed().as_secs_f64();
    assert_eq!(report.unbalanced(), [""; 0]);
    for (action, receiver) in [("hook-1", &healthy), ("hook-2", &slow), ("hook-3", &dead)] {
        let books = report.actions[action];
        assert_eq!((books.delivered, books.parked), (events, 0), "{action}");
        check(receiver, events, action);
    }
    Beside { per_second, bad_seconds, attempts, saves, set_aside, drained_seconds }
}

/// Every change came once, those of a key in the order of the input.
fn check(receiver: &Receiver, events: u64, action: &str) {
    let mut latest: HashMap<String, u64> = HashMap::new();
    let came = receiver.came();
    for request in &came {
        let change: u64 = request.body["id"].as_str().unwrap().parse().unwrap();
        let key = request.body["key"].as_str().unwrap();
        let before = latest.insert(key.to_owned(), change);
        assert!(before < Some(change), "{action}: change {change} of {key} came after {before:?}");
    }
    assert_eq!(came.len() as u64, events, "{action}");
}

fn receiver(folder: &Path, name: &str) -> Receiver {
    Receiver::start(env!("CARGO_BIN_EXE_receiver"), folder.join(name))
}

fn start(folder: &Path, data: &str, receivers: &[&Receiver]) -> Running {
    let example = Example::built("webhooks", folder);
    let (parallel, rest) = (MAX_PARALLELISM.to_string(), REST.to_string());
    let mut arguments = vec!["--input", "in.jsonl", "--data", data, "--allow-private", "--report", "json", "--hold"];
    arguments.extend(["--give-up", "0", "--rest", &rest, "--max-parallelism", &parallel]);
    if receivers.len() > 1 {
        arguments.extend(["--config", "bad.toml"]);
    }
    let urls: Vec<String> = receivers.iter().map(|receiver| receiver.url("/")).collect();
    arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
    example.start(&arguments)
}

/// Changes per second, from the first that comes to the last.
fn speed(run: &mut Running, receiver: &mut Receiver, events: u64) -> f64 {
    wait(run, "the first request comes", millis(1), || receiver.counts().requests > 0);
    let (began, first) = (Instant::now(), receiver.counts().requests);
    wait(run, "the healthy endpoint has had everything", millis(1), || receiver.counts().requests >= events);
    (events - first) as f64 / began.elapsed().as_secs_f64()
}

/// Waits until something holds, by the time that a large run takes.
fn wait(run: &mut Running, what: &str, every: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(!run.has_ended(), "it ended before this: {what}\n{}", run.stderr());
        assert!(started.elapsed() < DEADLINE, "waited too long for this: {what}\n{}", run.stderr());
        thread::sleep(every);
    }
}

fn report(run: Running) -> Report {
    let printed = run.wait_for(DEADLINE);
    assert!(printed.status.success(), "{}", printed.stderr);
    Report::parse(&printed.stdout).unwrap()
}

/// Where the input would be read on, and how many saves there were.
fn mark(data: &Path) -> (u64, u64) {
    let inspection = EmbeddedStore::inspect(data).unwrap();
    inspection.checkpoint().map_or((0, 0), |save| (save.mark.values().map(|token| token.order).sum(), save.number))
}

fn parked(data: &Path, action: &str) -> usize {
    EmbeddedStore::inspect(data).unwrap().parked_heads().filter(|head| head.action == action).count()
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
