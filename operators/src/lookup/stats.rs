//! Figures of what one lookup asks its origin; those of its cache are in [`CacheStats`](super::cache::CacheStats).

use std::sync::atomic::{AtomicU64, Ordering};

/// What one lookup of this process has asked its origin.
#[derive(Debug, Default)]
pub struct LoadStats {
    /// Keys asked for at the origin.
    pub loaded: AtomicU64,
    /// Batches of keys asked for.
    pub loads: AtomicU64,
    /// Attempts to ask that failed.
    pub failed: AtomicU64,
    /// Batches that were gathered.
    pub batches: AtomicU64,
    /// Keys in them.
    pub batched: AtomicU64,
    /// Keys that there would have been room for.
    pub room: AtomicU64,
    /// Times that batches were fitted to the origin.
    pub adaptations: AtomicU64,
}

impl LoadStats {
    /// Keys per batch, and the share of the room in them that was used; `None` before the first.
    pub fn batch_mean(&self) -> Option<(f64, f64)> {
        let [batches, keys, room] = [&self.batches, &self.batched, &self.room].map(|count| count.load(Ordering::Relaxed) as f64);
        (batches > 0.0).then(|| (keys / batches, keys / room.max(1.0)))
    }
}

/// What one lookup of this process has asked the cache that it shares.
#[cfg(feature = "redis")]
#[derive(Debug, Default)]
pub struct SharedStats {
    /// Keys that it had a row of, or knew that there is none.
    pub hits: AtomicU64,
    /// Keys that it did not have.
    pub misses: AtomicU64,
    /// Times that it was not asked or told, or gave no answer in time.
    pub failed: AtomicU64,
    /// Of these, times that it refused for good.
    pub refused: AtomicU64,
}

/// What one lookup of this process has asked its cache on disk, and what is in it.
#[cfg(feature = "disk")]
#[derive(Debug, Default)]
pub struct DiskStats {
    /// Keys that it had a row of, or knew that there is none.
    pub hits: AtomicU64,
    /// Keys that it did not have.
    pub misses: AtomicU64,
    /// Times that it could not be asked or told.
    pub failed: AtomicU64,
    /// Entries that had to go for lack of room.
    pub evicted: AtomicU64,
    /// Entries now, those too old to be used among them.
    pub entries: AtomicU64,
    /// Bytes that they take, about.
    pub bytes: AtomicU64,
}

#[cfg(feature = "disk")]
impl DiskStats {
    pub(super) fn holds(&self, entries: u64, bytes: u64) {
        self.entries.store(entries, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}
