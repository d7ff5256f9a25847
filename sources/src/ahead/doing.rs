//! What the reading thread is doing, for whoever finds nothing to take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Whether all that the server has was read.
#[derive(Debug)]
pub(crate) struct Doing {
    began: Instant,
    /// When the server was asked last and had nothing more, in milliseconds since then; 0 if it was not, or had.
    idle: AtomicU64,
    /// How long that counts.
    patience: Duration,
}

impl Doing {
    /// It counts for so long that the server had nothing when it was asked: an answer that does not come says nothing.
    pub(crate) fn new(patience: Duration) -> Self {
        Doing { began: Instant::now(), idle: AtomicU64::new(0), patience }
    }

    /// Whether the server was asked just now, and had nothing that was not read.
    pub(super) fn is_idle(&self) -> bool {
        let at = self.idle.load(Ordering::Acquire);
        at > 0 && self.began.elapsed() < Duration::from_millis(at) + self.patience
    }

    pub(crate) fn idle(&self, idle: bool) {
        let at = if idle { (self.began.elapsed().as_millis() as u64).max(1) } else { 0 };
        self.idle.store(at, Ordering::Release);
    }
}
