//! What a checkpoint store keeps, and the one way anything enters it: a [`Group`], committed whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::parked::{Filter, Page};
use crate::position::{Epoch, PartitionId, Position, ResumeToken};

/// Durable storage for one pipeline. One thread owns it (the keeper), so nothing here is shared.
///
/// # Guarantee
/// When [`commit`](Self::commit) returns `Ok`, the whole group survives `kill -9` and power loss. When it returns an
/// error or does not return, after a restart either the whole group is there or nothing of it.
pub trait CheckpointStore: Send {
    /// What the last run left, taken once right after opening. Opening has raised the generation durably.
    fn restore(&mut self) -> Result<Restored>;

    /// The number of an action's name, the same for ever. A new name is given the next number, durably.
    fn action(&mut self, name: &str) -> Result<u16>;

    /// Makes a group durable in one atomic step.
    fn commit(&mut self, group: &Group) -> Result<()>;

    /// One parked change, whole, or `None` if it is parked no more.
    fn parked(&mut self, id: ParkedId) -> Result<Option<Parked>>;

    /// A page of parked changes, in the order of their numbers, of those that come after `after` and are meant. Looks at
    /// a bounded number of records, so a page may be short, or empty, although there is more: [`Page::next`] says.
    fn parked_page(&mut self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page>;

    /// Several parked changes, whole; those that are parked no more are left out.
    fn parked_all(&mut self, ids: &[ParkedId]) -> Result<Vec<Parked>> {
        ids.iter().filter_map(|id| self.parked(*id).transpose()).collect()
    }

    /// What ends the run from outside: a store that waits for a server to come back gives up then.
    fn attend(&mut self, halt: &Arc<Halt>) {
        let _ = halt;
    }
}

/// Everything that becomes durable together. Many small requests are put into one group, so that they share one sync.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Partitions seen for the first time: number and name.
    pub partitions: Vec<(PartitionId, String)>,
    /// Outcomes of (change, action) above the mark.
    pub notes: Vec<Note>,
    /// Changes set aside. Each comes with its own note (outcome parked) in `notes`, or belongs to no action.
    pub parked: Vec<Parked>,
    /// Parked changes that are parked no more.
    pub resolved: Vec<Resolved>,
    /// A new checkpoint.
    pub save: Option<Save>,
}

/// Identifies one (change, action) for the ledger: a keyed 128-bit hash of the change's scope, key and id.
pub type ChangeHash = u128;

/// The number of a parked record, unique in the store, growing.
pub type ParkedId = u64;

/// What became of one (change, action), as far as it must be remembered above the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The action succeeded.
    Delivered,
    /// The change was set aside. What became of it afterwards is told by [`Resolved`], not here.
    Parked,
}

/// A durable outcome above the mark: a line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Note {
    /// The number of the action's name in this group's run, see [`Restored::actions`].
    pub action: u16,
    /// The change.
    pub change: ChangeHash,
    /// Where the change stands: a copy of the change elsewhere is another change to the ledger.
    pub position: Position,
    /// The epoch under which its run holds the change open. Below the epoch of a mark saved by the same run the note is dead;
    /// to another run the number means nothing.
    pub epoch: Epoch,
    /// What became of it.
    pub outcome: Outcome,
}

/// Why a change was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The action failed, as often as it was allowed to or in a way that trying again cannot mend.
    Failed,
    /// The action, a condition or another closure of the user panicked on this change.
    Panicked,
    /// A lookup failed for this change.
    Lookup,
    /// What was read is no change: a broken line, a wrong type.
    Rejected,
    /// The action could not keep up; set aside in order, taken up again by itself.
    Overflow,
    /// A change of the same key stands parked before it, and the action holds such keys.
    Held,
}

impl Cause {
    /// The cause in a word, as people see it and tables hold it.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Failed => "failed",
            Cause::Panicked => "panicked",
            Cause::Lookup => "lookup",
            Cause::Rejected => "rejected",
            Cause::Overflow => "overflow",
            Cause::Held => "held",
        }
    }

    /// All there are.
    pub const ALL: [Cause; 6] = [Cause::Failed, Cause::Panicked, Cause::Lookup, Cause::Rejected, Cause::Overflow, Cause::Held];

    /// The cause of a word.
    pub fn of(word: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.word() == word)
    }

    /// Whether the pipeline takes such a record up again by itself, in its turn.
    pub fn comes_back(self) -> bool {
        matches!(self, Cause::Overflow | Cause::Held)
    }
}

/// A change set aside, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// Its number.
    pub id: ParkedId,
    /// The action it was meant for; the source's name where `cause` is [`Cause::Rejected`].
    pub action: String,
    /// Why it is here.
    pub cause: Cause,
    /// The last error, for a person to read.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// Unix time in milliseconds when it was parked.
    pub parked_at_ms: u64,
    /// Its hash in the ledger and the seen-set.
    pub hash: ChangeHash,
    /// The change, in a block of its own size.
    pub change: Change,
    /// What is known beside it. It stands behind the record in the store: records of earlier programs have none.
    #[serde(skip)]
    pub history: History,
}

/// What is known of a parked record beside the change and its last error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The beginning of what the action was answered last, if it keeps that.
    pub response: Option<String>,
    /// When it was tried last, in Unix milliseconds; 0: not since it was parked.
    pub tried_at_ms: u64,
    /// How often its schedule has tried it.
    pub rounds: u32,
    /// When its schedule tries it next, in Unix milliseconds; 0: never.
    pub next_try_ms: u64,
}

