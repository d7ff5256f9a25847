//! How fast things go: counts of the last seconds, kept by the monitor itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// So much is looked back.
const SPAN: Duration = Duration::from_secs(10);

/// Counts at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Changes read by this run.
    pub read: u64,
    /// Changes delivered, by action.
    pub delivered: BTreeMap<String, u64>,
}

/// Counts of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Rates(VecDeque<(Instant, Counts)>);

impl Rates {
    /// Notes counts. Called about once a second.
    pub(crate) fn note(&mut self, now: Instant, counts: Counts) {
        while self.0.len() > 1 && self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
            self.0.pop_front();
        }
        self.0.push_back((now, counts));
    }

    /// Whether nothing has been read since the last look.
    pub(crate) fn is_quiet(&self, counts: &Counts) -> bool {
        self.0.back().is_none_or(|(_, last)| last.read == counts.read)
    }

    /// Seconds looked back, changes read per second, and changes delivered per second by action.
    pub(crate) fn since(&self, now: Instant, counts: &Counts) -> (f64, f64, BTreeMap<String, f64>) {
        let Some((at, before)) = self.0.front() else { return Default::default() };
        let seconds = now.duration_since(*at).as_secs_f64();
        if seconds < 0.05 {
            return Default::default();
        }
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds * 10.0).round() / 10.0;
        let delivered = counts.delivered.iter().map(|(action, now)| {
            let before = before.delivered.get(action).copied().unwrap_or(*now);
            (action.clone(), rate(*now, before))
        });
        (seconds, rate(counts.read, before.read), delivered.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let (start, mut rates) = (Instant::now(), Rates::default());
        let counts = |n: u64| Counts { read: n, delivered: BTreeMap::from([("a".to_owned(), n / 2)]) };
        for second in 0..=30_u64 {
            // A thousand a second, after twenty seconds of nothing.
            rates.note(start + Duration::from_secs(second), counts(second.saturating_sub(20) * 1_000));
        }
        let (seconds, read, delivered) = rates.since(start + Duration::from_secs(30), &counts(10_000));
        assert_eq!((seconds, read, delivered["a"]), (10.0, 1_000.0, 500.0));
    }
}
