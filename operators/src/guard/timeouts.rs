//! A timeout that follows what an endpoint usually takes: its measured p99, times a factor, within bounds.
//!
//! Computed anew on an interval, never per call: one slow answer is no reason to wait longer for the next. A call that timed out
//! counts as one that took twice the timeout, so that a timeout which is too short for an endpoint that became slower grows
//! back instead of failing all of its calls for ever.

use std::time::{Duration, Instant};

/// The bounds of a timeout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeoutsConfig {
    /// The shortest. Default: 1 s.
    pub min: Duration,
    /// The longest; also what holds until enough was measured. Default: 20 s.
    pub max: Duration,
    /// How many times the p99 it is. Default: 3.
    pub factor: f64,
    /// How often it is computed anew. Default: 10 s.
    pub every: Duration,
    /// Answers that must have been measured. Default: 100.
    pub least: u32,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        TimeoutsConfig {
            min: Duration::from_secs(1),
            max: Duration::from_secs(20),
            factor: 3.0,
            every: Duration::from_secs(10),
            least: 100,
        }
    }
}

/// Eight buckets for each doubling, from a microsecond to more than an hour.
const BUCKETS: usize = 256;

/// A timeout.
#[derive(Clone, Debug)]
pub struct Timeouts {
    config: TimeoutsConfig,
    /// What was measured in this interval, and in the one before.
    measured: [Box<[u32; BUCKETS]>; 2],
    since: Instant,
    current: Duration,
    p99: Option<Duration>,
}

impl Timeouts {
    /// One that has measured nothing.
    pub fn new(config: TimeoutsConfig, now: Instant) -> Self {
        Timeouts {
            config,
            measured: [Box::new([0; BUCKETS]), Box::new([0; BUCKETS])],
            since: now,
            current: config.max,
            p99: None,
        }
    }

    /// What a call may take now.
    pub fn current(&self) -> Duration {
        self.current
    }

    /// The p99 it was computed from.
    pub fn p99(&self) -> Option<Duration> {
        self.p99
    }

    /// An answer came after so long.
    pub fn answered(&mut self, took: Duration, now: Instant) {
        self.measured[0][bucket(took)] += 1;
        if now.saturating_duration_since(self.since) >= self.config.every {
            self.compute(now);
        }
    }

    /// No answer came in time.
    pub fn timed_out(&mut self, now: Instant) {
        self.answered(self.current * 2, now);
    }

    fn compute(&mut self, now: Instant) {
        self.since = now;
        let count = |n: usize| u64::from(self.measured[0][n]) + u64::from(self.measured[1][n]);
        let all: u64 = (0..BUCKETS).map(count).sum();
        if all >= u64::from(self.config.least) {
            let mut above = all / 100;
            let p99 = (0..BUCKETS).rev().find(|n| {
                let here = count(*n);
                let found = here > above;
                above = above.saturating_sub(here);
                found
            });
            let p99 = upper_bound(p99.unwrap_or_default());
            self.p99 = Some(p99);
            self.current = p99.mul_f64(self.config.factor).clamp(self.config.min, self.config.max);
        }
        self.measured.swap(0, 1);
        *self.measured[0] = [0; BUCKETS];
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().max(1) as f64;
    ((micros.log2() * 8.0) as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    Duration::from_secs_f64(((bucket + 1) as f64 / 8.0).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Answers for so many seconds, a hundred a second.
    fn answers(timeouts: &mut Timeouts, from: Instant, seconds: u32, mut took: impl FnMut() -> Duration) -> Instant {
        for n in 1..=seconds * 100 {
            let now = from + n * 10 * MS;
            match took() {
                took if took > timeouts.current() => timeouts.timed_out(now),
                took => timeouts.answered(took, now),
            }
        }
        from + seconds * 1_000 * MS
    }

    #[test]
    fn it_follows_the_p99_within_its_bounds() {
        let start = Instant::now();
        let config = TimeoutsConfig { min: 200 * MS, ..TimeoutsConfig::default() };
        let mut timeouts = Timeouts::new(config, start);
        let mut random = StdRng::seed_from_u64(1);
        let now = answers(&mut timeouts, start, 9, || 100 * MS);
        assert_eq!(timeouts.current(), config.max, "not before the interval is over");
        let now = answers(&mut timeouts, now, 21, || MS * random.random_range(50..150));
        let current = timeouts.current().as_millis();
        assert!((440..500).contains(&current), "{current} ms, where three times 150 are right");
        let now = answers(&mut timeouts, now, 30, || MS);
        assert_eq!(timeouts.current(), config.min);
        // It becomes slow at once: all fail for a while, and then no more.
        let now = answers(&mut timeouts, now, 100, || 2_000 * MS);
        assert!(timeouts.current() > 2_000 * MS, "{:?}", timeouts.current());
        answers(&mut timeouts, now, 100, || 3_600_000 * MS);
        assert_eq!(timeouts.current(), config.max);
    }

    #[test]
    fn few_answers_say_nothing() {
        let start = Instant::now();
        let mut timeouts = Timeouts::new(TimeoutsConfig::default(), start);
        for n in 0..40 {
            timeouts.answered(MS, start + n * 1_000 * MS);
        }
        assert_eq!((timeouts.current(), timeouts.p99()), (Duration::from_secs(20), None));
    }

    #[test]
    fn a_bucket_is_a_tenth_wide() {
        for micros in [1, 7, 100, 12_345, 2_000_000, 900_000_000] {
            let bound = upper_bound(bucket(Duration::from_micros(micros))).as_secs_f64() * 1e6;
            assert!(bound >= micros as f64 && bound <= micros as f64 * 1.1, "{micros} {bound}");
        }
    }
}
