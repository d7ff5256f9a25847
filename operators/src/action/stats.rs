//! Figures of one action, shared by its workers and its drivers.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Figures of one action in this process.
#[derive(Debug, Default)]
pub struct ActionStats {
    /// Attempts that came to an end.
    pub called: AtomicU64,
    /// Of those, the ones that failed, timed out or panicked.
    pub failed: AtomicU64,
    /// Changes handed over and not settled.
    pub running: AtomicI64,
    /// Changes that wait for their next attempt.
    pub retrying: AtomicI64,
    /// Attempts that were put off, for nothing was asked: a breaker was open, or a limit reached.
    pub put_off: AtomicU64,
    /// Of the attempts, those made after one of the same change had failed.
    pub retried: AtomicU64,
    /// Changes called for the first time that an earlier run had read, and may have called: at most so many of them are repeats.
    pub repeated: AtomicU64,
    /// Whether there is trouble: looked at instead of the text.
    pub troubled: AtomicBool,
    /// Why attempts fail or are put off, as long as none succeeds.
    pub trouble: Mutex<Option<String>>,
}

impl ActionStats {
    /// An attempt failed or was put off.
    pub(crate) fn trouble(&self, why: String) {
        *self.trouble.lock() = Some(why);
        self.troubled.store(true, Ordering::Release);
    }

    /// An attempt succeeded.
    pub(crate) fn no_trouble(&self) {
        if self.troubled.load(Ordering::Acquire) {
            self.troubled.store(false, Ordering::Release);
            *self.trouble.lock() = None;
        }
    }
}

/// The name of the condition under which an action takes changes.
#[derive(Debug)]
pub struct ConditionName(pub String);
