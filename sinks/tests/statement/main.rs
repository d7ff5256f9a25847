//! Statements against a real Postgres: what parameters become, what a batch is, what errors mean.
#![cfg(feature = "postgres")]

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, Delivery};
use highwater_operators::postgres::{Connection, PoolConfig};
use highwater_operators::testing::postgres::{Database, Server, Settings};
use highwater_operators::{Change, ErrorKind, Result};
use highwater_sinks::PostgresStatement;
use serde_json::{Value, json};
use std::time::Duration;

fn delivery(id: &str, after: &Value) -> Delivery {
    let change = Change::builder(id).table("orders").key(format!("o-{id}")).time_ms(1_700_000_000_123).after(after);
    Delivery::alone(change.build().unwrap(), 1)
}

fn numbered(ids: std::ops::Range<i32>) -> Vec<Delivery> {
    ids.map(|n| delivery(&n.to_string(), &json!({"n": n}))).collect()
}

/// A database with what the statements of these tests use.
fn database() -> Database {
    let database = Server::shared().database().unwrap();
    database
        .sql(
            "create table done(key text primary key, n int check (n <> 13), at bigint default txid_current());
             create function do_it(key text, n int) returns void language plpgsql as $$ begin
               if n = 66 then raise exception 'not this one' using errcode = 'HW001'; end if;
               insert into done(key, n) values (key, n) on conflict do nothing; end $$",
        )
        .unwrap();
    database
}

fn statement(database: &Database) -> PostgresStatement {
    PostgresStatement::run(database.url().reveal(), "select do_it($1, $2)").parameters(["{idempotency_key}", "{after.n}"])
}

#[track_caller]
fn error(answer: &Result, kind: ErrorKind, parts: &[&str]) {
    let error = answer.as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == kind && parts.iter().all(|part| text.contains(part)), "{error:?}");
}

#[tokio::test]
async fn a_batch_is_one_transaction_and_a_repeat_is_known_by_its_key() {
    let database = database();
    let statement = statement(&database);
    for _ in 0..2 {
        let answers = statement.call(&numbered(100..150)).await;
        assert!(answers.len() == 50 && answers.iter().all(Result::is_ok), "{answers:?}");
    }
    assert_eq!(database.one("select count(*) || ' ' || count(distinct at) from done").unwrap(), "50 1");
    assert!(statement.one_by_one().call(&numbered(150..160)).await.iter().all(Result::is_ok));
    assert_eq!(database.one("select count(*) || ' ' || count(distinct at) from done").unwrap(), "60 11");
}

#[tokio::test]
async fn of_a_batch_only_the_culprits_fail_and_each_by_its_sqlstate() {
    let database = database();
    let again = statement(&database).retry_on(["HW"]);
    let answers = again.call(&numbered(10..70)).await;
    let failed: Vec<usize> = (0..60).filter(|at| answers[*at].is_err()).collect();
    assert_eq!(failed, [3, 56]);
    error(&answers[3], ErrorKind::Park, &["SQLSTATE 23514", "a statement at postgres://"]);
    error(&answers[56], ErrorKind::Retry, &["not this one", "HW001"]);
    assert_eq!(database.one("select count(*) from done").unwrap(), "58");
    let parks = statement(&database).park_on(["HW001"]).call(&numbered(66..67)).await;
    error(&parks[0], ErrorKind::Park, &["not this one"]);
    let missing = PostgresStatement::run(database.url().reveal(), "select no_such($1)").parameters(["{key}"]);
    error(&missing.call(&numbered(0..1)).await[0], ErrorKind::Stop, &["42883", "no_such"]);
    error(&missing.park_on(["42"]).call(&numbered(0..1)).await[0], ErrorKind::Park, &["42883"]);
    let wrong = statement(&database).parameters(["{key}"]);
    error(&wrong.call(&numbered(0..1)).await[0], ErrorKind::Stop, &["2 parameters and is given 1", ".parameters([..])"]);
}

