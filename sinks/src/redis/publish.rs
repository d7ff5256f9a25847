//! Messages of channels.

use std::sync::Arc;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::{Error, Result};

use super::command::{self, Request};
use super::{Reach, Sender, settings};
use crate::template::{Template, missing_lookups};

/// A message to whoever listens to a channel, for each change (`PUBLISH`).
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::RedisPublish;
/// action("wake", RedisPublish::to_channel("redis://localhost/0", "orders.{op}").payload("{key}"));
/// ```
///
/// # Guarantee
/// Sent at least once for each change to those who listen at that moment, for those of one key in source order. Redis keeps no message: whoever is
/// not there hears nothing, nothing is sent again for them, and one whose line breaks may miss what Redis has taken. So let it be a reason to
/// look, not the message; what must arrive goes to a stream ([`RedisAppend`](crate::RedisAppend)).
#[derive(Clone)]
pub struct RedisPublish {
    description: Arc<Description>,
    sender: Sender,
}

#[derive(Clone)]
struct Description {
    reach: Reach,
    to: String,
    channel: Result<Template, String>,
    payload: Result<Template, String>,
    needs_listener: bool,
}

impl RedisPublish {
    /// To this channel; its name may have places.
    pub fn to_channel(url: impl AsRef<str>, channel: impl Into<String>) -> Self {
        let to = channel.into();
        let description = Description {
            reach: Reach::new(url.as_ref()),
            channel: command::parse("the channel", &to),
            to,
            payload: command::parse("the payload", "{change}"),
            needs_listener: false,
        };
        RedisPublish { description: Arc::new(description), sender: Sender::default() }
    }

    fn with(mut self, set: impl FnOnce(&mut Description)) -> Self {
        set(Arc::make_mut(&mut self.description));
        self.sender = Sender::default();
        self
    }

    /// The message: a template. Default: `{change}`, the change in the default envelope.
    pub fn payload(self, template: &str) -> Self {
        self.with(|description| description.payload = command::parse("the payload", template))
    }

    /// A message that nobody has heard counts as failed, and is tried again. Default: it counts as sent.
    pub fn needs_listener(self) -> Self {
        self.with(|description| description.needs_listener = true)
    }

    settings!();
}

impl Description {
    fn what(&self) -> String {
        format!("the channel {}", self.to)
    }

    fn make(&self, delivery: &Delivery) -> Result<Request, String> {
        let to = command::name(self.channel.as_ref().map_err(Clone::clone)?, delivery)?;
        let payload = command::value(self.payload.as_ref().map_err(Clone::clone)?, delivery)?;
        let payload = payload.ok_or("the change has nothing for the payload")?;
        Ok(Request { name: "PUBLISH", to, rest: vec![payload], bounds: None })
    }
}

impl BatchAction for RedisPublish {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let (description, what) = (&self.description, self.description.what());
            let judge = |listeners| match listeners {
                0 if description.needs_listener => Err(Error::retry(format!("{what}: nobody listens"))),
                _ => Ok(()),
            };
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
            .extend([&description.channel, &description.payload].into_iter().filter_map(|parsed| parsed.as_ref().err().cloned()));
        if description.to.is_empty() {
            problems.push("its channel has an empty name".to_owned());
        }
        problems.extend(missing_lookups(description.channel.iter().chain(&description.payload), planned));
        problems
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.sender.opened(&self.description.reach, around);
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.description.reach.batch_max)
    }
}

impl std::fmt::Debug for RedisPublish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisPublish({})", self.description.reach.place(&self.description.to))
    }
}
