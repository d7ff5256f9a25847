//! A `_bulk` request, and what became of each operation in it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::{Error, ErrorKind, Result};
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::operation::Written;
use super::{Description, Elasticsearch, Open};
use crate::http::{Answer, Endpoint, Policy, Prepared, Verdict, words};

/// When a cluster that does not let us in is asked again.
const LOCKED_OUT: Duration = Duration::from_secs(10);

/// Only what is looked at is sent back.
const TARGET: &str = "/_bulk?filter_path=items.*._id,items.*.status,items.*.error.type,items.*.error.reason";

#[derive(Deserialize)]
struct Items {
    items: Vec<std::collections::HashMap<String, Item>>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    _id: String,
    status: u16,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    reason: String,
}

impl BatchAction for Elasticsearch {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let all = |error: Error| batch.iter().map(|_| Err(error.in_words())).collect();
            let (open, description) = (self.open(), self.description());
            let open = match open {
                Ok(open) => open,
                Err(error) => return all(error),
            };
            if let Err(error) = open.ready.get_or_try_init(|| description.set_up(&open.endpoint)).await {
                // Nothing was asked of any change yet.
                return all(if error.kind() == ErrorKind::Retry {
                    Error::not_asked(error.to_string(), LOCKED_OUT)
                } else {
                    error
                });
            }
            if let Err(error) = description.check_partitions(&open, batch) {
                return all(error);
            }
            description.apply(&open.endpoint, batch).await
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description().check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.open.begin(around, |around| self.description().open(around));
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.description().batch_max)
    }
}

impl Elasticsearch {
    fn open(&self) -> Result<Arc<Open>> {
        self.open.get("elasticsearch", |around| self.description().open(around))
    }
}

impl Description {
    fn open(&self, around: &Surroundings) -> Result<Open, String> {
        if !self.problems.is_empty() {
            return Err(self.problems.join("; "));
        }
        // A batch is one call, and few of them keep a cluster busy.
        let around = Surroundings { max_parallelism: around.max_parallelism.min(16), ..around.clone() };
        let endpoint = Endpoint::new(self.shown(), &self.origins, &self.reach, &around)?;
        Ok(Open { endpoint, ready: Default::default(), partitions: Default::default() })
    }

    /// Places of two partitions cannot be compared: stops before a newer document is refused for an older one.
    fn check_partitions(&self, open: &Open, batch: &[Delivery]) -> Result {
        if self.append || !self.versioning.uses_place() {
            return Ok(());
        }
        let mut partitions = open.partitions.lock();
        for delivery in batch {
            let (table, partition) = (delivery.table(), delivery.position().partition);
            match partitions.get(table) {
                Some(known) if *known == partition => {}
                Some(known) => {
                    return Err(Error::stop(format!(
                        "{}: changes of table {table:?} come from two partitions ({known} and {partition}), and places in two of them do not \
                         tell newer from older: say what does by .version_by(..) or .versioned(Version::Time)",
                        self.shown()
                    )));
                }
                None => drop(partitions.insert(table.to_owned(), partition)),
            }
        }
        Ok(())
    }

    /// Writes and sends all, in requests as large as they may be.
    async fn apply(&self, endpoint: &Endpoint, batch: &[Delivery]) -> Vec<Result> {
        let mut answers: Vec<Option<Result>> = Vec::with_capacity(batch.len());
        let mut written: Vec<(usize, Written)> = Vec::with_capacity(batch.len());
        let park = |why: String| Err(Error::park(format!("{}: {why}", self.shown())));
        for (at, delivery) in batch.iter().enumerate() {
            answers.push(match self.write(delivery) {
                Ok(None) => Some(Ok(())),
                Err(why) => Some(park(why)),
                Ok(Some(operation)) if operation.lines.len() > self.bytes_max => {
                    let (is, most) = (operation.lines.len(), self.bytes_max);
                    Some(park(format!(
                        "its document has {is} bytes with what belongs to it; at most {most} are sent (bytes_max)"
                    )))
                }
                Ok(Some(operation)) => {
                    written.push((at, operation));
                    None
                }
            });
        }
        let retry = batch.iter().any(|delivery| delivery.attempt() > 1);
        // The first part is the last: parts are answered in order.
        let mut parts: Vec<&[(usize, Written)]> = Vec::new();
        let (mut rest, mut size, mut taken) = (&written[..], 0, 0);
        while taken < rest.len() {
            size += rest[taken].1.lines.len();
            if size > self.bytes_max || taken == self.batch_max {
                let (part, later) = rest.split_at(taken);
                parts.push(part);
                (rest, size, taken) = (later, 0, 0);
            } else {
                taken += 1;
            }
        }
        parts.push(rest);
        parts.reverse();
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.send(endpoint, part, retry).await {
                Some(results) => {
                    // The rest would meet the same: it waits with what has failed.
                    let all_failed =
                        results.iter().all(|result| result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Retry));
                    part.iter().zip(results).for_each(|((at, _), result)| answers[*at] = Some(result));
                    if all_failed {
                        break;
                    }
                }
                None => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        let later = || Err(Error::not_asked("an earlier part of the batch has failed", Duration::from_millis(100)));
        answers.into_iter().map(|answer| answer.unwrap_or_else(later)).collect()
    }

