//! Webhooks against real servers on loopback: what is sent, what answers mean, and what servers do that misbehave.
#![cfg(feature = "webhook")]

mod batches;
#[path = "../support/certificate.rs"]
mod certificate;
mod forbidden;
mod misbehaving;
mod pooled;
mod requests;
mod server;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, Delivery, Surroundings};
use highwater_operators::clock::Clock;
use highwater_operators::{Change, Result};
use highwater_sinks::Webhook;
use serde_json::json;

/// A change with everything.
fn delivery(id: &str) -> Delivery {
    let change = Change::builder(id)
        .table("orders")
        .key(format!("key/{id}"))
        .after(&json!({"status": "pa\"id", "city": "Köln & Bonn", "amount": 12.5, "none": null, "deep": {"a": [1]}}))
        .build();
    Delivery::alone(change.unwrap(), 1)
}

async fn call(webhook: &Webhook, id: &str) -> Result {
    webhook.call(delivery(id)).await
}

/// What is wrong with it before anything runs.
fn problems(webhook: &Webhook) -> Vec<String> {
    webhook.problems(&Planned { lookups: &["customer"], allow_private: false })
}

fn around(action: &str, max_parallelism: usize, clock: Clock) -> Surroundings {
    Surroundings { action: action.to_owned(), max_parallelism, clock, allow_private: true }
}
