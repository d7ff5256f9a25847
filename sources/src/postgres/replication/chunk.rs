//! What happened to a row is written into a chunk: where it stands, under which id, and its text.

use std::io::Write as _;

use highwater_operators::change::{Change, Operation};
use highwater_operators::{Order, Position};
use xxhash_rust::xxh3::xxh3_128;

use super::lsn::Lsn;
use super::relation::Relation;
use super::rows::{self, Names, Values};
use crate::ahead::{Chunk, Pieces, Refused, Written};

/// Something that happened to a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub relation: &'a Relation,
    pub operation: Operation,
    pub place: Place,
    pub time_ms: i64,
    /// The row whose key is the change's; none for a truncation.
    pub key: Option<Values<'a>>,
    pub before: Before<'a>,
    pub after: Option<Values<'a>>,
}

/// What is told of the row before.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before<'a> {
    Nothing,
    /// Its key: other values are null because they were not sent.
    Key(Values<'a>),
    Whole(Values<'a>),
    /// All of it, but another change tells of it: it fills in what was not sent, and is not told.
    Filling(Values<'a>),
}

/// Where something stands, which is the same however often it is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the log.
    Log {
        commit: Lsn,
        /// The row's own place; rows that were written together share one.
        row: Lsn,
        /// Which of them it is, twice: an update that changes the key becomes two changes.
        index: u32,
    },
    /// In the snapshot of this point, by its table and key. In another one the row of this key may be another: it is another change then.
    Snapshot(Lsn),
}

/// Bits for the index among the rows of one place.
const INDEX_BITS: u32 = 20;

/// Where a change stands in the log: by its commit, then by its row. What was there stands at its snapshot's point, before all that commits there.
pub(super) fn order_of(change: &Change) -> Order {
    let Position { at, within, .. } = change.position();
    if at & SNAPSHOT == 0 {
        return Order(at, at.saturating_sub(within >> INDEX_BITS), within & ((1 << INDEX_BITS) - 1));
    }
    // Such an id begins with the point.
    let point =
        change.id().strip_prefix("read/").and_then(|rest| rest.split_once('/')).map(|(point, _)| u64::from_str_radix(point, 16));
    Order(point.and_then(Result::ok).unwrap_or_default(), 0, 0)
}

/// The bit that tells places in snapshots: no place in a log is as large.
const SNAPSHOT: u64 = 1 << 63;

impl Chunk {
    /// Takes a row's change, or what is wrong with it.
    ///
    /// # Errors
    /// It stands where no change can be told from others.
    pub(super) fn push(&mut self, event: &Event<'_>) -> Result<(), String> {
        let out = &mut self.block;
        let start = out.len();
        // The key comes first for now: a place in a snapshot is made of it.
        let key = event.key.filter(|_| !event.relation.key.is_empty());
        let has_key = key.is_some_and(|row| rows::key(event.relation, row, out));
        let (at, within) = event.place.position(event.relation, &out[start..])?;
        let key_length = out.len() - start;
        event.place.write_id(event.relation, start, out);
        // Now it stands where it belongs: id, table, key.
        let id_length = out.len() - start - key_length;
        out[start..].rotate_left(key_length);
        let key_start = start + id_length;
        let id_end = key_start;
        let table = event.relation.table.as_bytes();
        out.extend_from_slice(table);
        out[key_start..].rotate_left(key_length);
        let table_end = id_end + table.len();
        let key_end = has_key.then_some(out.len());
        let mut documents = Names::default();
        let before_end = match event.before {
            Before::Nothing | Before::Filling(_) => None,
            Before::Key(row) => {
                rows::key_object(event.relation, row, out);
                Some(out.len())
            }
            Before::Whole(row) => {
                rows::object(event.relation, row, None, out, |column| documents.push(column));
                Some(out.len())
            }
        };
        let mut apart = Names::default();
        let after_end = event.after.map(|row| {
            let whole = match event.before {
                Before::Whole(before) | Before::Filling(before) => Some(before),
                Before::Nothing | Before::Key(_) => None,
            };
            rows::object(event.relation, row, whole, out, |column| apart.push(column));
            out.len()
        });
        apart.push_list(documents);
        let apart_end = apart.write(out);
        let end = out.len();
        let (operation, time_ms) = (event.operation, event.time_ms);
        let pieces = Pieces { start, id_end, table_end, key_end, before_end, after_end, apart_end, end };
        let written = Written { pieces, operation, time_ms, at, within };
        if key.is_some() && !has_key {
            self.set_aside(&written, &event.relation.table, "a column of its key has no value");
        } else {
            self.take(written, &event.relation.table);
        }
        Ok(())
    }

    /// Takes a message of the log: it is of no table, and its row is what it says.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(super) fn push_message(
        &mut self,
        place: Place,
        time_ms: i64,
        prefix: &[u8],
        content: &[u8],
        in_transaction: bool,
    ) -> Result<(), String> {
        let (at, within) = place.in_log()?;
        let out = &mut self.block;
        let start = out.len();
        place.write_log_id(out);
        let id_end = out.len();
        out.extend_from_slice(b"{\"prefix\":");
        rows::quote(prefix, out);
        out.extend_from_slice(b",\"content\":");
        if std::str::from_utf8(content).is_ok() {
            rows::quote(content, out);
        } else {
            out.extend_from_slice(b"\"\\\\x");
            content.iter().for_each(|byte| drop(write!(out, "{byte:02x}")));
            out.push(b'"');
        }
        // Writing to memory does not fail.
        let _ = write!(out, ",\"transactional\":{in_transaction}}}");
        let end = out.len();
        let (key_end, before_end, after_end, apart_end) = (None, None, Some(end), None);
        let pieces = Pieces { start, id_end, table_end: id_end, key_end, before_end, after_end, apart_end, end };
        let written = Written { pieces, operation: Operation::Message, time_ms, at, within };
        self.take(written, "a message");
        Ok(())
    }

    /// Takes what is no change.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(super) fn refuse(&mut self, event: &Event<'_>, why: &str) -> Result<(), String> {
        let start = self.block.len();
        self.push(event)?;
        if let Some(written) = self.written.pop_if(|written| written.pieces.start == start) {
            self.set_aside(&written, &event.relation.table, why);
        }
        Ok(())
    }

    fn take(&mut self, written: Written, of: &str) {
        match std::str::from_utf8(&self.block[written.pieces.start..]) {
            Ok(_) => self.written.push(written),
            Err(_) => self.set_aside(&written, of, "it is not UTF-8; the database's encoding does not say what its text is"),
        }
    }

    fn set_aside(&mut self, written: &Written, of: &str, why: &str) {
        let Pieces { start, id_end, table_end, end, .. } = written.pieces;
        let id = String::from_utf8_lossy(&self.block[start..id_end]).into_owned();
        let text = String::from_utf8_lossy(&self.block[table_end..end]).into_owned();
        self.block.truncate(start);
        let (at, within) = (written.at, written.within);
        self.rejected.push(Refused { at, within, why: format!("{of}, {} {id}: {why}", written.operation.as_str()), text });
    }
}

