//! Where the actions of a pipeline go.
//!
//! Each action uses a part of the rooms `http`, `network` and `template`; only all of them together use all that is there.

#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;
#[cfg(feature = "http")]
#[cfg_attr(
    not(all(feature = "elasticsearch", feature = "mail", feature = "postgres", feature = "slack", feature = "webhook")),
    allow(dead_code)
)]
mod http;
pub mod jsonl;
pub mod line;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "network")]
#[cfg_attr(
    not(all(feature = "elasticsearch", feature = "mail", feature = "postgres", feature = "slack", feature = "webhook")),
    allow(dead_code)
)]
mod network;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "slack")]
pub mod slack;
pub mod stdout;
#[cfg(feature = "template")]
#[cfg_attr(
    not(all(feature = "elasticsearch", feature = "mail", feature = "postgres", feature = "slack", feature = "webhook")),
    allow(dead_code)
)]
mod template;
#[cfg(feature = "webhook")]
pub mod webhook;

#[cfg(feature = "redis")]
pub use self::redis::{RedisAppend, RedisPublish, RedisPush};
#[cfg(feature = "elasticsearch")]
pub use elasticsearch::{Elasticsearch, IndexTemplate, Version};
pub use jsonl::JsonLinesFiles;
pub use line::Line;
#[cfg(feature = "mail")]
pub use mail::Mail;
#[cfg(feature = "postgres")]
pub use postgres::{PostgresTable, statement::PostgresStatement};
#[cfg(feature = "slack")]
pub use slack::Slack;
pub use stdout::Stdout;
#[cfg(feature = "webhook")]
pub use webhook::{Webhook, WebhookBatch};
