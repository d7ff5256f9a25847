//! Where the changes of a pipeline come from, and the tables that its lookups read.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod ahead;
pub mod channel;
pub mod csv_changes;
pub mod envelope;
pub mod file_table;
pub mod generator;
pub mod jsonl;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod numbers;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis_hash;
#[cfg(feature = "redis")]
pub mod redis_stream;

pub use channel::{Channel, ChannelSource, Feed, Receipt};
pub use csv_changes::CsvChanges;
pub use envelope::Envelope;
pub use file_table::FileTable;
pub use generator::Generator;
pub use jsonl::{JsonLinesSource, OnReject};
#[cfg(feature = "postgres")]
pub use postgres::change_log::PostgresChangeLog;
#[cfg(feature = "postgres")]
pub use postgres::replication::{PostgresReplication, Snapshot};
#[cfg(feature = "postgres")]
pub use postgres::rows::PostgresRows;
#[cfg(feature = "redis")]
pub use redis_hash::RedisHash;
#[cfg(feature = "redis")]
pub use redis_stream::RedisStreams;
