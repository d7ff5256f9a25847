//! The rows of a table as they are at the end of an epoch, and what of them is saved with the mark.
//!
//! What is saved is a log: each row that was written, by the worker that owns its key. A row's last entry counts, older ones are waste; so the oldest
//! entries are looked at again as new ones come, and those that still count are written anew. What was saved before the oldest entry of all is forgotten,
//! so a worker looks at its oldest entries as the whole table changes, whether or not its own rows do: the logs of all together are never much longer
//! than twice the table, and again as much for what was written anew.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use xxhash_rust::xxh3::xxh3_64;

use crate::change::Found;
use crate::checkpoint::report::Oldest;
use crate::position::Epoch;
use crate::process::owns;

/// So many changes of the table, beyond twice its rows, may have come since the oldest entry was written.
const SLACK: u64 = 1024;
/// Twice as many old entries are looked at as new ones come, and these beside.
const LOOKED_AT: usize = 64;

/// In place of a row's length: it is gone. In place of a key's: nothing but that the table was begun.
const GONE: u32 = u32::MAX;

/// The rows, and of those that this worker owns the log.
pub(super) struct Rows {
    index: usize,
    peers: usize,
    rows: HashMap<Arc<str>, Kept>,
    log: VecDeque<Entry>,
    /// Changes of the table so far, whoever owns the rows.
    changes: u64,
    /// The entry that says that the table was begun: without it, a table that has no rows would be taken for one that never was.
    begun: u64,
    next: u64,
    bytes: usize,
}

/// An entry of the log as a save brought it. Keys and rows are shared by the workers of a process.
pub(super) struct Restored {
    save: u64,
    /// `None`: that the table was begun.
    key: Option<Arc<str>>,
    found: Option<Arc<Found>>,
}

impl Restored {
    /// Reads what a save brought. `false`: it cannot be read.
    pub(super) fn read(stage: &Arc<str>, save: u64, mut text: &[u8], to: &mut Vec<Restored>) -> bool {
        while !text.is_empty() {
            let Some((key, row)) = decode(&mut text) else { return false };
            let found = row.map(|(row, apart)| Arc::new(Found::json(stage.clone(), row, apart)));
            to.push(Restored { save, key: key.map(Into::into), found });
        }
        true
    }
}

struct Kept {
    found: Arc<Found>,
    /// The number of its entry in the log; 0 if another worker owns it.
    entry: u64,
}

struct Entry {
    number: u64,
    /// After so many changes of the table.
    at: u64,
    saved: Oldest,
    /// `None`: that the table was begun.
    key: Option<Arc<str>>,
}

