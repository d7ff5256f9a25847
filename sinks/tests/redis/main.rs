//! Streams, lists and channels on a real Redis: what stands there, what a repeat does, what errors mean.
#![cfg(feature = "redis")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, Delivery};
use highwater_operators::redis::{BlockingConnection, Url};
use highwater_operators::testing::redis::{Keeps, Server, Settings};
use highwater_operators::{Change, ErrorKind, Result};
use highwater_sinks::{RedisAppend, RedisPublish, RedisPush};
use redis::cmd;
use serde_json::{Value, json};

fn delivery(id: &str, after: &Value) -> Delivery {
    let change = Change::builder(id).table("orders").key(format!("o-{id}")).time_ms(1_700_000_000_123).after(after);
    Delivery::alone(change.build().unwrap(), 1)
}

fn numbered(ids: std::ops::Range<i32>) -> Vec<Delivery> {
    ids.map(|n| delivery(&n.to_string(), &json!({"n": n}))).collect()
}

fn url(server: &Server) -> String {
    server.url().reveal().to_owned()
}

/// The entries of a stream, with their fields.
async fn entries(server: &Server, stream: &str) -> Vec<BTreeMap<String, String>> {
    let mut connection = BlockingConnection::open(&server.url(), "test").await.unwrap();
    let line = connection.line().await.unwrap();
    let entries: Vec<(String, Vec<(String, String)>)> =
        line.query("reading", cmd("XRANGE").arg(stream).arg("-").arg("+")).await.unwrap();
    entries.into_iter().map(|(_, fields)| fields.into_iter().collect()).collect()
}

fn all_done(answers: &[Result]) -> bool {
    answers.iter().all(Result::is_ok)
}

#[track_caller]
fn error(answer: &Result, kind: ErrorKind, parts: &[&str]) {
    let error = answer.as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == kind && parts.iter().all(|part| text.contains(part)), "{error:?}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn an_entry_holds_the_change_and_its_idempotency_key() {
    let server = Server::start().unwrap();
    let batch = numbered(0..520);
    let answers = RedisAppend::to_stream(url(&server), "feed").call(&batch).await;
    assert!(answers.len() == 520 && all_done(&answers), "{answers:?}");
    let found = entries(&server, "feed").await;
    assert_eq!(found.len(), 520);
    for (entry, delivery) in found.iter().zip(&batch) {
        let change: Value = serde_json::from_str(&entry["change"]).unwrap();
        assert_eq!(
            (&change["id"], &change["after"]["n"]),
            (&json!(delivery.id()), &json!(delivery.id().parse::<i32>().unwrap()))
        );
        assert_eq!((&entry["idempotency_key"], entry.len()), (&delivery.idempotency_key(), 2));
    }
}

