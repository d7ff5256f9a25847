//! Real Postgres servers for tests and examples: private, started from the programs on the machine, gone with the process that started them.
//!
//! ```no_run
//! use highwater_operators::testing::postgres::Server;
//! let database = Server::shared().database()?;
//! database.sql("create table item(id bigint primary key, price int)")?;
//! assert_eq!(database.one("select count(*) from item")?, "0");
//! # Ok::<(), highwater_operators::Error>(())
//! ```

mod binaries;
mod by_proxy;
mod database;
mod family;
mod server;
mod template;

pub use crate::testing::Proxy;
pub use database::Database;
pub use server::{Server, Settings};
