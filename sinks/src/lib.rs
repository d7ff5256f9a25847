//! Where the actions of a pipeline go.

#[cfg(feature = "elasticsearch")]
pub mod elasticsearch;
#[cfg(feature = "http")]
mod http;
pub mod jsonl;
pub mod line;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "network")]
mod network;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "slack")]
pub mod slack;
pub mod stdout;
#[cfg(feature = "template")]
mod template;
#[cfg(feature = "webhook")]
pub mod webhook;

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