#[tokio::test]
async fn fields_are_templates_and_a_name_may_have_places() {
    let server = Server::start().unwrap();
    let feed = RedisAppend::to_stream(url(&server), "paid-{table}")
        .fields([
            ("order", "{key}"),
            ("note", "{after.note}"),
            ("body", r#"{"order": {key}, "n": {after.n}}"#),
            ("text", "no {after.n}"),
        ])
        .key_field(None);
    let batch =
        [delivery("1", &json!({"n": 7, "note": "a\r\n\u{0}b"})), delivery("2", &json!({"n": null})), delivery("3", &json!({}))];
    let answers = feed.call(&batch).await;
    assert!(answers[0].is_ok());
    error(&answers[1], ErrorKind::Park, &["adding to the stream paid-{table}", "nothing for {after.n}"]);
    error(&answers[2], ErrorKind::Park, &["nothing for {after.n}"]);
    let found = entries(&server, "paid-orders").await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0]["order"].as_str(), found[0]["note"].as_str()), ("o-1", "a\r\n\u{0}b"));
    assert_eq!((found[0]["body"].as_str(), found[0]["text"].as_str()), (r#"{"order": "o-1", "n": 7}"#, "no 7"));
}

#[tokio::test]
async fn a_repeat_is_left_out_within_its_window() {
    let server = Server::start().unwrap();
    let (plain, once) = (RedisAppend::to_stream(url(&server), "plain"), RedisAppend::to_stream(url(&server), "once"));
    let once = once.once_within(Duration::from_secs(60));
    let short = RedisAppend::to_stream(url(&server), "short").once_within(Duration::from_millis(1)).once_prefix("p:");
    let pushed = RedisPush::to_list(url(&server), "list").once_within(Duration::from_secs(60));
    let batch = numbered(0..100);
    for _ in 0..3 {
        for action in [&plain as &dyn BatchAction, &once, &short, &pushed] {
            assert!(all_done(&action.call(&batch).await));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (command, key, expected) in
        [("XLEN", "plain", "300"), ("XLEN", "once", "100"), ("XLEN", "short", "300"), ("LLEN", "list", "100")]
    {
        assert_eq!(server.ask(&[command, key]).unwrap(), expected, "{key}");
    }
    // The server may have forgotten the script.
    server.ask(&["SCRIPT", "FLUSH"]).unwrap();
    assert!(all_done(&once.call(&numbered(90..110)).await));
    assert_eq!(server.ask(&["XLEN", "once"]).unwrap(), "110");
    let marker = format!("highwater:once:once:{}", numbered(0..1)[0].idempotency_key());
    assert_eq!(server.ask(&["EXISTS", &marker]).unwrap(), "1");
}

#[tokio::test]
async fn a_stream_is_kept_short() {
    let server = Server::start().unwrap();
    assert!(all_done(&RedisAppend::to_stream(url(&server), "short").max_len(100).call(&numbered(0..350)).await));
    let length: u32 = server.ask(&["XLEN", "short"]).unwrap().parse().unwrap();
    assert!((100..=300).contains(&length), "{length}");
    server.ask(&["EVAL", "for n = 1, 500 do redis.call('XADD', 'old', n, 'a', 1) end", "0"]).unwrap();
    assert!(all_done(&RedisAppend::to_stream(url(&server), "old").max_age(Duration::from_secs(60)).call(&numbered(0..10)).await));
    let length: u32 = server.ask(&["XLEN", "old"]).unwrap().parse().unwrap();
    assert!(length < 200, "{length}");
}

#[tokio::test]
async fn a_list_waits_when_it_is_full_or_forgets_what_is_old() {
    let server = Server::start().unwrap();
    let full = RedisPush::to_list(url(&server), "full").full_at(30).payload("{id}");
    let answers = full.call(&numbered(0..50)).await;
    assert!(all_done(&answers[..30]));
    for answer in &answers[30..] {
        error(answer, ErrorKind::Retry, &["the list full is full"]);
        assert!(!answer.as_ref().unwrap_err().was_asked(), "it uses up no attempt");
    }
    assert_eq!(server.ask(&["LPOP", "full"]).unwrap(), "0");
    assert!(all_done(&full.call(&numbered(30..31)).await));
    let kept = RedisPush::to_list(url(&server), "kept").keep(3).payload("{id}");
    assert!(all_done(&kept.call(&numbered(0..10)).await));
    assert_eq!(server.ask(&["LRANGE", "kept", "0", "-1"]).unwrap(), "7\n8\n9");
    let left = RedisPush::to_list(url(&server), "left").left().keep(3).payload("{id}");
    assert!(all_done(&left.call(&numbered(0..10)).await));
    assert_eq!(server.ask(&["LRANGE", "left", "0", "-1"]).unwrap(), "9\n8\n7");
    let plain = RedisPush::to_list(url(&server), "plain");
    assert!(all_done(&plain.call(&numbered(0..1)).await));
    assert!(server.ask(&["LINDEX", "plain", "0"]).unwrap().contains("\"id\":\"0\""));
}

#[tokio::test]
async fn a_message_reaches_who_listens_and_nobody_else() {
    let server = Server::start().unwrap();
    let alone = RedisPublish::to_channel(url(&server), "orders.{op}");
    assert!(all_done(&alone.call(&numbered(0..3)).await));
    let needs = alone.payload("{key}").needs_listener();
    error(&needs.call(&numbered(0..1)).await[0], ErrorKind::Retry, &["the channel orders.{op}: nobody listens"]);
    let mut listener = Command::new("redis-cli");
    listener.args(["-p", &server.port().to_string(), "--csv", "PSUBSCRIBE", "orders.*"]);
    let mut listener = listener.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("psubscribe")).unwrap().unwrap();
    assert!(all_done(&needs.call(&numbered(0..3)).await));
    for number in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(&format!("\"orders.insert\",\"o-{number}\"")), "{line}");
    }
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_or_takes_nothing_uses_up_no_attempt() {
    let server = Settings::default().keeps(Keeps::All).start().unwrap();
    let feed = RedisAppend::to_stream(url(&server), "feed");
    assert!(all_done(&feed.call(&numbered(0..10)).await));
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let answers = feed.call(&numbered(10..12)).await;
    error(&answers[1], ErrorKind::Retry, &["OOM", "raise maxmemory"]);
    assert!(!answers[1].as_ref().unwrap_err().was_asked());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    server.kill().unwrap();
    // What was sent on the line that broke may have been carried out; what follows is not even sent.
    let _ = feed.call(&numbered(10..12)).await;
    let answers = feed.call(&numbered(10..12)).await;
    error(&answers[0], ErrorKind::Retry, &["look whether the server runs"]);
    assert!(!answers[0].as_ref().unwrap_err().was_asked());
    server.start_again().unwrap();
    let mut done = false;
    for _ in 0..200 {
        done = done || all_done(&feed.call(&numbered(10..12)).await);
        if !done {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(done, "it comes back");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_time() {
    let server = Settings::default().user("few on >secret ~feed +xadd").start().unwrap();
    server.ask(&["SET", "text", "1"]).unwrap();
    let answers = RedisAppend::to_stream(url(&server), "text").call(&numbered(0..1)).await;
    error(&answers[0], ErrorKind::Stop, &["adding to the stream text", "WRONGTYPE", "name another key"]);
    let few = server.url_of("few", "secret");
    let answers = RedisAppend::to_stream(few.reveal(), "feed").call(&numbered(0..1)).await;
    assert!(all_done(&answers), "{answers:?}");
    let answers = RedisAppend::to_stream(few.reveal(), "other").call(&numbered(0..1)).await;
    error(&answers[0], ErrorKind::Stop, &["NOPERM", "ACL SETUSER"]);
    let planned = Planned { lookups: &["customer"], allow_private: false };
    let told = |action: &dyn BatchAction| action.problems(&planned).join("; ");
    for (action, expected) in [
        (Box::new(RedisAppend::to_stream("http://x", "a")) as Box<dyn BatchAction>, "redis://"),
        (Box::new(RedisAppend::to_stream(few.reveal(), "")), "empty name"),
        (Box::new(RedisAppend::to_stream(few.reveal(), "{nothing}")), "{nothing} is nothing that a change has"),
        (Box::new(RedisAppend::to_stream(few.reveal(), "a").fields([("x", "{found.shop.name}")])), "a lookup \"shop\""),
        (Box::new(RedisAppend::to_stream(few.reveal(), "a").fields(Vec::<(String, String)>::new()).key_field(None)), "no fields"),
        (Box::new(RedisAppend::to_stream(few.reveal(), "a").max_len(1).max_age(Duration::from_secs(1))), "cannot go together"),
        (Box::new(RedisPush::to_list(few.reveal(), "a").full_at(1).keep(1)), "cannot go together"),
        (Box::new(RedisPush::to_list(few.reveal(), "a").once_within(Duration::ZERO)), "a millisecond at least"),
        (Box::new(RedisPublish::to_channel(few.reveal(), "a").payload("{x}")), "{x} is nothing"),
    ] {
        let said = told(&*action);
        assert!(said.contains(expected) && !said.contains("secret"), "{said}");
    }
    let fine = RedisAppend::to_stream(few.reveal(), "a-{table}").fields([("tier", "{found.customer.tier}")]);
    assert_eq!(told(&fine), "");
    assert!(!format!("{fine:?} {:?}", fine.place()).contains("secret"));
    assert!(Url::parse(few.reveal()).is_ok());
}
