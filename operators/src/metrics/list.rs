//! Every metric, in one list: name, kind, unit, labels, meaning. The endpoint, the docs and the dashboard are made from it.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of a run.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name. Names that begin with `observer_` or `process_` are those of the users' dashboards and stay.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit: a word of Prometheus' base units, or empty for a plain number.
    pub unit: &'static str,
    /// The label beside `pipeline`, which all have.
    pub label: Option<&'static str>,
    /// A second label.
    pub second: Option<&'static str>,
    /// What it says.
    pub meaning: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    label: Option<&'static str>,
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, unit, label, second: None, meaning }
}

impl Metric {
    /// The same by a second label too.
    const fn and_by(mut self, label: &'static str) -> Metric {
        self.second = Some(label);
        self
    }
}

use Kind::{Counter as C, Gauge as G, Histogram as H};

const SOURCE: Option<&str> = Some("source");
const ACTION: Option<&str> = Some("action");
const LOOKUP: Option<&str> = Some("lookup");
const OPERATOR: Option<&str> = Some("operator");
const POOL: Option<&str> = Some("pool");
const ENDPOINT: Option<&str> = Some("endpoint");
const QUEUE: Option<&str> = Some("queue");

/// Changes read.
pub const EVENTS_PROCESSED: Metric =
    metric("observer_events_processed_total", C, "", SOURCE, "Changes and rejected lines read from the source");
/// Calls made.
pub const ACTIONS_EXECUTED: Metric =
    metric("observer_actions_executed_total", C, "", ACTION, "Attempts of the action that came to an end, failed ones included");
/// Calls that failed.
pub const ACTIONS_FAILED: Metric =
    metric("observer_actions_failed_total", C, "", ACTION, "Attempts of the action that failed, timed out or panicked");
/// How long calls take.
pub const ACTION_DURATION: Metric = metric(
    "observer_action_duration_seconds",
    H,
    "seconds",
    ACTION,
    "How long an attempt of the action takes; of a batch, each change counts; of a file, each write of what an epoch brought",
);
/// Lookups from a cache.
pub const CACHE_HITS: Metric = metric("observer_cache_hits_total", C, "", LOOKUP, "Lookups answered from the cache");
/// Lookups from the origin.
pub const CACHE_MISSES: Metric = metric("observer_cache_misses_total", C, "", LOOKUP, "Lookups that had to ask their origin");
/// Share of hits.
pub const CACHE_HIT_RATE: Metric =
    metric("observer_cache_hit_rate", G, "", LOOKUP, "Share of lookups answered from the cache since the start, 0 to 1");
/// Entries that had to go.
pub const CACHE_EVICTED: Metric =
    metric("highwater_cache_evicted_total", C, "", LOOKUP, "Entries that left the cache for lack of room");
/// Entries that were too old.
pub const CACHE_EXPIRED: Metric =
    metric("highwater_cache_expired_total", C, "", LOOKUP, "Lookups that found an entry too old to be used");
/// Entries that were used past their time.
pub const CACHE_STALE: Metric = metric(
    "highwater_cache_stale_total",
    C,
    "",
    LOOKUP,
    "Lookups answered with an entry that was past its time, while it was asked for anew (`stale_while_revalidate`)",
);
/// Entries.
pub const CACHE_ENTRIES: Metric = metric("highwater_cache_entries", G, "", LOOKUP, "Entries in the cache, over all workers");
/// Bytes.
pub const CACHE_BYTES: Metric = metric("highwater_cache_bytes", G, "bytes", LOOKUP, "Bytes the cache's entries take, about");
/// How full.
pub const CACHE_FILL: Metric =
    metric("highwater_cache_fill", G, "", LOOKUP, "How full the cache is by entries or bytes, whichever is more, 0 to 1");
/// How long a lookup takes.
pub const CACHE_LOOKUP: Metric =
    metric("highwater_cache_lookup_mean_seconds", G, "seconds", LOOKUP, "What one lookup in the cache takes on average");
/// Rows of a table that is kept.
pub const TABLE_ROWS: Metric =
    metric("highwater_table_rows", G, "", LOOKUP, "Rows of the table that a lookup keeps from its changes, in each process");