impl Parked {
    /// When it was tried last, or else parked, in Unix milliseconds.
    pub fn last_tried_ms(&self) -> u64 {
        self.parked_at_ms.max(self.history.tried_at_ms)
    }

    /// Bytes that it takes in a store, about.
    pub fn bytes(&self) -> u64 {
        let texts = self.action.len() + self.error.len() + self.history.response.as_ref().map_or(0, String::len);
        (texts + self.change.block_length() + 100) as u64
    }

    /// What there is to know of it without its change.
    pub fn head(&self) -> ParkedHead {
        ParkedHead {
            id: self.id,
            action: self.action.clone(),
            cause: self.cause,
            hash: self.hash,
            key_hash: self.change.key_hash(),
            position: self.change.position(),
            time_ms: self.change.time_ms(),
            bytes: 0,
        }
    }
}

/// How a parked record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// A retry succeeded.
    Delivered,
    /// A person gave it up.
    Dropped,
}

/// A parked record that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Which record.
    pub id: ParkedId,
    /// The action it was parked for.
    pub action: String,
    /// How it ended.
    pub resolution: Resolution,
}

/// A file that is cut back on resume, and the length up to which it belongs to the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CutBackFile {
    /// The action that writes it.
    pub action: String,
    /// Its path, as the action names it.
    pub path: String,
    /// Bytes that count; everything after is removed on resume.
    pub length: u64,
}

/// A piece of operator state that came with one save.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSegment {
    /// The operator's name.
    pub operator: String,
    /// Absolute values, encoded by the operator; applied in the order of saves.
    pub bytes: Bytes,
}

/// A checkpoint: a mark, the operator state and the books that go with it.
///
/// All fields but `state` are whole and absolute; `state` adds to what earlier saves brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Save {
    /// The number of the save, one more than the one before, across runs.
    pub number: u64,
    /// The frontier saved: every change of an epoch below it has its outcomes.
    pub epoch: Epoch,
    /// Where each partition continues: all before is done.
    pub mark: BTreeMap<PartitionId, ResumeToken>,
    /// The books, by line, counted since the pipeline began.
    pub books: BTreeMap<String, u64>,
    /// The files of cut-back sinks.
    pub files: Vec<CutBackFile>,
    /// What operator state changed since the save before.
    pub state: Vec<StateSegment>,
    /// By operator: segments of saves below this number hold nothing that still counts and may be forgotten.
    pub state_from: BTreeMap<String, u64>,
    /// Notes of earlier runs whose changes have now been met again below this mark, or never will be: forget them.
    pub forgotten: Vec<(u16, ChangeHash, Position)>,
    /// Whether every source had ended.
    pub ended: bool,
}

impl Save {
    /// Whether this save may follow another: stores ask before they write, where breaking the contract could still be undone.
    ///
    /// # Errors
    /// Of kind stop: its number or epoch does not follow, or it would move the mark back.
    pub fn may_follow(&self, last: &Save) -> Result {
        if self.number != last.number + 1 || self.epoch < last.epoch {
            return Err(Error::stop(format!(
                "save {} of epoch {} cannot follow save {} of epoch {}",
                self.number, self.epoch, last.number, last.epoch
            )));
        }
        for (partition, token) in &self.mark {
            if let Some(before) = last.mark.get(partition).filter(|before| before.order > token.order) {
                return Err(Error::stop(format!(
                    "save {} would move the mark of partition {partition} back from {} to {}",
                    self.number, before.order, token.order
                )));
            }
        }
        Ok(())
    }
}

/// What a new run begins with.
#[derive(Debug, Default)]
pub struct Restored {
    /// The number of this run, fencing all before it.
    pub generation: u64,
    /// A random number made with the store: keys every hash, so that nobody can craft two ids of one hash.
    pub state_id: u128,
    /// Partition names by number.
    pub partitions: BTreeMap<PartitionId, String>,
    /// Numbers of action names. A name keeps its number for ever; the store gives out numbers, see [`CheckpointStore::action`].
    pub actions: BTreeMap<String, u16>,
    /// The last checkpoint, without its `state` and without what it had `forgotten`.
    pub checkpoint: Option<Save>,
    /// All live state segments with the number of their save, in order of saves.
    pub state: Vec<(u64, StateSegment)>,
    /// The ledger: outcomes above the mark, of this and earlier runs.
    pub notes: Vec<Note>,
    /// Everything parked, in order of id, without the change.
    pub parked: Vec<ParkedHead>,
    /// The next free parked id of this process, larger than any used before; 1 in a new store.
    pub next_parked: ParkedId,
    /// From one id of this process to its next: the number of processes, so that no two give out the same. 0 means 1.
    pub parked_step: u64,
    /// By action: (delivered, dropped) parked records since the pipeline began.
    pub resolved: BTreeMap<String, (u64, u64)>,
}

/// What there is to know of a parked record without loading its change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedHead {
    /// Its number.
    pub id: ParkedId,
    /// The action it was meant for.
    pub action: String,
    /// Why it is here.
    pub cause: Cause,
    /// Its hash in the ledger and the seen-set.
    pub hash: ChangeHash,
    /// The hash of its key, which decides the worker.
    pub key_hash: u64,
    /// Where it stands.
    pub position: Position,
    /// The commit time of the change in Unix milliseconds.
    pub time_ms: i64,
    /// Bytes of the record in the store, as [`CheckpointStore::restore`] tells them; 0 elsewhere.
    #[serde(skip)]
    pub bytes: u64,
}
