//! Whole pipelines on 1, 2 and 4 workers against a sequential oracle: what was delivered, dropped, filtered and parked, in
//! which order, with which rows attached, and what the files hold.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, STEP_MS, Shape};
use support::whole::Whole;

/// Runs every seed on every number of workers.
fn agree(first: u64, change: impl Fn(&mut StdRng, &mut Shape, &mut Settings) -> Option<i64>) {
    let seeds = match support::only_seed() {
        Some(seed) => seed..seed + 1,
        None => first..first + support::seeds(15),
    };
    for seed in seeds {
        for workers in [1, 2, 4] {
            let mut rng = StdRng::seed_from_u64(seed);
            let keys = rng.random_range(1..12);
            let mut shape = Shape { partitions: rng.random_range(1..=5), items: 80, keys, trouble: true };
            let mut settings = Settings {
                in_flight_changes: rng.random_range(4..400),
                checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
                ..support::settings("".into(), workers)
            };
            let window_ms = change(&mut rng, &mut shape, &mut settings);
            let run = || {
                let whole = Whole::new(seed, Input::seeded(seed, shape), window_ms);
                settings.data = Some(whole.data());
                let report = support::run(&settings, &whole.build()).expect("no error");
                whole.check(&report, 0);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                eprintln!("failed with HIGHWATER_SEED={seed} on {workers} workers");
                resume_unwind(panic);
            }
        }
    }
}

#[test]
fn without_a_window_in_time() {
    agree(0, |_, _, _| None);
}

#[test]
fn with_a_window_in_time_over_one_partition() {
    agree(1_000_000, |rng, shape, _| {
        shape.partitions = 1;
        shape.items = 300;
        Some(STEP_MS * rng.random_range(1..30))
    });
}

#[test]
fn with_a_window_in_time_while_nothing_is_forgotten() {
    agree(2_000_000, |rng, _, settings| {
        // Only what lies below a mark may be forgotten, and there is none before the end.
        settings.checkpoint_batch_size = Some(u64::MAX);
        settings.checkpoint_interval = Some(1_000_000);
        Some(STEP_MS * rng.random_range(1..30))
    });
}

#[test]
fn with_one_key_and_no_room() {
    agree(3_000_000, |_, shape, settings| {
        shape.keys = 1;
        settings.in_flight_changes = 1;
        None
    });
}
