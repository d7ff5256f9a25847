//! Actions with real receivers, in pipelines that crash at every place between a call and its note: each change comes at least once, a repeat
//! with the key it had before and never after a later change of its key.

mod support;

#[path = "../../sinks/tests/support/cluster.rs"]
mod cluster;
#[path = "../../sinks/tests/support/receiver.rs"]
mod receiver;
#[path = "../../sinks/tests/support/web.rs"]
mod web;
#[path = "../../sinks/tests/support/workspace.rs"]
mod workspace;

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use cluster::Cluster;
use highwater::operators::action::NamedAction;
use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::Build;
use highwater::testing::postgres::Server;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use receiver::Receiver;
use serde_json::json;
use workspace::{TOKEN, Workspace};

const CHANGES: u64 = 80;
const KEYS: u64 = 6;
const MAX_PARALLELISM: usize = 8;
const CRASHES: [&str; 5] = [
    failpoint::ACTION_DISPATCHED,
    failpoint::ACTION_ANSWERED,
    failpoint::GROUP_BEFORE_COMMIT,
    failpoint::GROUP_COMMITTED,
    failpoint::ACTION_ANSWERED,
];

/// What a receiver had of a change.
struct Came {
    idempotency_key: String,
    change: u64,
    key: String,
}

fn write_input(folder: &Path) {
    let line = |mut lines: String, n: u64| {
        let row = json!({"n": n, "name": format!("Zoë {n}")});
        writeln!(lines, "{}", json!({"id": n.to_string(), "op": "update", "key": format!("k-{}", n * n % KEYS), "after": row}))
            .unwrap();
        lines
    };
    std::fs::write(folder.join("in.jsonl"), (1..=CHANGES).fold(String::new(), line)).unwrap();
}

fn pipeline(folder: &Path, act: impl Fn() -> NamedAction + Send + Sync + 'static) -> Build {
    let input = folder.join("in.jsonl");
    support::build(move |flow| {
        let act = act().max_parallelism(MAX_PARALLELISM).allow_private(true).backoff(millis(1), millis(10));
        flow.source(JsonLines::file(&input)).fan_out([act]).checkpoint(Checkpoint::every(millis(5)).batch_size(20));
        Ok(())
    })
}

/// Runs it to its end, through crashes. How many there were, and the report of the last run.
fn through_crashes(seed: u64, act: impl Fn() -> NamedAction + Send + Sync + 'static) -> (usize, Report) {
    let folder = support::folder();
    write_input(folder.path());
    let build = pipeline(folder.path(), act);
    let mut random = StdRng::seed_from_u64(seed);
    let mut settings = || support::settings(folder.path().join("data"), random.random_range(1..=2));
    let mut passages = StdRng::seed_from_u64(seed);
    let mut crashes = 0;
    for failpoint in CRASHES {
        let report = support::run_and_crash(&settings(), &build, failpoint, passages.random_range(1..4)).unwrap();
        crashes += usize::from(!report.ended);
    }
    (crashes, support::run(&settings(), &build).unwrap())
}

/// Crashes and repeats of all seeds.
#[derive(Default)]
struct Sum {
    seeds: usize,
    crashes: usize,
    repeats: usize,
}

impl Sum {
    fn tell(&self, action: &str) {
        println!("{action}: {} seeds, {} crashes, {} repeats, 0 lost", self.seeds, self.crashes, self.repeats);
    }
}

#[track_caller]
fn check(sum: &mut Sum, seed: u64, action: &str, came: &[Came], (crashes, report): (usize, Report)) {
    assert!(crashes > 0, "seed {seed}: every run ended before it crashed");
    let books = &report.actions[action];
    assert_eq!((books.delivered, books.parked), (CHANGES, 0), "seed {seed}");
    let (mut keys, mut changes, mut latest) = (HashMap::new(), HashMap::new(), HashMap::new());
    for came in came {
        assert_eq!(*keys.entry(came.change).or_insert(&came.idempotency_key), &came.idempotency_key, "seed {seed}");
        assert_eq!(*changes.entry(&came.idempotency_key).or_insert(came.change), came.change, "seed {seed}");
        let latest = latest.entry(&came.key).or_insert(0);
        assert!(*latest <= came.change, "seed {seed}: {} of {} came after {latest}", came.change, came.key);
        *latest = came.change;
    }
    assert_eq!(keys.len() as u64, CHANGES, "seed {seed}: lost");
    let repeats = came.len() - keys.len();
    (sum.seeds, sum.crashes, sum.repeats) = (sum.seeds + 1, sum.crashes + crashes, sum.repeats + repeats);
    assert!(repeats <= crashes * MAX_PARALLELISM, "seed {seed}: {repeats} repeats in {crashes} crashes");
}

