//! Documents against a strict server of our own that follows the published rules; no real cluster.
#![cfg(feature = "elasticsearch")]

#[path = "../support/cluster.rs"]
mod cluster;
mod replay;
#[path = "../support/web.rs"]
mod web;

use std::net::TcpListener;
use std::time::Duration;

use cluster::Cluster;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, Delivery};
use highwater_operators::change::ChangeBuilder;
use highwater_operators::position::Position;
use highwater_operators::{Change, ErrorKind, Operation, Result};
use highwater_sinks::{Elasticsearch, IndexTemplate, Version};
use serde_json::{Value, json};

/// A change at a place of its source.
fn at(place: u64, change: ChangeBuilder) -> Delivery {
    let change = change.table("orders").time_ms(1_709_251_199_000 + place as i64).build().unwrap();
    Delivery::alone(change.with_position(Position { partition: 0, at: place, within: 0 }), 1)
}

fn put(place: u64, key: &str, row: &Value) -> Delivery {
    at(place, Change::builder(format!("c-{place}")).key(key).after(row))
}

fn delete(place: u64, key: &str) -> Delivery {
    at(place, Change::builder(format!("c-{place}")).key(key).before(&json!({"was": key})))
}

fn orders(cluster: &Cluster) -> Elasticsearch {
    Elasticsearch::index([cluster.url()], "orders").allow_private()
}

#[track_caller]
fn error(answer: &Result, kind: ErrorKind, parts: &[&str]) {
    let error = answer.as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == kind && parts.iter().all(|part| text.contains(part)), "{error:?}");
}

