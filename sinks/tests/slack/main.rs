//! Messages against a strict server of our own that follows Slack's published rules; not Slack.
#![cfg(feature = "slack")]

#[path = "../support/web.rs"]
mod web;
#[path = "../support/workspace.rs"]
mod workspace;

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, Delivery, Surroundings};
use highwater_operators::clock::{Clock, Hand};
use highwater_operators::{Change, ErrorKind, Result};
use highwater_sinks::Slack;
use serde_json::{Value, json};
use workspace::{Fault, TOKEN, Workspace};

fn delivery(id: &str, after: &Value) -> Delivery {
    Delivery::alone(Change::builder(id).table("orders").key(format!("o-{id}")).after(after).build().unwrap(), 1)
}

/// A bot without a bound on its rate.
fn bot(workspace: &Workspace) -> Slack {
    Slack::bot(TOKEN, "#orders").at(workspace.url()).allow_private().rate(1e6, 1_000).text("Order *{key}* is {after.status}")
}

#[track_caller]
fn error(answer: &Result, kind: ErrorKind, parts: &[&str]) {
    let error = answer.as_ref().unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == kind && parts.iter().all(|part| text.contains(part)), "{error:?}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_message_says_what_the_change_says_and_mentions_nobody() {
    let workspace = Workspace::start();
    let change = delivery("1", &json!({"status": "<!channel> & <https://evil.example|paid>", "n": 7, "deep": ["<@U1>"]}));
    bot(&workspace).call(change.clone()).await.unwrap();
    let blocks = r#"[{"type": "section", "text": {"type": "mrkdwn", "text": "<https://shop.example/{key}|{after.status}>"}},
        {"type": "context", "elements": [{"type": "plain_text", "text": "{after.deep}"}, {"type": "plain_text", "text": {after.status}}]}]"#;
    bot(&workspace).blocks(blocks).call(change.clone()).await.unwrap();
    Slack::webhook(workspace.webhook()).text("{key}").allow_private().call(change.clone()).await.unwrap();
    let messages = workspace.messages();
    let safe = "&lt;!channel&gt; &amp; &lt;https://evil.example|paid&gt;";
    let key = json!({"event_type": "highwater_change", "event_payload": {"idempotency_key": change.idempotency_key()}});
    assert_eq!(messages[0], json!({"channel": "#orders", "text": format!("Order *o-1* is {safe}"), "metadata": key}));
    assert_eq!(messages[1]["blocks"][0]["text"]["text"], format!("<https://shop.example/o-1|{safe}>"));
    assert_eq!(messages[1]["blocks"][1]["elements"][0]["text"], "[\"&lt;@U1&gt;\"]");
    assert_eq!(messages[1]["blocks"][1]["elements"][1]["text"], safe);
    assert_eq!(messages[2], json!({"text": "o-1"}));
}

