//! Figures of one lookup in a table, shared by its workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one table of this process holds, and how lookups in it were answered.
#[derive(Debug, Default)]
pub struct TableStats {
    rows: AtomicU64,
    bytes: AtomicU64,
    found: AtomicU64,
    missing: AtomicU64,
}

impl TableStats {
    /// Rows, and the bytes they take in this process, about.
    pub fn held(&self) -> (u64, u64) {
        (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// Lookups that found a row, and that found none.
    pub fn answers(&self) -> (u64, u64) {
        (self.found.load(Ordering::Relaxed), self.missing.load(Ordering::Relaxed))
    }

    pub(super) fn holds(&self, rows: usize, bytes: usize) {
        self.rows.store(rows as u64, Ordering::Relaxed);
        self.bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// So many lookups found a row, and so many none.
    pub(super) fn answered(&self, found: u64, missing: u64) {
        self.found.fetch_add(found, Ordering::Relaxed);
        self.missing.fetch_add(missing, Ordering::Relaxed);
    }
}
