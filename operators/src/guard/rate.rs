//! A rate: so many calls per second, and pauses that the other side asks for (`Retry-After`).
//!
//! Who has to wait is told a time of its own: told the same time, all would come back together, and all but one in vain.

use std::time::{Duration, Instant};

/// A bound on calls per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateConfig {
    /// Calls per second; `None` is no bound, and the default.
    pub per_second: Option<f64>,
    /// Calls that may come at once after a rest. Default: 10.
    pub burst: f64,
}

impl Default for RateConfig {
    fn default() -> Self {
        RateConfig { per_second: None, burst: 10.0 }
    }
}

/// A rate.
#[derive(Clone, Debug)]
pub struct Rate {
    config: RateConfig,
    left: f64,
    at: Instant,
    /// Until when times were given out to those that wait.
    promised: Instant,
    paused_until: Option<Instant>,
}

impl Rate {
    /// One after a rest.
    pub fn new(config: RateConfig, now: Instant) -> Self {
        Rate { config, left: config.burst, at: now, promised: now, paused_until: None }
    }

    /// Takes a call.
    ///
    /// # Errors
    /// Not now; it says when to ask again.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.paused_until {
            if now < until {
                return Err(self.spread(until, now));
            }
            self.paused_until = None;
        }
        let Some(per_second) = self.config.per_second else { return Ok(()) };
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * per_second).min(self.config.burst.max(1.0));
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        let next = now + Duration::from_secs_f64((1.0 - self.left) / per_second);
        Err(self.spread(next, now))
    }

    /// Nothing is asked until then.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = self.paused_until.max(Some(until));
    }

    /// How long it is paused.
    pub fn paused(&self, now: Instant) -> Option<Duration> {
        self.paused_until.map(|until| until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// A time of its own for each that waits, from `from` on. Those who do not come back leave gaps, which others use.
    fn spread(&mut self, from: Instant, now: Instant) -> Duration {
        let step = Duration::from_secs_f64(1.0 / self.config.per_second.unwrap_or(1_000.0).max(0.001));
        // Beyond some seconds it is better to ask again.
        let latest = from + Duration::from_secs(5);
        self.promised = if self.promised < from || self.promised >= latest { from } else { self.promised + step };
        (self.promised - now).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_then_so_many_a_second_however_many_ask() {
        let start = Instant::now();
        let mut rate = Rate::new(RateConfig { per_second: Some(50.0), burst: 5.0 }, start);
        assert_eq!((0..20).filter(|_| rate.take(start).is_ok()).count(), 5);
        // A hundred callers, each asking when it was told to.
        let mut due = vec![start; 100];
        let (mut taken, mut asked) = (0, 0);
        for ms in 0..10_000 {
            let now = start + MS * ms;
            for due in due.iter_mut().filter(|due| **due <= now) {
                asked += 1;
                match rate.take(now) {
                    Ok(()) => {
                        taken += 1;
                        *due = now;
                    }
                    Err(wait) => *due = now + wait,
                }
            }
        }
        assert!((480..=505).contains(&taken), "{taken}");
        assert!(asked < 10 * taken, "{asked} asked for {taken}");
    }

    #[test]
    fn a_pause_holds_all_and_they_come_back_one_by_one() {
        let start = Instant::now();
        let mut rate = Rate::new(RateConfig::default(), start);
        rate.pause(start + 2_000 * MS);
        rate.pause(start + 1_000 * MS);
        assert_eq!((rate.take(start), rate.take(start)), (Err(2_000 * MS), Err(2_001 * MS)));
        assert_eq!(rate.paused(start + 500 * MS), Some(1_500 * MS));
        assert!(rate.take(start + 2_000 * MS).is_ok() && rate.paused(start + 2_000 * MS).is_none());
    }
}