/// Bytes of it.
pub const TABLE_BYTES: Metric =
    metric("highwater_table_bytes", G, "bytes", LOOKUP, "Bytes that these rows and their keys take in this process, about");
/// Lookups in it that found a row.
pub const TABLE_FOUND: Metric = metric("highwater_table_found_total", C, "", LOOKUP, "Lookups in such a table that found a row");
/// Lookups in it that found none.
pub const TABLE_MISSING: Metric =
    metric("highwater_table_missing_total", C, "", LOOKUP, "Lookups in such a table that found none: no such row, or no key");
/// Duplicates.
pub const DUPLICATES: Metric = metric("highwater_duplicates_total", C, "", OPERATOR, "Changes dropped as duplicates");
/// Ids that are remembered.
pub const DEDUP_IDS: Metric =
    metric("highwater_dedup_ids", G, "", OPERATOR, "Ids that dedup remembers in memory, over all workers");
/// Ids that Redis was asked about.
pub const DEDUP_ASKED: Metric =
    metric("highwater_dedup_asked_total", C, "", OPERATOR, "Ids that dedup has asked Redis about, and that were answered");
/// Memory that Redis lost.
pub const DEDUP_FORGOTTEN: Metric = metric(
    "highwater_dedup_forgotten_total",
    C,
    "",
    OPERATOR,
    "Times that a worker found that Redis had lost ids it was told: duplicates of those pass",
);
/// Whether Redis answers dedup.
pub const DEDUP_AWAY: Metric =
    metric("highwater_dedup_away", G, "", OPERATOR, "1 while changes wait because Redis does not answer dedup, else 0");
/// Rejected lines.
pub const REJECTED: Metric = metric("highwater_rejected_total", C, "", SOURCE, "What was read and is no change; it is parked");
/// Filtered changes.
pub const FILTERED: Metric =
    metric("highwater_filtered_total", C, "", OPERATOR, "Changes that ended at a filter or at an action's condition");
/// Delivered changes.
pub const DELIVERED: Metric = metric("highwater_delivered_total", C, "", ACTION, "Changes delivered, durably noted");
/// Parked changes.
pub const PARKED: Metric = metric("highwater_parked_total", C, "", ACTION, "Changes set aside durably, for whatever cause");
/// What waits parked.
pub const PARKED_NOW: Metric = metric("highwater_parked_changes", G, "", ACTION, "Changes parked now, dropped ones not counted");
/// How large that is.
pub const PARKED_BYTES: Metric = metric(
    "highwater_parked_bytes",
    G,
    "bytes",
    ACTION,
    "Bytes of what stands parked in this process, about; rejected lines under their source",
);
/// How old the oldest is.
pub const PARKED_OLDEST: Metric = metric(
    "highwater_parked_oldest_age_seconds",
    G,
    "seconds",
    ACTION,
    "Age of the oldest change that stands parked in this process; 0 if there is none",
);
/// Whether no more may be parked.
pub const PARKED_FULL: Metric = metric(
    "highwater_parked_full",
    G,
    "",
    None,
    "1 while as much stands parked as may be (parked_max, parked_max_mib, parked_max_age) and sources do not read",
);
/// Changes under way, by action.
pub const ACTION_IN_FLIGHT: Metric =
    metric("highwater_action_in_flight_changes", G, "", ACTION, "Changes read that have no outcome for this action yet");
/// Calls under way.
pub const CALLS: Metric = metric("highwater_action_calls", G, "", ACTION, "Changes handed to the action and not settled");
/// Attempts that are waited for.
pub const RETRYING: Metric =
    metric("highwater_action_retrying_changes", G, "", ACTION, "Changes that wait for their next attempt");
/// What an action acts on.
pub const CONDITION: Metric = metric(
    "highwater_action_condition",
    G,
    "",
    ACTION,
    "1; its label `condition` says under which condition the action takes changes",
)
.and_by("condition");
/// The window's changes.
pub const IN_FLIGHT_CHANGES: Metric =
    metric("highwater_in_flight_changes", G, "", None, "Changes under way, each counted once per action it can reach");
