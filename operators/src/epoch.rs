//! The clock that makes epochs: Unix milliseconds that never fall, whatever the machine's clock does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::clock::Hand;
use crate::offload::Wake;
use crate::position::Epoch;

/// One per process, shared by all its sources.
///
/// Wall time is read once, when the clock is made; from then on the monotonic clock counts. An epoch is the largest of
/// that, every epoch minted before, and one more than the last saved epoch: so a clock that was stepped back between two
/// runs makes epochs move slowly for a while, and never backwards.
#[derive(Debug)]
pub struct EpochClock {
    anchor: Instant,
    anchor_ms: u64,
    latest: AtomicU64,
    idle: Mutex<Vec<Wake>>,
    /// What a test turns.
    pub(crate) hand: OnceLock<Arc<Hand>>,
}

impl EpochClock {
    /// A clock whose epochs are all above `saved`, the epoch of the last checkpoint.
    pub fn after(saved: Epoch) -> Self {
        let anchor_ms = unix_ms().max(saved + 1);
        EpochClock {
            anchor: Instant::now(),
            anchor_ms,
            latest: AtomicU64::new(anchor_ms),
            idle: Mutex::default(),
            hand: OnceLock::new(),
        }
    }

    /// The current epoch. No later call, on any thread, returns a smaller one.
    pub fn mint(&self) -> Epoch {
        let now = self.unix_ms();
        self.latest.fetch_max(now, Ordering::AcqRel).max(now)
    }

    /// An epoch was seen from another process: none minted here later is below it.
    pub fn observe(&self, epoch: Epoch) {
        self.latest.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Unix milliseconds as epochs count them.
    pub fn unix_ms(&self) -> u64 {
        let turned = self.hand.get().map_or(Duration::ZERO, |hand| hand.now());
        self.anchor_ms + (self.anchor.elapsed() + turned).as_millis() as u64
    }

    /// Registers a source operator that is to be woken when another one has moved on.
    pub fn register(&self, wake: Wake) {
        self.idle.lock().push(wake);
    }

    /// Forgets the registered operators.
    pub fn forget(&self) {
        self.idle.lock().clear();
    }

    /// Wakes every registered operator, so that one without data does not hold an epoch that another has left.
    pub fn wake_all(&self) {
        self.idle.lock().iter().for_each(Wake::wake);
    }
}

/// Wall time in Unix milliseconds; zero if the clock stands before 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_stay_above_the_saved_one_even_if_that_lies_in_the_future() {
        let saved = unix_ms() + 1_000_000;
        let clock = EpochClock::after(saved);
        let first = clock.mint();
        assert!(first > saved);
        assert!(clock.mint() >= first);
    }
}
