//! The checkpoint store in Postgres: the suite of every store, on a real server.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::checkpoint::lease::GivenBack;
use highwater_operators::checkpoint::place::{Seat, StorePlace};
use highwater_operators::checkpoint::postgres::{Fault, Faults, PostgresCheckpointStore, PostgresStore};
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{
    Cause, CheckpointStore, Group, Note, Outcome, Parked, Resolution, Resolved, Save, StateSegment,
};
use highwater_operators::postgres::PoolConfig;
use highwater_operators::testing::postgres::{Database, Server, Settings};
use highwater_operators::testing::store_suite::{self, Failure, Storage};
use highwater_operators::{Position, Result};
use rand::rngs::SmallRng;

/// The rows of one pipeline among those of others, with round trips that can fail.
struct Tables {
    place: PostgresCheckpointStore,
    pipeline: String,
    faults: Faults,
}

impl Tables {
    fn new() -> Self {
        // Without syncs, for thousands of groups: nothing here asks what a power cut leaves.
        static SERVER: LazyLock<Server> = LazyLock::new(|| Settings::default().fast().start().unwrap());
        static DATABASE: LazyLock<Database> = LazyLock::new(|| SERVER.database().unwrap());
        static PIPELINES: AtomicU32 = AtomicU32::new(0);
        let faults = Faults::default();
        let pool = PoolConfig { min_connections: 0, max_connections: 2, ..PoolConfig::default() };
        let place = PostgresCheckpointStore::with_pool_config(DATABASE.url().reveal(), pool).with_faults(faults.clone());
        Tables { place, pipeline: format!("orders {}", PIPELINES.fetch_add(1, Ordering::Relaxed)), faults }
    }
}

impl Storage for Tables {
    type Store = PostgresStore;

    fn open(&mut self) -> Result<PostgresStore> {
        self.place.open_store(&self.pipeline, Seat::ALONE).map(|(store, ..)| store)
    }

    fn fail(&mut self, nth: u64, failure: Failure) {
        // A statement is done or not: there is nothing between for a round trip to leave.
        let fault = if failure == Failure::After { Fault::After } else { Fault::Before };
        self.faults.fail(nth, fault);
    }

    fn recover(&mut self, _: &mut SmallRng) {
        self.faults.revive();
    }
}

#[test]
fn the_store_passes_the_suite_of_every_store() {
    let many = std::env::var("HIGHWATER_SEEDS").ok().map_or(10, |text| text.parse().expect("HIGHWATER_SEEDS is a number"));
    store_suite::run_seeds(Tables::new, 2, many);
}

/// A save, notes and a parked change, as a run writes them.
fn group(number: u64) -> Group {
    let note = |n: u64| Note {
        action: 0,
        change: n.into(),
        position: Position { partition: 0, at: n, within: 0 },
        epoch: number,
        outcome: Outcome::Delivered,
    };
    let segment = StateSegment { operator: "dedup".into(), bytes: Bytes::from(vec![1; 100]) };
    Group {
        notes: (0..3).map(note).collect(),
        parked: vec![parked(number, 100)],
        resolved: vec![Resolved { id: number - 1, action: "receipt".into(), resolution: Resolution::Dropped }],
        save: Some(Save {
            number,
            epoch: number,
            state: vec![segment],
            state_from: [("dedup".to_owned(), number.saturating_sub(3))].into(),
            ..Save::default()
        }),
        ..Group::default()
    }
}

fn parked(id: u64, size: usize) -> Parked {
    let row = format!("{{\"text\":\"{}\"}}", "x".repeat(size));
    let position = Position { partition: 0, at: id, within: 0 };
    let parts = Parts {
        id: "c-1",
        table: "orders",
        key: None,
        operation: Operation::Update,
        time_ms: 0,
        before: None,
        after: Some(&row),
    };
    let change = Change::new(Bytes::new(), position, parts).unwrap();
    let (action, error) = ("receipt".to_owned(), "no answer".to_owned());
    Parked {
        id,
        action,
        cause: Cause::Failed,
        error,
        attempts: 3,
        parked_at_ms: 1,
        hash: id.into(),
        change,
        history: Default::default(),
    }
}

