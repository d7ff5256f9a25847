//! Highwater: pipelines that react to change events, and lose none.
//!
//! ```no_run
//! use highwater::prelude::*;
//!
//! fn main() -> highwater::Exit {
//!     highwater::main("orders", |flow| {
//!         flow.source(JsonLines::file("orders.jsonl"))
//!             .dedup(Dedup::within(minutes(10)))
//!             .lookup("customer", Lookup::by("customer_id").from(Csv::file("customers.csv").key("id")))
//!             .fan_out([
//!                 action("paid", JsonLines::append("out/paid")).when(|change| change.became("status", "paid")),
//!                 action("print", run(|change| async move {
//!                     println!("{} {:?}", change.id(), change.found("customer").str("tier"));
//!                     Ok(())
//!                 })),
//!             ])
//!             .checkpoint(Checkpoint::every(millis(200)));
//!     })
//! }
//! ```
//!
//! [`flow`] is the builder, [`mod@program`] the command line around it, and [`mod@run`] runs what was built.

mod clerk;
mod commands;
pub mod config;
mod embed;
mod exposition;
pub mod flow;
mod input;
mod launch;
pub mod log;
pub mod monitor;
pub mod plan;
pub mod program;
pub mod report;
pub mod run;
pub mod settings;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "postgres")]
pub mod tool;

pub use embed::{Started, start};
pub use flow::{Built, Changes, Checkpoint, Flow, Outcomes};
pub use highwater_operators as operators;
pub use highwater_operators::{Change, Error, ErrorKind, Operation, Result, Row, Value};
pub use highwater_sinks as sinks;
pub use highwater_sources as sources;
pub use program::{Exit, main, main_with, program};

/// Everything a pipeline's file needs.
pub mod prelude {
    pub use crate::flow::{Changes, Checkpoint, Flow, Outcomes};
    pub use crate::input::{Channel, Csv, Envelope, Feed, Generator, JsonLines, OnReject, env, hours, millis, minutes, seconds};
    #[cfg(feature = "redis")]
    pub use crate::input::{Entries, RedisHash, RedisStreams};
    #[cfg(feature = "postgres")]
    pub use crate::input::{PostgresChangeLog, PostgresReplication, PostgresRows, Snapshot};
    pub use highwater_operators::action::{Action, BatchAction, BoxFuture, Delivery, action, batch, run};
    pub use highwater_operators::condition::{
        Condition, all, any, became, changed, changed_from_to, condition, field, is_delete, is_insert, is_read, is_update, not,
        operation, table,
    };
    pub use highwater_operators::dedup::Dedup;
    #[cfg(feature = "disk")]
    pub use highwater_operators::lookup::DiskCache;
    #[cfg(feature = "redis")]
    pub use highwater_operators::lookup::RedisCache;
    pub use highwater_operators::lookup::table::TableLookup;
    pub use highwater_operators::lookup::{Adaptive, Cache, Lookup, load, load_each};
    pub use highwater_operators::parked::Schedule;
    pub use highwater_operators::row::Fields;
    pub use highwater_operators::{Change, Error, Operation, Result, Row, Value};
    #[cfg(feature = "postgres")]
    pub use highwater_operators::{checkpoint::postgres::PostgresCheckpointStore, postgres::PoolConfig};
    #[cfg(feature = "mail")]
    pub use highwater_sinks::Mail;
    #[cfg(feature = "postgres")]
    pub use highwater_sinks::PostgresJobQueue;
    #[cfg(feature = "redis")]
    pub use highwater_sinks::RedisJobQueue;
    #[cfg(feature = "slack")]
    pub use highwater_sinks::Slack;
    #[cfg(feature = "elasticsearch")]
    pub use highwater_sinks::{Elasticsearch, IndexTemplate, Version};
    #[cfg(feature = "jobs")]
    pub use highwater_sinks::{JobQueue, MemoryJobQueue, jobs::handle};
    pub use highwater_sinks::{Line, Stdout};
    #[cfg(feature = "postgres")]
    pub use highwater_sinks::{PostgresStatement, PostgresTable};
    #[cfg(feature = "redis")]
    pub use highwater_sinks::{RedisAppend, RedisPublish, RedisPush};
    #[cfg(feature = "webhook")]
    pub use highwater_sinks::{Webhook, WebhookBatch};
}

/// The program on the README's first screen compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So does that of the page for those who come from elsewhere.
#[cfg(all(doctest, feature = "elasticsearch", feature = "mail", feature = "postgres", feature = "slack", feature = "webhook"))]
#[doc = include_str!("../../docs/coming-from.md")]
struct ComingFrom;