#[tokio::test]
async fn what_is_too_long_is_cut_and_not_refused() {
    let workspace = Workspace::start();
    let change = delivery("1", &json!({"status": "é&".repeat(50_000)}));
    let header = r#"{"type": "header", "text": {"type": "plain_text", "text": "{after.status}"}}"#;
    let section = r#"{"type": "section", "text": {"type": "mrkdwn", "text": "{after.status}"}}"#;
    let blocks = format!("[{header}, {}]", [section; 70].join(","));
    bot(&workspace).blocks(&blocks).call(change.clone()).await.unwrap();
    bot(&workspace).text_max(1_000_000).call(change.clone()).await.unwrap();
    let messages = workspace.messages();
    let text = messages[0]["text"].as_str().unwrap();
    assert!(text.ends_with("… (cut: it has 300015 characters)") && text.chars().count() <= 4_000);
    assert!(messages[1]["text"].as_str().unwrap().chars().count() > 39_000);
    assert_eq!(messages[0]["blocks"].as_array().unwrap().len(), 50);
    let broken = bot(&workspace).blocks(r#"[{"type": {after.status}]"#).call(change).await;
    error(&broken, ErrorKind::Park, &["blocks", "no list of JSON"]);
}

#[tokio::test]
async fn each_answer_has_its_meaning() {
    let workspace = Workspace::start();
    let (bot, hook) = (bot(&workspace), Slack::webhook(workspace.webhook()).text("{key}").allow_private().rate(1e6, 1_000));
    let change = || delivery("1", &json!({"status": "paid"}));
    for (fault, kind, part) in [
        (Fault::Error("internal_error"), ErrorKind::Retry, "internal_error"),
        (Fault::Error("fatal_error"), ErrorKind::Retry, "fatal_error"),
        (Fault::Error("not_in_channel"), ErrorKind::Park, "invite the bot"),
        (Fault::Error("something_new"), ErrorKind::Park, "something_new"),
        (Fault::Status(500, "oops"), ErrorKind::Retry, "500"),
        (Fault::Status(200, "<html>"), ErrorKind::Retry, "200"),
    ] {
        workspace.state.lock().faults = vec![fault];
        error(&bot.call(change()).await, kind, &["Slack bot at http://127.0.0.1", part]);
    }
    for (fault, kind, part) in [
        (Fault::Status(404, "channel_not_found"), ErrorKind::Park, "channel_not_found"),
        (Fault::Status(410, "channel_is_archived"), ErrorKind::Park, "channel_is_archived"),
        (Fault::Status(500, "rollup_error"), ErrorKind::Retry, "rollup_error"),
    ] {
        workspace.state.lock().faults = vec![fault];
        error(&hook.call(change()).await, kind, &["Slack webhook at http://127.0.0.1", part]);
    }
    let other = Slack::bot("xoxb-another-secret", "#orders").at(workspace.url()).text("x").allow_private();
    error(&other.call(change()).await, ErrorKind::Park, &["invalid_auth; is the token right?"]);
    let nowhere = Slack::bot(TOKEN, "{after.status}").at(workspace.url()).text("x").allow_private();
    error(&nowhere.call(change()).await, ErrorKind::Park, &["channel_not_found; is the channel's name right"]);
    assert!(workspace.messages().is_empty());
    // The message was taken, and its answer lost: it comes again, with its key.
    workspace.state.lock().faults = vec![Fault::Lost];
    error(&bot.call(change()).await, ErrorKind::Retry, &["502"]);
    bot.call(change()).await.unwrap();
    let messages = workspace.messages();
    assert!(messages.len() == 2 && messages[0] == messages[1]);
}

#[tokio::test]
async fn one_a_second_and_left_alone_for_as_long_as_slack_says() {
    let workspace = Workspace::start();
    let hand = Arc::new(Hand::default());
    let slack = Slack::bot(TOKEN, "{table}").at(workspace.url()).text("{key}");
    let clock = Clock::turned_by(hand.clone());
    slack.begin(&Surroundings { action: "told".to_owned(), max_parallelism: 10, clock, allow_private: true });
    let to = |channel: &str, n: u32| {
        let change = Change::builder(n.to_string()).table(channel).key(format!("o-{n}")).build().unwrap();
        slack.call(Delivery::alone(change, 1))
    };
    let call = |n: u32| to("C1", n);
    call(1).await.unwrap();
    to("#orders", 1).await.unwrap();
    let second = call(2).await.unwrap_err();
    assert!(!second.was_asked() && second.wait() == Some(Duration::from_secs(1)), "{second:?}");
    hand.turn_to(Duration::from_secs(1));
    call(2).await.unwrap();
    workspace.state.lock().faults = vec![Fault::TooFast(30)];
    hand.turn_to(Duration::from_secs(2));
    let limited = call(3).await;
    error(&limited, ErrorKind::Retry, &["ratelimited"]);
    assert_eq!(limited.unwrap_err().wait(), Some(Duration::from_secs(30)));
    hand.turn_to(Duration::from_secs(10));
    assert!(!call(3).await.unwrap_err().was_asked());
    hand.turn_to(Duration::from_secs(33));
    call(3).await.unwrap();
    assert_eq!(workspace.messages().len(), 4);
}

#[test]
fn what_is_wrong_is_told_before_anything_runs_and_no_secret_is_shown() {
    let planned = Planned { lookups: &["customer"], allow_private: false };
    let problems = |slack: Slack| slack.problems(&planned).join("\n");
    for (slack, part) in [
        (Slack::webhook(""), "environment variable"),
        (Slack::webhook("hooks.slack.example/the-secret"), "no scheme"),
        (Slack::webhook("http://127.0.0.1/the-secret").text("x"), "loopback"),
        (Slack::webhook("https://hooks.slack.example/{key}").text("x"), "has no places"),
        (Slack::webhook("https://hooks.slack.example/the-secret"), "it says nothing"),
        (Slack::bot("", "#a").text("x"), "the token is empty"),
        (Slack::bot("the-secret", "").text("x"), "names no channel"),
        (Slack::bot("the-secret", "#a").text("{found.nobody.x}"), "lookup \"nobody\""),
    ] {
        let said = problems(slack);
        assert!(said.contains(part) && !said.contains("the-secret"), "{part}: {said}");
    }
    let good = Slack::webhook("https://hooks.slack.example/the-secret").text("{found.customer.tier}");
    assert!(problems(good.clone()).is_empty() && !format!("{good:?} {:?}", good.place()).contains("the-secret"));
}
