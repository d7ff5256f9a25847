//! What one worker has found: a cache that no other thread touches, so it needs no lock.
//!
//! A key is hashed once. A batch's keys are looked for together, so that the memory they stand in is waited for together.
//! Which entries go when there is no room is a policy, one file each: the adaptive one is a crate's, the others stand on one
//! store (`slots`) that counts entries and bytes.

mod adaptive;
mod key;
mod lfu;
mod list;
mod lru;
mod lru_batch;
mod random;
mod settings;
mod slots;
mod stats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::change::Found;

use adaptive::Adaptive;
use key::Asked;
use lfu::Lfu;
use lru::Lru;
use lru_batch::LruBatch;
use random::Random;
use slots::Slots;

pub use key::Keys;
pub use settings::Cache;
pub(crate) use settings::Policy;
pub use stats::{CacheCounts, CacheStats};

/// Keys that are looked for together: as many misses of memory as a core can have under way, and some more.
const TOGETHER: usize = 16;

/// What an entry takes beside its row and a long key: its slot, its place in the table, and what an allocator adds.
const ENTRY_BYTES: usize = 96;

/// For ever.
const NEVER: u64 = u64::MAX;

/// The cache of one worker.
#[derive(Debug)]
pub struct FoundCache {
    store: Store,
    room: Room,
    hashes: DefaultHashBuilder,
    lives: Lives,
    /// What has been counted since the last [`flush`](Self::flush).
    counts: CacheCounts,
    /// Entries and bytes that were last told.
    told: (u64, u64),
    stats: Arc<CacheStats>,
    warn_at: Option<f64>,
    warned: bool,
    /// Of the keys of the last batch, those whose entry is past its time.
    stale: Vec<u32>,
}

/// A worker's share of the limits.
#[derive(Clone, Copy, Debug)]
struct Room {
    entries: usize,
    /// `u64::MAX`: only entries are counted.
    bytes: u64,
}

/// What an entry holds.
struct Kept {
    found: Arc<Found>,
    /// Microseconds since the cache began.
    until: u64,
}

enum Store {
    Adaptive(Adaptive),
    Lru(Slots<Lru>),
    Lfu(Slots<Lfu>),
    Random(Slots<Random>),
    LruBatch(Slots<LruBatch>),
}

/// Does the same with whichever store it is.
macro_rules! with {
    ($store:expr, $name:ident => $do:expr) => {
        match $store {
            Store::Adaptive($name) => $do,
            Store::Lru($name) => $do,
            Store::Lfu($name) => $do,
            Store::Random($name) => $do,
            Store::LruBatch($name) => $do,
        }
    };
}

impl FoundCache {
    /// The cache of one of `peers` workers, which all add to `stats`.
    pub fn new(cache: &Cache, peers: usize, stats: Arc<CacheStats>, now: Instant) -> Self {
        Self::with_dice(cache, peers, stats, now, SmallRng::from_os_rng())
    }

    fn with_dice(cache: &Cache, peers: usize, stats: Arc<CacheStats>, now: Instant, mut dice: SmallRng) -> Self {
        let room = Room {
            entries: cache.entries.div_ceil(peers),
            bytes: cache.bytes.map_or(u64::MAX, |bytes| bytes.div_ceil(peers as u64)),
        };
        stats.add_room(room.entries as u64, (room.bytes < u64::MAX).then_some(room.bytes));
        let store = match cache.policy {
            Policy::Adaptive => Store::Adaptive(Adaptive::new(room)),
            Policy::Lru => Store::Lru(Slots::new(Lru::new(), room)),
            Policy::Lfu => Store::Lfu(Slots::new(Lfu::new(), room)),
            Policy::Random => Store::Random(Slots::new(Random::new(SmallRng::from_rng(&mut dice)), room)),
            Policy::LruBatch { percent } => Store::LruBatch(Slots::new(LruBatch::new(percent), room)),
        };
        FoundCache {
            store,
            room,
            hashes: DefaultHashBuilder::default(),
            lives: Lives {
                began: now,
                now: 0,
                ttl: cache.ttl,
                negative_ttl: cache.negative_ttl,
                stale: cache.stale.filter(|stale| !stale.is_zero()).map(micros),
                dice,
            },
            counts: CacheCounts::default(),
            told: (0, 0),
            stats,
            warn_at: cache.warn_at,
            warned: false,
            stale: Vec::new(),
        }
    }

    /// A new batch begins at this time. A clock read per change would cost as much as the lookup itself.
    pub fn tick(&mut self, now: Instant) {
        self.lives.now = micros(now.saturating_duration_since(self.lives.began));
    }

