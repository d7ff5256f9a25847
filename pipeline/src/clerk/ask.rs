//! What can be asked of parked records, and what is answered: between commands, monitor and clerk.

use std::time::{Duration, UNIX_EPOCH};

use highwater_operators::checkpoint::store::{Cause, Parked, ParkedId};
use highwater_operators::parked::Filter;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Records in one answer at most.
pub(crate) const LISTED_MAX: usize = 250;

/// What is asked. `after` is the number after which to go on, 0 at first: a long piece of work is asked for slice by slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// These records; whole, or without their rows.
    List { filter: Filter, after: ParkedId, most: usize, whole: bool },
    /// How many there are.
    Count { filter: Filter, after: ParkedId },
    /// Try these again.
    Retry { filter: Filter, after: ParkedId },
    /// Give these up.
    Drop { filter: Filter, after: ParkedId },
    /// Give this one another row after.
    Edit { id: ParkedId, row: String },
}

/// What is answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of a list: the records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Record>,
    /// Records that are meant, so far.
    pub meant: u64,
    /// Of these, records for which it was done: dropped, edited, or on their way to their action.
    pub done: u64,
    /// Records that come back by themselves, and so are not retried.
    pub comes_back: u64,
    /// Records that were being tried just then.
    pub under_way: u64,
    /// Lines that are no changes, and so cannot be retried.
    pub rejected: u64,
    /// Records whose action has ended in this run: the next run can do it.
    #[serde(default)]
    pub ended: u64,
    /// Why it was not done, of a single record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// After which number to go on; `None`: that was all.
    pub next: Option<ParkedId>,
}

impl Answer {
    /// This one and the one of the next slice.
    pub(crate) fn and(mut self, next: Answer) -> Answer {
        self.records.extend(next.records);
        self.meant += next.meant;
        self.done += next.done;
        self.comes_back += next.comes_back;
        self.under_way += next.under_way;
        self.rejected += next.rejected;
        self.ended += next.ended;
        self.refused = self.refused.or(next.refused);
        self.next = next.next;
        self
    }
}

/// A parked record as people and programs see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub id: ParkedId,
    /// The action; of a rejected line, the source.
    pub action: String,
    /// The cause, in a word.
    pub cause: String,
    pub error: String,
    pub attempts: u32,
    /// RFC 3339.
    pub parked_at: String,
    /// When it was retried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<String>,
    /// When its schedule tries it next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// What was asked for and is not done yet: `retry`, `drop` or `edit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What the action was answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    pub change: ChangeRecord,
}

/// The change of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    pub id: String,
    pub table: String,
    pub op: String,
    pub key: String,
    /// Commit time in Unix milliseconds.
    pub ts: i64,
    /// Partition, place, within.
    pub position: (u32, u64, u64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
    /// By lookup, what it found, or why it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<(String, Value)>,
}

impl Record {
    pub(crate) fn of(parked: &Parked, whole: bool) -> Self {
        let (change, history) = (&parked.change, &parked.history);
        let row = |text: Option<&str>| text.filter(|_| whole).and_then(|text| RawValue::from_string(text.to_owned()).ok());
        let position = change.position();
        let found = change.attachments().filter(|_| whole).map(|found| {
            let value = match found.failure() {
                Some(failure) => Value::from(format!("failed: {failure}")),
                None => Value::from(format!("{:?}", change.found(found.stage()))),
            };
            (found.stage().to_owned(), value)
        });
        Record {
            id: parked.id,
            action: parked.action.clone(),
            cause: parked.cause.word().to_owned(),
            error: parked.error.clone(),
            attempts: parked.attempts,
            parked_at: time(parked.parked_at_ms),
            retried_at: (history.tried_at_ms > 0).then(|| time(history.tried_at_ms)),
            next_try: (history.next_try_ms > 0).then(|| time(history.next_try_ms)),
            asked: None,
            response: history.response.clone().filter(|_| whole),
            change: ChangeRecord {
                id: change.id().to_owned(),
                table: change.table().to_owned(),
                op: change.operation().as_str().to_owned(),
                key: change.key().to_owned(),
                ts: change.time_ms(),
                position: (position.partition, position.at, position.within),
                before: row(change.before().raw_json()),
                after: row(change.after().raw_json()),
                found: found.collect(),
            },
        }
    }

    /// Whether it is a line that is no change.
    pub(crate) fn is_rejected(&self) -> bool {
        self.cause == Cause::Rejected.word()
    }
}

fn time(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}