/// Goal: whatever the store asks, beside the rows of many other pipelines, is answered by an index. Method: the server writes the plan of every
/// statement to its log.
#[test]
fn every_query_of_the_store_goes_by_an_index() {
    let settings = Settings::default().fast().set("shared_preload_libraries", "auto_explain");
    let settings = settings.set("logging_collector", "on").set("log_filename", "all.log");
    let server = settings.set("auto_explain.log_min_duration", "0").start().unwrap();
    let database = server.database().unwrap();
    let log = || database.one("select pg_read_file('log/all.log')").unwrap();
    let place = PostgresCheckpointStore::at(database.url().reveal());
    drop(place.open_store("orders", Seat::ALONE).unwrap());
    let others = "from generate_series(1, 300) pipeline, generate_series(1, 100) row";
    for filled in [
        "observer_checkpoints (listener_id, generation, state_id) select 'p' || n, 1, '\\x00' from generate_series(1, 30000) n",
        &format!("observer_processes (listener_id, process, generation) select 'p' || pipeline, row, 1 {others}"),
        &format!("observer_ledger select 'p' || pipeline, 1, 0, row, 0, 1, '\\x00' {others}"),
        &format!("observer_state select 'p' || pipeline, 'dedup', row, 0, 0, '\\x00' {others}"),
        &format!("observer_parked select 'p' || pipeline, row, 'a', 'failed', '', 1, now(), 'c', 'k', '\\x00', '\\x00' {others}"),
        &format!("observer_resolved select 'p' || pipeline, row, 'a', 1, 1 {others}"),
        &format!("observer_partitions select 'p' || pipeline, row, 'n' || row {others}"),
        &format!("observer_actions select 'p' || pipeline, row, 'n' || row {others}"),
        &format!("observer_requests (listener_id, request) select 'p' || pipeline, '{{}}' {others}"),
        &format!("observer_leases select 'p' || pipeline, row, 0, 1, now(), '', 1, 1, 1, 'n' {others}"),
    ] {
        database.sql(&format!("insert into {filled}")).unwrap();
    }
    database.sql("analyze").unwrap();
    let before = log().len();

    let (mut store, letters, lease) = place.open_store("orders", Seat::ALONE).unwrap();
    let generation = store.restore().unwrap().generation;
    store.action("receipt").unwrap();
    for number in 1..=10 {
        store.commit(&group(number)).unwrap();
        store.commit(&Group { notes: group(number).notes, ..Group::default() }).unwrap();
    }
    // Enough to be copied.
    store.commit(&Group { parked: vec![parked(50, 3 << 20)], ..Group::default() }).unwrap();
    assert_eq!(store.parked(50).unwrap().map(|parked| parked.id), Some(50));
    assert!(place.join("orders", generation, Seat { process: 1, processes: 2 }).is_err(), "the run has one process");
    let outside = place.letters("orders").unwrap();
    outside.leave(Request::Drop { id: 50 }).unwrap();
    letters.post("here").unwrap();
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "never came: {what}");
            std::thread::yield_now();
        }
    };
    until("the notice", &|| outside.notice().as_deref() == Some("here"));
    until("the request", &|| letters.pending().unwrap().len() == 1);
    letters.remove(&letters.pending().unwrap()[0].0).unwrap();
    until("its removal", &|| outside.pending().unwrap().is_empty());
    let rows = |table: &str| database.one(&format!("select count(*) from {table} where listener_id = 'orders'")).unwrap();
    until("clean-up of state", &|| rows("observer_state").parse::<u64>().unwrap() <= 4);
    until("clean-up of the ledger", &|| rows("observer_ledger").parse::<u64>().unwrap() <= 2);
    assert!(place.inspect("orders").unwrap().is_some());
    drop(store);
    lease.give_back(GivenBack::InOrder);

    let log = log()[before..].to_owned();
    let plans = log.matches("Query Text:").count();
    assert!(plans > 40, "{plans} plans were written to the log");
    // The table of versions has one row.
    let scans: Vec<&str> =
        log.lines().filter(|line| line.contains("Seq Scan on observer_") && !line.contains("observer_schema")).collect();
    assert!(scans.is_empty(), "{}\n{log}", scans.join("\n"));
}

/// Goal: a group that ends some of many parked records reads those, also when its plan was made by figures of a time when there was none.
/// Method: the server's own counts of rows read.
#[test]
fn ending_a_few_of_many_parked_records_reads_only_those() {
    const MANY: u64 = 3000;
    const FEW: u64 = 5;
    let server = Settings::default().fast().set("autovacuum", "off").start().unwrap();
    let database = server.database().unwrap();
    let place = PostgresCheckpointStore::at(database.url().reveal());
    let (mut store, ..) = place.open_store("orders", Seat::ALONE).unwrap();
    for number in 1..=10 {
        store.commit(&group(number)).unwrap();
    }
    // A large table with next to nothing in it, and every plan made anew.
    let others = "generate_series(1, 2000) row";
    database
        .sql(&format!(
            "insert into observer_parked select 'other', row, 'a', 'failed', '', 1, now(), 'c', 'k', '\\x00', '\\x00' from {others}"
        ))
        .unwrap();
    database.sql("delete from observer_parked where listener_id = 'other' and id < 2000").unwrap();
    database.sql("vacuum analyze").unwrap();
    let count = || -> (u64, u64) {
        let ask = |what| database.one(&format!("select {what} from pg_stat_user_tables where relname = 'observer_parked'"));
        let count = |what| ask(what).unwrap().parse().unwrap();
        (count("coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"), count("n_tup_del"))
    };

    let many = (100..100 + MANY).map(|id| parked(id, 100)).collect();
    store.commit(&Group { parked: many, ..Group::default() }).unwrap();
    for first in (100..100 + MANY).step_by(FEW as usize) {
        let ids: Vec<u64> = (first..first + FEW).collect();
        assert_eq!(store.parked_all(&ids).unwrap().len(), ids.len());
        let ended = |id| Resolved { id, action: "receipt".into(), resolution: Resolution::Delivered };
        store.commit(&Group { resolved: ids.into_iter().map(ended).collect(), ..Group::default() }).unwrap();
    }

    // A session tells its counts as it ends.
    drop((store, place));
    let began = Instant::now();
    while count().1 < 2000 + MANY {
        assert!(began.elapsed() < Duration::from_secs(30), "the server does not count: {:?}", count());
        std::thread::yield_now();
    }
    let read = count().0;
    assert!(read < 10_000 + 4 * MANY, "{read} rows were read");
}

