//! What can be said of a queue.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::guard::backoff::Backoff;
#[cfg(feature = "postgres")]
use highwater_operators::postgres::PoolConfig;
use highwater_operators::{Error, Result};

use super::memory::MemoryJobStore;
use super::queue::JobQueue;
use super::store::{JobStore, Remember};

/// What was said of a queue.
#[derive(Clone)]
pub(super) struct Settings {
    pub kept: Kept,
    pub name: String,
    pub workers: usize,
    /// Whether jobs of a key are done in order, and then whether they wait behind a parked one.
    pub order: Option<bool>,
    pub delay: Duration,
    pub attempts: u32,
    pub backoff: Backoff,
    pub lease: Duration,
    pub timeout: Duration,
    pub remember: Remember,
    pub job_bytes_max: usize,
}

/// Where jobs are kept.
#[derive(Clone)]
pub(super) enum Kept {
    Memory,
    #[cfg(feature = "postgres")]
    Postgres(String),
    #[cfg(feature = "redis")]
    Redis(String),
    Own(Arc<dyn JobStore>),
}

/// The shortest lease: below it, a hiccup of the network loses jobs.
const LEASE_MIN: Duration = Duration::from_millis(100);

impl Settings {
    pub(super) fn new(kept: Kept, workers: usize) -> Self {
        Settings {
            kept,
            name: "jobs".to_owned(),
            workers,
            order: None,
            delay: Duration::ZERO,
            attempts: 5,
            backoff: Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) },
            lease: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            remember: Remember::default(),
            job_bytes_max: 1 << 20,
        }
    }

    /// What is wrong, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let name = &self.name;
        if name.is_empty() || name.len() > 200 || name.contains(['{', '}', '\0']) {
            problems.push(format!("\"{name}\" is no name of a queue: give it 1 to 200 bytes without braces"));
        }
        if self.workers == 0 {
            problems.push("it has 0 workers: give it at least 1".to_owned());
        }
        if self.lease < LEASE_MIN {
            problems.push(format!("its lease is {:?}; it must be {LEASE_MIN:?} at least", self.lease));
        }
        if self.timeout.is_zero() {
            problems.push("its timeout is 0: give it the time that one attempt may take".to_owned());
        }
        if self.job_bytes_max == 0 {
            problems.push("its job_bytes_max is 0: no job could be enqueued".to_owned());
        }
        if let Err(error) = self.store() {
            problems.push(error.to_string());
        }
        problems
    }

    /// Where its jobs are kept. Nothing is opened.
    pub(super) fn store(&self) -> Result<Arc<dyn JobStore>> {
        Ok(match &self.kept {
            Kept::Memory => Arc::new(MemoryJobStore::new().remember(self.remember)),
            #[cfg(feature = "postgres")]
            Kept::Postgres(url) => {
                let max_connections = 8;
                let pool = PoolConfig { min_connections: 1, max_connections, connection_timeout: TRIED, ..PoolConfig::default() };
                Arc::new(super::postgres::PostgresJobStore::new(url, &self.name, self.remember, pool)?)
            }
            #[cfg(feature = "redis")]
            Kept::Redis(url) => Arc::new(super::redis::RedisJobStore::new(url, &self.name, self.remember)?),
            Kept::Own(store) => store.clone(),
        })
    }

    pub(super) fn check(&self) -> Result {
        match self.problems() {
            problems if problems.is_empty() => Ok(()),
            problems => Err(Error::stop(format!("queue \"{}\": {}", self.name, problems.join("; ")))),
        }
    }
}

/// How long a call waits for a database that is away before it says so.
#[cfg(feature = "postgres")]
const TRIED: Duration = Duration::from_secs(10);

impl JobQueue {
    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.open = Arc::default();
        self
    }

    /// Its name: queues of other names at the same place have nothing to do with it. Default: `jobs`.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.name = name.into())
    }

    /// Jobs of one key are done in the order in which they were enqueued, one at a time; those of different keys side by side. The next one
    /// is not taken while the one before is being done or waits for its next attempt; when that is parked, the next ones go on. It holds for jobs
    /// enqueued by a queue of which this is said. Default: in any order.
    pub fn ordered(self) -> Self {
        self.with(|settings| settings.order = Some(settings.order.unwrap_or(false)))
    }

    /// As [`ordered`](Self::ordered), and when a job is parked, later ones of its key wait until it is retried with success, or dropped.
    pub fn hold(self) -> Self {
        self.with(|settings| settings.order = Some(true))
    }

    /// How long a job may not be taken after it was enqueued. Default: not at all.
    pub fn delay(self, delay: Duration) -> Self {
        self.with(|settings| settings.delay = delay)
    }

    /// Attempts before a job is parked; those whose worker died are counted. Default: 5.
    pub fn attempts(self, attempts: u32) -> Self {
        self.with(|settings| settings.attempts = attempts.max(1))
    }

    /// The waits between attempts: full jitter up to `base`, doubling, at most `max`. Default: 1 s and 5 minutes.
    pub fn backoff(self, base: Duration, max: Duration) -> Self {
        self.with(|settings| settings.backoff = Backoff { base, max })
    }

    /// For how long a job is given to a worker, which renews that while it works: so long after a worker died, at most, its jobs come back.
    /// Default: 30 s.
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|settings| settings.lease = lease)
    }

    /// How long one attempt may take. Default: 10 minutes.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.timeout = timeout)
    }

    /// How long ids of jobs that are no more are remembered: a job whose id is known is not enqueued again. For `time`, or until `most` more were
    /// done, whichever is shorter. Default: 24 hours, 500,000.
    ///
    /// A pipeline enqueues again only what it had enqueued and not noted when it was killed: the last few before it died. So this must reach
    /// over the time that it may stand still, and over as many jobs as others have done meanwhile.
    pub fn remember(self, time: Duration, most: usize) -> Self {
        self.with(|settings| settings.remember = Remember { time, most })
    }

    /// The largest job, in bytes; a change that would become a larger one is parked. Default: 1 MiB.
    pub fn job_bytes_max(self, bytes: usize) -> Self {
        self.with(|settings| settings.job_bytes_max = bytes)
    }
}
