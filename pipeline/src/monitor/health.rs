//! Whether the run is well: the mark moves, or there is nothing to move it.

use std::time::{Duration, Instant};

/// Watches whether the mark moves while work is under way.
#[derive(Debug)]
pub(crate) struct Pulse {
    frontier: u64,
    /// When the mark was last seen to move, or nothing to be under way.
    well: Instant,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Self {
        Pulse { frontier: 0, well: now }
    }

    /// Looks, and says for how long the mark has stood still with work under way. Whoever looks more often knows it more
    /// exactly: what was idle at the last look counts as idle until then.
    pub(crate) fn look(&mut self, now: Instant, frontier: u64, is_idle: bool) -> Duration {
        if frontier != self.frontier || is_idle {
            (self.frontier, self.well) = (frontier, now);
        }
        now.duration_since(self.well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_stands_still_is_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::new(start);
        assert_eq!(pulse.look(at(100), 0, true).as_secs(), 0, "idle for long");
        assert_eq!(pulse.look(at(101), 0, false).as_secs(), 1, "work has come, and nothing has moved since");
        assert_eq!(pulse.look(at(130), 0, false).as_secs(), 30);
        assert_eq!(pulse.look(at(131), 7, false).as_secs(), 0, "it moves");
        assert_eq!(pulse.look(at(140), 7, false).as_secs(), 9);
    }
}
