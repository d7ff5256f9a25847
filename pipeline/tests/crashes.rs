//! Whole pipelines that crash at every named place, again and again, and are resumed with other numbers of workers.
//!
//! A crash is an item of the input, made by a failpoint. At the end the record of effects, the files, the parked changes
//! and the books are held against a sequential oracle. `HIGHWATER_SEEDS` says how many seeds, `HIGHWATER_SEED` which one.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::run::Build;
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, STEP_MS, Script, Shape};
use support::record::{Record, Recorder};
use support::{books, oracle};

const CALLS_AT_ONCE: usize = 3;
const BATCHED_AT_ONCE: usize = 4;
const CRASHES: u32 = 3;

struct Case {
    seed: u64,
    input: Arc<Input>,
    record: Record,
    folder: tempfile::TempDir,
    window_ms: Option<i64>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Windows in time are measured over what has been read, and partitions run apart: only one of them here.
        let windowed = rng.random_bool(0.3);
        let partitions = if windowed { 1 } else { rng.random_range(2..=4) };
        let shape = Shape { partitions, items: 120 / partitions, keys: rng.random_range(1..6), trouble: true };
        Case {
            seed,
            input: Arc::new(Input::seeded(seed, shape)),
            record: Record::default(),
            folder: support::folder(),
            window_ms: windowed.then_some(STEP_MS * 12),
        }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn settings(&self, rng: &mut StdRng) -> Settings {
        Settings {
            in_flight_changes: rng.random_range(4..80),
            checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
            checkpoint_interval: Some(rng.random_range(1..5)),
            ..support::settings(self.data(), [1, 2, 4][rng.random_range(0..3)])
        }
    }

    fn build(&self) -> Build {
        let (input, record, seed, out) = (self.input.clone(), self.record.clone(), self.seed, self.folder.path().join("out"));
        let window = self.window_ms.map(|window| Duration::from_millis(window as u64));
        let tiers = || {
            load(|keys: Vec<String>| async move {
                tokio::task::yield_now().await;
                let known = |key: &String| key[1..].parse::<u32>().is_ok_and(|number| number < support::input::CUSTOMERS);
                let row = |key: &String| known(key).then(|| Fields::new([("tier", Some(format!("tier-{key}")))]));
                Ok(keys.iter().map(row).collect())
            })
        };
        support::build(move |flow| {
            let (closure, batched, again) = (record.clone(), record.clone(), record.clone());
            let soon = (Duration::from_micros(200), Duration::from_millis(2));
            flow.source(Script { input: input.clone(), seed })
                .dedup(window.map_or(Dedup::latest(100_000), Dedup::within))
                .lookup("customer", Lookup::by("customer").from(tiers()).batch(4, Duration::ZERO))
                .fan_out([
                    action("file", JsonLines::append(&out).with(write)).when(kept),
                    action("calls", Recorder { name: "calls", record: record.clone() })
                        .max_parallelism(CALLS_AT_ONCE)
                        .backoff(soon.0, soon.1),
                    action("closure", run(move |change| {
                        let record = closure.clone();
                        async move { record.act("closure", &change, None, None).await }
                    }))
                    .max_parallelism(CALLS_AT_ONCE)
                    .when(kept),
                    action("batched", batch(move |batch| {
                        let record = batched.clone();
                        async move {
                            let mut answers = Vec::new();
                            for delivery in &batch {
                                let key = Some(delivery.idempotency_key());
                                answers.push(record.act("batched", delivery.change(), Some(delivery.attempt()), key).await);
                            }
                            answers
                        }
                    }))
                    .max_parallelism(BATCHED_AT_ONCE)
                    .batch_max(3)
                    .backoff(soon.0, soon.1),
                    action("again", run(move |change| {
                        let record = again.clone();
                        async move { record.act("again", &change, None, None).await }
                    }))
                    .repeatable(),
                ])
                .checkpoint(Checkpoint::every(Duration::from_millis(5)));
            Ok(())
        })
    }

