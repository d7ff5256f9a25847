//! What stands in Redis: a key for each id, and in it where and when the id was seen.

use std::fmt::Write;

use super::super::seen::Seen;
use crate::checkpoint::store::ChangeHash;
use crate::hash::ChangeHasher;
use crate::position::Position;
use crate::{Error, Result};

/// What all keys begin with.
pub(super) const PREFIX: &str = "highwater:seen:";

/// The first byte of a value: the form of the rest.
const FORM: u8 = 1;

/// Bytes of an entry: partition, at, within, time.
const ENTRY: usize = 4 + 8 + 8 + 8;

/// Entries of one id that are kept. Only an id that comes again outside its window has more than one.
const ENTRIES_MAX: usize = 16;

/// A change as far as the seen-set goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub hash: ChangeHash,
    pub position: Position,
    pub time_ms: i64,
    /// Whether an earlier run's outcome says that it passed.
    pub has_passed: bool,
}

/// How the keys of one dedup of one checkpoint begin: with a number that is another for every checkpoint, so that what another one
/// left says nothing here. Hashes of ids are keyed with the checkpoint's number anyway.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(hasher: &ChangeHasher, dedup: &str) -> Keys {
        // The checkpoint's own number stays a secret: who knows it can make ids of one hash.
        let tag = hasher.tag(dedup);
        Keys { prefix: format!("{PREFIX}{tag:016x}") }
    }

    /// Says that this Redis has been told of ids before.
    pub(super) fn known(&self) -> &str {
        &self.prefix
    }

    /// How far a worker has written.
    pub(super) fn written(&self, worker: usize) -> String {
        format!("{}:w{worker}", self.prefix)
    }

    /// The key of an id, written into `to`.
    pub(super) fn id(&self, hash: ChangeHash, to: &mut String) {
        to.clear();
        let _ = write!(to, "{}:{hash:032x}", self.prefix);
    }
}

/// Where and when an id was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries(Vec<(Position, i64)>);

impl Entries {
    /// Of an id that is seen for the first time: written into `to`.
    pub(super) fn encode_one(item: &Item, to: &mut Vec<u8>) {
        to.clear();
        to.push(FORM);
        encode(item.position, item.time_ms, to);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORM];
        self.0.iter().for_each(|(position, time_ms)| encode(*position, *time_ms, &mut bytes));
        bytes
    }

    /// # Errors
    /// Of kind *stop* if it is not ours, or of a later version.
    pub(super) fn decode(bytes: &[u8]) -> Result<Entries> {
        match bytes.split_first() {
            Some((&FORM, rest)) if !rest.is_empty() && rest.len().is_multiple_of(ENTRY) => {
                Ok(Entries(rest.chunks_exact(ENTRY).map(decode).collect()))
            }
            _ => Err(Error::stop(format!(
                "a key of the seen-set in Redis ({PREFIX}..) holds something else: it was written by a later version, or by somebody else; \
                 run that version, or remove the keys that begin so (ids are forgotten then)"
            ))),
        }
    }

    /// Takes out the one of this place.
    pub(super) fn forget(&mut self, position: Position) {
        self.0.retain(|(known, _)| *known != position);
    }

    /// What they say of a change. One that is new is entered.
    pub(super) fn see(&mut self, item: &Item, window_ms: Option<i64>) -> Seen {
        if self.0.iter().any(|(position, _)| *position == item.position) {
            return Seen::Again;
        }
        let within = |time_ms: i64| window_ms.is_none_or(|window| item.time_ms.abs_diff(time_ms) <= window as u64);
        if self.0.iter().any(|(_, time_ms)| within(*time_ms)) {
            return Seen::Duplicate;
        }
        if self.0.len() >= ENTRIES_MAX {
            let oldest = self.0.iter().enumerate().min_by_key(|(_, (_, time_ms))| *time_ms).map_or(0, |(index, _)| index);
            self.0.remove(oldest);
        }
        self.0.push((item.position, item.time_ms));
        Seen::New
    }
}

fn encode(position: Position, time_ms: i64, to: &mut Vec<u8>) {
    to.extend_from_slice(&position.partition.to_le_bytes());
    to.extend_from_slice(&position.at.to_le_bytes());
    to.extend_from_slice(&position.within.to_le_bytes());
    to.extend_from_slice(&time_ms.to_le_bytes());
}

fn decode(entry: &[u8]) -> (Position, i64) {
    fn array<const N: usize>(entry: &[u8], start: usize) -> [u8; N] {
        entry[start..start + N].try_into().expect("the range is as long as the array")
    }
    let position = Position {
        partition: u32::from_le_bytes(array(entry, 0)),
        at: u64::from_le_bytes(array(entry, 4)),
        within: u64::from_le_bytes(array(entry, 12)),
    };
    (position, i64::from_le_bytes(array(entry, 20)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(at: u64, time_ms: i64) -> Item {
        Item { hash: 7, position: Position { partition: 1, at, within: 2 }, time_ms, has_passed: false }
    }

    #[test]
    fn entries_survive_their_encoding() {
        let mut entries = Entries::default();
        assert_eq!(entries.see(&item(1, -5), Some(10)), Seen::New);
        assert_eq!(entries.see(&item(2, 100), Some(10)), Seen::New);
        assert_eq!(Entries::decode(&entries.encode()).unwrap(), entries);
        let mut one = Vec::new();
        Entries::encode_one(&item(3, 4), &mut one);
        assert_eq!(Entries::decode(&one).unwrap().0, [(item(3, 4).position, 4)]);
        for foreign in [&b""[..], b"1", &[FORM], &[FORM, 1, 2], &[9; 1 + ENTRY]] {
            assert_eq!(Entries::decode(foreign).unwrap_err().kind(), crate::ErrorKind::Stop);
        }
    }

    #[test]
    fn each_entry_answers_for_the_changes_of_its_own_time() {
        let mut entries = Entries::default();
        assert_eq!(entries.see(&item(1, 100), Some(10)), Seen::New);
        assert_eq!(entries.see(&item(2, 110), Some(10)), Seen::Duplicate);
        assert_eq!(entries.see(&item(3, 111), Some(10)), Seen::New);
        assert_eq!(entries.see(&item(1, 100), Some(10)), Seen::Again);
        assert_eq!(entries.see(&item(4, 95), Some(10)), Seen::Duplicate);
        assert_eq!(entries.see(&item(5, 0), None), Seen::Duplicate);
    }

    #[test]
    fn an_id_that_comes_for_ever_stays_small() {
        let mut entries = Entries::default();
        for n in 0..100 {
            assert_eq!(entries.see(&item(n, n as i64 * 100), Some(10)), Seen::New);
        }
        assert_eq!(entries.encode().len(), 1 + ENTRIES_MAX * ENTRY);
        assert_eq!(entries.see(&item(99, 9_900), Some(10)), Seen::Again);
    }
}
