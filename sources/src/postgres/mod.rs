//! Postgres as a source.

pub mod change_log;
pub mod replication;
mod tuple;