/// The window's limit in changes.
pub const IN_FLIGHT_CHANGES_LIMIT: Metric =
    metric("highwater_in_flight_limit_changes", G, "", None, "Changes that may be under way; beyond it sources stop reading");
/// The window's bytes.
pub const IN_FLIGHT_BYTES: Metric = metric("highwater_in_flight_bytes", G, "bytes", None, "Blocks of changes that are alive");
/// The window's limit in bytes.
pub const IN_FLIGHT_BYTES_LIMIT: Metric =
    metric("highwater_in_flight_limit_bytes", G, "bytes", None, "Bytes that may be under way; beyond it sources stop reading");
/// Time a source was kept from reading.
pub const SOURCE_PAUSED: Metric = metric(
    "highwater_source_paused_seconds_total",
    C,
    "seconds",
    SOURCE,
    "How long the source's readers waited for room in the window",
);
/// Bytes read.
pub const BYTES_READ: Metric = metric("highwater_read_bytes_total", C, "bytes", None, "Bytes read by all sources");
/// Changes read again.
pub const REPLAYED: Metric =
    metric("highwater_replayed_total", C, "", None, "Changes read again that an earlier run had read already");
/// Age of what is oldest.
pub const FRONTIER_AGE: Metric =
    metric("highwater_frontier_age_seconds", G, "seconds", None, "Age of the oldest change under way; 0 if there is none");
/// Age of the mark.
pub const MARK_AGE: Metric =
    metric("highwater_mark_age_seconds", G, "seconds", None, "Time since all that was done was last saved; 0 if all is saved");
/// Checkpoints.
pub const SAVES: Metric = metric("highwater_saves_total", C, "", None, "Checkpoints saved");
/// How long saves take.
pub const SAVE_DURATION: Metric =
    metric("highwater_save_duration_seconds", H, "seconds", None, "How long a checkpoint takes: files synced, state durable");
/// How long groups of notes take.
pub const COMMIT_DURATION: Metric =
    metric("highwater_commit_duration_seconds", H, "seconds", None, "How long the store takes to make a group of notes durable");
/// Keys asked for at an origin.
pub const LOOKUP_LOADED: Metric = metric("highwater_lookup_loaded_keys_total", C, "", LOOKUP, "Keys asked for at the origin");
/// Keys that a shared cache had.
pub const SHARED_HITS: Metric = metric(
    "highwater_shared_cache_hits_total",
    C,
    "",
    LOOKUP,
    "Keys that the lookup's cache in Redis had, or knew that there is no row of; each was a miss of the worker's own cache",
);
/// Keys that it did not have.
pub const SHARED_MISSES: Metric =
    metric("highwater_shared_cache_misses_total", C, "", LOOKUP, "Keys that the lookup's cache in Redis did not have");
/// Times it was of no use.
pub const SHARED_FAILED: Metric = metric(
    "highwater_shared_cache_failed_total",
    C,
    "",
    LOOKUP,
    "Batches for which the lookup's cache in Redis was not asked or told, or gave no answer in time: the origin was asked",
);
/// Keys that a cache on disk had.
pub const DISK_HITS: Metric = metric(
    "highwater_disk_cache_hits_total",
    C,
    "",
    LOOKUP,
    "Keys that the lookup's cache on disk had, or knew that there is no row of; the tiers before it did not have them",
);
/// Keys that it did not have.
pub const DISK_MISSES: Metric =
    metric("highwater_disk_cache_misses_total", C, "", LOOKUP, "Keys that the lookup's cache on disk did not have");
/// Times it was of no use.
pub const DISK_FAILED: Metric = metric(
    "highwater_disk_cache_failed_total",
    C,
    "",
    LOOKUP,
    "Batches for which the lookup's cache on disk could not be read or written, or was too slow to be told: the origin was asked",
);
/// Entries that left it.
pub const DISK_EVICTED: Metric =
    metric("highwater_disk_cache_evicted_total", C, "", LOOKUP, "Entries that left the lookup's cache on disk for lack of room");
