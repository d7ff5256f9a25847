//! Postgres as a source.

pub mod change_log;
pub mod replication;
pub mod slots;
mod tuple;
