//! Figures of one lookup, shared by its workers and its loader.

use std::sync::atomic::AtomicU64;

/// Figures of one lookup in this process.
#[derive(Debug, Default)]
pub struct LookupStats {
    /// Answered from the cache.
    pub hits: AtomicU64,
    /// Had to ask the origin.
    pub misses: AtomicU64,
    /// Keys asked for at the origin.
    pub loaded: AtomicU64,
    /// Batches of keys asked for.
    pub loads: AtomicU64,
    /// Attempts to ask that failed.
    pub failed: AtomicU64,
}