    /// Sends one request. `None`: it is too much for one, or something in it is refused as a whole.
    async fn send(&self, endpoint: &Endpoint, part: &[(usize, Written)], retry: bool) -> Option<Vec<Result>> {
        let all = |error: Error| part.iter().map(|_| Err(error.in_words())).collect();
        let prepared = match self.prepared(part) {
            Ok(prepared) => prepared,
            Err(error) => return Some(all(error)),
        };
        let (verdict, answer) = match endpoint.ask(prepared, retry, judge).await {
            Ok(answered) => answered,
            Err(error) => return Some(all(error)),
        };
        if (200..300).contains(&answer.status) {
            return Some(self.each(endpoint, part, &answer));
        }
        let text = format!("{}{}", words(answer.status), answer.said());
        match (verdict, answer.status) {
            // It says nothing of a change: all wait until it lets us in.
            (_, 401 | 403) => Some(all(Error::not_asked(format!("{}: {text}", endpoint.shown()), LOCKED_OUT))),
            (Verdict::Park, _) if part.len() > 1 => None,
            _ => Some(all(endpoint.error(verdict, &answer, text))),
        }
    }

    fn prepared(&self, part: &[(usize, Written)]) -> Result<Prepared> {
        let mut body = Vec::with_capacity(part.iter().map(|(_, operation)| operation.lines.len()).sum());
        part.iter().for_each(|(_, operation)| body.extend_from_slice(&operation.lines));
        let mut headers = self.headers("application/x-ndjson");
        if self.gzip {
            let mut coder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
            coder.write_all(&body)?;
            body = coder.finish()?;
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Prepared { method: Method::POST, target: TARGET.to_owned(), headers, body: body.into() })
    }

    pub(super) fn headers(&self, content_type: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        headers
    }

    /// What became of each.
    fn each(&self, endpoint: &Endpoint, part: &[(usize, Written)], answer: &Answer) -> Vec<Result> {
        let items = items(answer).filter(|items| items.len() == part.len());
        let Some(items) = items else {
            let why = "its answer does not tell of each document; is it Elasticsearch or OpenSearch?";
            return part.iter().map(|_| Err(Error::retry(format!("{}: {why}", endpoint.shown())))).collect();
        };
        let older = part.iter().zip(&items).filter(|(_, item)| item.status == 409 && !self.append);
        if let Some(((_, operation), _)) = older.clone().next() {
            // A repeat has the version it had, and is taken. Only what is read anew from further back, or sent late, is older.
            tracing::warn!(
                index = endpoint.shown(),
                refused = older.count(),
                example = operation.id,
                "documents are newer than changes that come now, and stay. That is as it should be when a source is read anew or a parked change is \
                 retried; if its places have begun anew (another server, a rotated log), name a new index, or say .version_by(..)"
            );
        }
        part.iter().zip(&items).map(|((_, operation), item)| became(endpoint, operation, item)).collect()
    }
}

fn items(answer: &Answer) -> Option<Vec<Item>> {
    let items: Items = serde_json::from_slice(&answer.body).ok().filter(|_| answer.is_whole)?;
    items.items.into_iter().map(|item| item.into_values().next()).collect()
}

/// A whole answer. One in which the cluster had no room for some is more than it takes.
fn judge(answer: &Answer) -> Verdict {
    let has_no_room = || items(answer).is_none_or(|items| items.iter().any(|item| matches!(item.status, 429 | 503)));
    match Policy::default().judge(answer.status) {
        Verdict::Delivered if has_no_room() => Verdict::Retry,
        verdict => verdict,
    }
}

/// What an item means for its change.
fn became(endpoint: &Endpoint, operation: &Written, item: &Item) -> Result {
    let shown = endpoint.shown();
    if item._id != operation.id {
        return Err(Error::retry(format!("{shown}: its answer tells of documents in another order")));
    }
    let (kind, reason) = item.error.as_ref().map_or(("", ""), |error| (&error.kind, &error.reason));
    let said: String = format!("{} {kind}: {reason}", item.status).chars().filter(|c| !c.is_control()).take(1024).collect();
    match item.status {
        200..=299 => Ok(()),
        // Something newer is there, or this very change.
        409 => Ok(()),
        // What is to be deleted is not there, nor its index.
        404 if operation.is_delete && (kind.is_empty() || kind == "index_not_found_exception") => Ok(()),
        429 | 500..=599 => Err(Error::retry(format!("{shown}: {said}"))),
        _ => Err(Error::park(format!("{shown}: {said}"))),
    }
}
