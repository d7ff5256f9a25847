//! Streams of Redis in whole pipelines: through crashes, on one, two and four workers, into files and back into Redis; what is no change; and
//! a server that goes away.

mod support;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use highwater::operators::redis::BlockingConnection;
use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use highwater::testing::redis::{Keeps, Server, Settings as ServerSettings};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{cmd, pipe};

const KEYS: u64 = 6;
const MAX_PARALLELISM: usize = 8;
const STREAMS: [&str; 2] = ["orders", "payments"];
const CRASHES: [&str; 6] = [
    failpoint::READER_SENT,
    failpoint::ACTION_ANSWERED,
    failpoint::GROUP_COMMITTED,
    failpoint::SAVE_SYNCED,
    failpoint::SAVE_COMMITTED,
    failpoint::STREAM_TOLD,
];

/// Adds changes of these numbers, each to one of the streams.
fn add(server: &Server, numbers: std::ops::Range<u64>) {
    ask(server, async |line| {
        let mut adds = pipe();
        for number in numbers {
            let change = serde_json::json!({"id": format!("c-{number}"), "op": "update", "key": format!("k-{}", number * number % KEYS),
                "after": {"n": number}});
            adds.cmd("XADD").arg(STREAMS[(number % 2) as usize]).arg("*").arg("change").arg(change.to_string());
        }
        line.pipeline("adding", &adds).await.unwrap();
    });
}

fn ask<T>(server: &Server, what: impl AsyncFnOnce(highwater::operators::redis::Line) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = BlockingConnection::open(&server.url(), "test").await.unwrap();
        what(connection.line().await.unwrap()).await
    })
}

/// The entries of a stream in their order: idempotency key, id, key and number of each change.
fn entries(server: &Server, stream: &str) -> Vec<(String, String, String, u64)> {
    let entries: Vec<(String, HashMap<String, String>)> =
        ask(server, async |line| line.query("reading", cmd("XRANGE").arg(stream).arg("-").arg("+")).await.unwrap());
    let entry = |fields: &HashMap<String, String>| {
        let change: serde_json::Value = serde_json::from_str(&fields["change"]).unwrap();
        let text = |name: &str| change[name].as_str().unwrap().to_owned();
        (fields["idempotency_key"].clone(), text("id"), text("key"), change["after"]["n"].as_u64().unwrap())
    };
    entries.iter().map(|(_, fields)| entry(fields)).collect()
}

fn pipeline(server: &Server, out: &Path) -> Build {
    let (url, target, out) = (server.url(), server.url().reveal().to_owned(), out.to_owned());
    support::build(move |flow| {
        let once = RedisAppend::to_stream(&target, "once").once_within(minutes(10));
        let act = |action: highwater::operators::action::NamedAction| {
            action.max_parallelism(MAX_PARALLELISM).backoff(millis(1), millis(10))
        };
        flow.source(RedisStreams::at(&url, STREAMS).group("test"))
            .fan_out([
                action("files", JsonLines::append(&out)),
                act(action("plain", RedisAppend::to_stream(&target, "plain"))),
                act(action("once", once)),
            ])
            .checkpoint(Checkpoint::every(millis(5)).batch_size(20));
        Ok(())
    })
}

fn until_idle(settings: Settings) -> Settings {
    Settings { until_idle: Some(std::time::Duration::from_millis(300)), ..settings }
}

/// The ids in the files.
fn in_files(out: &Path) -> Vec<String> {
    let files = std::fs::read_dir(out).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    files.flat_map(|text| text.lines().map(id).collect::<Vec<_>>()).collect()
}

/// Nothing is lost, files and what is added once repeat nothing, the rest little, and each key has its order, in each stream.
fn check(seed: u64, server: &Server, out: &Path, report: &Report, changes: u64, crashes: usize) {
    let ids: HashSet<String> = (0..changes).map(|number| format!("c-{number}")).collect();
    let files = in_files(out);
    assert_eq!((files.len() as u64, files.into_iter().collect::<HashSet<_>>() == ids), (changes, true), "seed {seed}");
    let once = entries(server, "once");
    assert_eq!((once.len() as u64, once.iter().all(|entry| ids.contains(&entry.1))), (changes, true), "seed {seed}: once");
    let plain = entries(server, "plain");
    let mut keys: HashMap<&str, &str> = HashMap::new();
    for entries in [&once, &plain] {
        let mut latest: HashMap<(&str, u64), u64> = HashMap::new();
        keys.clear();
        for (idempotency_key, id, key, number) in entries {
            assert_eq!(*keys.entry(id).or_insert(idempotency_key), idempotency_key, "seed {seed}: a repeat has another key");
            let before = latest.insert((key, number % 2), *number);
            assert!(before.is_none_or(|before| before <= *number), "seed {seed}: {number} of {key} came after {before:?}");
        }
        assert_eq!(keys.len() as u64, changes, "seed {seed}: lost");
    }
    let repeats = plain.len() - keys.len();
    assert!(repeats <= crashes * MAX_PARALLELISM, "seed {seed}: {repeats} repeats in {crashes} crashes");
    for (action, books) in &report.actions {
        assert_eq!(
            (books.read, books.delivered, books.parked, books.in_flight),
            (changes, changes, 0, 0),
            "seed {seed}: {action}"
        );
    }
    for stream in STREAMS {
        let groups = server.ask(&["XINFO", "GROUPS", stream]).unwrap();
        assert!(groups.ends_with("lag\n0"), "seed {seed}: the group of {stream} was not told: {groups}");
    }
}