/// Goal: several processes of one run write beside each other; a replaced run, and a process of it, writes nothing.
#[test]
fn several_processes_of_a_run_write_beside_each_other_until_it_is_replaced() {
    let database = Server::shared().database().unwrap();
    let place = PostgresCheckpointStore::at(database.url().reveal());
    let seat = |process| Seat { process, processes: 3 };
    let mut first = place.open("orders", seat(0)).unwrap();
    let restored = first.store.restore().unwrap();
    first.store.action("receipt").unwrap();
    let mut others: Vec<_> = (1..3).map(|process| place.join("orders", restored.generation, seat(process)).unwrap()).collect();
    let mut ids = vec![restored.next_parked];
    for (other, process) in others.iter_mut().zip(1u64..) {
        let restored = other.store.restore().unwrap();
        assert_eq!((restored.parked_step, restored.actions["receipt"]), (3, 0));
        ids.push(restored.next_parked);
        let notes = vec![Note {
            action: 0,
            change: process.into(),
            position: Position { partition: 0, at: process, within: 0 },
            epoch: 100,
            outcome: Outcome::Delivered,
        }];
        other.store.commit(&Group { notes, parked: vec![parked(restored.next_parked, 10)], ..Group::default() }).unwrap();
        let refused = other.store.commit(&Group { save: Some(Save { number: 1, ..Save::default() }), ..Group::default() });
        assert!(refused.unwrap_err().to_string().contains("the first process"));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each process has ids of its own");
    first.store.commit(&Group { save: Some(Save { number: 1, epoch: 50, ..Save::default() }), ..Group::default() }).unwrap();

    let (mut next, ..) = place.open_store("orders", Seat::ALONE).unwrap();
    let restored = next.restore().unwrap();
    assert_eq!((restored.notes.len(), restored.parked.len()), (2, 2));
    assert!(restored.next_parked > ids[2] || restored.parked.iter().all(|head| head.id < restored.next_parked));
    for process in others.iter_mut().chain([&mut first]) {
        let group = Group { parked: vec![parked(99, 10)], ..Group::default() };
        let error = process.store.commit(&group).unwrap_err();
        assert!(error.to_string().contains("run 1 of orders was replaced by run 2"), "{error}");
        assert_eq!(next.parked(99).unwrap(), None);
    }
    assert!(place.join("orders", 1, seat(1)).err().unwrap().to_string().contains("was replaced by run 2"));
}

/// Goal: tables are made by whoever comes first, also if several come at once; those of a newer program, or of another, are refused.
#[test]
fn tables_are_made_once_and_strange_ones_are_refused() {
    let database = Server::shared().database().unwrap();
    let url = database.url().reveal();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let place = PostgresCheckpointStore::at(url);
            std::thread::spawn(move || place.open_store(&format!("pipeline {n}"), Seat::ALONE).map(drop))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    assert_eq!(database.one("select count(*) from observer_checkpoints").unwrap(), "4");
    let refused = |url: &str| match PostgresCheckpointStore::at(url).open_store("orders", Seat::ALONE) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    database.sql("insert into observer_schema (version) values (99)").unwrap();
    let said = refused(url);
    assert!(said.contains("of version 99") && said.contains("newer program"), "{said}");

    database.sql("create schema other; create table other.observer_checkpoints (id int)").unwrap();
    let with = |schema: &str| format!("{url}{}options=-csearch_path%3D{schema}", if url.contains('?') { '&' } else { '?' });
    let said = refused(&with("other"));
    assert!(said.contains("schema \"other\" has a table") && said.contains("create schema highwater"), "{said}");
    let said = refused(&with("nowhere"));
    assert!(said.contains("no schema of the search_path exists"), "{said}");
    database.sql("create schema highwater").unwrap();
    drop(PostgresCheckpointStore::at(&with("highwater")).open_store("orders", Seat::ALONE).unwrap());
    assert_eq!(database.one("select generation from highwater.observer_checkpoints").unwrap(), "1");
}
