//! What can be said of a webhook. A path may be as secret as a header: only the origin is ever shown.

use std::sync::Arc;

use highwater_operators::Change;
use highwater_operators::action::call::Planned;
use highwater_operators::guard::rate::RateConfig;
use hyper::Method;
use hyper::header::HeaderName;

use super::batch::WebhookBatch;
use super::sign::Secret;
use super::{Body, Description, Webhook};
use crate::http::{Origin, Policy, Reach, reach_settings};
use crate::line::Line;
use crate::network::opened::Opened;
use crate::template::{Template, missing_lookups};

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
            reach: Reach::default(),
            body_max: 1 << 20,
            problems,
        };
        Webhook { description, open: Opened::default() }
    }

    fn with_description(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Opened::default();
        self
    }

    fn reached(self, change: impl FnOnce(&mut Reach)) -> Self {
        self.with_description(|description| change(&mut description.reach))
    }

    reach_settings!();

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

    /// Calls per second, with so many at once after a rest. Default: no bound.
    pub fn rate(self, per_second: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        self.with_description(|description| description.reach.guard.rate = RateConfig { per_second: Some(per_second), burst })
    }

    /// The largest body that is sent; a larger one is parked. Default: 1 MiB.
    pub fn body_max(self, bytes: usize) -> Self {
        self.with_description(|description| description.body_max = bytes)
    }

    /// How much of an answer is read. Default: 64 KiB; of a batch 1 MiB. Its beginning is kept with a parked change.
    pub fn answer_max(self, bytes: usize) -> Self {
        self.with_description(|description| description.reach.answer_max = bytes)
    }

    /// One request for up to so many changes, see [`WebhookBatch`].
    pub fn batch(self, max: usize) -> WebhookBatch {
        WebhookBatch::new(
            self.with_description(|description| description.reach.answer_max = description.reach.answer_max.max(1 << 20)),
            max,
        )
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
        problems.extend(missing_lookups(templates, planned));
        problems.extend(self.reach.problems(self.origin.as_slice(), planned));
        problems
    }
}
