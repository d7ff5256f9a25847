//! How far the frontier and the saved mark have come, and since when they stand there. Written by the checkpoint, read by
//! whoever wants to know.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::epoch::unix_ms;
use crate::position::Epoch;

/// How far the pipeline has come. All times are Unix milliseconds; 0 stands for "not yet".
#[derive(Debug, Default)]
pub struct Pace {
    frontier: AtomicU64,
    moved_ms: AtomicU64,
    unsaved_ms: AtomicU64,
    saved_ms: AtomicU64,
    saving: Mutex<Option<(Saving, u64)>>,
}

/// What a save that runs is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saving {
    /// Output files are written and synced.
    Files,
    /// The store makes it durable.
    Store,
}

/// The frontier once everything has ended.
const ENDED: u64 = u64::MAX;

impl Pace {
    /// The frontier behind all actions; `None` if there is none yet, or all has ended.
    pub fn frontier(&self) -> Option<Epoch> {
        match self.frontier.load(Ordering::Relaxed) {
            0 | ENDED => None,
            epoch => Some(epoch),
        }
    }

    /// Whether all input has ended and all of it is done.
    pub fn has_ended(&self) -> bool {
        self.frontier.load(Ordering::Relaxed) == ENDED
    }

    /// When the frontier last moved.
    pub fn moved_ms(&self) -> u64 {
        self.moved_ms.load(Ordering::Relaxed)
    }

    /// Since when there is something done that no save holds.
    pub fn unsaved_since(&self) -> Option<u64> {
        Some(self.unsaved_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    /// When a save last became durable.
    pub fn saved_ms(&self) -> Option<u64> {
        Some(self.saved_ms.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// What the save that runs is doing, and since when.
    pub fn saving(&self) -> Option<(Saving, u64)> {
        *self.saving.lock()
    }

    /// The frontier stands here.
    pub(crate) fn frontier_at(&self, frontier: Option<Epoch>) {
        let frontier = frontier.unwrap_or(ENDED);
        if self.frontier.swap(frontier, Ordering::Relaxed) != frontier {
            self.moved_ms.store(unix_ms(), Ordering::Relaxed);
        }
    }

    /// There is, or is not, something done that no save holds.
    pub(crate) fn unsaved(&self, dirty: bool) {
        match dirty {
            false => self.unsaved_ms.store(0, Ordering::Relaxed),
            true if self.unsaved_ms.load(Ordering::Relaxed) == 0 => self.unsaved_ms.store(unix_ms(), Ordering::Relaxed),
            true => {}
        }
    }

    /// A save does this from now on; `None`: it is durable.
    pub(crate) fn save(&self, saving: Option<Saving>) {
        let now = unix_ms();
        if saving.is_none() {
            self.saved_ms.store(now, Ordering::Relaxed);
        }
        *self.saving.lock() = saving.map(|saving| (saving, now));
    }
}
