//! Several processes: the same answer as the oracle's, whatever crashes; and what they refuse.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, Shape};
use support::processes::{Together, end_all, start_all};
use support::whole::Whole;

fn settings(rng: &mut StdRng, processes: u64) -> Settings {
    Settings {
        processes,
        in_flight_changes: rng.random_range(4..400),
        checkpoint_batch_size: Some([1, 10, 1_000][rng.random_range(0..3)]),
        ..support::settings("".into(), rng.random_range(1..=2))
    }
}

#[test]
fn the_oracle_agrees_on_two_and_three_processes() {
    let seeds = match support::only_seed() {
        Some(seed) => seed..seed + 1,
        None => 0..support::seeds(8),
    };
    for seed in seeds {
        for processes in [2, 3] {
            let mut rng = StdRng::seed_from_u64(seed);
            let keys = rng.random_range(1..12);
            let shape = Shape { partitions: rng.random_range(1..=7), items: 80, keys, trouble: true };
            let settings = settings(&mut rng, processes);
            let run = || {
                let mut whole = Whole::new(seed, Input::seeded(seed, shape), None);
                whole.store = Some(Together::at(whole.data()));
                let reports = end_all(start_all(&settings, &whole.folder, &whole.build()));
                let reports: Vec<_> = reports.into_iter().map(|report| report.expect("no error")).collect();
                assert!(reports.iter().all(|report| report.ended));
                whole.check(&reports[0], 0);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                eprintln!("failed with HIGHWATER_SEED={seed} in {processes} processes");
                resume_unwind(panic);
            }
        }
    }
}
