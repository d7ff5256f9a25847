//! Figures of what one lookup asks its origin; those of its cache are in [`CacheStats`](super::cache::CacheStats).

use std::sync::atomic::AtomicU64;

/// What one lookup of this process has asked its origin.
#[derive(Debug, Default)]
pub struct LoadStats {
    /// Keys asked for at the origin.
    pub loaded: AtomicU64,
    /// Batches of keys asked for.
    pub loads: AtomicU64,
    /// Attempts to ask that failed.
    pub failed: AtomicU64,
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
