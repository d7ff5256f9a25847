//! Postgres as every part uses it: a [`Url`] says where, a [`Pool`] gives connections for a while, a [`Connection`] is one's own, and
//! [`failed`] says of every error what it means for the work.
//!
//! A server that is away, restarted, frozen or behind a cut line is noticed and outlived: a connection that gets no answer is closed, so that
//! what waits on it fails with an error that says *try again*, and a pool opens new ones by itself.

mod connect;
mod connection;
mod failure;
mod name;
mod password;
mod pool;
mod tls;
mod url;
mod wire;

pub use crate::pools::PoolStatus;
pub use connection::Connection;
pub use failure::{failed, failed_as, is_away};
pub use name::{Table, quote, quote_text};
pub use pool::{Pool, PoolConfig, PooledClient};
pub use tls::SslMode;
pub use url::{CONNECT_TIMEOUT, Url};
pub use wire::{Incoming, Outgoing, Walsender};