/// Entries in it.
pub const DISK_ENTRIES: Metric = metric(
    "highwater_disk_cache_entries",
    G,
    "",
    LOOKUP,
    "Entries in the lookup's cache on disk, those too old to be used among them",
);
/// Bytes in it.
pub const DISK_BYTES: Metric =
    metric("highwater_disk_cache_bytes", G, "bytes", LOOKUP, "Bytes that the entries of the lookup's cache on disk take, about");
/// Batches of keys.
pub const LOOKUP_LOADS: Metric = metric("highwater_lookup_loads_total", C, "", LOOKUP, "Batches of keys asked for at the origin");
/// Keys per batch.
pub const LOOKUP_BATCH_MEAN: Metric =
    metric("highwater_lookup_batch_keys_mean", G, "", LOOKUP, "Keys that are asked for together, on average since the start");
/// How full batches are.
pub const LOOKUP_BATCH_UTILISATION: Metric = metric(
    "highwater_lookup_batch_utilisation",
    G,
    "",
    LOOKUP,
    "Share of the keys that batches had room for which were in them, since the start, 0 to 1",
);
/// Batches fitted.
pub const LOOKUP_ADAPTATIONS: Metric = metric(
    "highwater_lookup_adaptations_total",
    C,
    "",
    LOOKUP,
    "Times that size or window of batches were fitted to what the origin can do (`adaptive`)",
);
/// Failed loads.
pub const LOOKUP_FAILED: Metric =
    metric("highwater_lookup_failed_loads_total", C, "", LOOKUP, "Attempts to ask the origin that failed");
/// How long origins take.
pub const LOOKUP_DURATION: Metric =
    metric("highwater_lookup_load_duration_seconds", H, "seconds", LOOKUP, "How long an attempt to ask the origin takes");
/// Pooled connections in use.
pub const POOL_ACTIVE: Metric = metric("highwater_pool_active_connections", G, "", POOL, "Connections given out by the pool");
/// Pooled connections ready.
pub const POOL_IDLE: Metric = metric("highwater_pool_idle_connections", G, "", POOL, "Connections of the pool that are ready");
/// Who waits for a connection.
pub const POOL_WAITING: Metric =
    metric("highwater_pool_waiting_calls", G, "", POOL, "Calls that wait for a connection of the pool");
/// How much of a pool is in use.
pub const POOL_UTILISATION: Metric = metric(
    "highwater_pool_utilisation",
    G,
    "",
    POOL,
    "Share of the connections the pool may have which are in use, 0 to 1; about 0.7 is well sized",
);
/// Connections opened.
pub const POOL_OPENED: Metric = metric("highwater_pool_opened_total", C, "", POOL, "Connections that the pool has opened");
/// Connections not opened.
pub const POOL_ERRORS: Metric =
    metric("highwater_pool_errors_total", C, "", POOL, "Attempts of the pool to open a connection that failed");
/// How long opening takes.
pub const POOL_CONNECT: Metric =
    metric("highwater_pool_connect_mean_seconds", G, "seconds", POOL, "What opening a connection of the pool takes on average");
/// How often pooled connections are used again.
pub const POOL_REUSE: Metric =
    metric("highwater_pool_reuse_rate", G, "", POOL, "Share of uses of the pool's connections that opened none, 0 to 1");
/// Attempts that asked nothing.
pub const PUT_OFF: Metric = metric(
    "highwater_action_put_off_total",
    C,
    "",
    ACTION,
    "Attempts that were put off without a call: a breaker was open, or a limit reached; they use up no attempts",
);
/// Attempts after failed ones.
pub const RETRIED: Metric =
    metric("highwater_action_retried_total", C, "", ACTION, "Attempts made after an attempt of the same change had failed");
/// Breakers.
pub const BREAKER_STATE: Metric =
    metric("highwater_breaker_state", G, "", ENDPOINT, "The endpoint's breaker: 0 closed, 1 half open (probes pass), 2 open");
/// Trips.
pub const BREAKER_OPENED: Metric =
    metric("highwater_breaker_opened_total", C, "", ENDPOINT, "How often the endpoint's breaker has opened");
