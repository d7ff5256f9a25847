//! The ledger in chunks: the notes of one group are one row.
//!
//! Why not a row per note: three actions at 100,000 changes a second note 300,000 outcomes a second, and each would be written,
//! indexed, deleted and vacuumed. A chunk dies whole, once the mark has passed its last epoch. What must be forgotten by name,
//! outcomes of earlier runs, is written as a chunk of its own, and both are merged when the next run begins.

use hashbrown::HashSet;
use serde::{Deserialize, Serialize};

use crate::checkpoint::store::{ChangeHash, Note};
use crate::error::{Error, Result};
use crate::position::{Epoch, Position};

/// What a chunk says, as `observer_ledger.kind` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub(super) enum Kind {
    /// Outcomes that its run noted.
    Noted = 0,
    /// Outcomes of earlier runs that count no more.
    Forgotten = 1,
    /// Outcomes of earlier runs, merged when its run began.
    Earlier = 2,
}

/// By what a note is known.
pub(super) type NoteKey = (u16, ChangeHash, Position);

pub(super) fn key(note: &Note) -> NoteKey {
    (note.action, note.change, note.position)
}

/// A chunk as it is written.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub kind: Kind,
    pub last_epoch: Epoch,
    pub bytes: Vec<u8>,
}

/// Notes in one merged chunk at most: a row of some megabytes.
const MERGED: usize = 100_000;

impl Chunk {
    pub(super) fn noted(notes: &[Note]) -> Result<Option<Chunk>> {
        let last_epoch = notes.iter().map(|note| note.epoch).max();
        last_epoch.map(|last_epoch| Ok(Chunk { kind: Kind::Noted, last_epoch, bytes: encode(&notes)? })).transpose()
    }

    pub(super) fn forgotten(keys: &[NoteKey]) -> Result<Option<Chunk>> {
        match keys.is_empty() {
            true => Ok(None),
            false => Ok(Some(Chunk { kind: Kind::Forgotten, last_epoch: 0, bytes: encode(&keys)? })),
        }
    }

    pub(super) fn earlier(notes: &[Note]) -> Result<Vec<Chunk>> {
        let chunk = |notes: &[Note]| Ok(Chunk { kind: Kind::Earlier, last_epoch: 0, bytes: encode(&notes)? });
        notes.chunks(MERGED).map(chunk).collect()
    }
}

/// The ledger, read chunk by chunk in the order of their writing.
#[derive(Default)]
pub(super) struct Ledger {
    earlier: hashbrown::HashMap<NoteKey, Note>,
    noted: hashbrown::HashMap<NoteKey, Note>,
    forgotten: HashSet<NoteKey>,
}

impl Ledger {
    pub(super) fn read(&mut self, kind: i16, bytes: &[u8]) -> Result {
        match kind {
            kind if kind == Kind::Noted as i16 => {
                self.noted.extend(decode::<Vec<Note>>(bytes)?.into_iter().map(|note| (key(&note), note)));
            }
            kind if kind == Kind::Earlier as i16 => {
                self.earlier.extend(decode::<Vec<Note>>(bytes)?.into_iter().map(|note| (key(&note), note)));
            }
            _ => self.forgotten.extend(decode::<Vec<NoteKey>>(bytes)?),
        }
        Ok(())
    }

    /// All that counts: of the last run what is not below the last save it made, of earlier ones what was not forgotten.
    pub(super) fn alive(mut self, saved: Option<Epoch>) -> Vec<Note> {
        self.earlier.retain(|key, _| !self.forgotten.contains(key));
        self.noted.retain(|_, note| saved.is_none_or(|saved| note.epoch >= saved));
        self.earlier.extend(self.noted);
        self.earlier.into_values().collect()
    }
}

/// Encodes what only this program reads.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| Error::stop("a row of the checkpoint store could not be encoded").because(error))
}

/// Decodes what [`encode`] has made.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| {
        Error::stop("a row of the checkpoint store cannot be decoded: it was changed by hand, or damaged").because(error)
    })
}
