//! What the monitor watches: the process, its limits, and what it looked like a moment ago.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use highwater_operators::epoch::unix_ms;
use highwater_operators::process::Process;
use highwater_operators::why::Why;
use highwater_operators::{guard, pools};
use parking_lot::Mutex;

use super::fresh::Fresh;
use super::health::Pulse;
use super::rates::{Counts, Rates};
use super::seen_set::SeenSet;
use super::status::{self, Books, SourceBooks, Status};
use crate::exposition::Exposition;
use crate::report::{About, ActionBooks};
use crate::run::Opened;

/// What the monitor watches.
pub(crate) struct Watched {
    pub process: Arc<Process>,
    exposition: Option<Exposition>,
    /// What there is to say of each action.
    about: BTreeMap<String, About>,
    stall_after: Duration,
    seen: Mutex<Seen>,
    why: Fresh<Why>,
    metrics: Fresh<String>,
}

/// How long operators are waited for that are asked what they hold.
const PATIENCE: Duration = Duration::from_millis(500);

struct Seen {
    rates: Rates,
    pulse: Pulse,
}

impl Watched {
    pub(crate) fn new(opened: &Opened, stall_after: Duration) -> Arc<Self> {
        let seen = Mutex::new(Seen { rates: Rates::default(), pulse: Pulse::new(Instant::now()) });
        let (process, exposition, about) = (opened.process.clone(), opened.exposition.clone(), opened.about.clone());
        Arc::new(Watched { process, exposition, about, stall_after, seen, why: Fresh::new(), metrics: Fresh::new() })
    }

    /// Takes a look, for rates and for health.
    pub(crate) fn look(&self, now: Instant) {
        let counts = self.counts(&ActionBooks::of(&self.process, &self.about));
        // Before the workers have built their dataflow there are no actions to count for.
        if !counts.delivered.is_empty() {
            self.seen.lock().rates.note(now, counts);
        }
        self.still(now);
    }

    fn counts(&self, actions: &BTreeMap<String, ActionBooks>) -> Counts {
        Counts {
            read: self.process.read_about().0,
            delivered: actions.iter().map(|(action, books)| (action.clone(), books.delivered)).collect(),
        }
    }

    /// For how long the frontier has stood still with work under way.
    fn still(&self, now: Instant) -> Duration {
        let frontier = self.process.pace.frontier().unwrap_or_default();
        self.seen.lock().pulse.look(now, frontier, self.process.units_about() == 0)
    }

    /// What is wrong with the run, if something is.
    pub(crate) fn illness(&self, now: Instant) -> Option<String> {
        let process = &self.process;
        let after = humantime::format_duration(self.stall_after);
        let unsaved = process.pace.unsaved_since().map_or(0, |since| unix_ms().saturating_sub(since));
        if process.halt.is_halted() {
            Some("the run is ending".to_owned())
        } else if process.is_stopping() {
            Some("the run is draining".to_owned())
        } else if self.still(now) > self.stall_after {
            Some(format!("the mark has stood still for more than {after} (stall_after) with work under way"))
        } else if let Some(complaint) = process.keeper.shelves().complaint() {
            Some(complaint)
        } else if Duration::from_millis(unsaved) > self.stall_after {
            Some(format!("what is done could not be saved for more than {after} (stall_after)"))
        } else {
            None
        }
    }

    /// The books as they stand.
    pub(crate) fn books(&self) -> Books {
        let process = &self.process;
        let idle_before = process.totals().units == 0;
        let actions = ActionBooks::of(process, &self.about);
        let is_idle = idle_before && process.totals().units == 0 && process.sums() == process.sums();
        let settled = |books: &ActionBooks| books.duplicate + books.rejected + books.filtered + books.delivered + books.parked;
        let adds_up = |books: &ActionBooks| settled(books) <= books.read && !(is_idle && books.in_flight > 0);
        let mut sources = BTreeMap::<String, SourceBooks>::new();
        for (line, n) in process.live() {
            match line.split_once(' ') {
                Some(("read", source)) => sources.entry(source.to_owned()).or_default().read = n,
                Some(("rejected", source)) => sources.entry(source.to_owned()).or_default().rejected = n,
                _ => {}
            }
        }
        Books {
            pipeline: process.limits.pipeline.clone(),
            generation: process.generation,
            balanced: actions.values().all(adds_up),
            sources,
            actions,
        }
    }

    /// How the run stands.
    pub(crate) fn status(&self, now: Instant) -> Status {
        let process = &self.process;
        let books = self.books();
        let totals = process.totals();
        let counts = self.counts(&books.actions);
        let ((seconds, read, delivered), is_quiet) = {
            let rates = &self.seen.lock().rates;
            (rates.since(now, &counts), rates.is_quiet(&counts))
        };
        // Units are one per action that a change can reach; people count changes.
        let actions = process.limits.actions as u64;
        let (units_limit, bytes_limit) = process.in_flight.limits();
        let (changes, changes_limit) =
            (process.units_about().div_ceil(actions), units_limit / actions * process.cluster.place().processes as u64);
        let frontier = process.pace.frontier();
        let state = match () {
            () if process.halt.is_halted() => "ending",
            () if process.is_stopping() => "draining",
            // Between two batches nothing is under way either.
            () if changes == 0 && is_quiet => "idle",
            () => "running",
        };
        let age = frontier.filter(|_| changes > 0).map_or(0.0, |at| unix_ms().saturating_sub(at) as f64 / 1000.0);
        Status {
            pipeline: books.pipeline.clone(),
            generation: books.generation,
            pid: std::process::id(),
            workers: process.cluster.place().peers(),
            processes: process.cluster.place().processes,
            state: state.to_owned(),
            uptime_seconds: process.started.elapsed().as_secs_f64(),
            frontier,
            frontier_age_seconds: age,
            still_seconds: self.still(now).as_secs_f64(),
            saved: process.pace.saved_ms(),
            saves: process.stats.saves.load(Ordering::Relaxed),
            in_flight: status::InFlight { changes, changes_limit, bytes: process.in_flight.bytes(), bytes_limit },
            rates: status::Rates { seconds, read, delivered },
            cache: totals.into(),
            guards: guard::all().into_iter().map(|(endpoint, guard)| (endpoint, guard.into())).collect(),
            pools: pools::all().into_iter().map(|(purpose, pool)| (purpose, pool.into())).collect(),
            seen: seen(process),
            read_now: totals.changes_read,
            replayed: totals.replayed,
            books,
        }
    }

    /// All metrics, as Prometheus reads them.
    pub(crate) fn metrics(&self) -> String {
        self.metrics.get(|| self.exposition.as_ref().map_or_else(String::new, |exposition| exposition.render(&self.process)))
    }

    /// What holds the mark. Waits for the workers' answers.
    pub(crate) fn why(&self) -> Why {
        self.why.get(|| self.process.why(PATIENCE))
    }
}

/// Seen-sets of this process that are in Redis.
#[cfg(feature = "redis")]
fn seen(process: &Process) -> BTreeMap<String, SeenSet> {
    let all = process.figures.all::<highwater_operators::dedup::stats::SeenStats>();
    all.into_iter().map(|(dedup, stats)| (dedup, SeenSet::from(&*stats))).collect()
}

#[cfg(not(feature = "redis"))]
fn seen(_: &Process) -> BTreeMap<String, SeenSet> {
    BTreeMap::new()
}