/// Goal: nothing is lost, and what repeats is bounded and has its key. Method: crashes at named places, other worker counts each run, changes added
/// before and while they run.
#[test]
fn streams_go_through_crashes_into_files_and_streams() {
    let seeds = support::only_seed().map_or_else(|| (0..support::seeds(3)).collect(), |seed| vec![seed]);
    for seed in seeds {
        let server = Server::start().unwrap();
        let folder = support::folder();
        let out = folder.path().join("out");
        let build = pipeline(&server, &out);
        let mut random = StdRng::seed_from_u64(seed);
        let (mut crashes, mut added) = (0, 0);
        let settings =
            |random: &mut StdRng| until_idle(support::settings(folder.path().join("data"), [1, 2, 4][random.random_range(0..3)]));
        for failpoint in CRASHES {
            add(&server, added..added + 60);
            added += 60;
            let report = support::run_and_crash(&settings(&mut random), &build, failpoint, random.random_range(1..4)).unwrap();
            crashes += usize::from(!report.ended);
        }
        let report = support::run(&settings(&mut random), &build).unwrap();
        assert!(crashes > 0, "seed {seed}: every run ended before it crashed");
        check(seed, &server, &out, &report, added, crashes);
    }
}

/// Goal: a server that is killed and frozen under both ends costs time alone. Method: one with all its writes on disk, killed twice and frozen once
/// while changes come.
#[test]
fn a_server_that_is_killed_and_frozen_under_both_ends_costs_time_alone() {
    let server = ServerSettings::default().keeps(Keeps::All).start().unwrap();
    let folder = support::folder();
    let out = folder.path().join("out");
    let run = support::start(&support::settings(folder.path().join("data"), 2), &pipeline(&server, &out), Control::default());
    let mut added = 0;
    for round in 0..3 {
        add(&server, added..added + 200);
        added += 200;
        support::until("something goes through", || {
            server.ask(&["XLEN", "once"]).is_ok_and(|length| length.parse::<u64>().unwrap() > added - 200)
        });
        if round == 1 {
            server.freeze().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1500));
            server.thaw().unwrap();
        } else {
            server.kill().unwrap();
            server.start_again().unwrap();
        }
    }
    support::until("all is through", || server.ask(&["XLEN", "once"]).is_ok_and(|length| length == added.to_string()));
    run.control.stop();
    let report = run.end().unwrap();
    // Each kill cuts off calls whose answers are lost: those are no crashes of ours.
    check(0, &server, &out, &report, added, 1000);
}

/// Goal: what is no change is parked with its place and does not hold up the rest.
#[test]
fn what_is_no_change_is_parked_with_its_place() {
    let server = Server::start().unwrap();
    add(&server, 0..10);
    server.ask(&["XADD", "orders", "*", "change", "{\"id\": 1, \"op\": \"paint\"}"]).unwrap();
    server.ask(&["XADD", "orders", "*", "a", "1", "b", "2"]).unwrap();
    add(&server, 10..20);
    let folder = support::folder();
    let build = pipeline(&server, &folder.path().join("out"));
    let report = support::run(&until_idle(support::settings(folder.path().join("data"), 2)), &build).unwrap();
    assert_eq!((report.read, report.rejected, report.actions["files"].delivered), (22, 2, 20));
    let mut words = support::books::parked_words(&folder.path().join("data"));
    words.sort();
    assert!(
        words.len() == 2 && words.iter().all(|word| word.starts_with("entry ") && word.contains("stream orders")),
        "{words:?}"
    );
}

/// Goal: a stream that was emptied is refused before anything is done, with the way out.
#[test]
fn an_emptied_stream_is_refused_before_anything_is_done() {
    let server = Server::start().unwrap();
    add(&server, 0..10);
    let folder = support::folder();
    let build = pipeline(&server, &folder.path().join("out"));
    let settings = until_idle(support::settings(folder.path().join("data"), 1));
    support::run(&settings, &build).unwrap();
    server.flush().unwrap();
    add(&server, 10..30);
    let refused = support::run(&settings, &build).unwrap_err().to_string();
    assert!(refused.contains("is not the one that was read") && refused.contains(".continue_behind("), "{refused}");
    assert_eq!(server.ask(&["EXISTS", "once"]).unwrap(), "0");
}
