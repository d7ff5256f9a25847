//! Kills the example `webhooks` (`kill -9`) at named places and at any moment, and asks its receiver what came: every change at least once at
//! each URL, few repeats, each with the key it had before, and none after a later change of its key.
//!
//! The receiver is a process of its own, which has a request in its file before it answers. Where the pipeline is killed:
//!
//! - `request sent`: the receiver kills it when it has a request in its file, and before it answers that;
//! - `answer received`, `outcome noted`, and so on: it kills itself when it passes a failpoint (`--die-at`), with `kill -9` as well;
//! - `any moment`: by this test, when so many requests more have come.
//!
//! `HIGHWATER_KILLS` and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use highwater_examples::built::{Example, Printed, Running};
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;
use highwater_examples::receiver::{Receiver, Request};

const PATHS: [&str; 2] = ["/one", "/two"];
const MAX_PARALLELISM: usize = 20;
const KEYS: u64 = 150;
const BATCH_SIZES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const WORKERS: [usize; 3] = [1, 2, 4];
const SIGKILL: i32 = 9;

/// Where a run is killed.
const PLACES: [Place; 8] = [
    Place { name: "request sent", failpoint: None, passages: 200 },
    Place { name: "call handed over", failpoint: Some("action.dispatched"), passages: 60 },
    Place { name: "answer received", failpoint: Some("action.answered"), passages: 40 },
    Place { name: "before the note", failpoint: Some("group.before_commit"), passages: 30 },
    Place { name: "outcome noted", failpoint: Some("group.committed"), passages: 30 },
    Place { name: "files of a save synced", failpoint: Some("save.synced"), passages: 2 },
    Place { name: "mark saved", failpoint: Some("save.committed"), passages: 2 },
    Place { name: "any moment", failpoint: None, passages: 200 },
];

struct Place {
    name: &'static str,
    failpoint: Option<&'static str>,
    /// It is killed when the place is passed for the n-th time, n up to this. Without a failpoint: when the n-th request comes.
    passages: u64,
}

/// A kill, and what of it came once more at each URL.
struct Kill {
    place: &'static str,
    batch_size: u64,
    repeats: [usize; PATHS.len()],
}

