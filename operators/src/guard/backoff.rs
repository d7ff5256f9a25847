//! How long to wait before trying again: exponential back-off with full jitter.
//!
//! Why full jitter: callers that failed together and wait the same time fail together again. A wait drawn evenly from
//! zero to the bound spreads them over the whole of it.

use std::time::Duration;

use rand::Rng;

/// The bounds of the waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait; each further one doubles it. Default: 50 ms.
    pub base: Duration,
    /// The largest bound. Default: 10 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: Duration::from_millis(50), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The bound of the wait after so many failed attempts.
    pub fn bound(&self, failed: u32) -> Duration {
        self.base.saturating_mul(1 << failed.saturating_sub(1).min(20)).min(self.max)
    }

    /// A wait after so many failed attempts: evenly drawn from zero to the bound.
    pub fn wait(&self, failed: u32) -> Duration {
        self.bound(failed).mul_f64(rand::rng().random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_largest() {
        let backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(55) };
        assert_eq!([1, 2, 3, 4, 90].map(|failed| backoff.bound(failed).as_millis()), [10, 20, 40, 55, 55]);
        assert!((0..1000).all(|_| backoff.wait(2) <= Duration::from_millis(20)));
    }
}
