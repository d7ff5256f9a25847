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
