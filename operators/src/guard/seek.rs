//! Finds out by trying whether calls at once do any good, or only wait for each other at the endpoint.
//!
//! An endpoint that has a queue refuses nothing: its answers take longer, the more calls there are. How long they would take without load
//! nobody knows, so a bound on latency would be a guess, and an endpoint that is slow by itself would be asked ever less. So it is tried: with half
//! the calls at once, are about as many answered in a second? Then the other half only waited, and it stays at half. If not, all is as before.
//! Later twice as many are tried, and kept if that brings more.
//!
//! What an attempt costs is bounded: one window with half the calls, in so many seconds; and endpoints that answer quickly are left in peace.

use std::time::{Duration, Instant};

/// When and how it is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeekConfig {
    /// Rest after an attempt that changed nothing. Default: 30 s.
    pub every: Duration,
    /// Mean time of an answer below which nothing is tried: an endpoint that is so quick needs no mercy. Default: 50 ms.
    pub above: Duration,
    /// How long is measured at least. Default: 1 s.
    pub window: Duration,
    /// Answers that are measured at least: fewer say little. Default: 200.
    pub least: u32,
}

impl Default for SeekConfig {
    fn default() -> Self {
        let (every, above) = (Duration::from_secs(30), Duration::from_millis(50));
        SeekConfig { every, above, window: Duration::from_secs(1), least: 200 }
    }
}

/// Half the calls may answer so much less; else they were of use.
const KEEPS: f64 = 0.9;
/// Twice the calls must answer so much more; else they only wait.
const GAINS: f64 = 1.1;

/// What has been found: a ceiling for the calls at once.
#[derive(Clone, Debug)]
pub struct Seek {
    config: SeekConfig,
    most: usize,
    ceiling: usize,
    window: Window,
    /// What there was before the attempt that is under way.
    before: Option<Measured>,
    rests_until: Option<Instant>,
    /// Whether the next attempt is with more.
    turns_up: bool,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    length: Duration,
    answers: u32,
    seconds: f64,
    calls: f64,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    ceiling: usize,
    /// Answers per second, as calls at once and the time of an answer have it.
    rate: f64,
}

impl Window {
    fn new(since: Instant, length: Duration) -> Self {
        Window { since, length, answers: 0, seconds: 0.0, calls: 0.0 }
    }
}

impl Seek {
    /// One that allows the most.
    pub fn new(config: SeekConfig, most: usize, now: Instant) -> Self {
        let window = Window::new(now, config.window);
        Seek { config, most, ceiling: most, window, before: None, rests_until: None, turns_up: false }
    }

    /// Calls there may be at once.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// A call that began at this instant was answered, while so many were under way.
    pub fn answered(&mut self, began: Instant, in_use: usize, now: Instant) {
        // Those of the window before were under way with others.
        if began < self.window.since {
            return;
        }
        let window = &mut self.window;
        window.answers += 1;
        window.seconds += now.saturating_duration_since(began).as_secs_f64();
        window.calls += in_use as f64;
        if window.answers >= self.config.least && now.saturating_duration_since(window.since) >= window.length {
            self.conclude(now);
        }
    }

    fn conclude(&mut self, now: Instant) {
        let Window { answers, seconds, calls, .. } = self.window;
        let (mean, calls) = (seconds / f64::from(answers), calls / f64::from(answers));
        let measured = Measured { ceiling: self.ceiling, rate: calls / mean.max(1e-6) };
        // A ceiling that nobody stands at says nothing.
        let is_reached = calls >= 0.8 * self.ceiling as f64;
        match self.before.take() {
            Some(before) => {
                let least = if self.ceiling < before.ceiling { KEEPS } else { GAINS };
                if is_reached && measured.rate >= least * before.rate {
                    self.attempt(measured);
                } else {
                    self.ceiling = before.ceiling;
                    self.turns_up = !self.turns_up;
                    self.rests_until = Some(now + self.config.every);
                }
            }
            None if is_reached
                && mean >= self.config.above.as_secs_f64()
                && self.rests_until.is_none_or(|until| now >= until) =>
            {
                self.attempt(measured);
            }
            None => {}
        }
        // Long enough for calls that begin in it, not the quickest of them alone.
        self.window = Window::new(now, self.config.window.max(Duration::from_secs_f64(mean * 5.0)));
    }

