//! Jobs in Redis: lists, sets and hashes under one prefix, changed by scripts alone (`scripts`; `common.lua` says which key is what).

mod check;
mod scripts;
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use highwater_operators::action::BoxFuture;
use highwater_operators::checkpoint::store::{Cause, Parked};
use highwater_operators::redis::{Connection, Url, failed};
use highwater_operators::{Change, Error, Result};
use parking_lot::Mutex;
use redis::{FromRedisValue, Script, ScriptInvocation, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::job::{self, Content, Lane, decode};
use super::store::{
    BATCH_MAX, Claim, Counts, Enqueued, Fate, JobNumber, JobStore, Leased, NewJob, Reason, Remember, Settlement, Taken,
};

/// Jobs in a Redis, under keys that begin with `highwater:{NAME}:`.
///
/// # What it promises
/// What the contract says, as far as Redis keeps what it has acknowledged: with `appendonly yes` and `appendfsync always` over a `kill -9` and a
/// power loss; with `appendfsync everysec` over a `kill -9` of the server, but for what it had not written out while a sync was under way. A
/// server that removes keys for want of memory is refused. After a fail-over, what the replica had not yet got is lost.
pub struct RedisJobStore {
    url: Url,
    queue: String,
    prefix: String,
    remember: Remember,
    connection: Connection,
    /// The number of the connection that was looked at last.
    checked: AtomicU64,
    /// What the queue was known by then.
    state: Mutex<Option<String>>,
    came: Arc<Notify>,
    listens: AtomicBool,
}

impl RedisJobStore {
    /// The jobs of `queue` in the Redis of `url`. Nothing is opened yet.
    ///
    /// # Errors
    /// Of kind stop if the URL cannot be read.
    pub fn new(url: &str, queue: &str, remember: Remember) -> Result<Self> {
        let url = Url::parse(url)?;
        let connection = Connection::new(&url, &format!("queue {queue}"));
        Ok(RedisJobStore {
            url,
            queue: queue.to_owned(),
            prefix: format!("highwater:{{{queue}}}:"),
            remember,
            connection,
            checked: AtomicU64::new(0),
            state: Mutex::default(),
            came: Arc::default(),
            listens: AtomicBool::new(false),
        })
    }

    /// Runs a script with what `arguments` adds to it.
    async fn run<T: FromRedisValue>(
        &self,
        doing: &str,
        script: &'static Script,
        arguments: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T> {
        let line = self.connection.line().await?;
        if line.number() != self.checked.load(Ordering::Acquire) {
            self.look(&line).await?;
        }
        let mut invocation = script.key(&self.prefix);
        arguments(&mut invocation);
        let mut connection = self.connection.clone();
        let what = || format!("{doing} queue \"{}\" at {}", self.queue, self.url);
        let limit = self.url.response_timeout();
        let ran = tokio::time::timeout(limit, invocation.invoke_async(&mut connection)).await;
        match ran {
            Ok(ran) => ran.map_err(|error| failed(&what(), &error)),
            Err(_) => Err(Error::retry(format!("{}: no answer within {limit:?} (response_timeout)", what()))),
        }
    }

    /// Looks whether jobs are safe where a new connection leads.
    async fn look(&self, line: &highwater_operators::redis::Line) -> Result {
        let found = check::check(line, &self.queue, &self.prefix).await?;
        let before = self.state.lock().replace(found.clone());
        if before.is_some_and(|before| before != found) {
            let queue = &self.queue;
            tracing::error!(
                queue,
                "the queue is another one than before: Redis was emptied, or lost what it had; jobs that were in it are gone"
            );
        }
        self.checked.store(line.number(), Ordering::Release);
        Ok(())
    }

    fn remembered(&self, invocation: &mut ScriptInvocation<'_>) {
        invocation.arg(millis(self.remember.time)).arg(self.remember.most);
    }

    /// The jobs that are parked under these numbers, with what is in them.
    async fn contents(&self, parked: &[JobNumber]) -> Result<Vec<(JobNumber, Content)>> {
        let mut command = redis::cmd("HMGET");
        command.arg(format!("{}jobs", self.prefix)).arg(parked);
        let bodies: Vec<Option<Vec<u8>>> = self.connection.query("reading parked jobs", &command).await?;
        let known = parked.iter().zip(bodies).filter_map(|(number, body)| Some((*number, body?)));
        Ok(known.map(|(number, body)| (number, decode(&body).unwrap_or_else(|_| job::unreadable(number)))).collect())
    }
}

/// Why a job is parked, as it is kept.
#[derive(Serialize, Deserialize)]
struct Why {
    cause: String,
    error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    attempts: u32,
}

impl JobStore for RedisJobStore {
    fn place(&self) -> String {
        format!("queue \"{}\" at {}", self.queue, self.url)
    }

    fn open(&self) -> BoxFuture<'_, Result> {
        Box::pin(async move {
            let line = self.connection.line().await?;
            self.look(&line).await
        })
    }

    fn enqueue<'a>(&'a self, jobs: &'a [NewJob]) -> BoxFuture<'a, Result<Vec<Enqueued>>> {
        Box::pin(async move {
            if jobs.is_empty() {
                return Ok(Vec::new());
            }
            let answers: Vec<u8> = self
                .run("putting jobs in", &scripts::ENQUEUE, |invocation| {
                    for job in jobs {
                        invocation.arg(&job.id).arg(lane(job.lane.as_ref())).arg(millis(job.delay)).arg(&job.body[..]);
                    }
                })
                .await?;
            Ok(answers.into_iter().map(|new| if new == 1 { Enqueued::New } else { Enqueued::Known }).collect())
        })
    }

    fn take(&self, most: usize, lease: Duration) -> BoxFuture<'_, Result<Taken>> {
        Box::pin(async move {
            let answer: Vec<Value> = self
                .run("taking jobs from", &scripts::TAKE, |invocation| {
                    invocation.arg(most.min(BATCH_MAX)).arg(lease_ms(lease));
                })
                .await?;
            taken(answer)
                .ok_or_else(|| Error::stop(format!("{}: its script answers otherwise than this program expects", self.place())))
        })
    }

    fn renew<'a>(&'a self, held: &'a [Claim], lease: Duration) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move {
            if held.is_empty() {
                return Ok(Vec::new());
            }
            self.run("renewing leases of", &scripts::RENEW, |invocation| {
                invocation.arg(lease_ms(lease));
                for claim in held {
                    invocation.arg(claim.number).arg(claim.fence);
                }
            })
            .await
        })
    }

    fn settle<'a>(&'a self, settled: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(async move {
            if settled.is_empty() {
                return Ok(Vec::new());
            }
            self.run("settling jobs of", &scripts::SETTLE, |invocation| {
                self.remembered(invocation);
                for settlement in settled {
                    add(invocation, settlement);
                }
            })
            .await
        })
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts>> {
        Box::pin(async move {
            let counted: (u64, u64, u64, u64, u64, Vec<u8>, u64) = self.run("counting jobs of", &scripts::COUNTS, |_| ()).await?;
            let (ready, later, in_flight, parked, all, first, now) = counted;
            let age =
                decode(&first).map(|first| Duration::from_millis(now.saturating_sub(first.enqueued_ms))).unwrap_or_default();
            Ok(Counts { ready, later, behind: all.saturating_sub(ready + later + in_flight + parked), in_flight, parked, age })
        })
    }

    fn parked(&self, after: JobNumber, most: usize) -> BoxFuture<'_, Result<Vec<Parked>>> {
        Box::pin(async move {
            let answer: Vec<Value> = self
                .run("reading parked jobs of", &scripts::PARKED, |invocation| {
                    invocation.arg(after).arg(most);
                })
                .await?;
            let mut values = answer.into_iter();
            let mut parked = Vec::new();
            while let (Some(number), Some(body), Some(why)) =
                (next::<u64>(&mut values), next::<Vec<u8>>(&mut values), next::<String>(&mut values))
            {
                let (at_ms, why) = why.split_once(' ').unwrap_or_default();
                parked.push(job::parked(number, &body, reason(why), at_ms.parse().unwrap_or_default()));
            }
            Ok(parked)
        })
    }

    fn retry<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut retried = 0;
            for some in parked.chunks(BATCH_MAX) {
                // From the first on: of those of a lane it is the next again.
                let contents = self.contents(some).await?;
                let add = |invocation: &mut ScriptInvocation<'_>| {
                    for (number, content) in &contents {
                        invocation.arg(number).arg(lane(content.lane().as_ref()));
                    }
                };
                retried += self.run::<u64>("retrying parked jobs of", &scripts::RETRY, add).await?;
            }
            Ok(retried)
        })
    }

    fn discard<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut discarded = 0;
            for some in parked.chunks(BATCH_MAX) {
                let contents = self.contents(some).await?;
                let add = |invocation: &mut ScriptInvocation<'_>| {
                    self.remembered(invocation);
                    for (number, content) in &contents {
                        invocation.arg(number).arg(&content.id).arg(lane(content.lane().as_ref()));
                    }
                };
                discarded += self.run::<u64>("dropping parked jobs of", &scripts::DISCARD, add).await?;
            }
            Ok(discarded)
        })
    }

    fn edit<'a>(&'a self, parked: JobNumber, change: &'a Change) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let Some((_, content)) = self.contents(&[parked]).await?.pop() else { return Ok(false) };
            let body: Bytes = job::encode(&Content { change: change.clone(), ..content })?;
            self.run("editing a job of", &scripts::EDIT, |invocation| {
                invocation.arg(parked).arg(&body[..]);
            })
            .await
        })
    }

    fn arrived(&self, most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if !self.listens.swap(true, Ordering::Relaxed) {
                wake::listen(&self.url, &self.queue, format!("{}wake", self.prefix), &self.came);
            }
            let _ = tokio::time::timeout(most, self.came.notified()).await;
        })
    }
}