impl Rows {
    pub(super) fn new(index: usize, peers: usize) -> Self {
        Rows { index, peers, rows: HashMap::new(), log: VecDeque::new(), changes: 0, begun: 0, next: 1, bytes: 0 }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Found>> {
        self.rows.get(key).map(|kept| &kept.found)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory that rows and keys take, about. Rows are shared by the workers of a process.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest entry that counts was saved here, or will be.
    pub(super) fn oldest(&self) -> Oldest {
        self.log.front().map_or(Oldest::Empty, |entry| entry.saved)
    }

    /// Takes what saves of earlier runs brought, in the order of saves.
    pub(super) fn restore(&mut self, saved: &[Restored]) {
        for Restored { save, key, found } in saved {
            match key {
                Some(key) => self.write(key.clone(), found.clone(), Oldest::Save(*save)),
                None => drop(self.write_begun(Oldest::Save(*save))),
            }
        }
    }

    /// The table is kept from now on.
    pub(super) fn begin(&mut self, epoch: Epoch, state: &mut Vec<u8>) {
        if self.begun == 0 && self.write_begun(Oldest::Epoch(epoch)) {
            state.extend_from_slice(&GONE.to_le_bytes());
        }
    }

    fn write_begun(&mut self, saved: Oldest) -> bool {
        let is_own = self.is_own("");
        if is_own {
            self.begun = self.push(saved, None);
        }
        is_own
    }

    fn push(&mut self, saved: Oldest, key: Option<Arc<str>>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.log.push_back(Entry { number, at: self.changes, saved, key });
        number
    }

    /// A row is this now, or is gone; what is to be saved of that is appended.
    pub(super) fn put(&mut self, key: &Arc<str>, found: Option<Arc<Found>>, epoch: Epoch, state: &mut Vec<u8>) {
        if self.is_own(key) {
            encode(key, found.as_deref(), state);
        }
        self.write(key.clone(), found, Oldest::Epoch(epoch));
    }

    /// All rows are gone.
    pub(super) fn clear(&mut self, epoch: Epoch, state: &mut Vec<u8>) {
        let keys: Vec<Arc<str>> = self.rows.keys().cloned().collect();
        keys.iter().for_each(|key| self.put(key, None, epoch, state));
    }

    /// Writes old entries that count anew, if much has changed since. `new`: how many changes this epoch brought.
    pub(super) fn sweep(&mut self, new: usize, epoch: Epoch, state: &mut Vec<u8>) {
        let due = self.changes.saturating_sub(2 * self.rows.len() as u64 + SLACK);
        for _ in 0..2 * new + LOOKED_AT {
            let Some(Entry { number, key, .. }) = self.log.pop_front_if(|entry| entry.at < due) else { return };
            let Some(key) = key else {
                if number == self.begun {
                    self.begun = 0;
                    self.begin(epoch, state);
                }
                continue;
            };
            let Some(found) = self.rows.get(&key).filter(|kept| kept.entry == number).map(|kept| kept.found.clone()) else {
                continue;
            };
            encode(&key, Some(&found), state);
            self.write(key, Some(found), Oldest::Epoch(epoch));
        }
    }

    fn is_own(&self, key: &str) -> bool {
        owns(xxh3_64(key.as_bytes()), self.index, self.peers)
    }

    fn write(&mut self, key: Arc<str>, found: Option<Arc<Found>>, saved: Oldest) {
        self.changes += 1;
        let number = if self.is_own(&key) { self.push(saved, Some(key.clone())) } else { 0 };
        let size = |found: &Found| key.len() + found.size();
        let before = match found {
            Some(found) => {
                self.bytes += size(&found);
                self.rows.insert(key.clone(), Kept { found, entry: number })
            }
            None => self.rows.remove(&key),
        };
        if let Some(before) = before {
            self.bytes -= size(&before.found);
        }
    }
}

fn encode(key: &str, found: Option<&Found>, to: &mut Vec<u8>) {
    let mut piece = |text: &[u8]| {
        to.extend_from_slice(&(text.len() as u32).to_le_bytes());
        to.extend_from_slice(text);
    };
    piece(key.as_bytes());
    match found.and_then(Found::as_json) {
        Some((row, apart)) => {
            piece(row);
            piece(apart.unwrap_or_default().as_bytes());
        }
        None => to.extend_from_slice(&GONE.to_le_bytes()),
    }
}

/// A key, and its row; no key: the table was begun.
type Decoded<'a> = (Option<&'a str>, Option<(Bytes, Option<Box<str>>)>);

fn decode<'a>(text: &mut &'a [u8]) -> Option<Decoded<'a>> {
    let mut piece = || -> Option<Option<&'a str>> {
        let (length, rest) = text.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        if length == GONE {
            *text = rest;
            return Some(None);
        }
        let (piece, rest) = rest.split_at_checked(length as usize)?;
        *text = rest;
        std::str::from_utf8(piece).ok().map(Some)
    };
    let Some(key) = piece()? else { return Some((None, None)) };
    let Some(row) = piece()? else { return Some((Some(key), None)) };
    let apart = piece()??;
    let row = Bytes::copy_from_slice(row.as_bytes());
    Some((Some(key), Some((row, (!apart.is_empty()).then(|| apart.into())))))
}

#[cfg(test)]
mod tests;