#[tokio::test]
async fn parameters_are_read_as_the_server_s_own_types() {
    let database = database();
    database
        .sql("create table typed(a numeric, b bool, c int[], d jsonb, e timestamptz, f text, g date, h jsonb, i text, j jsonb)")
        .unwrap();
    let sql = "insert into typed values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let statement = PostgresStatement::run(database.url().reveal(), sql).parameters([
        "{after.amount}",
        "{after.paid}",
        "{after.list}",
        "{after.deep}",
        "{time}",
        "order {key} of {table}",
        "{after.none}",
        "{change}",
        r#"{"order": {key}}"#,
        "{after.word}",
    ]);
    let row = json!({"amount": 12.5, "paid": true, "list": [1, 2], "deep": {"a": ["x"]}, "none": null, "word": "say \"hi\""});
    assert!(statement.call(&[delivery("7", &row)]).await[0].is_ok());
    let read = database.sql("select a, b, c, d, extract(epoch from e), f, g, h ->> 'key', i, j #>> '{}' from typed").unwrap();
    let read: Vec<Option<&str>> = read[0].iter().map(|value| value.as_deref()).collect();
    let expected = ["12.5", "t", "{1,2}", r#"{"a": ["x"]}"#, "1700000000.123000", "order o-7 of orders"].map(Some);
    assert_eq!(read[..6], expected);
    assert_eq!(read[6..], [None, Some("o-7"), Some(r#"{"order": "o-7"}"#), Some("say \"hi\"")]);
    let answer = &statement.call(&[delivery("8", &json!({"amount": "much"}))]).await[0];
    error(answer, ErrorKind::Park, &["22P02", "much"]);
    let textual = PostgresStatement::run(database.url().reveal(), "select $1::text").parameters(["to {after.nobody}"]);
    error(&textual.call(&numbered(0..1)).await[0], ErrorKind::Park, &["$1", "has nothing for {after.nobody}"]);
}

#[tokio::test]
async fn listeners_hear_each_change_and_what_is_too_long_is_parked() {
    let database = database();
    let mut listener = Connection::open(database.url(), "listener").await.unwrap();
    listener.batch_execute("listen \"Orders\"").await.unwrap();
    let notify = PostgresStatement::notify(database.url().reveal(), "Orders", r#"{"table": "{table}"}"#);
    // Equal payloads: Postgres would make one of them within one transaction.
    assert!(notify.call(&numbered(0..20)).await.iter().all(Result::is_ok));
    for _ in 0..20 {
        let heard = tokio::time::timeout(Duration::from_secs(30), listener.notified()).await.unwrap().unwrap();
        assert_eq!(heard.payload(), r#"{"table": "orders"}"#);
    }
    let whole = PostgresStatement::notify(database.url().reveal(), "Orders", "{change}");
    let answers = whole.call(&[delivery("1", &json!({"a": "x".repeat(8_000)})), delivery("2", &json!({"a": "é"}))]).await;
    error(&answers[0], ErrorKind::Park, &["channel Orders at", "fewer than 8000", "send less of the change"]);
    let heard = tokio::time::timeout(Duration::from_secs(30), listener.notified()).await.unwrap().unwrap();
    assert!(answers[1].is_ok() && heard.payload().contains(r#""key":"o-2""#), "{}", heard.payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_uses_up_no_attempt() {
    let server = Settings::default().fast().start().unwrap();
    let database = server.database().unwrap();
    database.sql("create table done(key text primary key)").unwrap();
    let pool = PoolConfig {
        min_connections: 0,
        max_connections: 2,
        connection_timeout: Duration::from_secs(1),
        ..PoolConfig::default()
    };
    let sql = "insert into done values ($1) on conflict do nothing";
    let statement = PostgresStatement::run(database.url().reveal(), sql).parameters(["{idempotency_key}"]).pool(pool);
    assert!(statement.call(&numbered(0..2)).await.iter().all(Result::is_ok));
    server.kill().unwrap();
    // A connection that was lost unseen was asked; after that nothing is.
    let mut answers = statement.call(&numbered(2..4)).await;
    if answers[0].as_ref().is_err_and(highwater_operators::Error::was_asked) {
        error(&answers[0], ErrorKind::Retry, &[]);
        answers = statement.call(&numbered(2..4)).await;
    }
    error(&answers[1], ErrorKind::Retry, &[]);
    assert!(!answers[1].as_ref().unwrap_err().was_asked());
    server.start_again().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !statement.call(&numbered(2..4)).await.iter().all(Result::is_ok) {
        assert!(std::time::Instant::now() < deadline, "the database is back, and is not used again");
    }
    assert_eq!(database.one("select count(*) from done").unwrap(), "4");
}

#[test]
fn what_is_wrong_is_told_before_anything_runs_and_no_secret_is_shown() {
    let planned = Planned { lookups: &["customer"], allow_private: false };
    let url = "postgres://ada:hunter2@db.example/shop";
    let good = PostgresStatement::run(url, "select $1").parameters(["{found.customer.tier}"]);
    assert!(good.problems(&planned).is_empty());
    assert!(!format!("{good:?} {:?}", good.place()).contains("hunter2"));
    let problems = |statement: &PostgresStatement| statement.problems(&planned).join("\n");
    let bad = PostgresStatement::run("postgres://", " ").parameters(["{found.nobody.x}"]).retry_on(["42"]).park_on(["42"]);
    for part in ["is empty", "lookup \"nobody\"", "two things"] {
        assert!(problems(&bad).contains(part), "{}", problems(&bad));
    }
    assert!(problems(&good.parameters(["{nothing}"])).contains("{nothing} is nothing that a change has"));
    assert!(problems(&PostgresStatement::notify(url, "c".repeat(64), "x")).contains("1 to 63 bytes"));
}