/// What a settlement is to the script.
fn add(invocation: &mut ScriptInvocation<'_>, settlement: &Settlement) {
    let Settlement { claim, id, lane: of, fate } = settlement;
    let (number, wait, why) = match fate {
        Fate::Finished => (0, Duration::ZERO, String::new()),
        Fate::Retry(wait) => (1, *wait, String::new()),
        Fate::Released(wait) => (2, *wait, String::new()),
        Fate::Parked(Reason { cause, error, response, attempts }) => {
            let (cause, error, response) = (cause.word().to_owned(), error.clone(), response.clone());
            let why = Why { cause, error, response, attempts: *attempts };
            (3, Duration::ZERO, serde_json::to_string(&why).unwrap_or_default())
        }
    };
    let hold = u8::from(of.as_ref().is_some_and(|lane| lane.hold));
    invocation.arg(claim.number).arg(claim.fence).arg(number).arg(millis(wait));
    invocation.arg(id).arg(lane(of.as_ref())).arg(hold).arg(why);
}

/// A lane as scripts know it.
fn lane(lane: Option<&Lane>) -> String {
    lane.map_or_else(|| "-".to_owned(), |lane| format!("={}", lane.key))
}

fn reason(why: &str) -> Reason {
    match serde_json::from_str::<Why>(why) {
        Ok(Why { cause, error, response, attempts }) => {
            Reason { cause: Cause::of(&cause).unwrap_or(Cause::Failed), error, response, attempts }
        }
        Err(_) => Reason { cause: Cause::Failed, error: "why cannot be read".to_owned(), response: None, attempts: 0 },
    }
}

