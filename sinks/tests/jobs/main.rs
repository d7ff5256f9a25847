//! Queues of jobs: one suite for every store, beside a model of what a store is; workers, also over stores that fail.
#![cfg(all(feature = "postgres", feature = "redis"))]

mod faulty;
mod model;
mod on_redis;
mod places;
mod pool;
mod suite;

use highwater_operators::Change;
use serde_json::json;

/// A change of a key.
pub fn change(id: &str, key: &str) -> Change {
    Change::builder(id).table("orders").key(key).after(&json!({"id": id})).build().unwrap()
}
