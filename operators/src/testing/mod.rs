//! What the tests of every crate use: the seeded model of the protocol, named failpoints, drivers.

pub mod failpoint;
pub mod model;
pub mod store_suite;
pub mod watch;