#[test]
fn webhooks_killed_at_any_place_lose_nothing_and_repeat_what_was_under_way() {
    let kills: usize = setting("HIGHWATER_KILLS", || PLACES.len());
    let events: u64 = setting("HIGHWATER_EVENTS", || 4_000);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_EVENTS={events}");
    let folder = tempfile::tempdir().unwrap();
    let mut input = File::create(folder.path().join("in.jsonl")).unwrap();
    for n in 0..events {
        writeln!(input, r#"{{"id":"{n}","op":"update","key":"k-{}","after":{{"n":{n}}}}}"#, n * n % KEYS).unwrap();
    }
    let mut dice = Dice::new(seed);
    let (mut made, mut inputs): (Vec<Kill>, u64) = (Vec::new(), 0);
    while made.len() < kills {
        inputs += 1;
        made.extend(go_through(folder.path(), inputs, events, made.len(), kills, &mut dice));
        assert!(inputs < 50 + kills as u64, "runs end before they can be killed: set HIGHWATER_EVENTS higher");
    }
    println!("{}", table(&made, inputs));
    let most = made.iter().flat_map(|kill| kill.repeats).max().unwrap_or_default();
    assert!(most <= MAX_PARALLELISM, "a kill repeated {most} calls of one action, and {MAX_PARALLELISM} were under way at most");
}

/// Sends all changes once, with as many kills as are met until then, and looks at what came.
fn go_through(folder: &Path, input: u64, events: u64, before: usize, kills: usize, dice: &mut Dice) -> Vec<Kill> {
    let mut receiver = Receiver::start(env!("CARGO_BIN_EXE_receiver"), folder.join(format!("received-{input}")));
    let example = Example::built("webhooks", folder);
    let (urls, data) = (PATHS.map(|path| receiver.url(path)), format!("data-{input}"));
    // Where and with which batch size each run was killed, and how many requests had come by then.
    let (mut killed, mut ends) = (Vec::new(), Vec::new());
    let report = loop {
        let number = before + killed.len();
        let place = &PLACES[number % PLACES.len()];
        // Every place meets every size.
        let size = BATCH_SIZES[(number / PLACES.len() + number) % BATCH_SIZES.len()];
        let passage = 1 + dice.below(place.passages);
        let (shown_size, parallel, workers) = (size.to_string(), MAX_PARALLELISM.to_string(), dice.pick(&WORKERS).to_string());
        let die_at = place.failpoint.map(|failpoint| format!("{failpoint}:{passage}"));
        let mut arguments = vec!["--input", "in.jsonl", "--data", &data, "--allow-private", "--report", "json"];
        arguments.extend(["--max-parallelism", &parallel, "--checkpoint-batch-size", &shown_size, "--workers", &workers]);
        arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
        let is_last = number >= kills;
        if let Some(die_at) = die_at.as_ref().filter(|_| !is_last) {
            arguments.extend(["--die-at", die_at]);
        }
        let mut run = example.start(&arguments);
        if !is_last && place.failpoint.is_none() {
            wait_and_kill(&mut run, &mut receiver, place, passage);
        }
        let printed = run.wait();
        let came = receiver.settle().requests as usize;
        if let Some(report) = whole(&printed) {
            break report;
        }
        assert_eq!(printed.status.signal(), Some(SIGKILL), "it fails by itself: {}", printed.stderr);
        killed.push((place.name, size));
        ends.push(came);
    };
    let came = receiver.came();
    for path in PATHS {
        check(&came, path, events);
    }
    for (action, books) in report.actions {
        assert_eq!((books.delivered, books.parked), (events, 0), "{action}");
    }
    let repeats = PATHS.map(|path| repeats_by_kill(&came, path, &ends));
    let kill = |(n, (place, batch_size))| Kill { place, batch_size, repeats: repeats.each_ref().map(|by_kill| by_kill[n]) };
    killed.into_iter().enumerate().map(kill).collect()
}

/// Kills a run when so many requests more have come: from there, before the last of them is answered, or from here, at any moment after it.
fn wait_and_kill(run: &mut Running, receiver: &mut Receiver, place: &Place, requests: u64) {
    let enough = receiver.counts().requests + requests;
    if place.name == "request sent" {
        receiver.kill(run.id(), enough);
        return;
    }
    while receiver.counts().requests < enough {
        if run.has_ended() {
            return;
        }
        thread::sleep(Duration::from_micros(200));
    }
    run.signal("KILL");
}

/// The report of a run that was not killed.
fn whole(printed: &Printed) -> Option<Report> {
    let line = printed.stdout.lines().rfind(|line| line.starts_with('{')).filter(|_| printed.status.success())?;
    Some(Report::parse(line).unwrap())
}

/// Every change came, with the same key each time, and never after a later one of its key.
fn check(came: &[Request], path: &str, events: u64) {
    let mut keys: BTreeMap<u64, &str> = BTreeMap::new();
    let mut latest: HashMap<&str, u64> = HashMap::new();
    for request in came.iter().filter(|request| request.path == path) {
        let change = change(request);
        assert_eq!(*keys.entry(change).or_insert(&request.idempotency_key), request.idempotency_key, "{change}");
        let key = request.body["key"].as_str().unwrap();
        let latest = latest.entry(key).or_default();
        assert!(*latest <= change, "{path}: change {change} of {key} came after change {latest}");
        *latest = change;
    }
    assert_eq!(keys.len() as u64, events, "{path}: lost");
    let mut different: Vec<&str> = keys.into_values().collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len() as u64, events, "{path}: two changes have the same key");
}

fn change(request: &Request) -> u64 {
    request.body["id"].as_str().unwrap().parse().unwrap()
}

/// For each run that was killed, how much of what was under way at its end came once more. Not what came again *within* each run: one that is
/// killed early leaves some of what was under way before it to the run after it.
fn repeats_by_kill(came: &[Request], path: &str, ends: &[usize]) -> Vec<usize> {
    let mut by_kill = vec![0; ends.len()];
    let mut last: HashMap<u64, usize> = HashMap::new();
    for (at, request) in came.iter().enumerate().filter(|(_, came)| came.path == path) {
        let run = ends.partition_point(|end| *end <= at);
        if let Some(before) = last.insert(change(request), run) {
            assert!(before < run, "{path}: change {} came twice within one run", change(request));
            by_kill[before] += 1;
        }
    }
    by_kill
}

fn table(kills: &[Kill], inputs: u64) -> Table {
    let mut table = Table::new();
    let sizes = BATCH_SIZES.map(|size| format!("batch size {size}"));
    let header = ["killed at", "kills", "repeats per kill and URL: mean", "most"].map(str::to_owned);
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header.into_iter().chain(sizes));
    let mut add = |name: &str, kills: Vec<&Kill>| {
        let repeats: Vec<usize> = kills.iter().flat_map(|kill| kill.repeats).collect();
        let mean = repeats.iter().sum::<usize>() as f64 / repeats.len().max(1) as f64;
        let most = repeats.iter().max().copied().unwrap_or_default();
        let of_size = BATCH_SIZES.map(|size| kills.iter().filter(|kill| kill.batch_size == size).count().to_string());
        let figures = [name.to_owned(), kills.len().to_string(), format!("{mean:.1}"), most.to_string()];
        table.add_row(figures.into_iter().chain(of_size));
    };
    for place in &PLACES {
        add(place.name, kills.iter().filter(|kill| kill.place == place.name).collect());
    }
    add(&format!("all, {inputs} inputs"), kills.iter().collect());
    for column in 1..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn setting<T: std::str::FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
