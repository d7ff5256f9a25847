//! Metrics: which there are (`list`), and how their values are come by.
//!
//! Most values are not counted a second time: [`Metrics::collect`] reads them where the pipeline counts them anyway (the
//! books, the window, the statistics of actions and lookups), when somebody asks. Only durations are recorded as they happen.
//! So an instrumented pipeline costs the hot path next to nothing, and metrics cannot disagree with the books.

mod list;

use std::sync::atomic::Ordering;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, NoopRecorder, Recorder, Unit};

pub use self::list::*;
use crate::action::stats::{ActionStats, ConditionName};
use crate::dedup::stats::DedupStats;
#[cfg(feature = "redis")]
use crate::dedup::stats::SeenStats;
use crate::epoch::unix_ms;
use crate::guard;
use crate::guard::breaker::BreakerState;
use crate::ingest::stats::ReaderStats;
use crate::lookup::cache::CacheStats;
#[cfg(feature = "disk")]
use crate::lookup::stats::DiskStats;
use crate::lookup::stats::LoadStats;
#[cfg(feature = "redis")]
use crate::lookup::stats::SharedStats;
use crate::lookup::table::stats::TableStats;
use crate::pools;
use crate::process::Process;
use crate::queues;

/// Where the metrics of a process go.
pub struct Metrics(Box<dyn Recorder + Send + Sync>);