#[tokio::test]
async fn a_row_is_a_document_and_goes_with_it() {
    let cluster = Cluster::start();
    let orders = orders(&cluster);
    let rows = [put(1, "o-1", &json!({"status": "new", "note": "a\nb"})), put(2, "o-2", &json!({"status": "paid"}))];
    assert!(orders.call(&rows).await.iter().all(Result::is_ok));
    assert_eq!(cluster.document("orders", "o-1"), Some(json!({"status": "new", "note": "a\nb"})));
    let answers = orders.call(&[put(3, "o-1", &json!({"status": "paid"})), delete(4, "o-2"), delete(5, "o-3")]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((cluster.document("orders", "o-1"), cluster.count()), (Some(json!({"status": "paid"})), 1));
    let shaped = Elasticsearch::index([cluster.url()], "shaped-{table}-{time:%Y.%m.%d}").id("{table}/{after.n}").gzip();
    let shaped = shaped.document("{\n \"n\": {after.n},\n \"of\": \"{key}\"}").allow_private();
    assert!(shaped.call(&[put(1, "o-1", &json!({"n": 7}))]).await[0].is_ok());
    assert_eq!(cluster.document("shaped-orders-2024.02.29", "orders/7"), Some(json!({"n": 7, "of": "o-1"})));
    assert_eq!(cluster.state.lock().gzipped, 1);
}

#[tokio::test]
async fn each_item_has_an_answer_of_its_own() {
    let cluster = Cluster::start();
    cluster.state.lock().busy.insert("o-2".to_owned(), 1);
    let orders = orders(&cluster);
    let batch = [
        put(1, "o-1", &json!({"amount": 1})),
        put(2, "o-2", &json!({"amount": 2})),
        put(3, "o-3", &json!({"amount": "much"})),
        at(4, Change::builder("t").operation(Operation::Truncate)),
        put(5, &"k".repeat(600), &json!({})),
        at(6, Change::builder("m").operation(Operation::Message).after(&json!({"prefix": "x"}))),
    ];
    let answers = orders.call(&batch).await;
    assert!(answers[0].is_ok() && answers[5].is_ok(), "{answers:?}");
    error(&answers[1], ErrorKind::Retry, &["documents at http://127.0.0.1", "429", "es_rejected_execution_exception"]);
    error(&answers[2], ErrorKind::Park, &["400 document_parsing_exception", "field [amount]"]);
    error(&answers[3], ErrorKind::Park, &["empty the index by hand"]);
    error(&answers[4], ErrorKind::Park, &["600 bytes"]);
    assert!(orders.call(&batch[1..2]).await[0].is_ok());
    // 409: something newer is there.
    assert!(orders.call(&[put(1, "o-2", &json!({"amount": 0}))]).await[0].is_ok());
    assert_eq!(cluster.document("orders", "o-2"), Some(json!({"amount": 2})));
    let upper = Elasticsearch::index([cluster.url()], "{table}-{after.what}").allow_private();
    error(&upper.call(&[put(1, "k", &json!({"what": "Big"}))]).await[0], ErrorKind::Park, &["small letters"]);
}

#[tokio::test]
async fn requests_are_bounded_and_halved_where_they_are_too_much() {
    let cluster = Cluster::start();
    let rows: Vec<Delivery> = (0..40).map(|n| put(n + 1, &format!("o-{n}"), &json!({"text": "x".repeat(1_000)}))).collect();
    let answers = orders(&cluster).bytes_max(5_000).call(&rows).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((cluster.count(), cluster.state.lock().requests), (40, 10));
    cluster.state.lock().body_max = Some(3_000);
    let mut rows = rows[..8].to_vec();
    rows.push(put(99, "big", &json!({"text": "x".repeat(4_000)})));
    let answers = orders(&cluster).call(&rows).await;
    assert!(answers[..8].iter().all(Result::is_ok), "{answers:?}");
    error(&answers[8], ErrorKind::Park, &["413"]);
    let answers = orders(&cluster).bytes_max(3_000).call(&rows).await;
    error(&answers[8], ErrorKind::Park, &["bytes_max", "at most 3000"]);
}

#[tokio::test]
async fn whole_requests_that_fail_wait_and_other_nodes_are_asked() {
    let cluster = Cluster::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let two = Elasticsearch::index([format!("http://{nobody}"), cluster.url()], "orders").allow_private();
    for n in 0..10 {
        assert!(two.call(&[put(n + 1, "o-1", &json!({}))]).await[0].is_ok());
    }
    cluster.state.lock().faults = vec![503, 429];
    let orders = orders(&cluster);
    let rows = [put(20, "o-1", &json!({"n": 1})), put(21, "o-2", &json!({}))];
    error(&orders.call(&rows).await[1], ErrorKind::Retry, &["503"]);
    error(&orders.call(&rows).await[0], ErrorKind::Retry, &["429"]);
    assert!(orders.call(&rows).await.iter().all(Result::is_ok));
    // It says nothing of a change, and no attempt is used up.
    cluster.state.lock().authorization = Some("ApiKey c2VjcmV0LWtleQ==".to_owned());
    let wrong = orders.clone().basic("ada", "hunter2-words").call(&rows).await;
    error(&wrong[0], ErrorKind::Retry, &["401", "are its credentials right?"]);
    let error = wrong[0].as_ref().unwrap_err();
    assert!(!error.was_asked() && !error.to_string().contains("YWRhOmh1bnRlcjI"), "{error}");
    assert!(orders.api_key("c2VjcmV0LWtleQ==").call(&rows).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn templates_and_policies_are_made_once_and_checked_after_that() {
    for is_opensearch in [false, true] {
        let cluster = Cluster::start();
        cluster.state.lock().is_opensearch = is_opensearch;
        let day = Duration::from_secs(86_400);
        let template = || {
            let template = IndexTemplate::new("orders", ["orders-*"]).replicas(1).refresh_every(Duration::from_secs(5));
            template.mappings(r#"{"properties": {"amount": {"type": "double"}}}"#).delete_after(30 * day)
        };
        let daily = |template: IndexTemplate| {
            Elasticsearch::index([cluster.url()], "orders-{time:%Y.%m.%d}").template(template).allow_private()
        };
        for _ in 0..2 {
            assert!(daily(template()).call(&[put(1, "o-1", &json!({"amount": 1}))]).await[0].is_ok());
        }
        {
            let state = cluster.state.lock();
            let settings = &state.templates["orders"]["index_templates"][0]["index_template"]["template"]["settings"]["index"];
            assert_eq!((&settings["number_of_replicas"], &settings["gc_deletes"]), (&json!("1"), &json!("1h")));
            assert_eq!(settings["lifecycle.name"].is_string(), !is_opensearch);
            assert!(state.policies["orders"].to_string().contains("\"30d\""));
            // Made once: two runs, and the second only looks.
            assert_eq!(state.requests, 6 + 4);
        }
        let answers = daily(template().replicas(2)).call(&[put(2, "o-1", &json!({}))]).await;
        error(
            &answers[0],
            ErrorKind::Stop,
            &["index template \"orders\" is there", "index.number_of_replicas is 1, not 2", "Nothing was changed"],
        );
        let answers = daily(template().delete_after(7 * day)).call(&[put(2, "o-1", &json!({}))]).await;
        error(&answers[0], ErrorKind::Stop, &["policy \"orders\" is there", "it does not delete after 7d"]);
        cluster.state.lock().faults = vec![503];
        let answers = daily(template()).call(&[put(2, "o-1", &json!({}))]).await;
        assert!(!answers[0].as_ref().unwrap_err().was_asked());
    }
}

#[tokio::test]
async fn what_is_appended_is_there_once_however_often_it_is_sent() {
    let cluster = Cluster::start();
    let history = Elasticsearch::append([cluster.url()], "history-{time:%Y.%m}").allow_private();
    let changes = [put(1, "o-1", &json!({"n": 1})), put(2, "o-1", &json!({"n": 2})), delete(3, "o-1")];
    for _ in 0..3 {
        assert!(history.call(&changes).await.iter().all(Result::is_ok));
    }
    assert_eq!(cluster.count(), 3);
    let document = cluster.document("history-2024.02", &changes[2].idempotency_key()).unwrap();
    assert_eq!((&document["op"], &document["before"]["was"]), (&json!("delete"), &json!("o-1")));
}

#[test]
fn what_is_wrong_is_told_before_anything_runs_and_no_secret_is_shown() {
    let planned = Planned { lookups: &["customer"], allow_private: false };
    let problems = |sink: Elasticsearch| sink.problems(&planned).join("\n");
    let node = ["https://search.example:9200"];
    for (sink, part) in [
        (Elasticsearch::index(["http://127.0.0.1:9200"], "a"), "loopback"),
        (Elasticsearch::index(["https://search.example/path"], "a"), "has no path"),
        (Elasticsearch::index(["https://ada:hunter2@search.example"], "a"), "user or a password"),
        (Elasticsearch::index(Vec::<String>::new(), "a"), "names no node"),
        (Elasticsearch::index(node, "a").document("{found.nobody.x}"), "lookup \"nobody\""),
        (Elasticsearch::index(node, "a-{time:%j}"), "nothing that a change has"),
        (Elasticsearch::index(node, "a").api_key(""), "environment variable"),
        (Elasticsearch::index(node, "a").document("{}").soft_delete("gone"), "whole row"),
        (Elasticsearch::append(node, "a").versioned(Version::Time), "has no version"),
        (Elasticsearch::index(node, "a").template(IndexTemplate::new("A", ["a"])), "small letters"),
        (Elasticsearch::index(node, "a").template(IndexTemplate::new("a", ["a"]).mappings("{")), "no JSON"),
    ] {
        let said = problems(sink);
        assert!(said.contains(part) && !said.contains("hunter2"), "{part}: {said}");
    }
    let good = Elasticsearch::index(node, "a").basic("ada", "hunter2").document(r#"{"tier": {found.customer.tier}}"#);
    assert!(problems(good.clone()).is_empty() && !format!("{good:?}").contains("hunter2"));
}
