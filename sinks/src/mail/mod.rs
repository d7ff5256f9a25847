//! A mail for each change, by SMTP.
//!
//! What is asked for is a [`Mail`] (here and in `settings`). A change becomes a `message`, the guard of the server lets it through, and a
//! connection of the `pool` carries it (`connect`); `send` says what the server's answer means for the change.

mod connect;
mod message;
mod pool;
mod send;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::guard::GuardConfig;

use self::message::Letter;
use self::send::Open;
pub use crate::network::Resolve;
use crate::network::opened::Opened;

/// A mail for each change.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::Mail;
///
/// let receipt = Mail::by("smtp://mail.example:587")
///     .login("shop", "a password, from the environment")
///     .from("The shop <shop@shop.example>")
///     .to("{after.name} <{after.email}>")
///     .subject("Your order {key}")
///     .text("Thank you, {after.name}. We have received {after.amount} EUR.")
///     .html("<p>Thank you, {after.name}. We have received <b>{after.amount} EUR</b>.</p>");
/// action("receipt", receipt).when(|change| change.became("status", "paid"));
/// ```
///
/// # Guarantee
/// Each change's mail is accepted by the server at least once, for those of one key in source order, one at a time. It is sent again if an
/// attempt failed or its answer was lost, and after a crash if its success was not noted; then with the same `Message-ID`, by which servers
/// and programs that look at it drop repeats. Many do not: a repeat may be seen. What becomes of a mail behind the server is not known here.
///
/// # What is filled in
/// Places are filled from the change. No value can add a header, an address or markup: addresses are taken apart before they are
/// filled, line breaks in a subject become blanks, in HTML values are escaped. A change that lacks what a place needs is parked.
///
/// # Where it goes
/// `smtp://HOST` begins in the clear and goes over to TLS (STARTTLS, port 587), or fails; `smtps://HOST` is TLS from the start (port 465). Addresses
/// that are not public are refused ([`allow_private`](Self::allow_private)), on each connection.
#[derive(Clone)]
pub struct Mail {
    description: Description,
    /// Made by the first worker.
    open: Opened<Open>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    server: Option<Server>,
    login: Option<Login>,
    hello: Option<String>,
    letter: Letter,
    size_max: usize,
    try_again_after: Duration,
    allow_private: bool,
    root_certificates: Option<PathBuf>,
    resolver: Arc<dyn Resolve>,
    resolve_every: Duration,
    connection_timeout: Duration,
    max_connections: usize,
    idle_timeout: Duration,
    guard: GuardConfig,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

/// Where mails are handed over.
#[derive(Clone)]
struct Server {
    host: url::Host<String>,
    port: u16,
    security: Security,
}

/// How a connection is kept from being read by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after the greeting, or no mail.
    StartTls,
    /// Not at all.
    None,
}

/// Who we are to the server.
#[derive(Clone)]
struct Login {
    user: String,
    password: String,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.security == Security::Tls { "smtps" } else { "smtp" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mail({})", self.description.shown())
    }
}