fn all_seeds(few: u64) -> Vec<u64> {
    support::only_seed().map_or_else(|| (0..support::seeds(few)).collect(), |seed| vec![seed])
}

#[test]
fn statements_are_run_at_least_once_with_their_key() {
    let mut sum = Sum::default();
    for seed in all_seeds(3) {
        let database = Server::shared().database().unwrap();
        database.sql("create table came(at bigserial, key text, change bigint, of text)").unwrap();
        let url = database.url().reveal().to_owned();
        let ran = through_crashes(seed, move || {
            let sql = "insert into came(key, change, of) values ($1, $2, $3)";
            action("state", PostgresStatement::run(&url, sql).parameters(["{idempotency_key}", "{id}", "{key}"]))
        });
        let rows = database.sql("select key, change, of from came order by at").unwrap();
        let text = |value: &Option<String>| value.clone().unwrap();
        let came = |row: &Vec<Option<String>>| Came {
            idempotency_key: text(&row[0]),
            change: text(&row[1]).parse().unwrap(),
            key: text(&row[2]),
        };
        check(&mut sum, seed, "state", &rows.iter().map(came).collect::<Vec<_>>(), ran);
    }
    sum.tell("state");
}

#[test]
fn mails_are_accepted_at_least_once_with_their_message_id() {
    let mut sum = Sum::default();
    for seed in all_seeds(2) {
        let receiver = Receiver::start(&[]);
        let server = format!("smtp://127.0.0.1:{}", receiver.port());
        let ran = through_crashes(seed, move || {
            let mail = Mail::by(&server).without_tls().from("shop@shop.example").to("{after.name} <a@example.com>");
            action("mail", mail.subject("{id}").text("{key}").max_connections(MAX_PARALLELISM))
        });
        let came = |mail: &serde_json::Value| Came {
            idempotency_key: mail["id"].as_str().unwrap().to_owned(),
            change: mail["subject"].as_str().unwrap().parse().unwrap(),
            key: mail["text"].as_str().unwrap().to_owned(),
        };
        check(&mut sum, seed, "mail", &receiver.mails().iter().map(came).collect::<Vec<_>>(), ran);
    }
    sum.tell("mail");
}

#[test]
fn messages_are_posted_at_least_once_with_their_key() {
    let mut sum = Sum::default();
    for seed in all_seeds(3) {
        let workspace = Workspace::start();
        let url = workspace.url();
        let ran = through_crashes(seed, move || {
            action("tell", Slack::bot(TOKEN, "#orders").at(&url).text("{id} {key}").rate(1e6, 1_000))
        });
        let came = |message: &serde_json::Value| {
            let (change, key) = message["text"].as_str().unwrap().split_once(' ').unwrap();
            let idempotency_key = message["metadata"]["event_payload"]["idempotency_key"].as_str().unwrap().to_owned();
            Came { idempotency_key, change: change.parse().unwrap(), key: key.to_owned() }
        };
        check(&mut sum, seed, "tell", &workspace.messages().iter().map(came).collect::<Vec<_>>(), ran);
    }
    sum.tell("tell");
}