    /// Tries half or twice as many, if there is room for that.
    fn attempt(&mut self, measured: Measured) {
        self.turns_up &= self.ceiling < self.most;
        let next = if self.turns_up { self.ceiling.saturating_mul(2).min(self.most) } else { self.ceiling.div_ceil(2) };
        if next != self.ceiling {
            self.ceiling = next;
            self.before = Some(measured);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const MOST: usize = 256;

    /// What callers who never rest make of an endpoint, in the second half of four minutes.
    struct Outcome {
        level: f64,
        per_second: f64,
        mean_ms: f64,
    }

    /// An endpoint with so many places, each of which takes `service(second)` ms on average; who finds none waits there.
    fn simulate(places: usize, seed: u64, service: impl Fn(u64) -> u64) -> Outcome {
        let (mut random, start) = (StdRng::seed_from_u64(seed), Instant::now());
        let mut seek = Seek::new(SeekConfig::default(), MOST, start);
        let (mut serving, mut queue): (Vec<(u64, u64)>, VecDeque<u64>) = (Vec::new(), VecDeque::new());
        let mut outcome = Outcome { level: 0.0, per_second: 0.0, mean_ms: 0.0 };
        for ms in 0..240_000_u64 {
            let now = start + Duration::from_millis(ms);
            let in_use = serving.len() + queue.len();
            for (_, began) in serving.extract_if(.., |(until, _)| *until <= ms) {
                seek.answered(start + Duration::from_millis(began), in_use, now);
                if ms >= 120_000 {
                    outcome.per_second += 1.0 / 120.0;
                    outcome.mean_ms += (ms - began) as f64;
                }
            }
            while serving.len() + queue.len() < seek.ceiling() {
                queue.push_back(ms);
            }
            while serving.len() < places
                && let Some(began) = queue.pop_front()
            {
                let mean = service(ms / 1_000);
                serving.push((ms + random.random_range(mean / 2..=mean * 3 / 2), began));
            }
            outcome.level += if ms >= 120_000 { seek.ceiling() as f64 / 120_000.0 } else { 0.0 };
        }
        outcome.mean_ms /= outcome.per_second * 120.0;
        outcome
    }

    #[test]
    fn calls_that_only_wait_for_each_other_are_not_made() {
        for seed in 0..2 {
            for places in [4, 20, 100] {
                let Outcome { level, per_second, mean_ms } = simulate(places, seed, |_| 100);
                let most = places as f64 * 10.0;
                assert!(per_second >= 0.9 * most, "seed {seed}: {per_second:.0} of {most} a second with {places} places");
                assert!(level <= 2.2 * places as f64, "seed {seed}: level {level:.0} for {places} places");
                assert!(mean_ms <= 230.0, "seed {seed}: {mean_ms:.0} ms where 100 are without a queue");
            }
        }
    }

    #[test]
    fn an_endpoint_that_is_slow_by_itself_gets_what_it_can_take() {
        for seed in 0..3 {
            // It takes all at once. For two minutes each takes five times as long: an attempt that meets the end of them is deceived, until it
            // has rested.
            let service = |second| if (60..180).contains(&second) { 500 } else { 100 };
            let Outcome { level, .. } = simulate(MOST, seed, service);
            assert!(level >= 0.8 * MOST as f64, "seed {seed}: level {level:.0}");
            let Outcome { level, .. } = simulate(MOST, seed, |_| 100);
            assert!(level >= 0.95 * MOST as f64, "seed {seed}: level {level:.0}");
        }
    }

    #[test]
    fn a_quick_endpoint_is_left_in_peace() {
        let Outcome { level, .. } = simulate(10, 1, |_| 1);
        assert_eq!(level.round() as usize, MOST);
    }
}
