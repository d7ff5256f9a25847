//! A request to an HTTP endpoint for each change, or for each batch of changes.
//!
//! What is asked for is a [`Webhook`] (here and in `settings`). A change becomes a request (`template`, `request`, `sign`), the guard of the
//! endpoint lets it through and a connection of its pool carries it (`http`), and the policy says what the answer means for
//! the change (`call`, `batch`).

mod batch;
mod call;
mod request;
mod settings;
mod sign;

use std::sync::Arc;

use highwater_operators::Change;
use hyper::Method;
use hyper::header::HeaderName;

pub use self::batch::WebhookBatch;
use self::sign::Secret;
use crate::http::{Endpoint, Origin, Policy, Reach};
use crate::line::Line;
pub use crate::network::Resolve;
use crate::network::opened::Opened;
use crate::template::Template;

/// A request to an HTTP endpoint for each change.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::Webhook;
///
/// let receipt = Webhook::post("https://mail.example/receipts/{key}")
///     .header("x-table", "{table}")
///     .body(r#"{"order": "{id}", "status": {after.status}, "tier": {found.customer.tier}}"#)
///     .signed_with("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
/// action("receipt", receipt);
/// ```
///
/// # Guarantee
/// Each change is sent at least once, those of one key in source order, one at a time. It is sent again if an attempt failed or its answer
/// was lost, and after a crash if its success was not noted; then with the same `webhook-id`, by which the receiver drops repeats.
///
/// # What an answer means
/// 2xx: delivered. 408, 425, 429, 5xx and broken connections: tried again, when `Retry-After` says so if it does. Everything else is parked;
/// redirects are not followed.
///
/// # Where it goes
/// Scheme, host and port are fixed; places may stand in path, query, headers and body. Addresses that are not public are refused
/// ([`allow_private`](Self::allow_private)), on each connection.
#[derive(Clone)]
pub struct Webhook {
    description: Description,
    /// Made by the first worker.
    open: Opened<Endpoint>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    method: Method,
    origin: Option<Origin>,
    /// Path and query.
    target: Template,
    headers: Vec<(HeaderName, Template)>,
    body: Body,
    secrets: Vec<Secret>,
    policy: Policy,
    reach: Reach,
    body_max: usize,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

/// What the body of a request is made of.
#[derive(Clone)]
enum Body {
    /// The change in the default envelope.
    Change,
    Template(Template),
    Fields(Format),
}

type Format = Arc<dyn Fn(&Change, &mut Line<'_>) + Send + Sync>;

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", self.description.shown())
    }
}