/// Calls refused by guards.
pub const GUARD_REFUSED: Metric = metric(
    "highwater_guard_refused_total",
    C,
    "",
    ENDPOINT,
    "Calls the endpoint's guard did not let through: breaker, rate, retry budget, no room",
);
/// The level of calls at once.
pub const GUARD_LIMIT: Metric =
    metric("highwater_guard_limit_calls", G, "", ENDPOINT, "Calls the endpoint gets at once, as found by its answers");
/// Calls at the endpoint.
pub const GUARD_CALLS: Metric = metric("highwater_guard_calls", G, "", ENDPOINT, "Calls under way at the endpoint");
/// What a call may take.
pub const GUARD_TIMEOUT: Metric = metric(
    "highwater_guard_timeout_seconds",
    G,
    "seconds",
    ENDPOINT,
    "What a call of the endpoint may take, as follows from its measured p99",
);
/// The retry budget.
pub const GUARD_RETRIES: Metric =
    metric("highwater_guard_retries_left", G, "", ENDPOINT, "Retries that the endpoint's budget has left");
/// What waits in a queue.
pub const QUEUE_DEPTH: Metric =
    metric("highwater_queue_depth", G, "", QUEUE, "Jobs that wait to be taken, those included whose time has not come");
/// How long it waits.
pub const QUEUE_AGE: Metric =
    metric("highwater_queue_age_seconds", G, "seconds", QUEUE, "How long the oldest job waits that could be taken");
/// What is being done.
pub const QUEUE_IN_FLIGHT: Metric = metric("highwater_queue_in_flight", G, "", QUEUE, "Jobs that a worker holds");
/// What stands parked.
pub const QUEUE_PARKED_JOBS: Metric = metric("highwater_queue_parked_jobs", G, "", QUEUE, "Jobs parked now");
/// What was put in.
pub const QUEUE_ENQUEUED: Metric = metric("highwater_queue_enqueued_total", C, "", QUEUE, "New jobs this process has enqueued");
/// What was put in again.
pub const QUEUE_KNOWN: Metric =
    metric("highwater_queue_known_total", C, "", QUEUE, "Jobs this process enqueued that were there already, or had been done");
/// What was taken.
pub const QUEUE_TAKEN: Metric = metric("highwater_queue_taken_total", C, "", QUEUE, "Jobs this process has taken");
/// What came back.
pub const QUEUE_RETURNED: Metric = metric(
    "highwater_queue_returned_total",
    C,
    "",
    QUEUE,
    "Jobs this process has taken after their lease had ended with another worker, which died or froze",
);
/// What was done.
pub const QUEUE_FINISHED: Metric = metric("highwater_queue_finished_total", C, "", QUEUE, "Jobs this process has finished");
/// What is tried again.
pub const QUEUE_RETRIED: Metric =
    metric("highwater_queue_retried_total", C, "", QUEUE, "Attempts of this process that failed and are repeated");
/// What was set aside.
pub const QUEUE_PARKED: Metric = metric("highwater_queue_parked_total", C, "", QUEUE, "Jobs this process has parked");
/// What came too late.
pub const QUEUE_REFUSED: Metric = metric(
    "highwater_queue_refused_total",
    C,
    "",
    QUEUE,
    "What this process said of jobs that another worker had been given meanwhile, and so was refused",
);
/// What was let go.
pub const QUEUE_LOST: Metric = metric(
    "highwater_queue_lost_total",
    C,
    "",
    QUEUE,
    "Jobs this process let go of half-way because it could not renew their lease in time",
);
/// The run.
pub const GENERATION: Metric = metric("highwater_generation", G, "", None, "Number of this run of the pipeline");

/// Processes.
pub const PROCESSES: Metric = metric("highwater_processes", G, "", None, "Processes of the run");
/// How long another process has been silent.
pub const HEARTBEAT_AGE: Metric = metric(
    "highwater_heartbeat_age_seconds",
    G,
    "seconds",
    Some("process"),
    "How long ago another process was last heard of; members listen to process 0, and process 0 to all",
);
/// Room that is owed.
pub const UNITS_AWAY: Metric = metric(
    "highwater_units_away",
    G,
    "",
    None,
    "Changes under way here that another process has read, once per action they can reach: their room is given back there",
);

