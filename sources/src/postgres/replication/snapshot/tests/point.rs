//! The snapshot holds exactly what commits before its point.

use std::collections::BTreeSet;

use highwater_operators::postgres::Connection;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Writers whose transactions are open across the export; what the log says of them, held against what the snapshot sees.
#[test]
fn a_snapshot_holds_exactly_the_transactions_before_its_point() {
    let seeds: u64 = std::env::var("HIGHWATER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table t(id int primary key, tx int); create publication pub for table t").unwrap();
    database.sql("select pg_create_logical_replication_slot('before', 'pgoutput')").unwrap();
    for seed in 0..seeds {
        let (point, seen) = runtime().block_on(export_among_writers(&database, seed));
        // Ids begin anew with every seed. A commit that waits makes those durable that did not, for only what is durable is decoded.
        database.sql("truncate t").unwrap();
        // (Begin has the place of the commit in its first eight bytes, Insert its values behind the table's number.)
        let log = database
            .sql(
                "select data from pg_logical_slot_get_binary_changes('before', null, null, 'proto_version', '1', 'publication_names', 'pub')",
            )
            .unwrap();
        let (mut before, mut after, mut commit) = (BTreeSet::new(), 0, 0);
        for row in log {
            let data = row[0].as_ref().unwrap();
            let bytes: Vec<u8> =
                (2..data.len()).step_by(2).map(|at| u8::from_str_radix(&data[at..at + 2], 16).unwrap()).collect();
            match bytes[0] {
                b'B' => commit = u64::from_be_bytes(bytes[1..9].try_into().unwrap()),
                b'I' => {
                    let length = u32::from_be_bytes(bytes[9..13].try_into().unwrap()) as usize;
                    let id: i32 = std::str::from_utf8(&bytes[13..13 + length]).unwrap().parse().unwrap();
                    if commit < point.0 {
                        before.insert(id);
                    } else {
                        after += 1;
                    }
                }
                _ => {}
            }
        }
        assert_eq!(seen, before, "seed {seed}: the snapshot at {point}");
        assert!(after > 0, "seed {seed}: nothing was committed after the snapshot");
    }
}

async fn export_among_writers(database: &Database, seed: u64) -> (Lsn, BTreeSet<i32>) {
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..6 {
        let (url, is_over) = (database.url().clone(), is_over.clone());
        writers.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed * 100 + writer as u64);
            let connection = Connection::open(&url, "writer").await.unwrap();
            let mut id = writer * 1_000_000;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                connection.batch_execute("begin").await.unwrap();
                for _ in 0..random.random_range(1..4) {
                    id += 1;
                    connection.batch_execute(&format!("insert into t values ({id}, {writer})")).await.unwrap();
                    if random.random_bool(0.2) {
                        id += 1;
                        connection.batch_execute(&format!("savepoint s; insert into t values ({id}, 0)")).await.unwrap();
                        let end = if random.random_bool(0.5) { "rollback to s" } else { "release s" };
                        connection.batch_execute(end).await.unwrap();
                    }
                    tokio::time::sleep(Duration::from_micros(random.random_range(0..3000))).await;
                }
                let end = match random.random_range(0..10) {
                    0 => "rollback".to_owned(),
                    1 => format!("prepare transaction 'p{id}'; commit prepared 'p{id}'"),
                    2 => "set local synchronous_commit = off; commit".to_owned(),
                    _ => "commit".to_owned(),
                };
                for statement in end.split("; ") {
                    connection.batch_execute(statement).await.unwrap();
                }
            }
        });
    }
    // Let them be under way: some rows are there.
    while database.one("select count(*) from t").unwrap().parse::<u32>().unwrap() < 20 {
        tokio::task::yield_now().await;
    }
    let exported = Exported::make(database.url()).await.unwrap();
    let reader = session::open(database.url(), "reader").await.unwrap();
    exported.begin(&reader).await.unwrap();
    let outside = session::open(database.url(), "outside").await.unwrap();
    round::settle(&reader, &outside).await.unwrap();
    let there = database.one("select count(*) from t").unwrap().parse::<u32>().unwrap();
    while database.one("select count(*) from t").unwrap().parse::<u32>().unwrap() < there + 20 {
        tokio::task::yield_now().await;
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let seen = reader.query("select id from public.t", &[]).await.unwrap();
    (exported.point, seen.iter().map(|row| row.get(0)).collect())
}

/// An open transaction is waited for; whoever does not want to wait any longer lets go of the server too.
#[test]
fn a_snapshot_that_waits_can_be_dropped_and_waits_no_longer_than_it_must() {
    let server = Server::start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table t(id int primary key)").unwrap();
    runtime().block_on(async {
        let open = Connection::open(database.url(), "open").await.unwrap();
        open.batch_execute("begin; insert into t values (1)").await.unwrap();
        let waits = || {
            database
                .one("select count(*) from pg_stat_activity where wait_event = 'transactionid' and backend_type = 'walsender'")
                .unwrap()
                == "1"
        };
        let exports = |url: highwater_operators::postgres::Url| {
            tokio::spawn(async move { Exported::make(&url).await.map(|exported| exported.point) })
        };
        let export = exports(database.url().clone());
        while !waits() {
            tokio::task::yield_now().await;
        }
        export.abort();
        assert!(export.await.unwrap_err().is_cancelled());
        while database.one("select count(*) from pg_replication_slots").unwrap() != "0" {
            tokio::task::yield_now().await;
        }
        let export = exports(database.url().clone());
        while !waits() {
            tokio::task::yield_now().await;
        }
        open.batch_execute("commit").await.unwrap();
        assert!(export.await.unwrap().unwrap() > Lsn(0));
    });
}
