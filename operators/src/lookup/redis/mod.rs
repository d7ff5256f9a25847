//! The second tier of a lookup's cache: a Redis that all workers, processes and pipelines share, between what a worker keeps and the origin.
//!
//! It makes nothing slower than it would be without: what it does not answer within its patience is asked of the origin, and a Redis that is away
//! or slow is left alone by a breaker for a while.

mod tier;

use std::time::Duration;

pub use self::tier::RedisTier;
use crate::redis::Url;
use crate::{Error, Result};

/// A cache in Redis, and how long it keeps rows. See [`Lookup::shared_cache`](super::Lookup::shared_cache).
///
/// ```
/// use std::time::Duration;
/// use highwater_operators::lookup::{Cache, Lookup, RedisCache, load};
/// use highwater_operators::row::Fields;
/// let shared = RedisCache::at("redis://localhost:6379/0").ttl(Duration::from_secs(1800)).negative_ttl(Duration::from_secs(10));
/// let lookup = Lookup::by("customer_id")
///     .from(load(|keys: Vec<String>| async move { Ok(keys.iter().map(|_| None).collect()) }))
///     .cache(Cache::lru(100_000).ttl(Duration::from_secs(60)))
///     .shared_cache(shared);
/// assert!(lookup.problems().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct RedisCache {
    pub(super) url: Result<Url, String>,
    pub(super) ttl: Duration,
    pub(super) negative_ttl: Option<Duration>,
    pub(super) prefix: Option<String>,
    pub(super) patience: Duration,
}

impl RedisCache {
    /// A cache in the Redis of this URL, `redis://user:password@host:port/db`; it keeps rows for ten minutes, and so "there is none".
    pub fn at(url: impl AsRef<str>) -> Self {
        RedisCache {
            url: Url::parse(url.as_ref()).map_err(|error| error.to_string()),
            ttl: Duration::from_secs(600),
            negative_ttl: None,
            prefix: None,
            patience: Duration::from_millis(100),
        }
    }

    /// Keeps rows for so long, give or take a tenth, so that what was loaded together does not expire together. A worker's own cache counts
    /// its time from when it got the row: together they may be as old as both.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Keeps "there is none" for so long, give or take a tenth; zero keeps no such answer. Default: as for rows.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// What its keys have behind `highwater:cache:`. Default: names of the pipeline and the lookup. Lookups of one prefix share their rows: they must have
    /// the same origin.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long an answer may take before the origin is asked. Default: 100 ms.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What is wrong with it, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.url.as_ref().err().cloned().into_iter().collect();
        if self.ttl < Duration::from_millis(1) {
            problems.push("its shared cache keeps rows for less than a millisecond; give it a ttl, or leave it out".to_owned());
        }
        problems
    }

    /// The tier for a lookup.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn open(&self, pipeline: &str, lookup: &str) -> Result<RedisTier> {
        let url = self.url.as_ref().map_err(|problem| Error::stop(problem.clone()))?;
        Ok(RedisTier::new(self, url, pipeline, lookup))
    }
}
