//! Figures of one action, shared by its workers and its drivers.

use std::sync::atomic::{AtomicI64, AtomicU64};

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
    /// Why the target of a transactional action takes nothing for now.
    pub trouble: Mutex<Option<String>>,
}

/// The name of the condition under which an action takes changes.
#[derive(Debug)]
pub struct ConditionName(pub String);
