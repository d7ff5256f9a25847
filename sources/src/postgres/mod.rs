//! Postgres as a source.

mod ahead;
pub mod change_log;
mod numbers;
pub mod replication;
pub mod rows;
pub mod slots;
mod tuple;
