//! What is told: as data for programs, as sentences for people.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::probe::{Desk, Hold};
use crate::epoch::unix_ms;
use crate::in_flight::InFlight;
use crate::ingest::stats::{ReaderState, ReaderStats};
use crate::position::Epoch;

/// What holds the mark. All times are Unix milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Why {
    /// The pipeline.
    pub pipeline: String,
    /// Whether anything holds the mark.
    pub state: State,
    /// The frontier behind all actions: everything read before has a durable outcome. `None` before the first change and
    /// after the last.
    pub frontier: Option<Epoch>,
    /// Since when it stands there.
    pub since: u64,
    /// Who holds it.
    pub held_by: Option<Held>,
    /// Sources that are kept from reading, and by what.
    pub paused: Vec<Paused>,
    /// What every source does.
    pub sources: Vec<SourceState>,
}

/// Whether anything holds the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is under way.
    Idle,
    /// Changes are under way, and none of the pipeline's own operators holds one: they pass, or are with operators of the
    /// user's own.
    Running,
    /// `held_by` holds the mark.
    Held,
    /// Sources have been told to stop; what is under way is finished.
    Draining,
    /// The run ends now.
    Ending,
}

/// Who holds the mark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// What it waits for.
    pub kind: HolderKind,
    /// The operator, as the graph names it: `action receipt`, `lookup customer`, `source jsonl`, `checkpoint`.
    pub operator: String,
    /// Its worker; `None` for what all share.
    pub worker: Option<usize>,
    /// The name of the action, if it is one.
    pub action: Option<String>,
    /// The condition under which the action takes changes, if it has one.
    #[serde(default)]
    pub condition: Option<String>,
    /// The key of the change.
    pub key: Option<String>,
    /// The id of the change.
    pub change: Option<String>,
    /// Which attempt is made, or was made last.
    pub attempt: Option<u32>,
    /// How many attempts there are at most.
    pub attempts: Option<u32>,
    /// When the next attempt is made.
    pub next_try: Option<u64>,
    /// Why the last attempt failed, where it is known: of a transactional action, what its target said.
    pub trouble: Option<String>,
    /// Since when it waits for this.
    pub since: u64,
    /// The epoch it holds: when the change was read.
    pub epoch: Option<Epoch>,
}

/// What a holder waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// The store takes long to make something durable.
    Store,
    /// The answer of a call.
    Call,
    /// The next attempt of a call that has failed.
    Retry,
    /// The row of a lookup.
    Lookup,
    /// The next attempt to ask the origin of a lookup.
    LookupRetry,
    /// The answer of the seen-set in Redis.
    Dedup,
    /// An outcome is being made durable.
    Note,
    /// Output files take long to be written or synced.
    Files,
    /// Its turn: all permits of the action are taken, or an earlier change of its key is under way.
    Turn,
    /// The worker does not answer: it is busy inside a closure.
    Worker,
}

/// A source that is kept from reading.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paused {
    /// The source.
    pub source: String,
    /// The worker it reads for.
    pub worker: usize,
    /// Since when.
    pub since: u64,
    /// By what: `changes` or `bytes`, the limit of the window that is reached; or `parked`, as much stands parked as may be.
    pub by: String,
    /// What is under way, in the unit of `by`; or how many changes stand parked.
    pub in_flight: u64,
    /// The limit, in the unit of `by`.
    pub limit: u64,
}

/// What a source does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceState {
    /// The source.
    pub source: String,
    /// The worker it reads for.
    pub worker: usize,
    /// What it does.
    pub state: ReaderState,
    /// Since when.
    pub since: u64,
    /// When it last read something.
    pub last_read: Option<u64>,
}

impl Paused {
    pub(super) fn new(reader: &ReaderStats, since: u64, window: &InFlight) -> Self {
        let (units_max, bytes_max) = window.limits();
        if let Some(shelves) = window.full_shelves() {
            let ((records, _), most) = (shelves.sums(), shelves.bound().records);
            let by = "parked".to_owned();
            return Paused { source: reader.source.clone(), worker: reader.worker, since, by, in_flight: records, limit: most };
        }
        let (by, in_flight, limit) = match window.bytes() >= bytes_max {
            true => ("bytes".to_owned(), window.bytes(), bytes_max),
            false => ("changes".to_owned(), window.units(), units_max),
        };
        Paused { source: reader.source.clone(), worker: reader.worker, since, by, in_flight, limit }
    }
}

