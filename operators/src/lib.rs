//! What flows through a Highwater pipeline, and what may be done to it.
//!
//! Changes come from sources by [`ingest`], pass [`dedup`] and [`lookup`], leave by [`action`]s, and the [`checkpoint`] turns
//! the frontier behind all of it into a mark: everything below is done, durably.

pub mod action;
pub mod batches;
pub mod books;
pub mod bounds;
pub mod change;
pub mod checkpoint;
pub mod clock;
pub mod cluster;
pub mod condition;
pub mod dedup;
pub mod epoch;
pub mod error;
pub mod exchange;
pub mod fan_out;
pub mod filter;
pub mod guard;
pub mod halt;
pub mod hash;
pub mod heritage;
pub mod in_flight;
pub mod ingest;
pub mod json;
pub mod lookup;
pub mod meter;
pub mod metrics;
pub mod offload;
pub mod pace;
pub mod parked;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod percent;
pub mod pools;
pub mod position;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod process;
pub mod queues;
#[cfg(feature = "redis")]
pub mod redis;
pub mod registry;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod roots;
pub mod row;
#[cfg(feature = "testing")]
pub mod testing;
pub mod why;

pub use change::{Change, Operation};
pub use error::{Error, ErrorKind, Result};
pub use position::{Epoch, Order, PartitionId, Position, ResumeToken};
pub use row::{Row, Value};
