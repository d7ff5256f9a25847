//! Several processes while they run: how soon a change is through, files that come, what is told of the whole, requests of people.

mod support;
#[path = "support/web.rs"]
mod web;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::operators::change::Parts;
use highwater::operators::checkpoint::place::StorePlace;
use highwater::operators::checkpoint::requests::Request;
use highwater::operators::epoch::unix_ms;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, Partition, Read, Reader, Source};
use highwater::operators::parked::Filter;
use highwater::operators::{Position, ResumeToken};
use highwater::prelude::*;
use highwater::settings::Settings;
use parking_lot::Mutex;
use support::input::{Input, Item, Script};
use support::processes::{Together, end_all, start_all};
use tempfile::TempDir;

fn three(folder: &TempDir) -> Settings {
    Settings { processes: 3, ..support::settings(folder.path().join("data"), 1) }
}

fn whole(reports: Vec<highwater::Result<highwater::report::Report>>) -> highwater::report::Report {
    let reports: Vec<_> = reports.into_iter().map(|report| report.expect("no error")).collect();
    reports.into_iter().next().expect("process 0 has one")
}

/// Changes that come one at a time in one of six partitions; in the others there is nothing.
#[derive(Clone, Default)]
struct Drip(Arc<Drops>);

#[derive(Default)]
struct Drops {
    read: Mutex<BTreeMap<u64, Instant>>,
    saved: Mutex<Vec<Duration>>,
    done: AtomicU64,
}

const DROPS: u64 = 60;

impl Source for Drip {
    fn kind(&self) -> &'static str {
        "drip"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok((0..6).map(|n| PartitionName { name: n.to_string(), bytes: None }).collect())
    }

    fn open(&self, partition: &Partition, _: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(DripReader { drops: self.0.clone(), id: partition.id, drips: partition.name == "4" }))
    }

    fn saved(&self, _: &Partition, token: &ResumeToken) {
        let now = Instant::now();
        let mut read = self.0.read.lock();
        let above = read.split_off(&token.order);
        self.0.saved.lock().extend(read.values().map(|at| now - *at));
        *read = above;
    }
}

struct DripReader {
    drops: Arc<Drops>,
    id: u32,
    drips: bool,
}

impl Reader for DripReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let done = self.drops.done.load(Ordering::Acquire);
        if done == DROPS {
            return Ok(Read::End);
        }
        // One drop falls when the one before is saved, so that each finds an idle pipeline.
        if !self.drips || !self.drops.read.lock().is_empty() {
            return Ok(Read::Idle(Duration::from_millis(5)));
        }
        let (position, id) = (Position { partition: self.id, at: done, within: 0 }, format!("d{done}"));
        let parts = Parts {
            id: &id,
            table: "drops",
            key: Some(&id),
            operation: Operation::Insert,
            time_ms: 0,
            before: None,
            after: Some("{}"),
        };
        batch.changes.push(Change::new(Default::default(), position, parts).expect("the pieces are short"));
        batch.token = ResumeToken { order: done + 1, ..ResumeToken::default() };
        self.drops.read.lock().insert(done, Instant::now());
        self.drops.done.store(done + 1, Ordering::Release);
        Ok(Read::Some)
    }
}

