//! When a run that is to end by itself has had nothing to do for long enough.

use std::time::{Duration, Instant};

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

    /// Whether for so long nothing came, nothing was under way or waited to be taken up again, and every source was asked and had
    /// nothing: in all processes, for which process 0 decides.
    pub(super) fn is_long(&mut self, process: &Process) -> bool {
        let place = process.cluster.place();
        let Some(after) = self.after.filter(|_| place.leads()) else { return false };
        let read = process.read_about().0;
        let is_idle = read == self.read && process.units_about() == 0 && process.may_end() && process.all_rest();
        if !is_idle {
            (self.read, self.since) = (read, Instant::now());
        }
        // What others say of themselves is half a second old.
        let heard = if place.has_others() { Duration::from_secs(1) } else { Duration::ZERO };
        is_idle && self.since.elapsed() >= after + heard
    }
}