    /// Crashes some times and runs to the end; holds everything against the oracle on the way and at the end.
    fn run(&self, failpoint: &'static str) {
        let mut rng = StdRng::seed_from_u64(self.seed ^ 0x00c0_ffee);
        let expected = oracle::expect(&self.input, self.window_ms);
        let kept = |item: &support::input::Item| item.keep;
        let called = ["poison", "panic"];
        let outcomes = BTreeMap::from([
            ("file", expected.outcomes(kept, &["unwritable"])),
            ("calls", expected.outcomes(|_| true, &called)),
            ("closure", expected.outcomes(kept, &called)),
            ("batched", expected.outcomes(|_| true, &called)),
            ("again", expected.outcomes(|_| true, &called)),
        ]);
        let build = self.build();
        let mut mark = BTreeMap::new();
        let mut crashes = 0;
        for _ in 0..CRASHES {
            let passage = match failpoint {
                failpoint::SAVE_SYNCED | failpoint::SAVE_COMMITTED => rng.random_range(1..8),
                _ => rng.random_range(1..25),
            };
            let report = support::run_and_crash(&self.settings(&mut rng), &build, failpoint, passage).expect("no error");
            crashes += usize::from(!report.ended);
            self.record.next_run();
            self.check_mark(&mut mark, &outcomes);
        }
        let report = support::run(&self.settings(&mut rng), &build).expect("no error");
        assert!(report.ended);
        self.check_mark(&mut mark, &outcomes);
        let inspection = books::inspect(&self.data());
        for (action, outcomes) in &outcomes {
            books::check_books(&report, action, &expected, outcomes);
            books::check_parked(&inspection, action, outcomes);
        }
        let mut rejected: Vec<_> = books::parked(&inspection, "script").into_iter().map(|(place, _)| place).collect();
        rejected.sort_unstable();
        assert_eq!(rejected, expected.rejected.iter().copied().collect::<Vec<_>>(), "rejected lines set aside");
        for (action, repeats) in [("calls", CALLS_AT_ONCE), ("closure", CALLS_AT_ONCE), ("batched", BATCHED_AT_ONCE)] {
            books::check_delivered(&self.record, action, &outcomes[action], repeats * crashes);
            books::check_order(&self.record, action);
        }
        books::check_delivered(&self.record, "again", &outcomes["again"], usize::MAX);
        books::check_order(&self.record, "again");
        books::check_file(&self.folder.path().join("out"), &outcomes["file"]);
        for effect in self.record.effects() {
            let item = &expected.distinct[&effect.place];
            assert_eq!(effect.tier, oracle::tier(item), "{}: what the lookup attached to {:?}", effect.action, effect.place);
        }
    }

    /// The mark has not fallen, and all below it has an outcome that a crash does not undo.
    fn check_mark(&self, last: &mut BTreeMap<u32, u64>, outcomes: &BTreeMap<&str, oracle::Outcomes>) {
        let inspection = books::inspect(&self.data());
        let mark = books::mark(&inspection);
        for (partition, order) in last.iter() {
            assert!(mark.get(partition).is_some_and(|now| now >= order), "the mark fell from {last:?} to {mark:?}");
        }
        for (action, outcomes) in outcomes.iter().filter(|(action, _)| **action != "file") {
            let mut settled: BTreeSet<_> = self.record.times(action).into_keys().collect();
            settled.extend(books::parked(&inspection, action).into_iter().map(|(place, _)| place));
            for place in outcomes.delivered.union(&outcomes.parked) {
                let below = mark.get(&place.0).is_some_and(|order| place.1 < *order);
                assert!(!below || settled.contains(place), "{action}: {place:?} is below the mark {mark:?} and not settled");
            }
        }
        *last = mark;
    }
}

fn kept(change: &Change) -> bool {
    change.row().str("keep").as_deref() == Some("true")
}

fn write(change: &Change, line: &mut Line<'_>) {
    assert!(change.row().str("fate").as_deref() != Some("unwritable"), "this change cannot be written");
    let position = change.position();
    line.field("partition", &position.partition).field("at", &position.at).field("key", change.key());
}

/// All seeds of one failpoint.
fn crash_at(failpoint: &'static str) {
    // Each failpoint has seeds of its own, the same in every run.
    let number = failpoint::ALL.iter().position(|known| *known == failpoint).expect("a known failpoint") as u64;
    let seeds: Vec<u64> = match support::only_seed() {
        Some(seed) => vec![seed],
        None => (0..support::seeds(6)).map(|seed| number * 1_000_000 + seed).collect(),
    };
    for seed in seeds {
        let case = Case::new(seed);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case.run(failpoint))) {
            eprintln!("failed with HIGHWATER_SEED={seed} at failpoint {failpoint}");
            resume_unwind(panic);
        }
    }
}

macro_rules! crashes {
    ($($test:ident: $failpoint:ident),* $(,)?) => {
        $(#[test] fn $test() { crash_at(failpoint::$failpoint); })*

        #[test]
        fn no_failpoint_is_forgotten() {
            assert_eq!([$(failpoint::$failpoint),*], failpoint::ALL);
        }
    };
}

crashes! {
    after_a_reader_handed_over_a_batch: READER_SENT,
    after_ingest_emitted_a_batch: INGEST_EMITTED,
    after_dedup_let_a_batch_pass: DEDUP_PASSED,
    after_calls_were_handed_over: ACTION_DISPATCHED,
    after_an_answer_and_before_its_note: ACTION_ANSWERED,
    before_a_group_is_committed: GROUP_BEFORE_COMMIT,
    after_a_group_was_committed: GROUP_COMMITTED,
    after_a_file_was_written: SINK_WRITTEN,
    after_the_files_of_a_save_were_synced: SAVE_SYNCED,
    after_a_save_was_committed: SAVE_COMMITTED,
}
