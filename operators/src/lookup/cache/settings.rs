//! What a lookup keeps: how much, for how long, and what goes first.

use std::time::Duration;

/// What a lookup keeps on each worker. Found rows and "there is none" are kept alike, unless [`negative_ttl`](Self::negative_ttl)
/// says otherwise.
///
/// Limits are over all workers of a process: each has its share, and a row that several workers need stands in each.
///
/// ```
/// use std::time::Duration;
/// use highwater_operators::lookup::Cache;
/// let customers = Cache::entries(100_000)
///     .bytes(256 << 20)
///     .ttl(Duration::from_secs(300))
///     .negative_ttl(Duration::from_secs(10))
///     .warn_at(0.85);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cache {
    pub(crate) policy: Policy,
    pub(crate) entries: usize,
    pub(crate) bytes: Option<u64>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) stale: Option<Duration>,
    pub(crate) warn_at: Option<f64>,
}

/// What goes first when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Adaptive,
    Lru,
    Lfu,
    Random,
    LruBatch { percent: u8 },
}

impl Cache {
    /// Keeps so many entries; which ones, an adaptive policy decides, which follows popularity and lets scans pass. The
    /// default choice: on no trace that was measured is it far from the best.
    pub fn entries(entries: usize) -> Self {
        Self::with(Policy::Adaptive, entries)
    }

    /// Keeps so many entries; the least recently used goes first. For a large cache under quickly changing popularity.
    pub fn lru(entries: usize) -> Self {
        Self::with(Policy::Lru, entries)
    }

    /// Keeps so many entries; the least frequently used goes first, where what was long ago counts less. For popularity that
    /// stays.
    pub fn lfu(entries: usize) -> Self {
        Self::with(Policy::Lfu, entries)
    }

    /// Keeps so many entries; any of them goes. For keys that are all as popular, and for loops longer than the cache.
    pub fn random(entries: usize) -> Self {
        Self::with(Policy::Random, entries)
    }

    /// Keeps so many entries; when there is no room, the tenth that was used least recently goes at once. Its hits cost less than
    /// those of [`lru`](Self::lru), its misses more.
    pub fn lru_batch(entries: usize) -> Self {
        Self::with(Policy::LruBatch { percent: 10 }, entries)
    }

    fn with(policy: Policy, entries: usize) -> Self {
        Cache { policy, entries: entries.max(1), bytes: None, ttl: None, negative_ttl: None, stale: None, warn_at: None }
    }

    /// The share of entries that [`lru_batch`](Self::lru_batch) removes at once, 1 to 100 percent; other policies remove
    /// one by one. Default: 10.
    pub fn batch_eviction(mut self, percent: u8) -> Self {
        if let Policy::LruBatch { percent: of_all } = &mut self.policy {
            *of_all = percent.clamp(1, 100);
        }
        self
    }

    /// Keeps at most so many bytes, beside the limit of entries: keys, rows and what it takes to find them. What alone is
    /// larger than a worker's share is not kept.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Asks again for what is older than this, give or take a tenth, so that what was loaded together does not expire
    /// together. Default: never.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Asks again for what was not there after this long, give or take a tenth; zero keeps no such answer. Default: as for
    /// rows.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Uses what is past its [`ttl`](Self::ttl) for so long still, while it is asked for anew: then no change waits for a row that was there, and one may be
    /// given a row that is older by this much. Once it is used no more, changes wait as for what never was there. Default: not at all.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.stale = Some(time);
        self
    }

    /// Warns, at most once a minute, when a worker's cache becomes this full, as a share (0.85) of its entries or bytes.
    /// Default: never.
    pub fn warn_at(mut self, share: f64) -> Self {
        self.warn_at = Some(share);
        self
    }
}
