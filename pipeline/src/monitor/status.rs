//! How a running pipeline stands, as data for programs and as text for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use highwater_operators::pools::PoolStatus;
use serde::{Deserialize, Serialize};

use crate::commands::counted;
use crate::monitor::guards::Guard;
use crate::monitor::seen_set::SeenSet;
use crate::report::{ActionBooks, CacheCounts, count};

/// How a running pipeline stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The pipeline's name.
    pub pipeline: String,
    /// The number of this run.
    pub generation: u64,
    /// The process.
    pub pid: u32,
    /// Worker threads, of all processes.
    pub workers: usize,
    /// Processes.
    #[serde(default = "one")]
    pub processes: usize,
    /// `running`, `idle`, `draining` or `ending`.
    pub state: String,
    /// Seconds since the run began.
    pub uptime_seconds: f64,
    /// The frontier behind all actions, in Unix milliseconds: everything read before is done. `None` before the first change
    /// and after the last.
    pub frontier: Option<u64>,
    /// Age of the oldest change under way, in seconds; 0 if there is none.
    pub frontier_age_seconds: f64,
    /// Seconds that the frontier has stood still with work under way.
    pub still_seconds: f64,
    /// When the last checkpoint of this run became durable, in Unix milliseconds.
    pub saved: Option<u64>,
    /// Checkpoints of this run.
    pub saves: u64,
    /// What is under way, and how much may be.
    pub in_flight: InFlight,
    /// How fast it goes.
    pub rates: Rates,
    /// Lookups of this run.
    pub cache: CacheCounts,
    /// Pools of connections, by purpose.
    #[serde(default)]
    pub pools: BTreeMap<String, Pool>,
    /// Seen-sets that are in Redis, by the name of their dedup.
    #[serde(default)]
    pub seen: BTreeMap<String, SeenSet>,
    /// What stands before endpoints, by action and endpoint.
    #[serde(default)]
    pub guards: BTreeMap<String, Guard>,
    /// Changes read by this run.
    pub read_now: u64,
    /// Changes this run read that an earlier run had read already.
    pub replayed: u64,
    /// The books.
    pub books: Books,
}

/// What is under way. A change that some actions are done with and others are not counts as part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Changes under way.
    pub changes: u64,
    /// Changes that may be under way.
    pub changes_limit: u64,
    /// Bytes under way.
    pub bytes: u64,
    /// Bytes that may be under way.
    pub bytes_limit: u64,
}

/// How fast it goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Over how many of the last seconds.
    pub seconds: f64,
    /// Changes read per second.
    pub read: f64,
    /// Changes delivered per second, by action.
    pub delivered: BTreeMap<String, f64>,
}

/// How a pool of connections stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Connections given out.
    pub active: usize,
    /// Connections ready.
    pub idle: usize,
    /// Calls that wait for one.
    pub waiting: usize,
    /// The most connections there may be.
    pub max_connections: usize,
    /// Attempts to open one that failed, since the start.
    pub errors: u64,
    /// Whether the last attempt to open one failed.
    pub away: bool,
}

impl From<PoolStatus> for Pool {
    fn from(status: PoolStatus) -> Self {
        let PoolStatus { active, idle, waiting, max_connections, errors, away, .. } = status;
        Pool { active, idle, waiting, max_connections, errors, away }
    }
}

/// The books of the whole pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Books {
    /// The pipeline's name.
    pub pipeline: String,
    /// The number of this run.
    pub generation: u64,
    /// Whether they add up: nothing has an outcome that was not read, and with nothing under way all has one.
    pub balanced: bool,
    /// By source (or stream of the user's own), what it gave.
    pub sources: BTreeMap<String, SourceBooks>,
    /// By action, what became of the changes.
    pub actions: BTreeMap<String, ActionBooks>,
}

/// What a source gave since the pipeline began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBooks {
    /// Changes and rejected lines.
    pub read: u64,
    /// Lines that were no changes.
    pub rejected: u64,
}

fn one() -> usize {
    1
}

impl Status {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let seconds = |seconds: f64| humantime::format_duration(Duration::from_secs(seconds as u64)).to_string();
        let _ = writeln!(
            text,
            "{}: {}   run {}, process {}, {}, up {}",
            self.pipeline,
            self.state,
            self.generation,
            self.pid,
            match self.processes {
                0 | 1 => counted(self.workers as u64, "worker", "workers"),
                _ => format!("{} in {} processes", counted(self.workers as u64, "worker", "workers"), self.processes),
            },
            seconds(self.uptime_seconds)
        );
        let frontier = match self.frontier {
            Some(at) => humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at)).to_string(),
            None => "none".to_owned(),
        };
        let _ = write!(text, "mark       {frontier}, oldest change under way {:.1} s old", self.frontier_age_seconds);
        if self.still_seconds >= 1.0 {
            let _ = write!(text, "; it has stood still for {:.0} s, `why` says what holds it", self.still_seconds);
        }
        let saved = self.saved.map_or_else(
            || "nothing saved by this run yet".to_owned(),
            |at| {
                let ago = highwater_operators::epoch::unix_ms().saturating_sub(at) as f64 / 1000.0;
                format!("last {ago:.1} s ago, {} of this run", count(self.saves))
            },
        );
        let _ = writeln!(text, "\nsaves      {saved}");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "in flight  {} of {} changes, {:.1} of {:.0} MiB",
            count(self.in_flight.changes),
            count(self.in_flight.changes_limit),
            mib(self.in_flight.bytes),
            mib(self.in_flight.bytes_limit)
        );
        let replayed = if self.replayed > 0 { format!(", of these {} read again", count(self.replayed)) } else { String::new() };
        let _ = writeln!(
            text,
            "read       {} by this run{replayed}; {} changes/s in the last {:.0} s",
            count(self.read_now),
            count(self.rates.read as u64),
            self.rates.seconds
        );
        let lookups = self.cache.hits + self.cache.misses;
        if lookups > 0 {
            let rate = 100.0 * self.cache.hits as f64 / lookups as f64;
            let _ = writeln!(text, "lookups    {}, hit rate {rate:.1} %", count(lookups));
        }
        for (purpose, pool) in &self.pools {
            let away = if pool.away { "; the last attempt to open one failed" } else { "" };
            let Pool { active, idle, waiting, max_connections, .. } = pool;
            let _ = writeln!(
                text,
                "pool       {purpose}: {active} of {max_connections} connections in use, {idle} ready, {waiting} waited for{away}"
            );
        }
        for (dedup, seen) in &self.seen {
            let _ = writeln!(text, "dedup      {dedup}: {}", seen.text());
        }
        for (endpoint, guard) in &self.guards {
            let _ = writeln!(text, "guard      {endpoint}: {}", guard.text());
        }
        if !self.books.balanced {
            let _ = writeln!(text, "books      DO NOT BALANCE");
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "action",
            "read",
            "duplicate",
            "rejected",
            "filtered",
            "delivered",
            "parked",
            "in flight",
            "delivered/s",
        ]);
        for (name, books) in &self.books.actions {
            let rate = self.rates.delivered.get(name).copied().unwrap_or_default();
            let figures =
                [books.read, books.duplicate, books.rejected, books.filtered, books.delivered, books.parked, books.in_flight];
            table.add_row([name.clone()].into_iter().chain(figures.map(count)).chain([count(rate as u64)]));
        }
        for column in 1..9 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        text += &table.to_string();
        for (name, books) in &self.books.actions {
            if let Some(condition) = &books.condition {
                let _ = write!(text, "\n{name} acts on {condition}");
            }
        }
        text
    }
}
