//! What can be said of a webhook. A path may be as secret as a header: only the origin is ever shown.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::Change;
use highwater_operators::action::call::Planned;
use highwater_operators::guard::rate::RateConfig;
use highwater_operators::guard::{Guard, GuardConfig};
use hyper::Method;
use hyper::header::HeaderName;

use super::address::not_public;
use super::batch::WebhookBatch;
use super::policy::Policy;
use super::pool::PoolBounds;
use super::request::Origin;
use super::resolve::{Resolve, System};
use super::sign::Secret;
use super::template::Template;
use super::{Body, Description, Webhook};
use crate::line::Line;

/// Headers that are ours, or HTTP's own.
const RESERVED: [&str; 8] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
];

impl Webhook {
    /// A POST to a URL, in whose path and query places may stand: `https://shop.example/orders/{key}?status={after.status}`.
    pub fn post(url: impl AsRef<str>) -> Self {
        Webhook::new(Method::POST, url.as_ref())
    }

    /// A PUT.
    pub fn put(url: impl AsRef<str>) -> Self {
        Webhook::new(Method::PUT, url.as_ref())
    }

    /// A PATCH.
    pub fn patch(url: impl AsRef<str>) -> Self {
        Webhook::new(Method::PATCH, url.as_ref())
    }

    fn new(method: Method, url: &str) -> Self {
        let mut problems = Vec::new();
        let (origin, target) = match Origin::parse(url) {
            Ok((origin, target)) => (Some(origin), target),
            Err(problem) => {
                problems.push(problem);
                (None, Template::default())
            }
        };
        let description = Description {
            method,
            origin,
            target,
            headers: Vec::new(),
            body: Body::Change,
            secrets: Vec::new(),
            policy: Policy::default(),
            allow_private: false,
            root_certificates: None,
            resolver: Arc::new(System),
            resolve_every: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(5),
            pool: PoolBounds { max_connections: 0, idle_timeout: Duration::from_secs(60), max_age: Duration::from_secs(300) },
            guard: GuardConfig::default(),
            shared_guard: None,
            body_max: 1 << 20,
            answer_max: 64 << 10,
            headers_max: 16 << 10,
            retry_after_max: Duration::from_secs(300),
            problems,
        };
        Webhook { description, open: Arc::default() }
    }

    fn with_description(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Arc::new(OnceLock::new());
        self
    }

