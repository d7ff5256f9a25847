//! What one worker has found: a cache that no other thread touches, so it needs no lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use quick_cache::{UnitWeighter, unsync};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::change::Found;
use crate::lookup::Cache;

pub(crate) struct FoundCache {
    /// Hashed by hashbrown's own hasher: the standard library's costs three times as much on short keys.
    entries: unsync::Cache<Box<str>, Entry, UnitWeighter, DefaultHashBuilder>,
    ttl: Option<Duration>,
    /// Read once per batch: a clock read per change would cost as much as the lookup itself.
    now: Instant,
    jitter: SmallRng,
}

#[derive(Clone)]
struct Entry {
    found: Arc<Found>,
    until: Option<Instant>,
}

impl FoundCache {
    pub(crate) fn new(cache: Cache, peers: usize) -> Self {
        FoundCache {
            entries: unsync::Cache::with(
                cache.entries.div_ceil(peers),
                cache.entries.div_ceil(peers) as u64,
                UnitWeighter,
                DefaultHashBuilder::default(),
                unsync::DefaultLifecycle::default(),
            ),
            ttl: cache.ttl,
            now: Instant::now(),
            jitter: SmallRng::from_os_rng(),
        }
    }

    /// A new batch begins: looks at the clock.
    pub(crate) fn tick(&mut self, now: impl FnOnce() -> Instant) {
        if self.ttl.is_some() {
            self.now = now();
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Found>> {
        let entry = self.entries.get(key)?;
        entry.until.is_none_or(|until| until > self.now).then(|| entry.found.clone())
    }

    pub(crate) fn put(&mut self, key: String, found: Arc<Found>) {
        let until = self.ttl.map(|ttl| self.now + ttl.mul_f64(self.jitter.random_range(0.9..=1.1)));
        self.entries.insert(key.into_boxed_str(), Entry { found, until });
    }
}
