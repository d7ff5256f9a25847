//! Whom the changes of an action wait for: its calls, or the store.
//!
//! A look at one moment says little: right after many changes were handed over none has its answer, and when the answers have
//! come all wait for the store, however slow or quick either is. So the time is measured. Changes that are called, and changes that
//! have their answer, are counted at every step, and what each change has waited for is summed up, the further back the less.
//! All workers of a process count together, as they share the permits: what waits for one waits for whatever holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::process::Process;

/// What was so long ago counts half. Longer than a group of the store takes, shorter than anybody minds.
const HALF_LIFE: Duration = Duration::from_millis(100);

/// What driver and worker both count, for one action.
#[derive(Clone, Debug)]
pub(crate) struct Waits {
    sums: Arc<Mutex<Sums>>,
    /// Changes of this worker that have their answer and wait for the store.
    noting: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Sums {
    at: Instant,
    called: usize,
    noted: usize,
    /// In changes, averaged over the time that counts.
    for_calls: f64,
    for_store: f64,
}

impl Default for Sums {
    fn default() -> Self {
        Sums { at: Instant::now(), called: 0, noted: 0, for_calls: 0.0, for_store: 0.0 }
    }
}

impl Sums {
    fn pass_to(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let kept = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        self.for_calls = self.for_calls * kept + self.called as f64 * (1.0 - kept);
        self.for_store = self.for_store * kept + self.noted as f64 * (1.0 - kept);
        self.at = now;
    }

    /// After a rest everything is new, and next to nothing measured: calls that take less than 40 ms or so are not called slow
    /// for a first burst.
    fn are_for_calls(&self) -> bool {
        let in_hand = (self.called + self.noted) as f64;
        self.for_calls > self.for_store.max(in_hand / 4.0)
    }
}

impl Waits {
    /// Those of an action, for one worker.
    pub(crate) fn of(process: &Process, action: &str) -> Self {
        let sums = process.shared.get_or_make(action, || Mutex::new(Sums::default()));
        Waits { sums, noting: Arc::default() }
    }

    /// Calls have begun, each for the first time.
    pub(crate) fn called(&self, changes: usize) {
        self.step(|sums| sums.called += changes);
    }

    /// Calls have their answers, which are being made durable.
    pub(crate) fn answered(&self, changes: usize) {
        self.noting.fetch_add(changes, Ordering::Relaxed);
        self.step(|sums| {
            sums.called -= changes;
            sums.noted += changes;
        });
    }

    /// Outcomes are durable.
    pub(crate) fn settled(&self, changes: usize) {
        self.noting.fetch_sub(changes, Ordering::Relaxed);
        self.step(|sums| sums.noted -= changes);
    }

    /// Changes of this worker that have their answer and wait for the store.
    pub(crate) fn noting(&self) -> usize {
        self.noting.load(Ordering::Relaxed)
    }

    /// Whether, of late, changes have waited longer for the calls than for the store, and long enough to tell.
    pub(crate) fn are_for_calls(&self) -> bool {
        self.step(|sums| sums.are_for_calls())
    }

    fn step<T>(&self, step: impl FnOnce(&mut Sums) -> T) -> T {
        let mut sums = self.sums.lock();
        sums.pass_to(Instant::now());
        step(&mut sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Step = fn(&mut Sums);

    /// What happened, and how many milliseconds passed since the step before.
    fn after(steps: &[(u64, Step)]) -> Sums {
        let mut sums = Sums::default();
        for (passed, step) in steps {
            sums.pass_to(sums.at + Duration::from_millis(*passed));
            step(&mut sums);
        }
        sums
    }

    const HAND_OVER: Step = |sums| sums.called += 100;
    const ANSWER: Step = |sums| (sums.called, sums.noted) = (0, sums.called);
    const SETTLE: Step = |sums| sums.noted = 0;

    #[test]
    fn it_is_the_time_that_counts_not_the_moment() {
        let quick_calls = after(&[(0, HAND_OVER), (1, ANSWER), (6, SETTLE), (0, HAND_OVER), (1, |_| {})]);
        assert!(quick_calls.called == 100 && !quick_calls.are_for_calls(), "{quick_calls:?}");
        let slow_calls = after(&[(0, HAND_OVER), (50, ANSWER), (1, |_| {})]);
        assert!(slow_calls.noted == 100 && slow_calls.are_for_calls(), "{slow_calls:?}");
    }

    #[test]
    fn a_first_burst_says_nothing_and_a_call_that_hangs_is_noticed_after_long_waits_for_the_store() {
        for step in [HAND_OVER, ANSWER] {
            let burst = after(&[(0, HAND_OVER), (2, step), (0, |_| {})]);
            assert!(burst.for_calls > burst.for_store && !burst.are_for_calls(), "{burst:?}");
        }
        let hangs = after(&[(0, HAND_OVER), (0, ANSWER), (10_000, SETTLE), (0, HAND_OVER), (200, |_| {})]);
        assert!(hangs.are_for_calls(), "{hangs:?}");
    }
}
