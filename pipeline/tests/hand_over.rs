//! Rows that were there and every change since: a table that is filled by replication is the source's, row by row, whatever crashes on the way.
//!
//! Writers go on writing all the time, with transactions open across every step; the pipeline crashes at named places and is resumed with other
//! numbers of workers. `HIGHWATER_SEEDS` says how many seeds, `HIGHWATER_SEED` which one.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::report::ActionBooks;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use support::writers::{TABLES, Writers};
use tempfile::TempDir;

/// How long it may take until the target is as the source.
const DEADLINE: Duration = Duration::from_secs(30);

/// Every event of a table, in the order in which it was applied.
const HISTORY: &str = "create table history (place bigserial, change text, of text, key text, what text, v bigint)";

struct Case {
    folder: TempDir,
    source: Database,
    target: Database,
    rng: StdRng,
    build: Build,
    seed: u64,
    /// Tables that are there already.
    tables: usize,
    crashes: usize,
}

impl Case {
    fn new(server: &Server, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (source, target) = (server.database().unwrap(), server.database().unwrap());
        source.sql("create sequence versions").unwrap();
        target.sql(HISTORY).unwrap();
        TABLES.iter().for_each(|table| table.create(&target));
        let slot = format!("slot_{}", source.name());
        let is_all = rng.random_bool(0.5);
        let (page, connections) = (rng.random_range(1..60), rng.random_range(1..4));
        let (from, to, name) = (source.url().clone(), target.url().reveal().to_owned(), slot.clone());
        let build = support::build(move |flow| {
            let read = PostgresReplication::at(&from, &name)
                .publication("wanted")
                .snapshot_page(page)
                .snapshot_connections(connections)
                .heartbeat(millis(100));
            let tables = TABLES.iter().map(|table| {
                let name = format!("public.{}", table.name);
                let written = PostgresTable::upsert(&to, table.name).key(table.keys.iter().copied());
                action(table.name, written).batch_max(20).max_parallelism(2).when(move |change| change.table() == name)
            });
            let history = PostgresTable::append(&to, "history").columns([
                ("change", "@id"),
                ("of", "@table"),
                ("key", "@key"),
                ("what", "@operation"),
                ("v", "v"),
            ]);
            let all: Vec<_> = tables.chain([action("history", history).batch_max(50)]).collect();
            flow.source(read).dedup(Dedup::latest(100_000)).fan_out(all).checkpoint(Checkpoint::every(millis(3)).batch_size(40));
            Ok(())
        });
        let mut case = Case { folder: support::folder(), source, target, rng, build, seed, tables: 0, crashes: 0 };
        (0..TABLES.len() - 1).for_each(|_| case.add_table());
        let published = if is_all { "for all tables" } else { "for table orders, lines, notes" };
        case.source.sql(&format!("create publication wanted {published}")).unwrap();
        case
    }

    /// One more table, with rows.
    fn add_table(&mut self) {
        let table = &TABLES[self.tables];
        table.create(&self.source);
        let rows = if self.rng.random_bool(0.1) { 0 } else { self.rng.random_range(1..300) };
        table.fill(&self.source, rows);
        if self.rng.random_bool(0.4) {
            self.source.sql(&format!("alter table {} replica identity full", table.name)).unwrap();
        }
        if self.rng.random_bool(0.5) {
            self.source.sql(&format!("analyze {}", table.name)).unwrap();
        }
        self.tables += 1;
    }

    /// A table is published while somebody reads.
    fn publish_late(&mut self) {
        self.add_table();
        let is_all = self.source.one("select puballtables from pg_publication").unwrap() == "t";
        if !is_all {
            self.source.sql("alter publication wanted add table late").unwrap();
        }
    }

    fn settings(&mut self) -> Settings {
        let workers = [1, 2, 4][self.rng.random_range(0..3)];
        Settings {
            in_flight_changes: self.rng.random_range(20..400),
            ..support::settings(self.folder.path().join("data"), workers)
        }
    }

    fn write(&self, phase: u64) -> Writers {
        let transactions = 25;
        Writers::start(self.source.url(), self.seed * 100 + phase, 3, transactions, &TABLES[..self.tables], self.seed % 4 == 3)
    }

