//! What a pool counts as it happens, and how it is shown.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Inner;
use crate::pools::{PoolStatus, Shown};

#[derive(Debug, Default)]
pub(super) struct Counts {
    opened: AtomicU64,
    opening_us: AtomicU64,
    errors: AtomicU64,
    away: AtomicBool,
}

impl Counts {
    /// One was opened. Says whether it is the first after failures.
    pub(super) fn opened(&self, took: Duration) -> bool {
        self.opened.fetch_add(1, Relaxed);
        self.opening_us.fetch_add(took.as_micros() as u64, Relaxed);
        self.away.swap(false, Relaxed)
    }

    /// One could not be opened. Says whether it is the first failure after success.
    pub(super) fn failed(&self) -> bool {
        self.errors.fetch_add(1, Relaxed);
        !self.away.swap(true, Relaxed)
    }
}

impl Shown for Inner {
    fn status(&self) -> PoolStatus {
        let (status, counts) = (self.pool.status(), &self.counts);
        PoolStatus {
            active: status.size - status.available,
            idle: status.available,
            waiting: status.waiting,
            max_connections: status.max_size,
            opened: counts.opened.load(Relaxed),
            opening: Duration::from_micros(counts.opening_us.load(Relaxed)),
            errors: counts.errors.load(Relaxed),
            away: counts.away.load(Relaxed),
            used: 0,
        }
    }
}
