//! The report of a run: tables for people, one JSON object for programs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use comfy_table::{CellAlignment, Table, presets};
use highwater_operators::action::stats::ActionStats;
use highwater_operators::books::Sums;
use highwater_operators::cluster::Totals;
use highwater_operators::halt::Ending;
use highwater_operators::process::Process;
use serde::{Deserialize, Serialize};

use crate::run::Opened;

/// What a run came to. Counts of changes are since the pipeline began, unless they say otherwise.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The pipeline's name.
    pub pipeline: String,
    /// The number of this run.
    pub generation: u64,
    /// Whether every source ended and everything was done.
    pub ended: bool,
    /// Changes that were done before this run began; none in a new data directory.
    pub resumed_from: Option<u64>,
    /// Changes read, rejected lines and duplicates included.
    pub read: u64,
    /// Changes dropped as duplicates.
    pub duplicate: u64,
    /// Lines that were no changes.
    pub rejected: u64,
    /// By action, what became of the changes.
    pub actions: BTreeMap<String, ActionBooks>,
    /// Changes this run read that an earlier run had read already.
    pub replayed: u64,
    /// The most changes that a crash at any moment of this run would have made the next one read again.
    pub replayed_max: u64,
    /// Checkpoints this run saved.
    pub saves: u64,
    /// Changes this run read.
    pub read_now: u64,
    /// Seconds this run took.
    pub seconds: f64,
    /// Changes this run read, per second.
    pub events_per_second: f64,
    /// Seconds from the start of the run until the first change was read that had not been read before.
    pub first_new_seconds: Option<f64>,
    /// Lookups of this run.
    pub cache: CacheCounts,
}

/// The books of one action: `read = duplicate + rejected + filtered + delivered + parked + in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionBooks {
    /// Changes read by the sources that reach the action.
    pub read: u64,
    /// Dropped as duplicates.
    pub duplicate: u64,
    /// Lines that were no changes.
    pub rejected: u64,
    /// Ended at a filter or at the action's condition.
    pub filtered: u64,
    /// Delivered, parked ones that were delivered later included.
    pub delivered: u64,
    /// Parked now, or dropped from there.
    pub parked: u64,
    /// Of the parked, dropped by hand.
    pub dropped: u64,
    /// Read and not settled: read again by the next run.
    pub in_flight: u64,
    /// Attempts of this run, in this process, that were made after an attempt of the same change had failed.
    #[serde(default)]
    pub retried: u64,
    /// Changes called by this run, in this process, that an earlier run may have called without noting it: at most so many.
    #[serde(default)]
    pub repeated: u64,
    /// Where the output is.
    pub output: Option<String>,
    /// The condition under which the action takes changes, if it has one.
    #[serde(default)]
    pub condition: Option<String>,
}

/// What there is to say of an action beside its counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    /// Where its output is.
    pub place: Option<String>,
    /// The condition under which it takes changes.
    pub condition: Option<String>,
}

/// How lookups were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounts {
    /// From a cache.
    pub hits: u64,
    /// From the origin.
    pub misses: u64,
}

impl Report {
    pub(crate) fn new(process: &Process, opened: &Opened, ended: bool, ending: Option<Ending>) -> Self {
        let stats = &process.stats;
        let seconds = process.started.elapsed().as_secs_f64();
        let totals = process.totals();
        let read_now = totals.changes_read;
        let live = process.live();
        let sum = |what: &str| live.iter().filter(|(line, _)| line.starts_with(what)).map(|(_, n)| n).sum();
        let first_new = totals.first_new_us;
        Report {
            pipeline: process.limits.pipeline.clone(),
            generation: process.generation,
            ended: ended && ending.is_none(),
            resumed_from: opened.resumed_from,
            read: sum("read "),
            duplicate: sum("duplicate "),
            rejected: sum("rejected "),
            actions: ActionBooks::of(process, &opened.about),
            replayed: totals.replayed,
            replayed_max: stats.replayed_max.load(Ordering::Relaxed),
            saves: stats.saves.load(Ordering::Relaxed),
            read_now,
            seconds,
            events_per_second: (read_now as f64 / seconds).round(),
            first_new_seconds: (first_new > 0).then(|| first_new as f64 / 1e6),
            cache: totals.into(),
        }
    }

    /// The report as one JSON object on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a report is plain data")
    }

    /// The report as tables.
    pub fn table(&self) -> String {
        let mut actions = Table::new();
        actions.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        actions.set_header(["action", "read", "duplicate", "rejected", "filtered", "delivered", "parked", "in flight", "output"]);
        for (name, books) in &self.actions {
            let dropped = if books.dropped > 0 { format!(" ({} dropped)", count(books.dropped)) } else { String::new() };
            actions.add_row([
                name.clone(),
                count(books.read),
                count(books.duplicate),
                count(books.rejected),
                count(books.filtered),
                count(books.delivered),
                count(books.parked) + &dropped,
                count(books.in_flight),
                books.output.clone().unwrap_or_default(),
            ]);
        }
        for column in 1..8 {
            if let Some(column) = actions.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lookups = self.cache.hits + self.cache.misses;
        let hit_rate = match lookups {
            0 => String::new(),
            _ => format!("   hit rate {:.1} %", 100.0 * self.cache.hits as f64 / lookups as f64),
        };
        let resumed = match self.resumed_from {
            None => "new".to_owned(),
            Some(done) => format!("resumed after {}", count(done)),
        };
        format!(
            "{actions}\n{} changes/s ({} changes in {:.2} s)   run {} ({resumed})   replayed {}   saves {}{hit_rate}",
            count(self.events_per_second as u64),
            count(self.read_now),
            self.seconds,
            self.generation,
            count(self.replayed),
            count(self.saves),
        )
    }
}

impl From<Totals> for CacheCounts {
    fn from(totals: Totals) -> Self {
        CacheCounts { hits: totals.lookups.0, misses: totals.lookups.1 }
    }
}

impl ActionBooks {
    /// The books of every action, as they stand. `about` says the rest of each.
    pub(crate) fn of(process: &Process, about: &BTreeMap<String, About>) -> BTreeMap<String, ActionBooks> {
        let resolved = process.resolved();
        let books = |(action, sums): (String, Sums)| {
            let (delivered_later, dropped) = resolved.get(&action).copied().unwrap_or_default();
            let stats = process.figures.get::<ActionStats>(&action);
            let figure = |of: fn(&ActionStats) -> &AtomicU64| stats.as_ref().map_or(0, |stats| of(stats).load(Ordering::Relaxed));
            let About { place, condition } = about.get(&action).cloned().unwrap_or_default();
            let books = ActionBooks {
                retried: figure(|stats| &stats.retried),
                repeated: figure(|stats| &stats.repeated),
                read: sums.read,
                duplicate: sums.duplicate,
                rejected: sums.rejected,
                filtered: sums.filtered,
                delivered: sums.delivered + delivered_later,
                parked: sums.parked.saturating_sub(delivered_later),
                dropped,
                in_flight: sums.in_flight(),
                output: place,
                condition,
            };
            (action, books)
        };
        process.sums().into_iter().map(books).collect()
    }
}

/// A number with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