impl SourceState {
    pub(super) fn new(reader: &ReaderStats, state: ReaderState, since: u64) -> Self {
        let last_read = Some(reader.last_read_ms.load(std::sync::atomic::Ordering::Relaxed)).filter(|at| *at > 0);
        SourceState { source: reader.source.clone(), worker: reader.worker, state, since, last_read }
    }
}

impl SourceState {
    /// Whether it may read, and has read nothing for a while.
    fn is_silent(&self, now: u64) -> bool {
        let last = self.last_read.unwrap_or(self.since);
        matches!(self.state, ReaderState::Waiting | ReaderState::Away | ReaderState::Reading) && now.saturating_sub(last) > 1_000
    }
}

impl Held {
    pub(super) fn new(desk: Desk, hold: Hold) -> Self {
        let (key, change) = hold.change.unzip();
        Held {
            kind: hold.kind,
            operator: format!("{} {}", desk.operator, desk.name),
            worker: Some(desk.worker),
            action: (desk.operator == "action").then_some(desk.name),
            condition: hold.condition,
            key,
            change,
            attempt: hold.attempt.map(|(attempt, _)| attempt),
            attempts: hold.attempt.map(|(_, attempts)| attempts),
            next_try: hold.next_try,
            trouble: hold.trouble,
            since: hold.since,
            epoch: Some(hold.epoch),
        }
    }

    pub(super) fn of_silent(desk: Desk, since: u64) -> Self {
        let hold = Hold { since, ..Hold::new(0, HolderKind::Worker) };
        Held { epoch: None, ..Held::new(desk, hold) }
    }

    pub(super) fn of_save(kind: HolderKind, since: u64) -> Self {
        Held {
            kind,
            operator: "checkpoint".to_owned(),
            worker: None,
            action: None,
            condition: None,
            key: None,
            change: None,
            attempt: None,
            attempts: None,
            next_try: None,
            trouble: None,
            since,
            epoch: None,
        }
    }

    /// The least holds the mark: the oldest epoch, and of those that hold it, who is waited for rather than who waits.
    pub(crate) fn rank(&self) -> (Option<Epoch>, HolderKind, u64) {
        (self.epoch, self.kind, self.since)
    }
}

