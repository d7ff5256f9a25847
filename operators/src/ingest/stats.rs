//! What a reading thread is doing, for those who want to know why nothing comes.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::epoch::unix_ms;

/// What a reading thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReaderState {
    /// It reads.
    Reading,
    /// Its source has nothing.
    Waiting,
    /// Its source is away, or has not answered yet.
    Away,
    /// It waits for room in the window.
    Paused,
    /// All its partitions have ended.
    Ended,
}

const STATES: [ReaderState; 5] =
    [ReaderState::Reading, ReaderState::Waiting, ReaderState::Away, ReaderState::Paused, ReaderState::Ended];

/// What the reading thread of one source on one worker is doing.
#[derive(Debug)]
pub struct ReaderStats {
    /// The source.
    pub source: String,
    /// The worker it reads for.
    pub worker: usize,
    state: AtomicU8,
    since_ms: AtomicU64,
    paused_ms: AtomicU64,
    /// When something was last read, in Unix milliseconds; 0 for never.
    pub last_read_ms: AtomicU64,
}

impl ReaderStats {
    /// A thread that begins to read.
    pub fn new(source: &str, worker: usize) -> Self {
        ReaderStats {
            source: source.to_owned(),
            worker,
            state: AtomicU8::new(ReaderState::Reading as u8),
            since_ms: AtomicU64::new(unix_ms()),
            paused_ms: AtomicU64::new(0),
            last_read_ms: AtomicU64::new(0),
        }
    }

    /// What it is doing, and since when in Unix milliseconds.
    pub fn state(&self) -> (ReaderState, u64) {
        (STATES[self.state.load(Ordering::Relaxed) as usize], self.since_ms.load(Ordering::Relaxed))
    }

    /// How long it has been paused in all.
    pub fn paused_ms(&self) -> u64 {
        let (state, since) = self.state();
        let now = if state == ReaderState::Paused { unix_ms().saturating_sub(since) } else { 0 };
        self.paused_ms.load(Ordering::Relaxed) + now
    }

    /// It does this from now on. Only its own thread calls this.
    pub(crate) fn turn(&self, state: ReaderState) {
        let (before, since) = self.state();
        if before == state {
            return;
        }
        let now = unix_ms();
        if before == ReaderState::Paused {
            self.paused_ms.fetch_add(now.saturating_sub(since), Ordering::Relaxed);
        }
        self.since_ms.store(now, Ordering::Relaxed);
        self.state.store(state as u8, Ordering::Relaxed);
    }
}
