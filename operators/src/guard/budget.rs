//! A budget for retries: successes fill it, each retry takes from it. So retries stay a bounded share of all calls.
//!
//! Why: when every call of a busy endpoint fails, each is tried five times, and what was too much becomes five times too much. With
//! the budget an endpoint that fails gets its usual calls and a fifth more, whatever the number of attempts.

use std::time::{Duration, Instant};

/// The bounds of a retry budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetConfig {
    /// Retries that each success pays for. Default: 0.2.
    pub share: f64,
    /// Retries per second that need no success: an endpoint with few calls must be tried again too. Default: 5.
    pub per_second: f64,
    /// Retries that can be saved up, and are there at the start. Default: 100.
    pub most: f64,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        BudgetConfig { share: 0.2, per_second: 5.0, most: 100.0 }
    }
}

/// A retry budget.
#[derive(Clone, Debug)]
pub struct Budget {
    config: BudgetConfig,
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub fn new(config: BudgetConfig, now: Instant) -> Self {
        Budget { config, left: config.most, at: now }
    }

    /// A call succeeded.
    pub fn succeeded(&mut self) {
        self.left = (self.left + self.config.share).min(self.config.most);
    }

    /// Takes a retry.
    ///
    /// # Errors
    /// There is none; it says when there will be one, if nothing succeeds until then.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * self.config.per_second).min(self.config.most);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.left) / self.config.per_second.max(0.01);
        Err(Duration::from_secs_f64(wait.max(0.001)))
    }

    /// Retries that are left.
    pub fn left(&self) -> f64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn successes_fill_it_and_time_a_little() {
        let start = Instant::now();
        let mut budget = Budget::new(BudgetConfig { share: 0.5, per_second: 1.0, most: 2.0 }, start);
        assert!(budget.take(start).is_ok() && budget.take(start).is_ok());
        assert_eq!(budget.take(start), Err(Duration::from_secs(1)));
        budget.succeeded();
        assert_eq!(budget.take(start), Err(Duration::from_millis(500)));
        assert!(budget.take(start + Duration::from_millis(500)).is_ok());
        assert!(budget.take(start + Duration::from_secs(60)).is_ok());
        assert_eq!(budget.left(), 1.0, "no more than the most is saved up");
    }

    #[test]
    fn retries_stay_a_share_of_the_calls_however_many_fail() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let start = Instant::now();
            let config = BudgetConfig { share: 0.2, per_second: 1.0, most: 50.0 };
            let mut budget = Budget::new(config, start);
            let fails = random.random_range(0.1..1.0);
            let (mut calls, mut retries, mut succeeded) = (0_u32, 0_u32, 0_u32);
            // A hundred calls a second for a minute, each tried as often as it may be.
            for n in 0..6_000_u32 {
                let now = start + Duration::from_millis(u64::from(n) * 10);
                calls += 1;
                while random.random_bool(fails) {
                    if budget.take(now).is_err() {
                        break;
                    }
                    retries += 1;
                }
                budget.succeeded();
                succeeded += 1;
            }
            let most = 50.0 + 60.0 + 0.2 * f64::from(succeeded) + 1.0;
            assert!(f64::from(retries) <= most, "seed {seed}: {retries} retries of {calls} calls, where {most} are allowed");
        }
    }
}
