//! What worker and driver both know of a change that was handed over to be called.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::epoch::unix_ms;

/// A change that was handed over. The worker keeps one and sends the other with the job.
///
/// It carries the right to decide what is noted of the call, which is taken once: by the driver when it has an answer to
/// note, or by the worker when it sets the change aside while it is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    claimed: AtomicBool,
    attempt: AtomicU32,
    /// Since when it is called, in Unix milliseconds.
    since: AtomicU64,
    /// When it is tried again, if it waits for that; else 0.
    next_try: AtomicU64,
}

/// How it stands with a change that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It waits for a permit.
    Queued,
    /// It is called, since then.
    Called {
        /// Which attempt it is.
        attempt: u32,
        /// Since when, in Unix milliseconds.
        since: u64,
    },
    /// It failed and waits for its next attempt.
    Retrying {
        /// Which attempt failed.
        attempt: u32,
        /// When it is tried again, in Unix milliseconds.
        next_try: u64,
    },
    /// It has its outcome, which is being made durable.
    Noted,
}

impl Handover {
    /// Takes the right to decide. `false`: the other side has it.
    pub(crate) fn claim(&self) -> bool {
        !self.0.claimed.swap(true, Ordering::AcqRel)
    }

    /// An attempt begins.
    pub(crate) fn begins(&self, attempt: u32, now: u64) {
        self.0.since.store(now, Ordering::Relaxed);
        self.0.next_try.store(0, Ordering::Relaxed);
        self.0.attempt.store(attempt, Ordering::Relaxed);
    }

    /// An attempt failed, and the next one is made then.
    pub(crate) fn waits(&self, next_try: u64) {
        self.0.next_try.store(next_try, Ordering::Relaxed);
    }

    /// How it stands.
    pub(crate) fn step(&self) -> Step {
        let attempt = self.0.attempt.load(Ordering::Relaxed);
        match (self.0.claimed.load(Ordering::Relaxed), attempt, self.0.next_try.load(Ordering::Relaxed)) {
            (true, ..) => Step::Noted,
            (false, 0, _) => Step::Queued,
            (false, attempt, 0) => Step::Called { attempt, since: self.0.since.load(Ordering::Relaxed).min(unix_ms()) },
            (false, attempt, next_try) => Step::Retrying { attempt, next_try },
        }
    }

    /// The same, to be used for another change, if the other side has let go of it: the hot path makes none anew.
    pub(crate) fn reuse(mut self) -> Option<Self> {
        *Arc::get_mut(&mut self.0)? = Inner::default();
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_side_decides_and_only_a_lone_one_is_used_again() {
        let (mine, other) = (Handover::default(), Handover::default());
        let theirs = mine.clone();
        assert_eq!(mine.step(), Step::Queued);
        theirs.begins(1, 7);
        assert_eq!(mine.step(), Step::Called { attempt: 1, since: 7 });
        theirs.waits(9);
        assert_eq!(mine.step(), Step::Retrying { attempt: 1, next_try: 9 });
        assert!(theirs.claim() && !mine.claim());
        assert_eq!(mine.step(), Step::Noted);
        assert!(mine.reuse().is_none() && theirs.reuse().is_some_and(|fresh| fresh.step() == Step::Queued));
        assert!(other.reuse().is_some());
    }
}
