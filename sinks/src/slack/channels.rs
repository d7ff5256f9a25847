//! How fast each channel is written to: Slack counts messages by channel.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use highwater_operators::guard::rate::{Rate, RateConfig};
use parking_lot::Mutex;

/// Channels that are remembered; beyond it those that have rested are forgotten.
const REMEMBERED: usize = 1_024;

pub(super) struct Channels {
    config: RateConfig,
    rates: Mutex<HashMap<String, (Rate, Instant)>>,
}

impl Channels {
    pub(super) fn new(config: RateConfig) -> Self {
        Channels { config, rates: Mutex::default() }
    }

    /// Takes a message to a channel.
    ///
    /// # Errors
    /// Not now; it says when to ask again.
    pub(super) fn take(&self, channel: &str, now: Instant) -> Result<(), Duration> {
        let mut rates = self.rates.lock();
        if let Some((rate, asked)) = rates.get_mut(channel) {
            *asked = now;
            return rate.take(now);
        }
        if rates.len() >= REMEMBERED {
            // After so long a rest one is as a new one.
            let rest = Duration::from_secs_f64(self.config.burst / self.config.per_second.unwrap_or(1.0).max(0.001));
            rates.retain(|_, (_, asked)| now.saturating_duration_since(*asked) < rest.max(Duration::from_secs(10)));
        }
        let mut rate = Rate::new(self.config, now);
        let taken = rate.take(now);
        rates.insert(channel.to_owned(), (rate, now));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_has_a_rate_of_its_own_and_few_are_remembered() {
        let channels = Channels::new(RateConfig { per_second: Some(1.0), burst: 1.0 });
        let start = Instant::now();
        assert_eq!((channels.take("a", start), channels.take("b", start)), (Ok(()), Ok(())));
        assert_eq!(channels.take("a", start), Err(Duration::from_secs(1)));
        for n in 0..5_000 {
            assert_eq!(channels.take(&n.to_string(), start + Duration::from_secs(n)), Ok(()));
        }
        assert!(channels.rates.lock().len() <= REMEMBERED);
    }
}
