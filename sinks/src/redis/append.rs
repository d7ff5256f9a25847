//! Entries of streams.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::Result;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::epoch::unix_ms;

use super::command::{self, Bounds, Request};
use super::send::scripted;
use super::{Reach, Sender, once, settings};
use crate::template::{Template, missing_lookups};

/// An entry of a stream for each change (`XADD`).
///
/// ```
/// use std::time::Duration;
/// use highwater_operators::action::action;
/// use highwater_sinks::RedisAppend;
///
/// // The change in the default envelope in the field `change`, its idempotency key in `idempotency_key`.
/// action("feed", RedisAppend::to_stream("redis://localhost/0", "orders").max_len(1_000_000));
///
/// // Fields of one's own, repeats left out for an hour.
/// let paid = RedisAppend::to_stream("redis://localhost/0", "paid-{table}")
///     .fields([("order", "{key}"), ("amount", "{after.amount}"), ("body", r#"{"order": {key}}"#)])
///     .once_within(Duration::from_secs(3600));
/// action("paid", paid);
/// ```
///
/// # Guarantee
/// Added at least once for each change, for those of one key in source order. It is added again if its answer was lost, and after a crash if its
/// success was not noted (at most `max_parallelism` changes): readers leave out repeats by the field `idempotency_key`, or
/// [`once_within`](Self::once_within) does. Added means acknowledged by the server; what that keeps over a restart is up to its `appendfsync`.
#[derive(Clone)]
pub struct RedisAppend {
    description: Arc<Description>,
    sender: Sender,
}

#[derive(Clone)]
struct Description {
    reach: Reach,
    to: String,
    stream: Result<Template, String>,
    fields: Vec<(String, Template)>,
    key_field: Option<String>,
    max_len: Option<u64>,
    max_age: Option<Duration>,
    problems: Vec<String>,
}

impl RedisAppend {
    /// To this stream; its name may have places (`orders-{table}`). It is made by its first entry.
    pub fn to_stream(url: impl AsRef<str>, stream: impl Into<String>) -> Self {
        let to = stream.into();
        let whole = command::parse("field", "{change}").unwrap_or_default();
        let description = Description {
            reach: Reach::new(url.as_ref()),
            stream: command::parse("the stream", &to),
            to,
            fields: vec![("change".to_owned(), whole)],
            key_field: Some("idempotency_key".to_owned()),
            max_len: None,
            max_age: None,
            problems: Vec::new(),
        };
        RedisAppend { description: Arc::new(description), sender: Sender::default() }
    }

    fn with(mut self, set: impl FnOnce(&mut Description)) -> Self {
        set(Arc::make_mut(&mut self.description));
        self.sender = Sender::default();
        self
    }

    /// The fields of an entry, each a template, in place of `change`. One that is a place and nothing else (`{after.amount}`) is left out where the
    /// change has nothing there; what has text too must find all its places. What begins as JSON does is filled as JSON.
    pub fn fields<N: Into<String>, T: AsRef<str>>(self, fields: impl IntoIterator<Item = (N, T)>) -> Self {
        let parsed: Vec<_> = fields.into_iter().map(|(name, text)| (name.into(), text)).collect();
        self.with(|description| {
            description.fields.clear();
            for (name, text) in parsed {
                match command::parse(&format!("the field {name}"), text.as_ref()) {
                    Ok(template) => description.fields.push((name, template)),
                    Err(problem) => description.problems.push(problem),
                }
            }
        })
    }

    /// The field that holds the idempotency key, or none. Default: `idempotency_key`.
    pub fn key_field(self, name: Option<&str>) -> Self {
        self.with(|description| description.key_field = name.map(str::to_owned))
    }

    /// Keeps about so many entries (`MAXLEN ~`): older ones are removed, **whether they were read or not**.
    pub fn max_len(self, entries: u64) -> Self {
        self.with(|description| description.max_len = Some(entries))
    }

    /// Removes entries that are older than this, about (`MINID ~`), by this machine's clock and whether they were read or not.
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|description| description.max_age = Some(age))
    }

    settings!();
    once!();
}

impl Description {
    fn what(&self) -> String {
        format!("adding to the stream {}", self.to)
    }

    fn make(&self, delivery: &Delivery) -> Result<Request, String> {
        let to = command::name(self.stream.as_ref().map_err(Clone::clone)?, delivery)?;
        let mut rest: Vec<Vec<u8>> = Vec::with_capacity(2 * self.fields.len() + 6);
        let mut word = |word: &str| rest.push(word.as_bytes().to_vec());
        if let Some(entries) = self.max_len {
            ["MAXLEN", "~", &entries.to_string()].into_iter().for_each(&mut word);
        } else if let Some(age) = self.max_age {
            let least = unix_ms().saturating_sub(age.as_millis() as u64);
            ["MINID", "~", &least.to_string()].into_iter().for_each(&mut word);
        }
        word("*");
        let before = rest.len();
        for (name, template) in &self.fields {
            if let Some(value) = command::value(template, delivery)? {
                rest.extend([name.as_bytes().to_vec(), value]);
            }
        }
        let key = delivery.idempotency_key();
        if let Some(name) = &self.key_field {
            rest.extend([name.as_bytes().to_vec(), key.clone().into_bytes()]);
        }
        if rest.len() == before {
            return Err("the change has nothing for any field of the entry".to_owned());
        }
        let marker = |window: Duration| (format!("{}{}:{key}", self.reach.prefix, self.to), window.as_millis() as u64);
        let bounds = self.reach.once.map(|window| Bounds { marker: Some(marker(window)), ..Bounds::default() });
        Ok(Request { name: "XADD", to, rest, bounds })
    }
}

impl BatchAction for RedisAppend {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let (description, what) = (&self.description, self.description.what());
            let judge = |answer| scripted(&what, answer);
            self.sender.send(&description.reach, &what, batch, |delivery| description.make(delivery), judge).await
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description.reach.place(&format!("stream {}", self.description.to)))
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let description = &self.description;
        let mut problems = description.reach.problems();
        problems.extend(description.problems.clone());
        problems.extend(description.stream.as_ref().err().cloned());
        if description.to.is_empty() {
            problems.push("its stream has an empty name".to_owned());
        }
        if description.fields.is_empty() && description.key_field.is_none() && description.problems.is_empty() {
            problems.push("its entries have no fields".to_owned());
        }
        if description.max_len.is_some() && description.max_age.is_some() {
            problems.push("max_len and max_age cannot go together: an entry is added with one of MAXLEN and MINID".to_owned());
        }
        let templates = description.fields.iter().map(|(_, template)| template).chain(description.stream.as_ref().ok());
        problems.extend(missing_lookups(templates, planned));
        problems
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.sender.opened(&self.description.reach, around);
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.description.reach.batch_max)
    }
}

impl std::fmt::Debug for RedisAppend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisAppend({})", self.description.reach.place(&self.description.to))
    }
}
