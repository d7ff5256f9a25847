//! Whole pipelines that crash at every named place, again and again, and are resumed with other numbers of workers.
//!
//! A crash is an item of the input, made by a failpoint. At the end the record of effects, the files, the parked changes
//! and the books are held against a sequential oracle. `HIGHWATER_SEEDS` says how many seeds, `HIGHWATER_SEED` which one.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use highwater::operators::testing::failpoint;
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::books;
use support::input::{Input, STEP_MS, Shape};
use support::whole::Whole;

const CRASHES: u32 = 3;

/// The pipeline of a seed.
fn case(seed: u64) -> Whole {
    let mut rng = StdRng::seed_from_u64(seed);
    // A window in time is measured over all that has been read, and partitions run apart: only one of them here.
    let windowed = rng.random_bool(0.3);
    let partitions = if windowed { 1 } else { rng.random_range(2..=4) };
    let shape = Shape { partitions, items: 120 / partitions, keys: rng.random_range(1..6), trouble: true };
    Whole::new(seed, Input::seeded(seed, shape), windowed.then_some(STEP_MS * 12))
}

fn settings(whole: &Whole, rng: &mut StdRng) -> Settings {
    Settings {
        in_flight_changes: rng.random_range(4..80),
        checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
        checkpoint_interval: Some(rng.random_range(1..5)),
        ..support::settings(whole.data(), [1, 2, 4][rng.random_range(0..3)])
    }
}

/// Crashes some times and runs to the end; holds everything against the oracle on the way and at the end. Returns how often
/// it crashed: a run may end before it has passed the failpoint often enough.
fn crash_and_resume(seed: u64, failpoint: &'static str) -> usize {
    let whole = case(seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x00c0_ffee);
    let build = whole.build();
    let mut mark = BTreeMap::new();
    let mut crashes = 0;
    for _ in 0..CRASHES {
        let passage = match failpoint {
            failpoint::SAVE_SYNCED | failpoint::SAVE_COMMITTED => rng.random_range(1..4),
            _ => rng.random_range(1..25),
        };
        let passage = if failpoint.starts_with("target.") { 1 } else { passage };
        if passage == 1 {
            // So that a run finds something in the target when it begins.
            let committed = failpoint::TRANSACTION_COMMITTED;
            let report = support::run_and_crash(&settings(&whole, &mut rng), &build, committed, rng.random_range(2..12));
            crashes += usize::from(!report.expect("no error").ended);
            whole.record.next_run();
        }
        match support::run_and_crash(&settings(&whole, &mut rng), &build, failpoint, passage) {
            Ok(report) => crashes += usize::from(!report.ended),
            // At its start it leaves with an error; nothing has been read.
            Err(error) => {
                assert!(error.to_string().ends_with("crashed"), "{error}");
                crashes += 1;
            }
        }
        whole.record.next_run();
        check_mark(&whole, &mut mark);
    }
    let report = support::run(&settings(&whole, &mut rng), &build).expect("no error");
    check_mark(&whole, &mut mark);
    whole.check(&report, crashes);
    crashes
}

/// The mark has not fallen, and all below it has an outcome that a crash does not undo.
fn check_mark(whole: &Whole, last: &mut BTreeMap<u32, u64>) {
    let inspection = books::inspect(&whole.data());
    let mark = books::mark(&inspection);
    for (partition, order) in last.iter() {
        assert!(mark.get(partition).is_some_and(|now| now >= order), "the mark fell from {last:?} to {mark:?}");
    }
    for (action, outcomes) in whole.outcomes.iter().filter(|(action, _)| **action != "file") {
        let mut settled: BTreeSet<_> = whole.record.times(action).into_keys().collect();
        settled.extend(books::parked(&inspection, action).into_iter().map(|(place, _)| place));
        for place in outcomes.delivered.union(&outcomes.parked) {
            let below = mark.get(&place.0).is_some_and(|order| place.1 < *order);
            assert!(!below || settled.contains(place), "{action}: {place:?} is below the mark {mark:?} and not settled");
        }
    }
    *last = mark;
}

/// All seeds of one failpoint.
fn crash_at(failpoint: &'static str) {
    // Each failpoint has seeds of its own, the same in every run.
    let number = failpoint::ALL.iter().position(|known| *known == failpoint).expect("a known failpoint") as u64;
    let seeds: Vec<u64> = match support::only_seed() {
        Some(seed) => vec![seed],
        None => (0..support::seeds(20)).map(|seed| number * 1_000_000 + seed).collect(),
    };
    let mut crashes = 0;
    for seed in &seeds {
        match catch_unwind(AssertUnwindSafe(|| crash_and_resume(*seed, failpoint))) {
            Ok(crashed) => crashes += crashed,
            Err(panic) => {
                eprintln!("failed with HIGHWATER_SEED={seed} at failpoint {failpoint}");
                resume_unwind(panic);
            }
        }
    }
    println!("{failpoint}: {} seeds, {crashes} crashes", seeds.len());
    assert!(
        2 * crashes >= seeds.len() || seeds.len() < 10,
        "only {crashes} crashes in {} seeds: the failpoint is not reached",
        seeds.len()
    );
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
    after_the_generation_was_raised_in_a_target: TARGET_RAISED,
    after_outcomes_were_taken_over: TARGET_TAKEN_OVER,
    after_a_reader_handed_over_a_batch: READER_SENT,
    after_ingest_emitted_a_batch: INGEST_EMITTED,
    after_dedup_let_a_batch_pass: DEDUP_PASSED,
    after_calls_were_handed_over: ACTION_DISPATCHED,
    before_a_transaction: TRANSACTION_BEGINS,
    after_a_transaction_was_committed: TRANSACTION_COMMITTED,
    after_an_answer_and_before_its_note: ACTION_ANSWERED,
    before_a_group_is_committed: GROUP_BEFORE_COMMIT,
    after_a_group_was_committed: GROUP_COMMITTED,
    after_a_file_was_written: SINK_WRITTEN,
    after_the_files_of_a_save_were_synced: SAVE_SYNCED,
    after_a_save_was_committed: SAVE_COMMITTED,
}