impl Place {
    /// The two numbers of a position: the commit and the row in it, or a hash.
    fn position(self, relation: &Relation, key: &[u8]) -> Result<(u64, u64), String> {
        let Place::Snapshot(point) = self else { return self.in_log() };
        let mut text = Vec::with_capacity(key.len() + 8);
        text.extend_from_slice(&point.0.to_le_bytes());
        text.extend_from_slice(&relation.oid.to_le_bytes());
        text.extend_from_slice(key);
        let hash = xxh3_128(&text);
        Ok(((hash >> 64) as u64 | SNAPSHOT, hash as u64))
    }

    fn in_log(self) -> Result<(u64, u64), String> {
        let Place::Log { commit, row, index } = self else { return Err("a message stands in no snapshot".to_owned()) };
        let distance = commit.0.checked_sub(row.0).filter(|distance| distance >> (64 - INDEX_BITS) == 0);
        match distance {
            Some(distance) if index >> INDEX_BITS == 0 => Ok((commit.0, distance << INDEX_BITS | u64::from(index))),
            _ => Err(format!(
                "a row at {row} (number {} there) of the transaction that commits at {commit} cannot be given a position: it is before or \
                 too far from its commit, or there are too many at one place",
                index / 2
            )),
        }
    }

    /// Writes the id; `key` is where the key's text begins, which ends where the id begins.
    fn write_id(self, relation: &Relation, key: usize, out: &mut Vec<u8>) {
        match self {
            Place::Log { .. } => self.write_log_id(out),
            Place::Snapshot(point) => {
                let end = out.len();
                out.extend_from_slice(b"read/");
                hexadecimal(point.0, out);
                let _ = write!(out, "/{}/", relation.table);
                out.extend_from_within(key..end);
            }
        }
    }

    fn write_log_id(self, out: &mut Vec<u8>) {
        if let Place::Log { commit, row, index } = self {
            hexadecimal(commit.0, out);
            out.push(b'/');
            hexadecimal(row.0, out);
            out.push(b'/');
            decimal(index, out);
        }
    }
}

fn hexadecimal(number: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let length = (64 - number.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..length).rev().map(|place| DIGITS[(number >> (place * 4) & 15) as usize]));
}

fn decimal(number: u32, out: &mut Vec<u8>) {
    match number {
        0..10 => out.push(b'0' + number as u8),
        _ => drop(write!(out, "{number}")),
    }
}

#[cfg(test)]
mod tests;
