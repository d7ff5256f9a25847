//! Making records of changes that are set aside: why, what is kept of earlier tries, when the schedule tries next, and the record
//! for the hook that is told of it.
//!
//! What a hook is told is itself a record: set aside for the hook, in the same group as the record it tells of, as what an action
//! had no room for. So it is durable before anybody acts on it, taken up by itself, tried as often as the hook says, and, if
//! that fails, parked under the hook's name like anything else. A hook has no hook.

use serde_json::json;

use crate::action::call::Earlier;
use crate::action::operator::announce;
use crate::action::spec::ActionSpec;
use crate::action::spill::Waiting;
use crate::change::{Change, Operation, Parts};
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, ChangeHash, History, Parked, ParkedId};
use crate::epoch::unix_ms;
use crate::error::Error;
use crate::process::Process;

/// Why an action could not do it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub cause: Cause,
    pub error: String,
    /// The beginning of what it was answered, if it keeps that.
    pub response: Option<String>,
}

impl Failure {
    pub(crate) fn new(cause: Cause, error: impl Into<String>) -> Self {
        Failure { cause, error: error.into(), response: None }
    }

    pub(crate) fn of(error: &Error) -> Self {
        Failure { cause: Cause::Failed, error: error.to_string(), response: error.response().map(str::to_owned) }
    }
}

/// A change that is set aside, with the attempts made now.
pub(crate) struct Parking<'a> {
    pub change: &'a Change,
    pub hash: ChangeHash,
    pub attempts: u32,
    /// The record it was taken up from, if it was.
    pub earlier: Option<&'a Earlier>,
}

/// Records that are made in one draft, and which of them are for a hook.
#[derive(Default)]
pub(crate) struct Announced {
    places: Vec<(usize, u64)>,
}

impl Parking<'_> {
    /// The record. Of one that stood parked before, it keeps when that was, and counts what was tried.
    pub(crate) fn record(&self, process: &Process, spec: &ActionSpec, failure: Failure) -> Parked {
        let Failure { cause, error, response } = failure;
        let now = unix_ms();
        let stood = self.earlier.filter(|earlier| !earlier.cause.comes_back());
        let rounds = stood.map_or(0, |earlier| earlier.rounds + 1);
        let is_for_schedule = matches!(cause, Cause::Failed | Cause::Lookup);
        let wait = is_for_schedule.then(|| spec.retry_parked.wait(rounds)).flatten();
        let next_try_ms = wait.map_or(0, |wait| process.clock.unix_ms() + (wait.as_millis() as u64).max(1));
        Parked {
            id: 0,
            action: spec.name.clone(),
            cause,
            error,
            attempts: self.attempts + stood.map_or(0, |earlier| earlier.attempts),
            parked_at_ms: stood.map_or(now, |earlier| earlier.parked_at_ms),
            hash: self.hash,
            change: self.change.detached(),
            history: History { response, tried_at_ms: if stood.is_some() { now } else { 0 }, rounds, next_try_ms },
        }
    }
}

/// The record of a change that stood parked and has failed again on its way to the action.
pub(crate) fn failed_again(process: &Process, spec: &ActionSpec, parked: Parked, failure: Failure) -> Parked {
    let earlier = Earlier::of(&parked);
    let parking = Parking { change: &parked.change, hash: parked.hash, attempts: 1, earlier: Some(&earlier) };
    Parked { id: parked.id, ..parking.record(process, spec, failure) }
}

impl Announced {
    /// Adds a record to a draft, and behind it the one for the action's hook, where it has one that is to be told: of what stands
    /// parked from now on, and not of what comes back by itself, or was parked before.
    pub(crate) fn add(&mut self, spec: &ActionSpec, drafts: &mut Drafts, parked: Parked, earlier: Option<&Earlier>) {
        let stood = earlier.is_some_and(|earlier| !earlier.cause.comes_back());
        let hook = spec.on_parked.as_ref().filter(|_| !stood && !parked.cause.comes_back());
        let told = hook.map(|hook| told(hook, &parked));
        drafts.parked.push(parked);
        if let Some(told) = told {
            self.places.push((drafts.parked.len(), told.change.key_hash()));
            drafts.parked.push(told);
        }
    }

    /// Which records of the draft are for a hook.
    pub(crate) fn is_for_hook(&self, place: usize) -> bool {
        self.places.binary_search_by_key(&place, |(place, _)| *place).is_ok()
    }

    /// The draft is durable: the hook may be called.
    pub(crate) fn pass_on(&self, process: &Process, spec: &ActionSpec, ids: &[ParkedId]) {
        let Some(hook) = &spec.on_parked else { return };
        for (place, key) in &self.places {
            announce(process, &hook.name, Waiting { id: ids[*place], key: *key });
        }
    }
}

/// What a hook is told of a record, as a change of its own: table `parked`, the id and the key those of the change.
fn told(hook: &ActionSpec, parked: &Parked) -> Parked {
    let change = &parked.change;
    let row = |text: Option<&str>| text.map_or(json!(null), |text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    let after = json!({
        "action": parked.action,
        "cause": parked.cause.word(),
        "error": parked.error,
        "attempts": parked.attempts,
        "response": parked.history.response,
        "parked_at_ms": parked.parked_at_ms,
        "next_try_ms": (parked.history.next_try_ms > 0).then_some(parked.history.next_try_ms),
        "change": {
            "id": change.id(),
            "table": change.table(),
            "op": change.operation().as_str(),
            "key": change.key(),
            "ts": change.time_ms(),
            "before": row(change.before().raw_json()),
            "after": row(change.after().raw_json()),
        },
    })
    .to_string();
    let parts = Parts {
        id: change.id(),
        table: "parked",
        key: Some(change.key()),
        operation: Operation::Insert,
        time_ms: parked.parked_at_ms as i64,
        before: None,
        after: Some(&after),
    };
    let change = Change::new(bytes::Bytes::new(), change.position(), parts).expect("its names are those of a change");
    Parked {
        id: 0,
        action: hook.name.clone(),
        cause: Cause::Overflow,
        error: String::new(),
        attempts: 0,
        parked_at_ms: parked.parked_at_ms,
        hash: parked.hash,
        change,
        history: History::default(),
    }
}
