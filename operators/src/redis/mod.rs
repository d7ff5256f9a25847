//! Redis as every part uses it: a [`Url`] says where, a [`Connection`] is shared and outlives its server, a [`BlockingConnection`] is one's own, for
//! reads that wait at the server, and [`failed`] says of every error what it means for the work.
//!
//! A server that is away, restarted, failed over, frozen or behind a cut line is noticed and outlived: whoever waits for an answer gets an error
//! that says *try again* within the URL's `response_timeout`, and the next call opens another connection.

mod blocking;
mod connection;
mod failure;
mod inspect;
mod line;
mod open;
mod password;
mod url;

pub use blocking::BlockingConnection;
pub use connection::Connection;
pub use failure::{failed, is_away};
pub use inspect::{Found, Role, inspect};
pub use line::Line;
pub use url::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT, Url};
