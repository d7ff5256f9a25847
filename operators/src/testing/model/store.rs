//! What survives: the checkpoint, the ledger, the parked store. Everything enters whole or not at all.

use std::collections::BTreeMap;

use super::dedup::Seen;
use super::file::FileName;
use super::save::{Line, Save};
use super::world::{Change, Place, Token, World};

/// What became of one (change, action), as far as it is noted above the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Parked,
}

/// A line of the ledger. Its epoch means something only in the run that wrote it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note {
    pub(super) run: u32,
    pub(super) action: usize,
    pub(super) change: Change,
    pub(super) place: Place,
    pub(super) epoch: u64,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Tried as often as allowed; a person decides.
    Failed,
    /// The action could not keep up; taken up again by itself.
    Overflow,
    /// Something of its key stands parked before it; taken up again by itself.
    Held,
}

/// A change set aside. Records of one key stand in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) action: usize,
    pub(super) change: Change,
    pub(super) place: Place,
    pub(super) cause: Cause,
}

/// One thing that becomes durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// An outcome.
    Note(Note),
    /// A record and its note: one transaction.
    Park(Record, Note),
    /// A record that was taken up by itself has failed and waits for a person now; or a person's retry has failed.
    Failed { id: u64 },
    /// A record that is no more: delivered, or dropped by a person.
    Resolved { id: u64, dropped: bool },
}

/// What a person asked for. Only the worker of the key acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Retry,
    Drop,
}

/// A mark and all that goes with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    pub(super) epoch: u64,
    pub(super) mark: Vec<Token>,
    pub(super) books: Vec<Line>,
    pub(super) files: Vec<(FileName, usize)>,
    pub(super) seen: BTreeMap<(usize, Place), Seen>,
}

/// The checkpoint store.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The number of the run that may write.
    pub(super) generation: u32,
    pub(super) checkpoint: Checkpoint,
    pub(super) notes: Vec<Note>,
    /// In order of id.
    pub(super) parked: Vec<Record>,
    pub(super) next_record: u64,
    pub(super) requests: Vec<(u64, Command)>,
}

impl Store {
    pub(super) fn new(world: &World) -> Self {
        let mark = vec![Token::default(); world.partitions.len()];
        let books = vec![Line::default(); world.actions.len()];
        Store { checkpoint: Checkpoint { mark, books, ..Checkpoint::default() }, ..Store::default() }
    }

    pub(super) fn record(&self, id: u64) -> Option<&Record> {
        self.parked.iter().find(|record| record.id == id)
    }

    pub(super) fn requested(&self, id: u64, command: Command) -> bool {
        self.requests.contains(&(id, command))
    }

    pub(super) fn write(&mut self, entry: &Entry) {
        match *entry {
            Entry::Note(note) => self.notes.push(note),
            Entry::Park(record, note) => {
                self.notes.push(note);
                self.parked.push(record);
                self.next_record = record.id + 1;
            }
            Entry::Failed { id } => {
                self.requests.retain(|(request, _)| *request != id);
                self.parked.iter_mut().filter(|record| record.id == id).for_each(|record| record.cause = Cause::Failed);
            }
            // The note stays: the change may stand above the mark, and be read again.
            Entry::Resolved { id, .. } => {
                self.requests.retain(|(request, _)| *request != id);
                self.parked.retain(|record| record.id != id);
            }
        }
    }

    /// A save, in one step: the mark, its state and books, and the notes that the mark has made superfluous.
    pub(super) fn save(&mut self, run: u32, save: &Save, old_notes_by_epoch: bool) {
        let seen = std::mem::take(&mut self.checkpoint.seen);
        self.checkpoint = Checkpoint { seen, ..save.checkpoint.clone() };
        for delta in &save.deltas {
            match delta.seen {
                Some(seen) => self.checkpoint.seen.insert(delta.entry, seen),
                None => self.checkpoint.seen.remove(&delta.entry),
            };
        }
        self.notes.retain(|note| {
            let below = (note.run == run || old_notes_by_epoch) && note.epoch < save.checkpoint.epoch;
            !below && !save.met.contains(&(note.action, note.change.id, note.place))
        });
    }
}
