//! How a dedup stands with the Redis that holds its ids, as data for programs and as a line for people.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::report::count;

/// How a dedup stands with the Redis that holds its ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeenSet {
    /// Ids that Redis was asked about and has answered.
    pub asked: u64,
    /// Times that a worker found that Redis had lost ids: duplicates of those pass.
    pub forgotten: u64,
    /// Since when it gives no answer, in Unix milliseconds; changes wait meanwhile.
    pub away_since: Option<u64>,
    /// Why not.
    pub because: Option<String>,
    /// What of the server may make it lose ids, a sentence each.
    pub weaknesses: Vec<String>,
}

#[cfg(feature = "redis")]
impl From<&highwater_operators::dedup::stats::SeenStats> for SeenSet {
    fn from(stats: &highwater_operators::dedup::stats::SeenStats) -> Self {
        let (away_since, because) = stats.away().unzip();
        SeenSet { asked: stats.asked(), forgotten: stats.times_forgotten(), away_since, because, weaknesses: stats.weaknesses() }
    }
}

impl SeenSet {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} ids asked of Redis", count(self.asked));
        if let (Some(since), Some(because)) = (self.away_since, &self.because) {
            let ago = highwater_operators::epoch::unix_ms().saturating_sub(since) as f64 / 1000.0;
            let _ = write!(text, "; it has not answered for {ago:.1} s, and changes wait ({because})");
        }
        if self.forgotten > 0 {
            let _ = write!(text, "; found {} times that it had lost ids, whose duplicates pass", count(self.forgotten));
        }
        for weakness in &self.weaknesses {
            let _ = write!(text, "; {weakness}");
        }
        text
    }
}
