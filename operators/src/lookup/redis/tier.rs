//! Asking it, and telling it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use redis::{Pipeline, cmd};

use super::RedisCache;
use crate::change::Found;
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::guard::breaker::BreakerConfig;
use crate::guard::concurrency::ConcurrencyConfig;
use crate::guard::endpoint::{Failure, Guard, GuardConfig};
use crate::guard::timeouts::TimeoutsConfig;
use crate::lookup::stats::SharedStats;
use crate::lookup::value::{Names, encode};
use crate::redis::{Connection, Url};
use crate::{Error, Result};

/// What all keys begin with.
const PREFIX: &str = "highwater:cache:";

/// How long it is left alone once it has failed some times in a row.
const RESET_AFTER: Duration = Duration::from_secs(2);

/// A cache in Redis as one lookup of this process uses it.
pub struct RedisTier {
    connection: Connection,
    guard: Arc<Guard>,
    prefix: String,
    ttl: Duration,
    negative_ttl: Duration,
    names: Names,
    stats: Arc<SharedStats>,
}

impl RedisTier {
    pub(super) fn new(cache: &RedisCache, url: &Url, pipeline: &str, lookup: &str) -> Self {
        let prefix = cache.prefix.clone().unwrap_or_else(|| format!("{pipeline}:{lookup}"));
        let config = GuardConfig {
            breaker: BreakerConfig { reset_after: RESET_AFTER, probes: 1, ..BreakerConfig::default() },
            // A cache that is slower than its patience is none: no more is waited, whatever is usual.
            timeouts: TimeoutsConfig { min: cache.patience, max: cache.patience, ..TimeoutsConfig::default() },
            concurrency: ConcurrencyConfig::default(),
            patience: cache.patience,
            ..GuardConfig::default()
        };
        RedisTier {
            connection: Connection::new(url, &format!("{lookup}-cache")),
            guard: Guard::new(format!("lookup {lookup} {url}"), config, Clock::default()),
            prefix: format!("{PREFIX}{prefix}:"),
            ttl: cache.ttl,
            negative_ttl: cache.negative_ttl.unwrap_or(cache.ttl),
            names: Names::default(),
            stats: Arc::default(),
        }
    }

    /// What it has of these keys, and the keys that the origin is to be asked for: all of them, if it does not answer in time.
    pub async fn get(&self, stage: &Arc<str>, keys: Vec<String>) -> (Vec<(String, Arc<Found>)>, Vec<String>) {
        let values = match self.ask(&keys).await {
            Ok(values) => values,
            Err(error) => {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(lookup = %stage, %error, "the shared cache gives no answer");
                return (Vec::new(), keys);
            }
        };
        let (found, missing) = self.names.sort(stage, keys, values.iter().map(Option::as_deref));
        self.stats.hits.fetch_add(found.len() as u64, Ordering::Relaxed);
        self.stats.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        (found, missing)
    }

    async fn ask(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut mget = cmd("MGET");
        let mut key = String::new();
        for asked in keys {
            self.key(asked, &mut key);
            mget.arg(&key);
        }
        let what = format!("asking the cache {}", self.connection.url());
        let values: Vec<Option<Vec<u8>>> = self.guarded(self.connection.query(&what, &mget)).await?;
        if values.len() == keys.len() {
            Ok(values)
        } else {
            Err(Error::retry(format!("{what}: it gave another number of values")))
        }
    }

    /// Keeps what the origin gave: rows, and that there is none. What could not be loaded is not kept.
    pub async fn put(&self, loaded: &[(String, Arc<Found>)]) {
        let mut pipeline = Pipeline::with_capacity(loaded.len());
        let mut key = String::new();
        for (asked, found) in loaded.iter().filter(|(_, found)| found.failure().is_none()) {
            let row = found.fields();
            let life = jittered(if row.is_some() { self.ttl } else { self.negative_ttl });
            if life > 0 {
                self.key(asked, &mut key);
                pipeline.cmd("SET").arg(&key).arg(encode(row)).arg("PX").arg(life).ignore();
            }
        }
        if pipeline.is_empty() {
            return;
        }
        let what = format!("writing to the cache {}", self.connection.url());
        let told = async {
            let line = self.connection.line().await?;
            line.pipeline(&what, &pipeline).await?.into_iter().try_for_each(|answer| line.answer::<()>(&what, answer))
        };
        if let Err(error) = self.guarded(told).await {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "the shared cache was not told");
        }
    }

    /// One call, as long as patience goes; none while the breaker is open.
    async fn guarded<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let entry = self.guard.enter(false).await.map_err(|refused| Error::not_asked(refused.why, refused.wait))?;
        match tokio::time::timeout(entry.timeout(), call).await {
            Ok(Ok(answer)) => {
                entry.succeeded();
                Ok(answer)
            }
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::Stop && self.stats.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    // A cache is no reason to stop; nobody would find out why it is of no use.
                    tracing::warn!(%error, "a lookup goes without its shared cache");
                }
                entry.failed(Failure::Connection, &error.to_string());
                Err(error)
            }
            Err(_) => {
                let why = format!("the cache {}: no answer in time (patience)", self.connection.url());
                entry.failed(Failure::Timeout, &why);
                Err(Error::retry(why))
            }
        }
    }

    fn key(&self, key: &str, to: &mut String) {
        to.clear();
        let _ = write!(to, "{}{key}", self.prefix);
    }

    /// What was asked of it so far.
    pub fn stats(&self) -> &Arc<SharedStats> {
        &self.stats
    }

    /// The same, counted where it can be seen.
    pub(crate) fn counted_by(mut self, stats: Arc<SharedStats>) -> Self {
        self.stats = stats;
        self
    }
}

/// A life give or take a tenth, in milliseconds.
fn jittered(life: Duration) -> u64 {
    // Redis counts milliseconds in a signed number, and from 1970.
    let ms = life.as_millis().min(100 * 365 * 24 * 3_600_000) as f64;
    (ms * rand::rng().random_range(0.9..1.1)) as u64
}

impl std::fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisTier({})", self.connection.url())
    }
}
