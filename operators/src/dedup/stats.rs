//! Figures of one dedup, shared by its workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one dedup of this process holds.
#[derive(Debug, Default)]
pub struct DedupStats {
    ids: AtomicU64,
}

impl DedupStats {
    /// Ids held, over all workers.
    pub fn ids(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    /// One worker went from so many ids to so many.
    pub(super) fn moved(&self, from: usize, to: usize) {
        // A difference below zero wraps, and so does the sum.
        self.ids.fetch_add((to as u64).wrapping_sub(from as u64), Ordering::Relaxed);
    }
}
