//! The counts of one lookup's caches, over all workers of a process. Workers add to them once per batch.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts of the caches of one lookup, since the process began.
#[derive(Debug, Default)]
pub struct CacheStats {
    hits: AtomicU64,
    misses: AtomicU64,
    expired: AtomicU64,
    stale: AtomicU64,
    inserted: AtomicU64,
    evicted: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    entries_max: AtomicU64,
    bytes_max: AtomicU64,
    lookups_timed: AtomicU64,
    lookup_ns: AtomicU64,
    warned_ms: AtomicU64,
}

/// [`CacheStats`] as they were at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Keys that were found.
    pub hits: u64,
    /// Keys that were not, or no more.
    pub misses: u64,
    /// Of the misses, those whose entry was too old.
    pub expired: u64,
    /// Of the keys that were found, those whose entry was past its time, and is asked for anew.
    pub stale: u64,
    /// Entries taken in, also in the place of an older one.
    pub inserted: u64,
    /// Entries that had to go for lack of room.
    pub evicted: u64,
    /// Entries now, those too old to be used among them.
    pub entries: u64,
    /// Bytes that the entries take now, about.
    pub bytes: u64,
    /// Entries there may be.
    pub entries_max: u64,
    /// Bytes that the entries may take; `None` if only entries are counted.
    pub bytes_max: Option<u64>,
    /// Keys whose time was measured, batch by batch.
    pub lookups_timed: u64,
    /// Nanoseconds those took.
    pub lookup_ns: u64,
}

impl CacheCounts {
    /// Share of the keys that were found, 0 to 1; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let asked = self.hits + self.misses;
        (asked > 0).then(|| self.hits as f64 / asked as f64)
    }

    /// What one lookup in a cache takes, on average over batches, without the loading of what is missing.
    pub fn lookup_mean(&self) -> Option<Duration> {
        self.lookup_ns.checked_div(self.lookups_timed).map(Duration::from_nanos)
    }

    /// How full the caches are, 0 to 1, by entries or bytes, whichever is more.
    pub fn fill(&self) -> f64 {
        let share = |now: u64, max: u64| if max == 0 { 0.0 } else { now as f64 / max as f64 };
        share(self.entries, self.entries_max).max(self.bytes_max.map_or(0.0, |max| share(self.bytes, max)))
    }
}

impl CacheStats {
    /// The counts now. Each is exact; they are not of one instant.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            expired: self.expired.load(Relaxed),
            stale: self.stale.load(Relaxed),
            inserted: self.inserted.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            entries_max: self.entries_max.load(Relaxed),
            bytes_max: Some(self.bytes_max.load(Relaxed)).filter(|max| *max > 0),
            lookups_timed: self.lookups_timed.load(Relaxed),
            lookup_ns: self.lookup_ns.load(Relaxed),
        }
    }

    /// A worker's cache with so much room is there now.
    pub(super) fn add_room(&self, entries: u64, bytes: Option<u64>) {
        self.entries_max.fetch_add(entries, Relaxed);
        self.bytes_max.fetch_add(bytes.unwrap_or(0), Relaxed);
    }

    pub(super) fn add(&self, counts: &CacheCounts) {
        let pairs = [
            (&self.hits, counts.hits),
            (&self.misses, counts.misses),
            (&self.expired, counts.expired),
            (&self.stale, counts.stale),
            (&self.inserted, counts.inserted),
            (&self.evicted, counts.evicted),
            (&self.lookups_timed, counts.lookups_timed),
            (&self.lookup_ns, counts.lookup_ns),
        ];
        for (total, more) in pairs.into_iter().filter(|(_, more)| *more > 0) {
            total.fetch_add(more, Relaxed);
        }
    }

    /// One worker's cache went from so many entries and bytes to so many.
    pub(super) fn moved(&self, from: (u64, u64), to: (u64, u64)) {
        // Differences below zero wrap, and so do sums.
        self.entries.fetch_add(to.0.wrapping_sub(from.0), Relaxed);
        self.bytes.fetch_add(to.1.wrapping_sub(from.1), Relaxed);
    }

    /// Whether it is time to warn, at this many milliseconds since the caches began: once a minute, over all workers.
    pub(super) fn may_warn(&self, now_ms: u64) -> bool {
        let last = self.warned_ms.load(Relaxed);
        let now = now_ms + 1;
        (last == 0 || now >= last + 60_000) && self.warned_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }
}