    /// Looks for all keys of a batch, and puts what is there into `found`, which comes empty: one answer per key, in order. What is found counts as a
    /// hit; what is not is not counted yet, [`get`](Self::get) does. Of what is found and past its time [`stale`](Self::stale) tells.
    pub fn find(&mut self, keys: &Keys, found: &mut Vec<Option<Arc<Found>>>) {
        let now = self.lives.now;
        // Entries that are used until then are past their time.
        let stale_until = self.lives.stale.map_or(0, |stale| now.saturating_add(stale));
        let (mut hits, stale) = (0, &mut self.stale);
        stale.clear();
        for first in (0..keys.len()).step_by(TOGETHER) {
            let asked: [_; TOGETHER] =
                std::array::from_fn(|index| keys.bytes(first + index).map(|bytes| Asked::of(bytes, &self.hashes)));
            let more = |answer: Option<&Kept>| {
                if let Some(kept) = answer {
                    hits += 1;
                    if kept.until <= stale_until {
                        stale.push(found.len() as u32);
                    }
                }
                found.push(answer.map(|kept| kept.found.clone()));
            };
            with!(&mut self.store, store => store.find(&asked, now, more));
        }
        found.truncate(keys.len());
        self.counts.hits += hits;
        self.counts.stale += self.stale.len() as u64;
    }

    /// Which keys of the last batch were found, and are to be asked for anew meanwhile.
    pub fn stale(&self) -> &[u32] {
        &self.stale
    }

    /// Notes how long it took to find so many keys.
    pub fn took(&mut self, keys: usize, time: Duration) {
        self.counts.lookups_timed += keys as u64;
        self.counts.lookup_ns += time.as_nanos() as u64;
    }

    /// Looks for one key.
    pub fn get(&mut self, key: &str) -> Option<Arc<Found>> {
        let asked = Asked::of(key.as_bytes(), &self.hashes);
        let now = self.lives.now;
        match with!(&mut self.store, store => store.get(&asked)) {
            Some(kept) if kept.until > now => {
                self.counts.hits += 1;
                return Some(kept.found.clone());
            }
            Some(_) => {
                self.counts.expired += 1;
                with!(&mut self.store, store => store.remove(&asked));
            }
            None => {}
        }
        self.counts.misses += 1;
        None
    }

    /// Keeps what was found under a key.
    pub fn put(&mut self, key: &str, found: Arc<Found>) {
        let asked = Asked::of(key.as_bytes(), &self.hashes);
        let row = if found.is_row() { found.size() } else { 0 };
        let until = self.lives.until(found.is_row());
        let hashed = asked.to_hashed();
        let weight = u32::try_from(ENTRY_BYTES + hashed.key.heap() + row).unwrap_or(u32::MAX);
        if until <= self.lives.now || u64::from(weight) > self.room.bytes {
            // What stood there is older than what is known now.
            with!(&mut self.store, store => store.remove(&asked));
            return;
        }
        let kept = Kept { found, until };
        self.counts.evicted += with!(&mut self.store, store => store.insert(hashed, kept, weight, &asked));
        self.counts.inserted += 1;
    }

    /// Entries.
    pub fn len(&self) -> usize {
        with!(&self.store, store => store.len())
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the entries take, about.
    pub fn bytes(&self) -> u64 {
        with!(&self.store, store => store.bytes())
    }

    /// Adds what was counted to the lookup's counts, warns if there is reason to, and returns the hits and misses since
    /// the last time.
    pub fn flush(&mut self, lookup: &str) -> (u64, u64) {
        let counts = std::mem::take(&mut self.counts);
        self.stats.add(&counts);
        let now = (self.len() as u64, self.bytes());
        if now != self.told {
            self.stats.moved(self.told, now);
            self.told = now;
            self.warn(lookup);
        }
        (counts.hits, counts.misses)
    }

    /// Warns when the cache has become fuller than it should be. It warns again only after it was emptier.
    fn warn(&mut self, lookup: &str) {
        let Some(at) = self.warn_at else { return };
        let fill = (self.len() as f64 / self.room.entries as f64).max(self.bytes() as f64 / self.room.bytes as f64);
        if fill < at {
            self.warned &= fill > 0.9 * at;
        } else if !self.warned && self.stats.may_warn(self.lives.now / 1_000) {
            self.warned = true;
            let (entries, bytes) = (self.len(), self.bytes());
            tracing::warn!(
                lookup,
                entries,
                bytes,
                "a worker's cache is {:.0} % full; if the hit rate is low, give it more room with `.cache(..)`",
                100.0 * fill
            );
        }
    }
}

/// How long entries live.
#[derive(Debug)]
struct Lives {
    began: Instant,
    /// Microseconds since then.
    now: u64,
    ttl: Option<Duration>,
    negative_ttl: Option<Duration>,
    /// Microseconds for which an entry is used past its time.
    stale: Option<u64>,
    dice: SmallRng,
}

impl Lives {
    fn until(&mut self, is_row: bool) -> u64 {
        let ttl = if is_row { self.ttl } else { self.negative_ttl.or(self.ttl) };
        let Some(ttl) = ttl else { return NEVER };
        let life = (micros(ttl) as f64 * self.dice.random_range(0.9..=1.1)) as u64;
        // What is not to be kept is not kept stale either.
        self.now.saturating_add(if life == 0 { 0 } else { life.saturating_add(self.stale.unwrap_or(0)) })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("entries", &with!(self, store => store.len())).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
