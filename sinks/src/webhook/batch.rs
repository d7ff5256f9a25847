//! One request for many changes, with an answer for each.

use std::collections::HashMap;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::{Error, ErrorKind, Result};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Body, Webhook};
use crate::http::{Endpoint, Prepared, Verdict, words};
use crate::line::Line;

/// One request for many changes: a JSON array, or JSON lines.
///
/// Each item is the change in the default envelope with its `idempotency_key` (or what `.body(..)` or `.with(..)` make of it). Of the answer:
///
/// - 2xx with `{"results": [{"id": .., "status": .., "error": ..}]}`: each change by itself. `id` is its idempotency key or its id; `status` a
///   number as of HTTP, or `delivered`, `retry`, `park`. What is not named is tried again.
/// - 2xx with anything else: all are delivered.
/// - anything else goes for all; if it would park them, halves of the batch are sent, until it is known which change is the cause.
///
/// The `webhook-id` is that of the batch, which a retry may put together in another way: a receiver drops repeats by the items' keys.
#[derive(Clone, Debug)]
pub struct WebhookBatch {
    webhook: Webhook,
    max: usize,
    lines: bool,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: serde_json::Value,
    #[serde(default)]
    status: serde_json::Value,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl WebhookBatch {
    pub(super) fn new(webhook: Webhook, max: usize) -> Self {
        WebhookBatch { webhook, max: max.max(1), lines: false }
    }

    /// A line per change instead of an array (`application/x-ndjson`).
    pub fn lines(mut self) -> Self {
        self.lines = true;
        self
    }

    fn prepare(&self, batch: &[Delivery]) -> Result<Prepared> {
        let description = self.webhook.description();
        let mut body = Vec::with_capacity(256 * batch.len());
        if !self.lines {
            body.push(b'[');
        }
        for (n, delivery) in batch.iter().enumerate() {
            if n > 0 && !self.lines {
                body.push(b',');
            }
            match &description.body {
                Body::Change => {
                    Line::write(&mut body, |line| {
                        line.change(delivery.change()).field("idempotency_key", &delivery.idempotency_key());
                    });
                    body.pop();
                }
                Body::Template(_) | Body::Fields(_) => description.write_body(delivery, &mut body),
            }
            if self.lines {
                body.push(b'\n');
            }
        }
        if !self.lines {
            body.push(b']');
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &description.headers {
            let value = value.plain().and_then(|text| HeaderValue::from_str(text).ok());
            let mut value = value.ok_or_else(|| description.park(format!("header {name} cannot be sent")))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let mut id = Sha256::new();
        batch.iter().for_each(|delivery| id.update(delivery.idempotency_key()));
        let id: String = id.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let content_type = if self.lines { "application/x-ndjson" } else { "application/json" };
        description.finish(description.target.plain().unwrap_or("/").to_owned(), headers, &id, body, content_type)
    }

    /// Sends a part of a batch. `None`: it is too much for one request, or some change in it is refused.
    async fn send(&self, open: &Endpoint, part: &[Delivery]) -> Option<Vec<Result>> {
        let description = self.webhook.description();
        let all = |error: Error| part.iter().map(|_| Err(error.in_words())).collect();
        let alone = |error: Error| (part.len() == 1).then(|| vec![Err(error)]);
        let prepared = match self.prepare(part) {
            Ok(prepared) => prepared,
            Err(error) => return alone(error),
        };
        let retry = part.iter().any(|delivery| delivery.attempt() > 1);
        Some(match description.ask(open, prepared, retry).await {
            Err(error) => all(error),
            Ok((Verdict::Delivered, answer)) => match serde_json::from_slice::<Results>(&answer.body) {
                Ok(results) if answer.is_whole => self.each(part, results),
                _ => part.iter().map(|_| Ok(())).collect(),
            },
            Ok((verdict, answer)) => {
                let error = description.error(open, verdict, &answer);
                if verdict == Verdict::Park {
                    return alone(error);
                }
                all(error)
            }
        })
    }

    fn each(&self, part: &[Delivery], results: Results) -> Vec<Result> {
        let description = self.webhook.description();
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let items: HashMap<String, &Item> = results.results.iter().map(|item| (text(&item.id), item)).collect();
        let one = |delivery: &Delivery| {
            let item = items.get(&delivery.idempotency_key()).or_else(|| items.get(delivery.id()));
            let Some(item) = item else {
                return Err(Error::retry(format!("{}: the answer does not name this change", description.shown())));
            };
            let (verdict, status) = match (item.status.as_u64(), item.status.as_str()) {
                (Some(status), _) => {
                    let status = status.min(999) as u16;
                    (description.policy.judge(status), words(status))
                }
                (_, Some("delivered" | "ok" | "success")) | (None, None) if item.error.is_none() => return Ok(()),
                (_, Some("retry")) => (Verdict::Retry, "to be tried again".to_owned()),
                _ => (Verdict::Park, "refused".to_owned()),
            };
            let said = item.error.as_ref().map(|error| format!(": {}", text(error).chars().take(1024).collect::<String>()));
            let why = format!("{}: {status}{}", description.shown(), said.unwrap_or_default());
            match verdict {
                Verdict::Delivered => Ok(()),
                Verdict::Retry => Err(Error::retry(why)),
                Verdict::Park => Err(Error::park(why)),
            }
        };
        part.iter().map(one).collect()
    }
}

impl BatchAction for WebhookBatch {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let open = match self.webhook.open() {
                Ok(open) => open,
                Err(error) => return batch.iter().map(|_| Err(error.in_words())).collect(),
            };
            let mut answers = Vec::with_capacity(batch.len());
            // The first part is the last: parts are answered in order.
            let mut parts: Vec<&[Delivery]> = batch.chunks(self.max).rev().collect();
            while let Some(part) = parts.pop() {
                match self.send(&open, part).await {
                    Some(part) => answers.extend(part),
                    None => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
                // The rest would meet the same: it waits with what has failed.
                if answers
                    .last()
                    .is_some_and(|answer: &Result| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Retry))
                {
                    let left = parts.drain(..).rev().map(<[_]>::len).sum();
                    answers.extend((0..left).map(|_: usize| {
                        Err(Error::not_asked("an earlier part of the batch has failed", std::time::Duration::from_millis(100)))
                    }));
                }
            }
            answers
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.webhook.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let description = self.webhook.description();
        let mut problems = description.check(planned);
        let has_places =
            description.target.plain().is_none() || description.headers.iter().any(|(_, value)| value.plain().is_none());
        if has_places {
            problems.push("a batch has one URL and one set of headers: places may stand in its body alone".to_owned());
        }
        problems
    }

    fn begin(&self, around: &Surroundings) {
        self.webhook.opened(around);
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.max)
    }
}
