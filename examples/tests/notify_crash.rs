//! Kills the example `notify` (`kill -9`) again and again, and asks each of its receivers what came: the index is as the orders are, every mail, message
//! and statement came at least once, each repeat with the key it had before.
//!
//! `HIGHWATER_KILLS` and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one.

#[path = "../../sinks/tests/support/cluster.rs"]
mod cluster;
#[path = "../../sinks/tests/support/receiver.rs"]
mod receiver;
#[path = "../../sinks/tests/support/web.rs"]
mod web;
#[path = "../../sinks/tests/support/workspace.rs"]
mod workspace;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use highwater_examples::built::Example;
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;
use serde_json::{Value, json};

const MAX_PARALLELISM: usize = 10;
const BATCH_SIZES: [u64; 4] = [1, 10, 100, 1_000];

/// Orders that are made, paid, and some of them deleted; few are large, since Slack takes one message a second.
fn lines(orders: u64) -> String {
    let mut lines = String::new();
    let mut id = 0;
    for n in 0..orders {
        let row = |status: &str| {
            let amount = if n % (orders / 3 + 1) == 0 { 500 } else { 20 };
            json!({"name": format!("Ada {n}"), "email": "ada@example.com", "amount": amount, "status": status, "reason": format!("{n}")})
        };
        let mut line = |op: &str, before: Value, after: Value| {
            id += 1;
            let change =
                json!({"id": id, "table": "orders", "op": op, "key": format!("o-{n}"), "before": before, "after": after});
            writeln!(lines, "{change}").unwrap();
        };
        line("insert", Value::Null, row("new"));
        line("update", row("new"), row("paid"));
        if n % 3 == 0 {
            line("delete", row("paid"), Value::Null);
        }
    }
    lines
}

/// How often each came, by what it is of. A repeat must have the key it had, and nothing else has it.
fn counted(came: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, usize> {
    let (mut of, mut keys, mut counts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (what, key) in came {
        assert_eq!(*of.entry(key.clone()).or_insert_with(|| what.clone()), what, "{key} is of two");
        assert_eq!(*keys.entry(what.clone()).or_insert_with(|| key.clone()), key, "{what} has two keys");
        *counts.entry(what).or_default() += 1;
    }
    counts
}

#[test]
fn receivers_miss_nothing_however_often_the_pipeline_is_killed() {
    let kills: usize = setting("HIGHWATER_KILLS", || 5);
    let orders: u64 = setting("HIGHWATER_EVENTS", || 300) / 2;
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_EVENTS={}", 2 * orders);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.jsonl"), lines(orders)).unwrap();
    let (cluster, workspace, receiver) =
        (cluster::Cluster::start(), workspace::Workspace::start(), receiver::Receiver::start(&[]));
    let database = highwater::testing::postgres::Server::shared().database().unwrap();
    let forgets = "create table forgotten(at bigserial, key text, because text);
        create function forget_order(key text, because text) returns void language sql as
        'insert into forgotten(key, because) values (key, because)'";
    database.sql(forgets).unwrap();
    let (search, slack, mail) = (cluster.url(), workspace.url(), format!("smtp://127.0.0.1:{}", receiver.port()));
    let example = Example::built("notify", folder.path()).with_variable("SLACK_TOKEN", workspace::TOKEN);
    let mut dice = Dice::new(seed);
    let (mut killed, mut report) = (0, None);
    while report.is_none() {
        let (size, parallel) = (dice.pick(&BATCH_SIZES).to_string(), MAX_PARALLELISM.to_string());
        let places = ["--search", &search, "--slack", &slack, "--mail", &mail, "--database", database.url().reveal()];
        let settings = ["--input", "in.jsonl", "--data", "data", "--without-tls", "--allow-private", "--report", "json"];
        let bounds = ["--max-parallelism", &parallel, "--checkpoint-batch-size", &size];
        let mut run = example.start(&[&places[..], &settings, &bounds].concat());
        if killed < kills {
            // When so many more mails have come, of what is left on average.
            let came = receiver.mails().len();
            let left = (orders as usize).saturating_sub(came) / (kills - killed + 1);
            let enough = came + 1 + (left as f64 * 1.5 * dice.unit()) as usize;
            while receiver.mails().len() < enough && !run.has_ended() {
                thread::sleep(Duration::from_millis(5));
            }
            run.signal("KILL");
        }
        let printed = run.wait();
        if printed.status.success() {
            let line = printed.stdout.lines().rfind(|line| line.starts_with('{')).expect("a report");
            report = Some(Report::parse(line).unwrap());
        } else {
            killed += 1;
            assert!(killed <= kills, "it fails by itself: {}", printed.stderr);
        }
    }
    assert!(killed > 0, "every run ended before it could be killed: set HIGHWATER_EVENTS higher");
    for (action, books) in report.unwrap().actions {
        assert_eq!(books.parked, 0, "{action}");
    }
    for n in 0..orders {
        let status = cluster.document("orders", &format!("o-{n}")).map(|order| order["status"].as_str().unwrap().to_owned());
        assert_eq!(status.as_deref(), (n % 3 != 0).then_some("paid"), "o-{n}");
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mails = counted(receiver.mails().iter().map(|mail| (text(&mail["subject"]), text(&mail["id"]))));
    let key = |message: &Value| text(&message["metadata"]["event_payload"]["idempotency_key"]);
    let messages = counted(workspace.messages().iter().map(|message| (text(&message["text"]), key(message))));
    let rows = database.sql("select key, because from forgotten").unwrap();
    let forgotten = counted(rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())));
    for (what, came, expected) in [
        ("mails", &mails, orders as usize),
        ("messages", &messages, (0..orders).filter(|n| n % (orders / 3 + 1) == 0).count()),
        ("statements", &forgotten, (0..orders).filter(|n| n % 3 == 0).count()),
    ] {
        let repeats = came.values().sum::<usize>() - came.len();
        println!("{what}: {} came, {repeats} again, in {killed} kills", came.len());
        assert_eq!(came.len(), expected, "{what}: lost");
        assert!(repeats <= killed * MAX_PARALLELISM, "{what}: {repeats} repeats in {killed} kills");
    }
}

fn setting<T: std::str::FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
