//! When a run that is to end by itself has had nothing to do for long enough.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use highwater_operators::ingest::stats::{ReaderState, ReaderStats};
use highwater_operators::process::Process;

/// Watches for the end of all work.
pub(super) struct Idle {
    after: Option<Duration>,
    read: u64,
    since: Instant,
}

impl Idle {
    pub(super) fn new(after: Option<Duration>) -> Self {
        Idle { after, read: 0, since: Instant::now() }
    }

    /// Whether for so long nothing came, nothing was under way, and every source was asked and had nothing. A source that is away may have much.
    pub(super) fn is_long(&mut self, process: &Process) -> bool {
        let Some(after) = self.after else { return false };
        let read = process.stats.changes_read.load(Ordering::Relaxed);
        let readers = process.figures.all::<ReaderStats>();
        let rests = |reader: &ReaderStats| matches!(reader.state().0, ReaderState::Waiting | ReaderState::Ended);
        let is_idle = read == self.read
            && process.in_flight.units() == 0
            && !readers.is_empty()
            && readers.iter().all(|(_, reader)| rests(reader));
        if !is_idle {
            (self.read, self.since) = (read, Instant::now());
        }
        is_idle && self.since.elapsed() >= after
    }
}