impl fmt::Display for Why {
    /// A few sentences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = unix_ms();
        let stands = match self.frontier {
            Some(frontier) => format!("the mark stands at {} (for {})", time(frontier), Ago(now, self.since)),
            None => "no change has passed yet".to_owned(),
        };
        match (&self.held_by, self.state) {
            (Some(held), _) => write!(f, "{stands}: {held}")?,
            (None, State::Idle) => write!(f, "idle: nothing is under way")?,
            (None, State::Running) => write!(f, "{stands}: changes are passing, or with operators of your own")?,
            (None, State::Draining) => write!(f, "draining: what is under way is being finished")?,
            (None, _) => write!(f, "the run is ending")?,
        }
        for paused in &self.paused {
            if paused.by == "parked" {
                write!(
                    f,
                    "\nsource {} (worker {}) has been paused for {}: {} changes stand parked, of at most {} (parked_max, parked_max_mib, parked_max_age); \
                     `parked list` shows them, `parked retry` and `parked drop` make room",
                    paused.source,
                    paused.worker,
                    Ago(now, paused.since),
                    paused.in_flight,
                    paused.limit,
                )?;
                continue;
            }
            write!(
                f,
                "\nsource {} (worker {}) has been paused for {}: {} of {} {} are under way",
                paused.source,
                paused.worker,
                Ago(now, paused.since),
                paused.in_flight,
                paused.limit,
                paused.by,
            )?;
        }
        for source in self.sources.iter().filter(|source| source.is_silent(now)) {
            let last = source
                .last_read
                .map_or_else(|| "has given nothing yet".to_owned(), |last| format!("has given nothing for {}", Ago(now, last)));
            write!(f, "\nsource {} (worker {}) {last}", source.source, source.worker)?;
        }
        Ok(())
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = unix_ms();
        let since = Ago(now, self.since);
        // A closure without a name says nothing more.
        let condition = self.condition.as_ref().filter(|condition| *condition != "closure");
        let condition = condition.map_or_else(String::new, |condition| format!(" on {condition}"));
        let operator = format!("{}{condition}", self.operator);
        let worker = self.worker.map(|worker| format!(" (worker {worker})")).unwrap_or_default();
        let change = match (&self.key, &self.change) {
            (Some(key), Some(change)) => format!("change {change} of key {key}"),
            _ => "a change".to_owned(),
        };
        let attempt = match (self.attempt, self.attempts) {
            (Some(attempt), Some(attempts)) => format!(", attempt {attempt} of {attempts}"),
            _ => String::new(),
        };
        let next = self.next_try.map_or_else(String::new, |at| match at.saturating_sub(now) {
            0 => ", the next try is due".to_owned(),
            wait => format!(", next try in {}", Ago(wait, 0)),
        });
        let trouble = self.trouble.as_ref().map_or_else(String::new, |trouble| format!(": {trouble}"));
        match self.kind {
            HolderKind::Call => write!(f, "{operator}{worker} has waited {since} for the answer to {change}{attempt}{trouble}"),
            HolderKind::Retry => write!(f, "{operator}{worker} has not got through with {change}{attempt}{next}{trouble}"),
            HolderKind::Lookup => write!(f, "{operator}{worker} has waited {since} for the row of {change}{attempt}"),
            HolderKind::LookupRetry => {
                write!(f, "{operator}{worker} could not load the row of {change}{attempt}{next}")
            }
            HolderKind::Dedup => {
                write!(f, "{operator}{worker} has waited {since} for the seen-set's answer to {change}{trouble}")
            }
            HolderKind::Note => write!(f, "{operator}{worker} has an outcome for {change}, which is being made durable"),
            HolderKind::Store if self.change.is_none() => write!(f, "the checkpoint store has been saving for {since}"),
            HolderKind::Store => {
                write!(f, "the checkpoint store has been writing for {since}; {operator}{worker} waits for it with {change}")
            }
            HolderKind::Files => write!(f, "output files have been written and synced for {since}"),
            HolderKind::Turn => write!(f, "{operator}{worker} holds {change}, which waits for its turn{attempt}"),
            HolderKind::Worker => write!(
                f,
                "worker {} has not answered for {since}: it is busy inside a closure, near {operator}",
                self.worker.unwrap_or_default()
            ),
        }
    }
}

/// A span of time, for people: between two instants in Unix milliseconds.
struct Ago(u64, u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = Duration::from_millis(self.0.saturating_sub(self.1));
        match span.as_secs() {
            0 => write!(f, "{} ms", span.as_millis()),
            1..120 => write!(f, "{:.1} s", span.as_secs_f64()),
            seconds @ 120..7_200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{:.1} h", seconds as f64 / 3600.0),
        }
    }
}

fn time(at_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at_ms);
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_told_with_its_condition() {
        let desk = Desk { operator: "action", name: "receipt".to_owned(), worker: 0 };
        let condition = Some("became(status, paid)".to_owned());
        let told = Held::new(desk, Hold { condition, ..Hold::new(unix_ms(), HolderKind::Turn) }).to_string();
        assert!(told.starts_with("action receipt on became(status, paid) (worker 0) holds a change"), "{told}");
    }

    #[test]
    fn a_retry_is_told_with_its_key_and_its_next_try() {
        let desk = Desk { operator: "action", name: "receipt".to_owned(), worker: 1 };
        let hold = Hold {
            change: Some(("o-17".to_owned(), "c-9".to_owned())),
            attempt: Some((3, 5)),
            next_try: Some(unix_ms() + 60_500),
            ..Hold::new(1_000, HolderKind::Retry)
        };
        let told = Held::new(desk, hold).to_string();
        let start = "action receipt (worker 1) has not got through with change c-9 of key o-17, attempt 3 of 5, next try in 60.";
        assert!(told.starts_with(start), "{told}");
    }

    #[test]
    fn who_is_waited_for_comes_before_who_waits() {
        let held = |epoch, kind| {
            let desk = Desk { operator: "action", name: String::new(), worker: 0 };
            Held::new(desk, Hold::new(epoch, kind))
        };
        assert!(held(5, HolderKind::Call).rank() < held(5, HolderKind::Turn).rank());
        assert!(held(4, HolderKind::Turn).rank() < held(5, HolderKind::Call).rank());
    }
}
