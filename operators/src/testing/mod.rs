//! What the tests of every crate use: the seeded model of the protocol, named failpoints, drivers, real Postgres servers.

pub mod failpoint;
pub mod model;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod store_suite;
pub mod watch;
