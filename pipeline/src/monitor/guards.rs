//! How the guard of an endpoint stands, as data for programs and as a line for people.

use std::fmt::Write;
use std::time::Duration;

use highwater_operators::epoch::unix_ms;
use highwater_operators::guard::GuardStatus;
use highwater_operators::guard::breaker::BreakerState;
use serde::{Deserialize, Serialize};

use crate::report::count;

/// How the guard of an endpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// `closed`, `half open` (probes pass) or `open`.
    pub breaker: String,
    /// Since when, in Unix milliseconds.
    pub since: u64,
    /// When an open one lets probes through, in Unix milliseconds.
    pub open_until: Option<u64>,
    /// Why it opened last.
    pub because: Option<String>,
    /// How often it has opened.
    pub opened: u64,
    /// Of a half open one: probes under way, probes that succeeded, and how many of those close it.
    pub probes: Option<[u32; 3]>,
    /// Calls that were put off, since the start.
    pub refused: u64,
    /// Calls under way.
    pub calls: usize,
    /// Calls there may be at once, as found by the endpoint's answers.
    pub calls_limit: Option<usize>,
    /// Calls that wait in line.
    pub waiting: usize,
    /// Calls per second there may be.
    pub rate: Option<f64>,
    /// What a call may take, in seconds.
    pub timeout_seconds: f64,
    /// Retries that the budget has left.
    pub retries_left: f64,
    /// How long the endpoint wants to be left alone, in seconds.
    pub paused_seconds: Option<f64>,
}

impl From<GuardStatus> for Guard {
    fn from(status: GuardStatus) -> Self {
        let breaker = match status.breaker {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half open",
            BreakerState::Open => "open",
        };
        Guard {
            breaker: breaker.to_owned(),
            since: status.since,
            open_until: status.open_until,
            because: status.because,
            opened: status.opened,
            probes: status.probes.map(|probes| [probes.under_way, probes.succeeded, probes.needed]),
            refused: status.refused,
            calls: status.in_use,
            calls_limit: status.limit,
            waiting: status.waiting,
            rate: status.rate,
            timeout_seconds: status.timeout.as_secs_f64(),
            retries_left: status.retries_left,
            paused_seconds: status.paused.map(|paused| paused.as_secs_f64()),
        }
    }
}

impl Guard {
    /// For people, on one line.
    pub(crate) fn text(&self) -> String {
        let now = unix_ms();
        let seconds = |ms: u64| humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
        let mut text = format!("breaker {} for {}", self.breaker, seconds(now.saturating_sub(self.since)));
        // A string cannot refuse to be written to.
        if let Some(until) = self.open_until {
            let _ = write!(text, ", probes in {}", seconds(until.saturating_sub(now)));
        }
        if let Some([under_way, succeeded, needed]) = self.probes {
            let _ = write!(text, ", {under_way} probes under way, {succeeded} of {needed} succeeded");
        }
        if let Some(because) = self.because.as_ref().filter(|_| self.breaker != "closed") {
            let _ = write!(text, " ({because})");
        }
        let limit = self.calls_limit.map(|limit| format!(" of {}", count(limit as u64))).unwrap_or_default();
        let _ = write!(text, "; {}{limit} calls at once", self.calls);
        if self.waiting > 0 {
            let _ = write!(text, ", {} in line", count(self.waiting as u64));
        }
        if let Some(rate) = self.rate {
            let _ = write!(text, ", at most {rate} a second");
        }
        let _ = write!(text, ", each {:.1} s; {:.0} retries left", self.timeout_seconds, self.retries_left);
        if let Some(paused) = self.paused_seconds {
            let _ = write!(text, "; it wants to be left alone for {paused:.1} s");
        }
        if self.refused > 0 {
            let opened = if self.opened > 0 { format!(", opened {} times", count(self.opened)) } else { String::new() };
            let _ = write!(text, "; {} calls put off{opened}", count(self.refused));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_it_stands() {
        let status = GuardStatus {
            breaker: BreakerState::Open,
            since: unix_ms() - 3_100,
            open_until: Some(unix_ms() + 7_900),
            because: Some("5 failures in a row, the last: connection refused".to_owned()),
            opened: 2,
            refused: 1_234,
            limit: Some(70),
            rate: Some(50.0),
            timeout: Duration::from_millis(1_500),
            retries_left: 12.4,
            ..GuardStatus::default()
        };
        let text = Guard::from(status.clone()).text();
        let expected = "breaker open for 3s, probes in 7s (5 failures in a row, the last: connection refused); 0 of 70 calls at once, at most 50 \
                        a second, each 1.5 s; 12 retries left; 1,234 calls put off, opened 2 times";
        assert_eq!(text, expected);
        let closed = GuardStatus { breaker: BreakerState::Closed, open_until: None, refused: 0, ..status };
        let text = Guard::from(closed).text();
        assert_eq!(text, "breaker closed for 3s; 0 of 70 calls at once, at most 50 a second, each 1.5 s; 12 retries left");
    }
}
