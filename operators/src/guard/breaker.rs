//! A breaker: after enough failures nothing is asked for a while, then a few probes, and if those succeed all again.
//!
//! Plain state, no I/O and no clock of its own: whoever uses it says what time it is. Each call that is let through has a ticket. The
//! answer to one that was given out before the last change of state says nothing any more: a hundred calls that were under way
//! when the breaker opened must neither close it nor open it again.

use std::time::{Duration, Instant};

/// When a breaker opens, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row that open it. Default: 5.
    pub failures: u32,
    /// Share of failures within the window that opens it, 0 to 1. Default: 0.5.
    pub rate: f64,
    /// The window. Default: 10 s.
    pub window: Duration,
    /// Calls there must be in the window before the share counts. Default: 20.
    pub least: u32,
    /// How long it stays open before it lets probes through. Default: 10 s.
    pub reset_after: Duration,
    /// Probes let through at once, and successes of them that close it. Default: 3.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            failures: 5,
            rate: 0.5,
            window: Duration::from_secs(10),
            least: 20,
            reset_after: Duration::from_secs(10),
            probes: 3,
        }
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// All is let through.
    #[default]
    Closed,
    /// Probes are let through.
    HalfOpen,
    /// Nothing is let through.
    Open,
}

/// How the probes of a half open breaker go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Probes without an answer yet.
    pub under_way: u32,
    /// Probes that succeeded.
    pub succeeded: u32,
    /// Successes that close it.
    pub needed: u32,
}

/// Given with each call that is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// A breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    stands: Stands,
    since: Instant,
    /// Raised with each change of state.
    changes: u64,
    in_a_row: u32,
    /// Calls and failures of the running half of the window, and of the half before.
    halves: [(u32, u32); 2],
    half_began: Instant,
    failing_since: Option<Instant>,
    opened: u64,
    because: String,
}

#[derive(Clone, Copy, Debug)]
enum Stands {
    Closed,
    Open { until: Instant },
    HalfOpen { under_way: u32, succeeded: u32 },
}

impl Breaker {
    /// A closed one.
    pub fn new(config: BreakerConfig, now: Instant) -> Self {
        Breaker {
            config,
            stands: Stands::Closed,
            since: now,
            changes: 0,
            in_a_row: 0,
            halves: [(0, 0); 2],
            half_began: now,
            failing_since: None,
            opened: 0,
            because: String::new(),
        }
    }