/// What the script that takes has answered.
fn taken(answer: Vec<Value>) -> Option<Taken> {
    let mut jobs = Vec::with_capacity(answer.len() / 5);
    let mut values = answer.into_iter();
    let wait: i64 = next(&mut values)?;
    while values.len() > 0 {
        let claim = Claim { number: next(&mut values)?, fence: next(&mut values)? };
        let (attempt, returned, body) = (next(&mut values)?, next(&mut values)?, next(&mut values)?);
        jobs.push(Leased { claim, attempt, returned, body });
    }
    Some(Taken { jobs, next: u64::try_from(wait).ok().map(Duration::from_millis) })
}

/// The next of an answer's values.
fn next<T: FromRedisValue>(values: &mut std::vec::IntoIter<Value>) -> Option<T> {
    T::from_redis_value(values.next()?).ok()
}

/// Whole milliseconds that are not less.
fn millis(time: Duration) -> u64 {
    // Beyond a thousand years numbers in scripts are not exact.
    (time.as_micros().div_ceil(1_000) as u64).min(1_000 * 365 * 86_400_000)
}

/// A lease in the server's milliseconds, which it may have begun already: never shorter than it is for who asked.
fn lease_ms(lease: Duration) -> u64 {
    millis(lease) + u64::from(!lease.is_zero())
}

impl std::fmt::Debug for RedisJobStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisJobStore({})", self.place())
    }
}
