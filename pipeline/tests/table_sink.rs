//! Tables in a real Postgres, filled by whole pipelines: right row by row, whatever crashes or is refused.
//!
//! `HIGHWATER_SEEDS` says how many seeds, `HIGHWATER_SEED` which one.

mod support;

use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::run::Build;
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::shop::{Shop, TABLE};
use tempfile::TempDir;

fn database() -> Database {
    Server::shared().database().unwrap()
}

/// Orders as they stand, and a row for each change, in small transactions.
fn build(folder: &TempDir, database: &Database) -> Build {
    let (input, url) = (folder.path().join("changes.jsonl"), database.url().reveal().to_owned());
    support::build(move |flow| {
        flow.source(JsonLines::file(&input))
            .dedup(Dedup::latest(100_000))
            .fan_out([
                action("orders", PostgresTable::upsert(&url, "orders").key(["id"])).max_parallelism(3).batch_max(40),
                action(
                    "history",
                    PostgresTable::append(&url, "history").columns([
                        ("change", "@id"),
                        ("key", "@key"),
                        ("what", "@operation"),
                        ("at", "@time"),
                    ]),
                )
                .max_parallelism(2)
                .batch_max(70),
            ])
            .checkpoint(Checkpoint::every(millis(3)).batch_size(50));
        Ok(())
    })
}

const HISTORY: &str = "create table history (place bigserial, change text, key text, what text, at timestamptz)";

fn settings(folder: &TempDir, workers: u64) -> Settings {
    Settings { in_flight_changes: 300, ..support::settings(folder.path().join("data"), workers) }
}

/// Everything is as a plain replay has it, nothing is there twice, and no outcome is kept for nothing.
fn check(database: &Database, shop: &Shop) {
    shop.check(database);
    let counted = database.one("select count(*) || ' ' || count(distinct change) from history").unwrap();
    assert_eq!(counted, format!("{0} {0}", shop.distinct), "changes in the history, and distinct ones");
    let misplaced = "select count(*) from (select substr(change, 3)::int - lag(substr(change, 3)::int) over (partition by key order by place) step
         from history) s where step < 0";
    assert_eq!(database.one(misplaced).unwrap(), "0", "changes of a key out of order");
    assert_eq!(database.one("select count(*) from highwater_outcomes").unwrap(), "0", "outcomes that are kept");
}

fn crash_and_resume(seed: u64) -> u64 {
    let (folder, database, mut rng) = (support::folder(), database(), StdRng::seed_from_u64(seed));
    database.sql(TABLE).unwrap();
    database.sql(HISTORY).unwrap();
    let shop = Shop::seeded(seed, 600, 40, true);
    shop.write(&folder.path().join("changes.jsonl"));
    let build = build(&folder, &database);
    let mut crashes = 0;
    let places = [
        failpoint::TRANSACTION_BEGINS,
        failpoint::TRANSACTION_COMMITTED,
        failpoint::TARGET_RAISED,
        failpoint::TARGET_TAKEN_OVER,
        failpoint::SAVE_SYNCED,
        failpoint::SAVE_COMMITTED,
        failpoint::GROUP_BEFORE_COMMIT,
    ];
    for _ in 0..4 {
        let place = places[rng.random_range(0..places.len())];
        let passage = if place.starts_with("target.") { rng.random_range(1..=2) } else { rng.random_range(1..12) };
        let workers = [1, 2, 4][rng.random_range(0..3)];
        match support::run_and_crash(&settings(&folder, workers), &build, place, passage) {
            Ok(report) => crashes += u64::from(!report.ended),
            Err(error) => {
                assert!(error.to_string().ends_with("crashed"), "{error}");
                crashes += 1;
            }
        }
    }
    let report = support::run(&settings(&folder, [1, 2, 4][rng.random_range(0..3)]), &build).unwrap();
    check(&database, &shop);
    let books = &report.actions["orders"];
    // A row that would be refused and is overwritten in its own transaction is never seen.
    assert!(books.delivered + books.parked == shop.distinct && books.in_flight == 0 && books.parked <= shop.refused, "{books:?}");
    crashes
}

#[test]
fn whatever_crashes_the_table_is_as_a_replay_has_it() {
    let seeds: Vec<u64> = support::only_seed().map_or_else(|| (0..support::seeds(12)).collect(), |seed| vec![seed]);
    let mut crashes = 0;
    for seed in &seeds {
        println!("HIGHWATER_SEED={seed}");
        crashes += crash_and_resume(*seed);
    }
    println!("{} seeds, {crashes} crashes", seeds.len());
    assert!(crashes >= seeds.len() as u64, "only {crashes} crashes in {} seeds", seeds.len());
}
