//! The protocol, simulated: it must hold under every seed, and every broken variant must be caught under some.
//!
//! `HIGHWATER_SEEDS` says how many seeds to try. A failure names its seed; `model::run(seed)` repeats it exactly.

use highwater_operators::testing::model::{self, Mutation, Report};

fn seeds(default: u64) -> u64 {
    std::env::var("HIGHWATER_SEEDS").ok().map_or(default, |count| count.parse().expect("HIGHWATER_SEEDS is a number"))
}

#[test]
fn model_holds_on_seeds() {
    let mut sum = Report::default();
    let mut failures = Vec::new();
    for seed in 0..seeds(10_000) {
        match model::run(seed) {
            Ok(report) => sum.add(&report),
            Err(why) => failures.push(why),
        }
    }
    println!("{sum}");
    assert!(failures.is_empty(), "{} seeds failed, the first: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
    // A model in which nothing happens proves nothing.
    assert!(sum.counts().iter().all(|(_, count)| *count > 0), "something never happened: {sum}");
}

#[test]
fn one_seed_is_one_story() {
    for seed in 0..50 {
        assert_eq!(model::run(seed), model::run(seed));
    }
}

#[test]
fn every_mutation_is_caught() {
    const SEEDS: u64 = 400;
    let mut table = Vec::new();
    for mutation in Mutation::ALL {
        let failures: Vec<String> = (0..SEEDS).filter_map(|seed| model::run_mutated(seed, mutation).err()).collect();
        println!("{mutation:?}: {} of {SEEDS}; {}", failures.len(), failures.first().map_or("", String::as_str));
        table.push((mutation, failures.len()));
    }
    let missed: Vec<_> = table.into_iter().filter(|(_, failed)| *failed == 0).collect();
    assert!(missed.is_empty(), "not caught within {SEEDS} seeds: {missed:?}");
}