    /// A header; places may stand in its value. A value that would break out of its header is parked, never sent.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with_description(|description| match HeaderName::try_from(name) {
            Ok(name) if RESERVED.contains(&name.as_str()) => {
                description.problems.push(format!("header {name} is set by the webhook itself"));
            }
            Ok(name) => match Template::parse(value) {
                Ok(value) => description.headers.push((name, value)),
                Err(problem) => description.problems.push(format!("header {name}: {problem}")),
            },
            Err(_) => description.problems.push(format!("{name:?} is no name of a header")),
        })
    }

    /// The body, of JSON: within quotes a place is filled with text, escaped; elsewhere with the value as JSON, or null. Default: the
    /// change in the default envelope, which `{change}` is too.
    pub fn body(self, json: &str) -> Self {
        self.with_description(|description| match Template::parse(json) {
            Ok(body) => description.body = Body::Template(body),
            Err(problem) => description.problems.push(format!("body: {problem}")),
        })
    }

    /// The body is an object of the fields that `format` gives.
    pub fn with(self, format: impl Fn(&Change, &mut Line<'_>) + Send + Sync + 'static) -> Self {
        self.with_description(|description| description.body = Body::Fields(Arc::new(format)))
    }

    /// Signs as Standard Webhooks has it. Said again, the request has a signature by each secret: so a receiver can go over to a new one.
    /// `whsec_` and base64, or any text of 16 bytes and more.
    pub fn signed_with(self, secret: impl AsRef<str>) -> Self {
        self.with_description(|description| match Secret::parse(secret.as_ref()) {
            Ok(secret) => description.secrets.push(secret),
            Err(problem) => description.problems.push(problem),
        })
    }

    /// Answers of these statuses are tried again.
    pub fn retry_on(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.with_description(|description| description.policy.retry.extend(statuses))
    }

    /// Changes with answers of these statuses are parked.
    pub fn park_on(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.with_description(|description| description.policy.park.extend(statuses))
    }

    /// Answers of these statuses are as good as 200: 409 of a receiver that knows the change already, say.
    pub fn accept(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.with_description(|description| description.policy.accept.extend(statuses))
    }

    /// Lets it go to addresses that are not public. The setting `allow_private` does the same.
    pub fn allow_private(self) -> Self {
        self.with_description(|description| description.allow_private = true)
    }

    /// Certificates to check the endpoint's one by, in PEM, instead of those that the machine trusts.
    pub fn root_certificates(self, file: impl Into<PathBuf>) -> Self {
        self.with_description(|description| description.root_certificates = Some(file.into()))
    }

    /// Connections of HTTP/1 at most. Default: the action's `max_parallelism`.
    pub fn max_connections(self, connections: usize) -> Self {
        self.with_description(|description| description.pool.max_connections = connections.max(1))
    }

    /// How long an idle connection is kept. Default: 60 s.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with_description(|description| description.pool.idle_timeout = timeout)
    }

    /// How long a connection is used before it is made anew. Default: 5 min.
    pub fn max_age(self, age: Duration) -> Self {
        self.with_description(|description| description.pool.max_age = age)
    }

    /// How long connecting may take, for each address. Default: 5 s.
    pub fn connection_timeout(self, timeout: Duration) -> Self {
        self.with_description(|description| description.connection_timeout = timeout)
    }

    /// How long the addresses of the host are used before they are asked for again. Default: 30 s.
    pub fn resolve_every(self, every: Duration) -> Self {
        self.with_description(|description| description.resolve_every = every)
    }

    /// Finds the addresses of the host in another way than the machine's. What it finds is checked like any other.
    pub fn resolved_by(self, resolver: impl Resolve) -> Self {
        self.with_description(|description| description.resolver = Arc::new(resolver))
    }

    /// Breaker, retry budget, rate, level of calls and timeout.
    pub fn guard(self, config: GuardConfig) -> Self {
        self.with_description(|description| description.guard = config)
    }

    /// Shares a guard with other actions that go to the same endpoint.
    pub fn guarded_by(self, guard: &Arc<Guard>) -> Self {
        self.with_description(|description| description.shared_guard = Some(guard.clone()))
    }

    /// Calls per second, with so many at once after a rest. Default: no bound.
    pub fn rate(self, per_second: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        self.with_description(|description| description.guard.rate = RateConfig { per_second: Some(per_second), burst })
    }

    /// Parks changes, instead of waiting, once nothing has succeeded for so long and the breaker is open. Default: it waits.
    pub fn give_up_after(self, time: Duration) -> Self {
        self.with_description(|description| description.guard.give_up_after = Some(time))
    }

    /// The largest body that is sent; a larger one is parked. Default: 1 MiB.
    pub fn body_max(self, bytes: usize) -> Self {
        self.with_description(|description| description.body_max = bytes)
    }

    /// How much of an answer is read. Default: 64 KiB; of a batch 1 MiB. Its beginning is kept with a parked change.
    pub fn answer_max(self, bytes: usize) -> Self {
        self.with_description(|description| description.answer_max = bytes)
    }

    /// The longest wait that `Retry-After` may ask for. Default: 5 min.
    pub fn retry_after_max(self, wait: Duration) -> Self {
        self.with_description(|description| description.retry_after_max = wait)
    }

    /// One request for up to so many changes, see [`WebhookBatch`].
    pub fn batch(self, max: usize) -> WebhookBatch {
        WebhookBatch::new(self.with_description(|description| description.answer_max = description.answer_max.max(1 << 20)), max)
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }
}

impl Description {
    /// Where it goes, without what may be secret.
    pub(super) fn shown(&self) -> String {
        let origin = self.origin.as_ref().map_or("nowhere", |origin| &origin.shown);
        format!("{} {origin}", self.method)
    }

    /// What is wrong with it, a sentence each.
    pub(super) fn check(&self, planned: &Planned<'_>) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.policy.problem());
        let body = match &self.body {
            Body::Template(body) => Some(body),
            Body::Change | Body::Fields(_) => None,
        };
        let templates = self.headers.iter().map(|(_, value)| value).chain([&self.target]).chain(body);
        for lookup in templates.flat_map(Template::lookups).filter(|lookup| !planned.lookups.contains(lookup)) {
            let there = if planned.lookups.is_empty() { "none".to_owned() } else { planned.lookups.join(", ") };
            problems.push(format!("it takes fields of a lookup {lookup:?}, which the pipeline does not have; it has {there}"));
        }
        if let Some(origin) = &self.origin {
            let literal = match origin.host {
                url::Host::Domain(_) => None,
                url::Host::Ipv4(ip) => Some(ip.into()),
                url::Host::Ipv6(ip) => Some(ip.into()),
            };
            if let Some(ip) = literal
                && let Some(what) = not_public(ip).filter(|_| !self.allow_private && !planned.allow_private)
            {
                problems.push(format!(
                    "{} is {what}: refused, unless it has .allow_private(), or the setting allow_private says so",
                    origin.shown
                ));
            }
            if origin.is_tls
                && let Err(problem) = super::connect::tls(self.root_certificates.as_deref())
            {
                problems.push(problem);
            }
        }
        problems
    }
}
