//! How long it takes, and how much memory, to work through many parked changes; in both stores. `scripts/prove parked` runs it with a
//! million.

mod support;
#[path = "support/web.rs"]
#[allow(dead_code)] // its notice is found in either store
mod web;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::operators::checkpoint::place::StorePlace;
use highwater::operators::checkpoint::postgres::PostgresCheckpointStore;
use highwater::operators::parked::Filter;
use highwater::operators::testing::postgres::Server;
use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use highwater::sources::channel::ChannelSource;
use serde_json::{Value, json};

/// Parked records: few every day, many where the environment asks for it.
fn records() -> u64 {
    std::env::var("HIGHWATER_RECORDS").ok().map_or(10_000, |text| text.parse().expect("HIGHWATER_RECORDS is a number"))
}

/// Parks every change of a channel, half of them for one reason and half for another, until it is mended.
fn build(mended: &Arc<AtomicBool>, changes: &ChannelSource) -> Build {
    let (mended, changes) = (mended.clone(), changes.clone());
    support::build(move |flow| {
        let mended = mended.clone();
        let act = run(move |change| {
            let is_mended = mended.load(Ordering::Relaxed);
            async move {
                match (is_mended, change.key_hash().is_multiple_of(2)) {
                    (true, _) => Ok(()),
                    (false, true) => Err(Error::park("422 even").with_response("not to my taste")),
                    (false, false) => Err(Error::park("503 odd").with_response("come back later")),
                }
            }
        });
        flow.source(changes.clone())
            .fan_out([action("act", act).max_parallelism(1_000)])
            .checkpoint(Checkpoint::every(millis(200)));
        Ok(())
    })
}

/// Resident memory in MiB: now, and at most since the last look.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) >> 10
    };
    let seen = (of("VmRSS:"), of("VmHWM:"));
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    seen
}

#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    fn print(&self) {
        println!("| store | what | records | seconds | resident MiB after | at most |\n| --- | --- | --- | --- | --- | --- |");
        println!("{}", self.0.join("\n"));
    }

    fn time<T>(&mut self, store: &str, what: &str, n: u64, work: impl FnOnce() -> T) -> T {
        memory();
        let began = Instant::now();
        let done = work();
        let seconds = began.elapsed().as_secs_f64();
        let (now, most) = memory();
        self.0.push(format!("| {store} | {what} | {n} | {seconds:.1} | {now} | {most} |"));
        done
    }
}

struct Port(ureq::Agent, String, String);

impl Port {
    fn of(store: &dyn StorePlace) -> Port {
        let letters = store.letters("test").unwrap();
        let notice = web::wait("the notice", || letters.notice());
        let notice: Value = serde_json::from_str(&notice).unwrap();
        let agent = ureq::Agent::config_builder().proxy(None).timeout_global(Some(Duration::from_secs(90))).build().new_agent();
        Port(agent, format!("{}api/parked", notice["url"].as_str().unwrap()), notice["token"].as_str().unwrap().to_owned())
    }

    fn slice(&self, ask: &Value) -> Value {
        let answer = self.0.post(&self.1).header("Authorization", format!("Bearer {}", self.2)).send(&ask.to_string());
        let text = answer.unwrap().body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// All slices of a piece of work: how many records were meant, and for how many it was done.
    fn all(&self, mut ask: Value) -> (u64, u64) {
        let (mut meant, mut done) = (0, 0);
        ask["after"] = json!(0);
        loop {
            let answer = self.slice(&ask);
            meant += answer["meant"].as_u64().unwrap();
            done += answer["done"].as_u64().unwrap();
            match answer["next"].as_u64() {
                Some(next) => ask["after"] = json!(next),
                None => return (meant, done),
            }
        }
    }
}

fn work_through(name: &str, store: &dyn StorePlace, settings: &Settings, table: &mut Table) {
    let (records, mended) = (records(), Arc::new(AtomicBool::new(false)));
    let (feed, changes) = Channel::bounded(10_000);
    let build = build(&mended, &changes);
    let settings = Settings { listen: web::anywhere(), parked_max: 10_000_000, parked_max_mib: 100_000, ..settings.clone() };
    let running = support::start(&settings, &build, Control::default());
    let port = Port::of(store);
    let stand = || port.all(json!({"ask": "count", "filter": {}})).0;
    let feeder = feed.clone();
    let feeding = std::thread::spawn(move || {
        for n in 0..records {
            let row = json!({"customer": format!("customer {}", n % 977), "amount": n, "note": "x".repeat(80)});
            let change = Change::builder(format!("c{n}")).table("orders").key(format!("k{}", n % 100_003)).after(&row);
            feeder.blocking_send(change.build().unwrap()).unwrap();
        }
    });
    let wait = |records: u64| {
        let began = Instant::now();
        while stand() != records {
            assert!(began.elapsed() < Duration::from_secs(3_000), "never came: {records} records, there are {}", stand());
            std::thread::sleep(millis(5));
        }
    };
    table.time(name, "park", records, || wait(records));
    let even = table.time(name, "count by error", records, || port.all(json!({"ask": "count", "filter": {"error": "even"}})).0);
    let listed = table.time(name, "list 50 by error", records, || {
        port.slice(&json!({"ask": "list", "filter": {"error": "ODD"}, "after": 0, "most": 50, "whole": true}))["meant"].as_u64()
    });
    assert!(listed.is_some_and(|listed| listed > 0) && even > 0);
    let dropped = table.time(name, "drop by error", even, || port.all(json!({"ask": "drop", "filter": {"error": "even"}})));
    assert_eq!(dropped, (even, even));
    table.time(name, "look into the store from outside", records - even, || {
        let seen = store.inspect("test").unwrap().unwrap();
        assert_eq!(seen.parked_count(), records - even);
        let odd = Filter { error: Some("odd".to_owned()), ..Filter::default() };
        let (mut counted, mut next) = (0, Some(0));
        while let Some(after) = next {
            let page = seen.parked_page(&odd, after, 1_000).unwrap();
            counted += page.records.len() as u64;
            next = page.next;
        }
        assert_eq!(counted, records - even);
    });
    mended.store(true, Ordering::SeqCst);
    table.time(name, "retry all", records - even, || {
        let retried = port.all(json!({"ask": "retry", "filter": {}}));
        assert_eq!(retried.0, records - even);
        wait(0);
    });
    feeding.join().unwrap();
    drop(feed);
    let report = running.end().unwrap();
    let books = &report.actions["act"];
    assert_eq!((books.delivered, books.parked, books.dropped, books.in_flight), (records - even, even, even, 0));
}

/// Goal: many records are worked through in seconds, in memory that does not grow with what is asked for. Each store by itself, for
/// the memory is the process'.
#[test]
fn many_records_in_a_data_directory() {
    let mut table = Table::default();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let settings = support::settings(data.clone(), 1);
    work_through("data directory", &DataDirectory::at(Path::new(&data)), &settings, &mut table);
    table.print();
}

#[test]
fn many_records_in_postgres() {
    let mut table = Table::default();
    let database = Server::shared().database().unwrap();
    let url = database.url().reveal().to_owned();
    let folder = support::folder();
    let settings = Settings { checkpoint: Some(url.as_str().into()), ..support::settings(folder.path().join("data"), 1) };
    work_through("Postgres", &PostgresCheckpointStore::at(&url), &settings, &mut table);
    table.print();
}