/// All metrics, in the order in which the docs list them.
pub const ALL: &[&Metric] = &[
    &EVENTS_PROCESSED,
    &ACTIONS_EXECUTED,
    &ACTIONS_FAILED,
    &ACTION_DURATION,
    &CACHE_HITS,
    &CACHE_MISSES,
    &CACHE_HIT_RATE,
    &CACHE_EVICTED,
    &CACHE_EXPIRED,
    &CACHE_STALE,
    &CACHE_ENTRIES,
    &CACHE_BYTES,
    &CACHE_FILL,
    &CACHE_LOOKUP,
    &TABLE_ROWS,
    &TABLE_BYTES,
    &TABLE_FOUND,
    &TABLE_MISSING,
    &DUPLICATES,
    &DEDUP_IDS,
    &DEDUP_ASKED,
    &DEDUP_FORGOTTEN,
    &DEDUP_AWAY,
    &REJECTED,
    &FILTERED,
    &DELIVERED,
    &PARKED,
    &PARKED_NOW,
    &PARKED_BYTES,
    &PARKED_OLDEST,
    &PARKED_FULL,
    &ACTION_IN_FLIGHT,
    &CALLS,
    &RETRYING,
    &CONDITION,
    &IN_FLIGHT_CHANGES,
    &IN_FLIGHT_CHANGES_LIMIT,
    &IN_FLIGHT_BYTES,
    &IN_FLIGHT_BYTES_LIMIT,
    &SOURCE_PAUSED,
    &BYTES_READ,
    &REPLAYED,
    &FRONTIER_AGE,
    &MARK_AGE,
    &SAVES,
    &SAVE_DURATION,
    &COMMIT_DURATION,
    &SHARED_HITS,
    &SHARED_MISSES,
    &SHARED_FAILED,
    &DISK_HITS,
    &DISK_MISSES,
    &DISK_FAILED,
    &DISK_EVICTED,
    &DISK_ENTRIES,
    &DISK_BYTES,
    &LOOKUP_LOADED,
    &LOOKUP_LOADS,
    &LOOKUP_BATCH_MEAN,
    &LOOKUP_BATCH_UTILISATION,
    &LOOKUP_ADAPTATIONS,
    &LOOKUP_FAILED,
    &LOOKUP_DURATION,
    &POOL_ACTIVE,
    &POOL_IDLE,
    &POOL_WAITING,
    &POOL_UTILISATION,
    &POOL_OPENED,
    &POOL_ERRORS,
    &POOL_CONNECT,
    &POOL_REUSE,
    &PUT_OFF,
    &RETRIED,
    &BREAKER_STATE,
    &BREAKER_OPENED,
    &GUARD_REFUSED,
    &GUARD_LIMIT,
    &GUARD_CALLS,
    &GUARD_TIMEOUT,
    &GUARD_RETRIES,
    &QUEUE_DEPTH,
    &QUEUE_AGE,
    &QUEUE_IN_FLIGHT,
    &QUEUE_PARKED_JOBS,
    &QUEUE_ENQUEUED,
    &QUEUE_KNOWN,
    &QUEUE_TAKEN,
    &QUEUE_RETURNED,
    &QUEUE_FINISHED,
    &QUEUE_RETRIED,
    &QUEUE_PARKED,
    &QUEUE_REFUSED,
    &QUEUE_LOST,
    &GENERATION,
    &PROCESSES,
    &HEARTBEAT_AGE,
    &UNITS_AWAY,
];

/// Upper bounds in seconds of the buckets of every histogram: from a memory access to a hanging call.
pub const BUCKETS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_their_kind() {
        for metric in ALL {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.name.starts_with("observer_") || metric.name.starts_with("highwater_"), "{}", metric.name);
            let unit = metric.name.trim_end_matches("_total").rsplit('_').next().unwrap();
            assert!(metric.unit.is_empty() || unit == metric.unit, "{} is in {}", metric.name, metric.unit);
            assert_eq!(ALL.iter().filter(|other| other.name == metric.name).count(), 1, "{}", metric.name);
        }
    }
}