impl Metrics {
    /// Metrics that go to this recorder.
    pub fn new(recorder: impl Recorder + Send + Sync + 'static) -> Self {
        for metric in ALL {
            let unit = match metric.unit {
                "seconds" => Some(Unit::Seconds),
                "bytes" => Some(Unit::Bytes),
                _ => None,
            };
            let (name, meaning) = (metric.name.into(), metric.meaning.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, meaning),
                Kind::Gauge => recorder.describe_gauge(name, unit, meaning),
                Kind::Histogram => recorder.describe_histogram(name, unit, meaning),
            }
        }
        Metrics(Box::new(recorder))
    }

    /// Metrics that nobody looks at.
    pub fn none() -> Self {
        Metrics(Box::new(NoopRecorder))
    }

    /// A histogram to record into. `label` is the value of the metric's label, if it has one.
    pub fn histogram(&self, metric: &Metric, label: &str) -> Histogram {
        self.0.register_histogram(&key(metric, label), &METADATA)
    }

    fn counter(&self, metric: &Metric, label: &str) -> Counter {
        self.0.register_counter(&key(metric, label), &METADATA)
    }

    fn gauge(&self, metric: &Metric, label: &str) -> Gauge {
        self.0.register_gauge(&key(metric, label), &METADATA)
    }

    fn gauge_of(&self, metric: &Metric, label: &str, second: &str) -> Gauge {
        let labels = [(metric.label, label), (metric.second, second)];
        let labels = labels.into_iter().filter_map(|(name, value)| Some(Label::new(name?, value.to_owned()))).collect::<Vec<_>>();
        self.0.register_gauge(&Key::from_parts(metric.name, labels), &METADATA)
    }

    /// Brings every counter and gauge up to date.
    pub fn collect(&self, process: &Process) {
        self.collect_books(process);
        for (action, stats) in process.figures.all::<ActionStats>() {
            let (called, failed) = (stats.called.load(Ordering::Relaxed), stats.failed.load(Ordering::Relaxed));
            self.counter(&ACTIONS_EXECUTED, &action).absolute(called);
            self.counter(&ACTIONS_FAILED, &action).absolute(failed);
            self.gauge(&CALLS, &action).set(stats.running.load(Ordering::Relaxed) as f64);
            self.gauge(&RETRYING, &action).set(stats.retrying.load(Ordering::Relaxed) as f64);
            self.counter(&PUT_OFF, &action).absolute(stats.put_off.load(Ordering::Relaxed));
            self.counter(&RETRIED, &action).absolute(stats.retried.load(Ordering::Relaxed));
        }
        for (action, ConditionName(condition)) in
            process.figures.all::<ConditionName>().iter().map(|(name, said)| (name, &**said))
        {
            self.gauge_of(&CONDITION, action, condition).set(1.0);
        }
        for (operator, stats) in process.figures.all::<DedupStats>() {
            self.gauge(&DEDUP_IDS, &operator).set(stats.ids() as f64);
        }
        #[cfg(feature = "redis")]
        for (operator, stats) in process.figures.all::<SeenStats>() {
            self.counter(&DEDUP_ASKED, &operator).absolute(stats.asked());
            self.counter(&DEDUP_FORGOTTEN, &operator).absolute(stats.times_forgotten());
            self.gauge(&DEDUP_AWAY, &operator).set(f64::from(u8::from(stats.away().is_some())));
        }
        self.collect_lookups(process);
        self.collect_readers(process);
        self.collect_process(process);
        self.collect_pools();
        self.collect_guards();
        self.collect_queues();
    }

    fn collect_queues(&self) {
        for (queue, status) in queues::all() {
            self.gauge(&QUEUE_DEPTH, &queue).set(status.depth as f64);
            self.gauge(&QUEUE_AGE, &queue).set(status.age.as_secs_f64());
            self.gauge(&QUEUE_IN_FLIGHT, &queue).set(status.in_flight as f64);
            self.gauge(&QUEUE_PARKED_JOBS, &queue).set(status.parked as f64);
            let done = status.done;
            self.counter(&QUEUE_ENQUEUED, &queue).absolute(done.enqueued);
            self.counter(&QUEUE_KNOWN, &queue).absolute(done.known);
            self.counter(&QUEUE_TAKEN, &queue).absolute(done.taken);
            self.counter(&QUEUE_RETURNED, &queue).absolute(done.returned);
            self.counter(&QUEUE_FINISHED, &queue).absolute(done.finished);
            self.counter(&QUEUE_RETRIED, &queue).absolute(done.retried);
            self.counter(&QUEUE_PARKED, &queue).absolute(done.parked);
            self.counter(&QUEUE_REFUSED, &queue).absolute(done.refused);
            self.counter(&QUEUE_LOST, &queue).absolute(done.lost);
        }
    }

    fn collect_guards(&self) {
        for (endpoint, status) in guard::all() {
            self.gauge(&BREAKER_STATE, &endpoint).set(match status.breaker {
                BreakerState::Closed => 0.0,
                BreakerState::HalfOpen => 1.0,
                BreakerState::Open => 2.0,
            });
            self.counter(&BREAKER_OPENED, &endpoint).absolute(status.opened);
            self.counter(&GUARD_REFUSED, &endpoint).absolute(status.refused);
            if let Some(limit) = status.limit {
                self.gauge(&GUARD_LIMIT, &endpoint).set(limit as f64);
            }
            self.gauge(&GUARD_CALLS, &endpoint).set(status.in_use as f64);
            self.gauge(&GUARD_TIMEOUT, &endpoint).set(status.timeout.as_secs_f64());
            self.gauge(&GUARD_RETRIES, &endpoint).set(status.retries_left);
        }
    }

    fn collect_pools(&self) {
        for (pool, status) in pools::all() {
            self.gauge(&POOL_ACTIVE, &pool).set(status.active as f64);
            self.gauge(&POOL_IDLE, &pool).set(status.idle as f64);
            self.gauge(&POOL_WAITING, &pool).set(status.waiting as f64);
            self.gauge(&POOL_UTILISATION, &pool).set(status.utilisation());
            self.counter(&POOL_OPENED, &pool).absolute(status.opened);
            self.counter(&POOL_ERRORS, &pool).absolute(status.errors);
            self.gauge(&POOL_CONNECT, &pool).set(status.time_to_connect().as_secs_f64());
            if let Some(rate) = status.reuse_rate() {
                self.gauge(&POOL_REUSE, &pool).set(rate);
            }
        }
    }

    fn collect_lookups(&self, process: &Process) {
        for (lookup, stats) in process.figures.all::<CacheStats>() {
            let counts = stats.counts();
            self.counter(&CACHE_HITS, &lookup).absolute(counts.hits);
            self.counter(&CACHE_MISSES, &lookup).absolute(counts.misses);
            self.gauge(&CACHE_HIT_RATE, &lookup).set(counts.hit_rate().unwrap_or_default());
            self.counter(&CACHE_EVICTED, &lookup).absolute(counts.evicted);
            self.counter(&CACHE_EXPIRED, &lookup).absolute(counts.expired);
            self.counter(&CACHE_STALE, &lookup).absolute(counts.stale);
            self.gauge(&CACHE_ENTRIES, &lookup).set(counts.entries as f64);
            self.gauge(&CACHE_BYTES, &lookup).set(counts.bytes as f64);
            self.gauge(&CACHE_FILL, &lookup).set(counts.fill());
            self.gauge(&CACHE_LOOKUP, &lookup).set(counts.lookup_mean().unwrap_or_default().as_secs_f64());
        }
        for (lookup, stats) in process.figures.all::<TableStats>() {
            let ((rows, bytes), (found, missing)) = (stats.held(), stats.answers());
            self.gauge(&TABLE_ROWS, &lookup).set(rows as f64);
            self.gauge(&TABLE_BYTES, &lookup).set(bytes as f64);
            self.counter(&TABLE_FOUND, &lookup).absolute(found);
            self.counter(&TABLE_MISSING, &lookup).absolute(missing);
        }
        for (lookup, stats) in process.figures.all::<LoadStats>() {
            self.counter(&LOOKUP_LOADED, &lookup).absolute(stats.loaded.load(Ordering::Relaxed));
            self.counter(&LOOKUP_LOADS, &lookup).absolute(stats.loads.load(Ordering::Relaxed));
            self.counter(&LOOKUP_FAILED, &lookup).absolute(stats.failed.load(Ordering::Relaxed));
            let (keys, utilisation) = stats.batch_mean().unwrap_or_default();
            self.gauge(&LOOKUP_BATCH_MEAN, &lookup).set(keys);
            self.gauge(&LOOKUP_BATCH_UTILISATION, &lookup).set(utilisation);
            self.counter(&LOOKUP_ADAPTATIONS, &lookup).absolute(stats.adaptations.load(Ordering::Relaxed));
        }
        #[cfg(feature = "redis")]
        for (lookup, stats) in process.figures.all::<SharedStats>() {
            self.counter(&SHARED_HITS, &lookup).absolute(stats.hits.load(Ordering::Relaxed));
            self.counter(&SHARED_MISSES, &lookup).absolute(stats.misses.load(Ordering::Relaxed));
            self.counter(&SHARED_FAILED, &lookup).absolute(stats.failed.load(Ordering::Relaxed));
        }
        #[cfg(feature = "disk")]
        for (lookup, stats) in process.figures.all::<DiskStats>() {
            self.counter(&DISK_HITS, &lookup).absolute(stats.hits.load(Ordering::Relaxed));
            self.counter(&DISK_MISSES, &lookup).absolute(stats.misses.load(Ordering::Relaxed));
            self.counter(&DISK_FAILED, &lookup).absolute(stats.failed.load(Ordering::Relaxed));
            self.counter(&DISK_EVICTED, &lookup).absolute(stats.evicted.load(Ordering::Relaxed));
            self.gauge(&DISK_ENTRIES, &lookup).set(stats.entries.load(Ordering::Relaxed) as f64);
            self.gauge(&DISK_BYTES, &lookup).set(stats.bytes.load(Ordering::Relaxed) as f64);
        }
    }

    fn collect_readers(&self, process: &Process) {
        let mut paused: Vec<(&str, u64)> = Vec::new();
        let readers = process.figures.all::<ReaderStats>();
        for (_, reader) in &readers {
            let milliseconds = reader.paused_ms();
            match paused.iter_mut().find(|(source, _)| *source == reader.source) {
                Some((_, sum)) => *sum += milliseconds,
                None => paused.push((&reader.source, milliseconds)),
            }
        }
        for (source, milliseconds) in paused {
            self.counter(&SOURCE_PAUSED, source).absolute(milliseconds / 1000);
        }
    }

    fn collect_books(&self, process: &Process) {
        let since_start = process.books.since_start();
        for (line, n) in &since_start {
            let Some((what, name)) = line.split_once(' ') else { continue };
            let metric = match what {
                "read" => &EVENTS_PROCESSED,
                "duplicate" => &DUPLICATES,
                "rejected" => &REJECTED,
                "filtered" => &FILTERED,
                "delivered" => &DELIVERED,
                "parked" => &PARKED,
                _ => continue,
            };
            self.counter(metric, name).absolute(*n);
        }
        let now_ms = unix_ms();
        for (action, shelf) in process.keeper.shelves().by_action() {
            let oldest = shelf.oldest_at_ms.map_or(0, |at| now_ms.saturating_sub(at));
            self.gauge(&PARKED_BYTES, &action).set(shelf.bytes as f64);
            self.gauge(&PARKED_OLDEST, &action).set(oldest as f64 / 1000.0);
        }
        self.gauge(&PARKED_FULL, "").set(f64::from(u8::from(process.keeper.shelves().is_full())));
        // One process reads a change and another one is done with it: only the sums of all say anything, and process 0 has them.
        if !process.cluster.place().leads() {
            return;
        }
        let resolved = process.resolved();
        for (action, sums) in process.sums() {
            let (delivered_later, dropped) = resolved.get(&action).copied().unwrap_or_default();
            let now = sums.parked.saturating_sub(delivered_later + dropped);
            self.gauge(&PARKED_NOW, &action).set(now as f64);
            self.gauge(&ACTION_IN_FLIGHT, &action).set(sums.in_flight() as f64);
        }
    }

    fn collect_process(&self, process: &Process) {
        let (stats, window) = (&process.stats, &process.in_flight);
        let (units_max, bytes_max) = window.limits();
        self.gauge(&IN_FLIGHT_CHANGES, "").set(window.units() as f64);
        self.gauge(&IN_FLIGHT_CHANGES_LIMIT, "").set(units_max as f64);
        self.gauge(&IN_FLIGHT_BYTES, "").set(window.bytes() as f64);
        self.gauge(&IN_FLIGHT_BYTES_LIMIT, "").set(bytes_max as f64);
        self.counter(&BYTES_READ, "").absolute(stats.bytes_read.load(Ordering::Relaxed));
        self.counter(&REPLAYED, "").absolute(stats.replayed.load(Ordering::Relaxed));
        self.counter(&SAVES, "").absolute(stats.saves.load(Ordering::Relaxed));
        let now = unix_ms();
        let age = |since: u64| now.saturating_sub(since) as f64 / 1000.0;
        let pace = &process.pace;
        self.gauge(&FRONTIER_AGE, "").set(if window.units() == 0 { 0.0 } else { pace.frontier().map_or(0.0, age) });
        self.gauge(&MARK_AGE, "").set(pace.unsaved_since().map_or(0.0, age));
        self.gauge(&GENERATION, "").set(process.generation as f64);
        let (ages, owed) = process.cluster.figures();
        self.gauge(&PROCESSES, "").set(process.cluster.place().processes as f64);
        self.gauge(&UNITS_AWAY, "").set(owed as f64);
        for (peer, age_ms) in ages {
            self.gauge(&HEARTBEAT_AGE, &peer.to_string()).set(age_ms as f64 / 1000.0);
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

const METADATA: Metadata<'static> = Metadata::new("highwater", Level::INFO, None);

fn key(metric: &Metric, value: &str) -> Key {
    match metric.label {
        Some(label) => Key::from_parts(metric.name, vec![Label::new(label, value.to_owned())]),
        None => Key::from_static_name(metric.name),
    }
}
