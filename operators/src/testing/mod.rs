//! What the tests of every crate use: the seeded model of the protocol, named failpoints, drivers, real servers of Postgres and Redis.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod certificate;
pub mod failpoint;
pub mod model;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod process;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod proxy;
#[cfg(feature = "redis")]
pub mod redis;
pub mod store_suite;
pub mod watch;

#[cfg(any(feature = "postgres", feature = "redis"))]
pub use proxy::Proxy;
