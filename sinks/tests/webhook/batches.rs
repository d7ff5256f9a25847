//! One request for many changes.

use std::sync::Arc;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, Delivery};
use highwater_operators::{ErrorKind, Result};
use highwater_sinks::Webhook;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::delivery;
use super::server::{Seen, Server, reply};

fn deliveries(n: usize) -> Vec<Delivery> {
    (0..n).map(|n| delivery(&n.to_string())).collect()
}

fn kinds(answers: &[Result]) -> String {
    let kind = |answer: &Result| match answer {
        Ok(()) => '.',
        Err(error) if error.kind() == ErrorKind::Park => 'p',
        Err(_) => 'r',
    };
    answers.iter().map(kind).collect()
}

#[tokio::test]
async fn a_batch_is_an_array_or_lines_and_is_delivered_as_one() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keeps = seen.clone();
    let server = Server::start(move |one: Seen| {
        keeps.lock().push(one);
        async { reply(200, "ok") }
    });
    let server = server.await;
    let webhook = Webhook::post(server.url("/")).allow_private().signed_with("0123456789abcdef").batch(3);
    assert_eq!(kinds(&webhook.call(&deliveries(5)).await), ".....");
    let items: Vec<Value> = seen.lock().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    assert_eq!((items[0].as_array().unwrap().len(), items[1].as_array().unwrap().len()), (3, 2));
    assert_eq!(items[0][1]["idempotency_key"], deliveries(2)[1].idempotency_key());
    let both = std::mem::take(&mut *seen.lock());
    assert!(both[0].header("webhook-signature").starts_with("v1,"));
    assert_ne!(both[0].header("webhook-id"), both[1].header("webhook-id"));
    let lines = Webhook::post(server.url("/")).allow_private().body(r#"{"n": "{id}"}"#).batch(10).lines();
    assert_eq!(kinds(&lines.call(&deliveries(2)).await), "..");
    let seen = seen.lock().remove(0);
    assert_eq!((seen.text(), seen.header("content-type")), ("{\"n\": \"0\"}\n{\"n\": \"1\"}\n", "application/x-ndjson"));
}

#[tokio::test]
async fn each_change_has_its_own_answer_if_the_endpoint_gives_them() {
    let server = Server::start(|seen: Seen| async move {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let key = items[1]["idempotency_key"].clone();
        let results = json!({"results": [
            {"id": "0", "status": 200},
            {"id": key, "status": 422, "error": "no such customer"},
            {"id": "2", "status": 503},
            {"id": "3", "status": "delivered"},
            {"id": "4", "status": "park", "error": {"code": 7}},
        ]});
        reply(200, results.to_string())
    });
    let webhook = Webhook::post(server.await.url("/")).allow_private().batch(10);
    let answers = webhook.call(&deliveries(6)).await;
    assert_eq!(kinds(&answers), ".pr.pr");
    assert!(answers[1].as_ref().unwrap_err().to_string().ends_with("422 Unprocessable Entity: no such customer"));
    assert!(answers[5].as_ref().unwrap_err().to_string().contains("does not name this change"));
}

#[tokio::test]
async fn a_batch_that_is_refused_is_halved_until_the_cause_is_alone() {
    let server = Server::start(|seen: Seen| async move {
        let items: Vec<Value> = serde_json::from_slice(&seen.body).unwrap();
        let bad = items.iter().any(|item| item["id"] == "5");
        if bad { reply(400, "five is bad") } else { reply(200, "") }
    });
    let webhook = Webhook::post(server.await.url("/")).allow_private().batch(100);
    let answers = webhook.call(&deliveries(16)).await;
    assert_eq!(kinds(&answers), ".....p..........");
    assert!(answers[5].as_ref().unwrap_err().to_string().contains("five is bad"));
    let away = Server::start(|_| async { reply(503, "") }).await;
    let webhook = Webhook::post(away.url("/")).allow_private().batch(4);
    assert_eq!(kinds(&webhook.call(&deliveries(9)).await), "rrrrrrrrr");
    assert_eq!(away.connections(), 1);
}

#[test]
fn a_batch_has_one_url() {
    let webhook = Webhook::post("http://1.1.1.1/{id}").batch(10);
    let problems = webhook.problems(&Planned { lookups: &[], allow_private: false });
    assert!(problems.len() == 1 && problems[0].contains("in its body alone"), "{problems:?}");
}