#[test]
fn an_index_is_as_the_rows_are_also_when_all_is_read_once_more() {
    let mut sum = Sum::default();
    let mut all_refused = 0;
    for seed in all_seeds(3) {
        let cluster = Cluster::start();
        let url = cluster.url();
        let search = move || action("search", Elasticsearch::index([&url], "orders"));
        let search = Arc::new(search);
        let own = search.clone();
        let (crashes, report) = through_crashes(seed, move || own());
        assert!(crashes > 0 && report.actions["search"].delivered == CHANGES, "seed {seed}");
        let holds = || {
            for key in 0..KEYS {
                let last = (1..=CHANGES).rev().find(|n| n * n % KEYS == key);
                let document = cluster.document("orders", &format!("k-{key}"));
                assert_eq!(document.map(|document| document["n"].as_u64().unwrap()), last, "seed {seed}: k-{key}");
            }
        };
        holds();
        // Without what it knew the pipeline reads all again, and a crash leaves it half-way: the index stays as it was.
        let folder = support::folder();
        write_input(folder.path());
        let build = pipeline(folder.path(), move || search());
        let settings = support::settings(folder.path().join("data"), 1);
        let crashed = support::run_and_crash(&settings, &build, failpoint::ACTION_ANSWERED, 1).unwrap();
        assert!(!crashed.ended, "seed {seed}: it crashes half-way");
        holds();
        support::run(&settings, &build).unwrap();
        holds();
        let refused = cluster.state.lock().operations.iter().filter(|(.., status)| *status == 409).count();
        assert!(refused > 0, "seed {seed}");
        (sum.seeds, sum.crashes, all_refused) = (sum.seeds + 1, sum.crashes + crashes + 1, all_refused + refused);
    }
    println!("search: {} seeds, {} crashes, {all_refused} operations refused as older", sum.seeds, sum.crashes);
}

/// Goal: versions made of places in a real log keep an index as the table is: rows that were there, changes of one row within one transaction,
/// rows that come back, and rows read anew by another slot after changes that nobody saw. Method: a real Postgres, each step a run of its own.
#[test]
fn an_index_follows_a_table_by_replication() {
    let cluster = Cluster::start();
    let database = Server::shared().database().unwrap();
    database
        .sql("create table goods(id int primary key, n int); insert into goods select i, 0 from generate_series(1, 30) i")
        .unwrap();
    let folder = support::folder();
    let run = |slot: &str| {
        let slot_name = format!("{slot}_{}", database.name());
        let source = PostgresReplication::at(database.url(), &slot_name).tables(["goods"]);
        let url = cluster.url();
        let build = support::build(move |flow| {
            let search = action("search", Elasticsearch::index([&url], "goods")).allow_private(true);
            flow.source(source.clone()).fan_out([search]).checkpoint(Checkpoint::every(millis(20)));
            Ok(())
        });
        let settings =
            highwater::settings::Settings { until_idle: Some(millis(500)), ..support::settings(folder.path().join(slot), 2) };
        let report = support::run(&settings, &build).unwrap();
        assert_eq!(report.actions["search"].parked, 0);
    };
    let holds = |step: &str| {
        let rows = database.sql("select id, n from goods order by id").unwrap();
        let number = |value: &Option<String>| value.as_ref().unwrap().parse::<i64>().unwrap();
        let rows: Vec<(i64, i64)> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
        let state = cluster.state.lock();
        let sources = state.documents.values().filter_map(|kept| kept.source.as_ref());
        let mut documents: Vec<_> = sources.map(|s| (s["id"].as_i64().unwrap(), s["n"].as_i64().unwrap())).collect();
        documents.sort_unstable();
        assert_eq!(documents, rows, "{step}");
    };
    run("first");
    holds("rows that were there");
    for step in [
        "begin; update goods set n = 1 where id = 1; update goods set n = 2 where id = 1; update goods set n = 3 where id = 1; commit",
        "begin; delete from goods where id < 5; insert into goods values (2, 22); delete from goods where id = 2; insert into goods values (3, 33); commit",
        "update goods set n = n + 1; insert into goods values (2, 7); update goods set id = 100 where id = 9",
    ] {
        database.sql(step).unwrap();
        run("first");
        holds(step);
    }
    // Nobody sees this, for the slot is dropped; another one reads all rows anew.
    database.sql(&format!("select pg_drop_replication_slot('first_{}')", database.name())).unwrap();
    database.sql("update goods set n = 1000 + id; insert into goods values (200, 5)").unwrap();
    run("second");
    holds("rows read anew");
    database.sql("update goods set n = 1; delete from goods where id = 200").unwrap();
    run("second");
    holds("and followed");
}