    /// Runs until it crashes at this place, or has done all there is.
    fn crash(&mut self, phase: u64, place: &'static str) {
        let passage = match place {
            failpoint::SNAPSHOT_PAGE | failpoint::READER_SENT => self.rng.random_range(1..15),
            failpoint::SAVE_COMMITTED | failpoint::TRANSACTION_COMMITTED | failpoint::SLOT_CONFIRMED => {
                self.rng.random_range(1..8)
            }
            failpoint::CATCH_UP_BATCH => self.rng.random_range(1..3),
            _ => 1,
        };
        let control = Control::default();
        control.crash_at(place, passage);
        let settings = self.settings();
        let writers = self.write(phase);
        let run = support::start(&settings, &self.build, control.clone());
        let is_late = phase == 2;
        if is_late {
            self.publish_late();
        }
        writers.end();
        // Until it crashes, or all is done without.
        let (began, mut crashed) = (Instant::now(), run.ended());
        while crashed.is_none() && began.elapsed() < DEADLINE && !self.differences().is_empty() {
            crashed = run.ended();
        }
        self.crashes += usize::from(crashed.is_some());
        let ended = crashed.unwrap_or_else(|| {
            control.stop();
            run.end()
        });
        // At its start a run leaves with an error; nothing has been read.
        if let Err(error) = ended {
            assert!(error.to_string().ends_with("crashed"), "{error}");
        }
    }

    /// Runs to the end, and holds everything against the source.
    fn finish(mut self) -> usize {
        let settings = self.settings();
        let writers = self.write(99);
        let run = support::start(&settings, &self.build, Control::default());
        writers.end();
        let began = Instant::now();
        while !self.differences().is_empty() && began.elapsed() < DEADLINE {
            std::thread::yield_now();
        }
        if began.elapsed() >= DEADLINE {
            let why = run.control.why(Duration::from_secs(2));
            panic!("after {DEADLINE:?} the target is not as the source: {why:?}\n{:#?}", self.differences());
        }
        // What a crash cut off in the middle of a round is counted when all is read that will be, a moment after the last change.
        let is_counted = || run.control.books().is_some_and(|books| books.values().all(|books| !is_open(books)));
        while !is_counted() && began.elapsed() < DEADLINE {
            std::thread::yield_now();
        }
        run.control.stop();
        let report = run.end().unwrap();
        assert_eq!(self.differences(), Vec::<String>::new());
        for (action, books) in &report.actions {
            assert!(!is_open(books), "{action}: {books:?}");
        }
        let misplaced = "select count(*) from (select v - lag(v) over (partition by of, key order by place) step from history \
             where v is not null) s where step < 0";
        assert_eq!(self.target.one(misplaced).unwrap(), "0", "events of a key out of order");
        let twice = "select count(*) from (select from history group by change having count(*) > 1) twice";
        assert_eq!(self.target.one(twice).unwrap(), "0", "events that were applied twice");
        // A server has a hundred slots, and there may be more seeds.
        let slots = "from pg_replication_slots where database = current_database()";
        support::until("nobody has the slot", || self.source.one(&format!("select count(*) {slots} and active")).unwrap() == "0");
        self.source.sql(&format!("select pg_drop_replication_slot(slot_name) {slots}")).unwrap();
        self.crashes
    }

    /// What is not alike in source and target.
    fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        for table in &TABLES[..self.tables] {
            let rows = |database: &Database| -> BTreeMap<String, Vec<Option<String>>> {
                let columns = table.keys.iter().map(|key| format!("{key}::text")).collect::<Vec<_>>().join(" || '/' || ");
                let rows = database.sql(&format!("select {columns}, v::text, note, md5(body) from {}", table.name)).unwrap();
                rows.into_iter().map(|mut row| (row.remove(0).unwrap(), row)).collect()
            };
            let (expected, found) = (rows(&self.source), rows(&self.target));
            let keys = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
            differences.extend(keys.filter(|key| expected.get(*key) != found.get(*key)).map(|key| {
                format!("{} {key}: {:?} in the source, {:?} in the target", table.name, expected.get(key), found.get(key))
            }));
        }
        differences
    }
}

/// Whether anything read has no outcome yet, or anything with an outcome was not counted as read.
fn is_open(books: &ActionBooks) -> bool {
    let settled = books.duplicate + books.rejected + books.filtered + books.delivered;
    books.read != settled || books.parked + books.in_flight > 0
}

fn crash_and_resume(server: &Server, seed: u64) -> usize {
    let mut case = Case::new(server, seed);
    let places = [
        &failpoint::REPLICATION[..],
        &[failpoint::READER_SENT, failpoint::SAVE_COMMITTED, failpoint::TRANSACTION_COMMITTED, failpoint::SNAPSHOT_PAGE],
    ]
    .concat();
    for phase in 0..4 {
        let place = *places.choose(&mut case.rng).unwrap();
        case.crash(phase, place);
    }
    case.finish()
}

#[test]
fn whatever_crashes_the_target_is_as_the_source() {
    let server = highwater::operators::testing::postgres::Settings::default().fast().start().unwrap();
    let seeds: Vec<u64> = support::only_seed().map_or_else(|| (0..support::seeds(3)).collect(), |seed| vec![seed]);
    let mut crashes = 0;
    for seed in &seeds {
        println!("HIGHWATER_SEED={seed}");
        crashes += crash_and_resume(&server, *seed);
    }
    println!("{} seeds, {crashes} crashes", seeds.len());
    assert!(crashes > 0 || seeds.len() == 1, "no failpoint was reached");
}