    /// Asks to make a call.
    ///
    /// # Errors
    /// Nothing is let through now; it says when to ask again.
    pub fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        match self.stands {
            Stands::Closed => {}
            Stands::Open { until } if now < until => return Err(until - now),
            Stands::Open { .. } => self.become_(Stands::HalfOpen { under_way: 1, succeeded: 0 }, now),
            Stands::HalfOpen { under_way, succeeded } if under_way + succeeded < self.config.probes.max(1) => {
                self.stands = Stands::HalfOpen { under_way: under_way + 1, succeeded };
            }
            // What the probes come to is not known yet.
            Stands::HalfOpen { .. } => return Err((self.config.reset_after / 10).min(Duration::from_secs(1))),
        }
        Ok(Ticket(self.changes))
    }

    /// When a call could be let through at the earliest, if not now. Changes nothing.
    pub fn refuses(&self, now: Instant) -> Option<Duration> {
        match self.stands {
            Stands::Open { until } if now < until => Some(until - now),
            _ => None,
        }
    }

    /// A call succeeded.
    pub fn succeeded(&mut self, ticket: Ticket, now: Instant) {
        if ticket.0 != self.changes {
            return;
        }
        self.in_a_row = 0;
        self.failing_since = None;
        match &mut self.stands {
            Stands::HalfOpen { under_way, succeeded } => {
                *under_way -= 1;
                *succeeded += 1;
                if *succeeded >= self.config.probes {
                    self.halves = [(0, 0); 2];
                    self.become_(Stands::Closed, now);
                }
            }
            _ => self.count(now, 0),
        }
    }

    /// A call failed.
    pub fn failed(&mut self, ticket: Ticket, now: Instant, why: &str) {
        if ticket.0 != self.changes {
            return;
        }
        self.failing_since.get_or_insert(now);
        self.in_a_row += 1;
        if matches!(self.stands, Stands::HalfOpen { .. }) {
            self.open(now, format!("a probe failed: {why}"));
            return;
        }
        self.count(now, 1);
        let (calls, failures) = (self.halves[0].0 + self.halves[1].0, self.halves[0].1 + self.halves[1].1);
        if self.in_a_row >= self.config.failures {
            self.open(now, format!("{} failures in a row, the last: {why}", self.in_a_row));
        } else if calls >= self.config.least && f64::from(failures) >= self.config.rate * f64::from(calls) {
            self.open(now, format!("{failures} of {calls} calls failed, the last: {why}"));
        }
    }

    /// A call came to nothing that says how the endpoint is.
    pub fn nothing(&mut self, ticket: Ticket) {
        if let Stands::HalfOpen { under_way, .. } = &mut self.stands
            && ticket.0 == self.changes
        {
            *under_way -= 1;
        }
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match self.stands {
            Stands::Closed => BreakerState::Closed,
            Stands::HalfOpen { .. } => BreakerState::HalfOpen,
            Stands::Open { .. } => BreakerState::Open,
        }
    }

    /// Since when it stands so.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How its probes go, if it is half open.
    pub fn probes(&self) -> Option<Probes> {
        match self.stands {
            Stands::HalfOpen { under_way, succeeded } => Some(Probes { under_way, succeeded, needed: self.config.probes }),
            _ => None,
        }
    }

    /// Why it opened last.
    pub fn because(&self) -> &str {
        &self.because
    }

    /// Since when no call has succeeded, if the last one failed.
    pub fn failing_since(&self) -> Option<Instant> {
        self.failing_since
    }

    /// How often it has opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, now: Instant, because: String) {
        self.opened += 1;
        self.because = because;
        self.become_(Stands::Open { until: now + self.config.reset_after }, now);
    }

    fn become_(&mut self, stands: Stands, now: Instant) {
        (self.stands, self.since) = (stands, now);
        self.changes += 1;
        self.in_a_row = 0;
    }

    fn count(&mut self, now: Instant, failures: u32) {
        let half = (self.config.window / 2).max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.half_began);
        if passed >= half {
            self.halves = if passed >= half * 2 { [(0, 0); 2] } else { [(0, 0), self.halves[0]] };
            self.half_began = now;
        }
        self.halves[0].0 += 1;
        self.halves[0].1 += failures;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(config: BreakerConfig) -> (Breaker, Instant) {
        let now = Instant::now();
        (Breaker::new(config, now), now)
    }

    #[test]
    fn failures_in_a_row_open_it_and_its_probes_close_it() {
        let (mut breaker, start) = breaker(BreakerConfig { failures: 3, probes: 2, ..BreakerConfig::default() });
        for n in 0..3 {
            assert_eq!(breaker.state(), BreakerState::Closed, "{n}");
            let ticket = breaker.admit(start).unwrap();
            breaker.failed(ticket, start, "refused");
        }
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 1));
        assert_eq!(breaker.because(), "3 failures in a row, the last: refused");
        assert_eq!(breaker.admit(start + 4 * SECOND), Err(6 * SECOND));
        let later = start + 10 * SECOND;
        let (one, two) = (breaker.admit(later).unwrap(), breaker.admit(later).unwrap());
        assert_eq!((breaker.admit(later), breaker.state()), (Err(SECOND), BreakerState::HalfOpen));
        breaker.succeeded(one, later);
        assert_eq!((breaker.admit(later), breaker.state()), (Err(SECOND), BreakerState::HalfOpen));
        assert_eq!((breaker.probes(), breaker.since()), (Some(Probes { under_way: 1, succeeded: 1, needed: 2 }), later));
        breaker.succeeded(two, later);
        assert_eq!((breaker.state(), breaker.failing_since()), (BreakerState::Closed, None));
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_late_answers_do_nothing() {
        let (mut breaker, start) = breaker(BreakerConfig { failures: 1, ..BreakerConfig::default() });
        let late = [breaker.admit(start).unwrap(), breaker.admit(start).unwrap()];
        let first = breaker.admit(start).unwrap();
        breaker.failed(first, start, "cut");
        breaker.succeeded(late[0], start);
        assert_eq!(breaker.state(), BreakerState::Open);
        let probe = breaker.admit(start + 10 * SECOND).unwrap();
        breaker.failed(late[1], start, "cut");
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.failed(probe, start + 11 * SECOND, "cut");
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 2));
        assert_eq!(breaker.refuses(start + 12 * SECOND), Some(9 * SECOND));
        let probe = breaker.admit(start + 30 * SECOND).unwrap();
        breaker.nothing(probe);
        assert_eq!((0..3).filter(|_| breaker.admit(start + 30 * SECOND).is_ok()).count(), 3);
    }

    #[test]
    fn a_share_of_failures_opens_it_only_with_enough_calls_in_the_window() {
        let config = BreakerConfig { failures: 1_000, rate: 0.5, least: 10, ..BreakerConfig::default() };
        let (mut breaker, start) = breaker(config);
        let mut call = |n: u64, fails: bool| {
            let now = start + SECOND * n as u32;
            let Ok(ticket) = breaker.admit(now) else { return false };
            if fails {
                breaker.failed(ticket, now, "500")
            } else {
                breaker.succeeded(ticket, now)
            }
            true
        };
        // Two a second half of which fail would be enough; one every two seconds is too few to say anything.
        assert!((0..40).all(|n| call(n * 2, n % 2 == 0)));
        assert!((0..18).any(|n| !call(90 + n / 4, n % 2 == 0)));
        assert!(breaker.because().contains("of 1"), "{}", breaker.because());
    }

    #[test]
    fn calls_to_a_dead_endpoint_are_bounded_by_its_probes() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut breaker, start) = breaker(BreakerConfig::default());
            let (mut now, mut made, mut under_way) = (start, 0_u64, Vec::new());
            // Two hundred callers that never rest, for an hour; an answer takes up to two seconds.
            while now < start + 3_600 * SECOND {
                while under_way.len() < 200
                    && let Ok(ticket) = breaker.admit(now)
                {
                    made += 1;
                    under_way.push((now + Duration::from_millis(random.random_range(1..2_000)), ticket));
                }
                now += Duration::from_millis(random.random_range(1..50));
                under_way.retain(|(answered, ticket)| {
                    if *answered <= now {
                        breaker.failed(*ticket, now, "refused");
                    }
                    *answered > now
                });
            }
            // Some before it opens, then three every ten seconds.
            let most = 200 + 200 + 3 * 360;
            assert!(made <= most && made > 500, "seed {seed}: {made} calls, where {most} are allowed");
        }
    }
}
