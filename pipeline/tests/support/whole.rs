//! A pipeline with everything in it: dedup, a lookup, a file, calls one by one and in batches, one that may be repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater::operators::checkpoint::place::Inspect;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::Build;
use tempfile::TempDir;

use super::books;
use super::input::{CUSTOMERS, Input, Item, Script};
use super::oracle::{self, Expected, Outcomes};
use super::processes::Together;
use super::record::{Record, Recorder};
use super::table::Table;

/// Bounds of the actions, and so of what a crash may repeat.
pub const CALLS_AT_ONCE: usize = 3;
pub const BATCHED_AT_ONCE: usize = 4;

/// The pipeline, its input and what it did.
pub struct Whole {
    pub seed: u64,
    pub input: Arc<Input>,
    pub record: Record,
    pub table: Table,
    pub folder: TempDir,
    pub window_ms: Option<i64>,
    pub expected: Expected,
    pub outcomes: BTreeMap<&'static str, Outcomes>,
    /// The store that several processes share, if there are several.
    pub store: Option<Together>,
    /// The URL of the Redis that holds the seen-set, if not the checkpoint does.
    pub redis: Option<String>,
}

impl Whole {
    pub fn new(seed: u64, input: Input, window_ms: Option<i64>) -> Self {
        let expected = oracle::expect(&input, window_ms);
        let kept = |item: &Item| item.keep;
        let called = ["poison", "panic"];
        let outcomes = BTreeMap::from([
            ("file", expected.outcomes(kept, &["unwritable"])),
            ("calls", expected.outcomes(|_| true, &called)),
            ("closure", expected.outcomes(kept, &called)),
            ("batched", expected.outcomes(|_| true, &called)),
            ("again", expected.outcomes(|_| true, &called)),
            ("table", expected.outcomes(|_| true, &called)),
        ]);
        let (input, record, folder) = (Arc::new(input), Record::default(), super::folder());
        let table = Table::new("table", &record);
        Whole { seed, input, record, table, folder, window_ms, expected, outcomes, store: None, redis: None }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub fn build(&self) -> Build {
        let (input, record, seed, out) = (self.input.clone(), self.record.clone(), self.seed, self.out());
        let table = self.table.clone();
        let store = self.store.clone();
        let window = self.window_ms.map(|window| Duration::from_millis(window as u64));
        let dedup = window.map_or(Dedup::latest(100_000), Dedup::within);
        let dedup = self.redis.iter().fold(dedup, |dedup, url| dedup.in_redis(url));
        super::build(move |flow| {
            let soon = (Duration::from_micros(200), Duration::from_millis(2));
            flow.source(Script { input: input.clone(), seed })
                .dedup(dedup.clone())
                .lookup("customer", Lookup::by("customer").from(tiers()).batch(4, Duration::ZERO))
                .fan_out([
                    action("file", JsonLines::append(&out).with(write)).when(kept),
                    action("calls", Recorder { name: "calls", record: record.clone() })
                        .max_parallelism(CALLS_AT_ONCE)
                        .backoff(soon.0, soon.1),
                    action("closure", closure("closure", &record)).max_parallelism(CALLS_AT_ONCE).when(kept),
                    action("batched", batched(&record)).max_parallelism(BATCHED_AT_ONCE).batch_max(3).backoff(soon.0, soon.1),
                    action("again", closure("again", &record)).repeatable(),
                    action("table", table.clone()).max_parallelism(2).batch_max(7).backoff(soon.0, soon.1),
                ])
                .checkpoint(match &store {
                    Some(store) => Checkpoint::every(Duration::from_millis(5)).in_store(store.clone()),
                    None => Checkpoint::every(Duration::from_millis(5)),
                });
            Ok(())
        })
    }

    /// Holds what was done, written, parked and counted in all runs against the oracle.
    pub fn check(&self, report: &Report, crashes: usize) {
        self.check_with(report, crashes, &books::inspect(&self.data()));
    }

    /// The same, with checkpoints kept elsewhere than in the data directory.
    pub fn check_with(&self, report: &Report, crashes: usize, inspection: &dyn Inspect) {
        assert!(report.ended);
        for (action, outcomes) in &self.outcomes {
            books::check_books(report, action, &self.expected, outcomes);
            books::check_parked(inspection, action, outcomes);
        }
        let mut rejected: Vec<_> = books::parked(inspection, "script").into_iter().map(|(place, _)| place).collect();
        rejected.sort_unstable();
        assert_eq!(rejected, self.expected.rejected.iter().copied().collect::<Vec<_>>(), "rejected lines set aside");
        for (action, at_once) in [("calls", CALLS_AT_ONCE), ("closure", CALLS_AT_ONCE), ("batched", BATCHED_AT_ONCE)] {
            books::check_delivered(&self.record, action, &self.outcomes[action], at_once * crashes);
            books::check_order(&self.record, action);
        }
        // Nothing is noted for it, so a crash may repeat any of it; without a crash nothing is repeated.
        books::check_delivered(&self.record, "again", &self.outcomes["again"], if crashes == 0 { 0 } else { usize::MAX });
        books::check_order(&self.record, "again");
        // Whatever was killed: each once.
        books::check_delivered(&self.record, "table", &self.outcomes["table"], 0);
        books::check_order(&self.record, "table");
        assert_eq!(self.table.outcomes(), 0, "all is below the mark");
        books::check_file(&self.out(), &self.outcomes["file"]);
        for effect in self.record.effects() {
            let item = &self.expected.distinct[&effect.place];
            assert_eq!(effect.tier, oracle::tier(item), "{}: what the lookup attached to {:?}", effect.action, effect.place);
        }
    }
}

/// A loader that knows some customers, and takes a moment.
fn tiers() -> impl highwater::operators::lookup::Loader {
    load(|keys: Vec<String>| async move {
        tokio::task::yield_now().await;
        let known = |key: &String| key[1..].parse::<u32>().is_ok_and(|number| number < CUSTOMERS);
        let row = |key: &String| known(key).then(|| Fields::new([("tier", Some(format!("tier-{key}")))]));
        Ok(keys.iter().map(row).collect())
    })
}

/// An async closure that records.
fn closure(name: &'static str, record: &Record) -> impl Action + use<> {
    let record = record.clone();
    run(move |change| {
        let record = record.clone();
        async move { record.act(name, &change, None, None).await }
    })
}

/// A batch closure that records.
fn batched(record: &Record) -> impl BatchAction + use<> {
    let record = record.clone();
    batch(move |batch| {
        let record = record.clone();
        async move {
            // All or nothing, as a batch should be: what it did before a panic would be done again.
            let panics = |delivery: &Delivery| delivery.row().str("fate").as_deref() == Some("panic");
            assert!(!batch.iter().any(panics), "this batch holds a change that makes calls panic");
            let mut answers = Vec::new();
            for delivery in &batch {
                let key = Some(delivery.idempotency_key());
                answers.push(record.act("batched", delivery.change(), Some(delivery.attempt()), key).await);
            }
            answers
        }
    })
}

fn kept(change: &Change) -> bool {
    change.row().str("keep").as_deref() == Some("true")
}

/// A line that tells where the change stands.
pub fn write(change: &Change, line: &mut Line<'_>) {
    assert!(change.row().str("fate").as_deref() != Some("unwritable"), "this change cannot be written");
    let position = change.position();
    line.field("partition", &position.partition).field("at", &position.at).field("key", change.key());
}