#[test]
fn one_change_is_through_three_processes_and_saved_in_milliseconds() {
    let folder = support::folder();
    let store = Together::at(folder.path().join("data"));
    let drip = Drip::default();
    let source = drip.clone();
    let build = support::build(move |flow| {
        flow.source(source.clone())
            .fan_out([action("all", run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(1)).batch_size(1).in_store(store.clone()));
        Ok(())
    });
    let report = whole(end_all(start_all(&three(&folder), &folder, &build)));
    assert_eq!(report.actions["all"].delivered, DROPS);
    let mut saved = drip.0.saved.lock().clone();
    saved.sort();
    let median = saved[saved.len() / 2];
    println!("from reading to the saved mark, through three processes: median {median:?}, longest {:?}", saved.last());
    assert!(median < Duration::from_millis(50), "{median:?} in the median");
}

#[test]
fn files_that_come_are_read_by_the_process_they_fall_to() {
    let folder = support::folder();
    let input = folder.path().join("input");
    std::fs::create_dir_all(&input).unwrap();
    let write = |file: u32| {
        let line =
            |n| format!("{{\"id\":\"f{file}-{n}\",\"key\":\"k{n}\",\"table\":\"t\",\"op\":\"c\",\"ts_ms\":1,\"after\":{{}}}}\n");
        std::fs::write(input.join(format!("{file}.jsonl")), (0..20).map(line).collect::<String>()).unwrap();
    };
    write(0);
    let (store, directory) = (Together::at(folder.path().join("data")), input.clone());
    let build = support::build(move |flow| {
        flow.source(JsonLines::dir(&directory).follow())
            .fan_out([action("all", run(|_| async { Ok(()) }))])
            .checkpoint(Checkpoint::every(millis(5)).in_store(store.clone()));
        Ok(())
    });
    let started = start_all(&three(&folder), &folder, &build);
    let delivered = || started[0].control.books().and_then(|books| Some(books.get("all")?.delivered)).unwrap_or(0);
    for file in 1..7 {
        write(file);
        support::until("all lines of the new file are delivered", || delivered() == u64::from(file + 1) * 20);
    }
    started[0].control.stop();
    let report = whole(end_all(started));
    assert_eq!((report.read, report.actions["all"].delivered), (140, 140));
}

#[test]
fn process_0_tells_of_all_processes_while_they_run() {
    let folder = support::folder();
    let data = folder.path().join("data");
    let store = Together::at(data.clone());
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let build = support::build(move |flow| {
        let gate = gate.clone();
        flow.source(Generator::new(1).changes(400).partitions(6).keys(100))
            .fan_out([action(
                "waits",
                run(move |_| {
                    let gate = gate.clone();
                    async move {
                        while !gate.load(Ordering::Acquire) {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(())
                    }
                }),
            )])
            .checkpoint(Checkpoint::every(millis(5)).in_store(store.clone()));
        Ok(())
    });
    let settings = Settings { listen: web::anywhere(), in_flight_changes: 50, ..three(&folder) };
    let started = start_all(&settings, &folder, &build);
    let url = web::monitor(&data);
    // Each process takes its window full, and no more.
    support::until("all windows are full", || {
        let status = web::json(&format!("{url}/api/status"));
        status["books"]["actions"]["waits"]["read"].as_u64().is_some_and(|read| read >= 150)
    });
    let status = web::json(&format!("{url}/api/status"));
    assert_eq!((status["processes"].as_u64(), status["workers"].as_u64()), (Some(3), Some(3)));
    assert_eq!(status["books"]["balanced"], true, "{status}");
    let why = web::json(&format!("{url}/api/why"));
    assert_eq!((&why["state"], &why["held_by"]["kind"]), (&"held".into(), &"call".into()), "{why}");
    let workers: Vec<u64> = why["sources"].as_array().unwrap().iter().filter_map(|source| source["worker"].as_u64()).collect();
    assert_eq!(workers.len(), 3, "the readers of all processes: {why}");
    let (_, metrics) = web::get(&format!("{url}/metrics"));
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
    };
    assert_eq!(value("highwater_processes"), 3.0);
    assert!(value("highwater_units_away") > 0.0);
    for process in [1, 2] {
        assert!(metrics.contains(&format!("process=\"{process}\"")), "no age of process {process} in\n{metrics}");
    }
    open.store(true, Ordering::Release);
    let report = whole(end_all(started));
    assert_eq!((report.ended, report.read, report.actions["waits"].delivered), (true, 400, 400));
}

#[test]
fn requests_of_people_are_taken_by_the_process_that_owns_the_key() {
    each_owner_does(|store, ids| {
        let letters = store.letters("test").unwrap();
        for id in &ids[1..] {
            letters.leave(Request::Retry { id: *id }).unwrap();
        }
        letters.leave(Request::Drop { id: ids[0] }).unwrap();
    });
}

#[test]
fn a_request_about_many_records_reaches_every_owner() {
    each_owner_does(|store, ids| {
        let letters = store.letters("test").unwrap();
        let asked_at_ms = unix_ms() + 1;
        letters.leave(Request::DropAll { filter: Filter::of([ids[0]]), asked_at_ms }).unwrap();
        let filter = Filter { action: Some("all".to_owned()), error: Some("not now".to_owned()), ..Filter::default() };
        letters.leave(Request::RetryAll { filter, asked_at_ms }).unwrap();
    });
}

/// Parks 24 changes in three processes, asks for something, and runs again: one is dropped, and the others are delivered.
fn each_owner_does(ask: impl Fn(&Together, &[u64])) {
    let folder = support::folder();
    let store = Together::at(folder.path().join("data"));
    let input = Arc::new(Input::of((0..24).map(|n| Item::good(format!("c{n}"), format!("k{n}")))));
    let healed = Arc::new(AtomicBool::new(false));
    let (of_build, well) = (store.clone(), healed.clone());
    let build = support::build(move |flow| {
        let well = well.clone();
        flow.source(Script { input: input.clone(), seed: 1 })
            .fan_out([action(
                "all",
                run(move |_| {
                    let well = well.load(Ordering::Acquire);
                    async move { if well { Ok(()) } else { Err(Error::park("not now")) } }
                }),
            )])
            .checkpoint(Checkpoint::every(millis(5)).in_store(of_build.clone()));
        Ok(())
    });
    let report = whole(end_all(start_all(&three(&folder), &folder, &build)));
    assert_eq!(report.actions["all"].parked, 24);
    let ids: Vec<u64> = {
        let seen = store.inspect("test").unwrap().unwrap();
        seen.parked_heads().iter().map(|head| head.id).collect()
    };
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 24, "each has a number of its own");
    ask(&store, &ids);
    healed.store(true, Ordering::Release);
    let report = whole(end_all(start_all(&three(&folder), &folder, &build)));
    let books = &report.actions["all"];
    assert_eq!((books.delivered, books.parked, books.dropped), (23, 1, 1), "{books:?}");
    assert!(store.letters("test").unwrap().pending().unwrap().is_empty());
}
