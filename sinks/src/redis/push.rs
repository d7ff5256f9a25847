//! Items of lists.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::Result;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};

use super::command::{self, Bounds, Request};
use super::send::scripted;
use super::{Reach, Sender, once, settings};
use crate::template::{Template, missing_lookups};

/// An item of a list for each change (`RPUSH`, or `LPUSH`).
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::RedisPush;
/// action("work", RedisPush::to_list("redis://localhost/0", "work").payload(r#"{"order": {key}}"#).full_at(100_000));
/// ```
///
/// # Guarantee
/// Pushed at least once for each change, for those of one key in source order. It is pushed again if its answer was lost, and after a crash if its
/// success was not noted (at most `max_parallelism` changes), unless [`once_within`](Self::once_within) leaves repeats out. Work that must survive
/// whoever takes it belongs into a job queue: an item that was popped is gone with its worker.
#[derive(Clone)]
pub struct RedisPush {
    description: Arc<Description>,
    sender: Sender,
}

#[derive(Clone)]
struct Description {
    reach: Reach,
    to: String,
    list: Result<Template, String>,
    payload: Result<Template, String>,
    command: &'static str,
    full: u64,
    keep: u64,
}

impl RedisPush {
    /// To the right end of this list; its name may have places.
    pub fn to_list(url: impl AsRef<str>, list: impl Into<String>) -> Self {
        let to = list.into();
        let description = Description {
            reach: Reach::new(url.as_ref()),
            list: command::parse("the list", &to),
            to,
            payload: command::parse("the payload", "{change}"),
            command: "RPUSH",
            full: 0,
            keep: 0,
        };
        RedisPush { description: Arc::new(description), sender: Sender::default() }
    }

    fn with(mut self, set: impl FnOnce(&mut Description)) -> Self {
        set(Arc::make_mut(&mut self.description));
        self.sender = Sender::default();
        self
    }

    /// The item: a template. Default: `{change}`, the change in the default envelope.
    pub fn payload(self, template: &str) -> Self {
        self.with(|description| description.payload = command::parse("the payload", template))
    }

    /// To the left end (`LPUSH`).
    pub fn left(self) -> Self {
        self.with(|description| description.command = "LPUSH")
    }

    /// Waits while the list has so many items: changes are put off, which uses up no attempt, until somebody has taken some.
    pub fn full_at(self, items: u64) -> Self {
        self.with(|description| description.full = items)
    }

    /// Keeps so many items at most, the newest: those at the other end are removed, **whether somebody took them or not**.
    pub fn keep(self, items: u64) -> Self {
        self.with(|description| description.keep = items)
    }

    settings!();
    once!();
}

impl Description {
    fn what(&self) -> String {
        format!("the list {}", self.to)
    }

    fn make(&self, delivery: &Delivery) -> Result<Request, String> {
        let to = command::name(self.list.as_ref().map_err(Clone::clone)?, delivery)?;
        let payload = command::value(self.payload.as_ref().map_err(Clone::clone)?, delivery)?;
        let payload = payload.ok_or("the change has nothing for the payload")?;
        let marker = |window: Duration| {
            (format!("{}{}:{}", self.reach.prefix, self.to, delivery.idempotency_key()), window.as_millis() as u64)
        };
        let bounds = Bounds { marker: self.reach.once.map(marker), full: self.full, keep: self.keep };
        let is_plain = bounds.marker.is_none() && self.full == 0 && self.keep == 0;
        Ok(Request { name: self.command, to, rest: vec![payload], bounds: (!is_plain).then_some(bounds) })
    }
}

impl BatchAction for RedisPush {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let (description, what) = (&self.description, self.description.what());
            let judge = |answer| scripted(&what, answer);
            self.sender.send(&description.reach, &what, batch, |delivery| description.make(delivery), judge).await
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description.reach.place(&self.description.what()))
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let description = &self.description;
        let mut problems = description.reach.problems();
        problems
            .extend([&description.list, &description.payload].into_iter().filter_map(|parsed| parsed.as_ref().err().cloned()));
        if description.to.is_empty() {
            problems.push("its list has an empty name".to_owned());
        }
        if description.full > 0 && description.keep > 0 {
            problems.push("full_at and keep cannot go together: a list that is kept short never fills".to_owned());
        }
        problems.extend(missing_lookups(description.list.iter().chain(&description.payload), planned));
        problems
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.sender.opened(&self.description.reach, around);
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.description.reach.batch_max)
    }
}

impl std::fmt::Debug for RedisPush {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisPush({})", self.description.reach.place(&self.description.to))
    }
}
