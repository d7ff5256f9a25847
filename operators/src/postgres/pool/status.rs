//! What a pool counts, and how it is shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Inner;

/// Counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub opened: AtomicU64,
    pub opening_us: AtomicU64,
    pub errors: AtomicU64,
}

impl Counts {
    pub(super) fn opened(&self, took: Duration) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.opening_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }
}

/// How a pool stands at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolStatus {
    /// Connections given out.
    pub active: usize,
    /// Connections ready.
    pub idle: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// The most connections there may be.
    pub max_connections: usize,
    /// Connections opened since the start.
    pub opened: u64,
    /// Attempts to open one that failed, since the start.
    pub errors: u64,
    /// What opening one takes on average.
    pub time_to_connect: Duration,
}

impl PoolStatus {
    pub(super) fn of(inner: &Inner) -> Self {
        let status = inner.pool.status();
        let opened = inner.counts.opened.load(Ordering::Relaxed);
        let opening_us = inner.counts.opening_us.load(Ordering::Relaxed);
        PoolStatus {
            active: status.size - status.available,
            idle: status.available,
            waiting: status.waiting,
            max_connections: status.max_size,
            opened,
            errors: inner.counts.errors.load(Ordering::Relaxed),
            time_to_connect: Duration::from_micros(opening_us.checked_div(opened).unwrap_or_default()),
        }
    }

    /// The share of the connections that may be which are in use, 0 to 1. Over a long time 0.6 to 0.8 is well sized.
    pub fn utilisation(&self) -> f64 {
        self.active as f64 / self.max_connections.max(1) as f64
    }
}
