//! What is handed over at once: changes whose text stands in one block, and the token that continues after them.

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::ingest::Rejected;
use highwater_operators::position::{PartitionId, Position};

/// So many changes, or so many bytes, about.
const CHANGES: usize = 1024;
const BYTES: usize = 192 * 1024;
/// Room for it.
pub(super) const BLOCK: usize = 256 * 1024;

/// Changes that were read.
#[derive(Debug)]
pub(crate) struct Chunk<W = Written> {
    pub block: Vec<u8>,
    pub written: Vec<W>,
    pub rejected: Vec<Refused>,
    /// Of two chunks the larger was read later.
    pub order: u64,
    /// Continues after them.
    pub token: Bytes,
    /// Whether with them all was read again that an earlier run had read, or never will be.
    pub caught_up: bool,
}

/// A change: what it is, and where its pieces stand in the block.
#[derive(Debug)]
pub(crate) struct Written {
    pub pieces: Pieces,
    pub operation: Operation,
    pub time_ms: i64,
    /// Where it stands in its source.
    pub at: u64,
    pub within: u64,
}

/// Where the pieces of a change stand in a block, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub start: usize,
    pub id_end: usize,
    pub table_end: usize,
    pub key_end: Option<usize>,
    pub before_end: Option<usize>,
    pub after_end: Option<usize>,
    /// Behind the names of fields of which the rows do not say all.
    pub apart_end: Option<usize>,
    pub end: usize,
}

/// A row that is no change.
#[derive(Debug)]
pub(crate) struct Refused {
    pub at: u64,
    pub within: u64,
    pub why: String,
    pub text: String,
}

impl<W> Chunk<W> {
    /// An empty one over this block, which has room already.
    pub(crate) fn new(mut block: Vec<u8>) -> Self {
        block.clear();
        let written = Vec::with_capacity(if block.capacity() > 0 { CHANGES } else { 0 });
        Chunk { block, written, rejected: Vec::new(), order: 0, token: Bytes::new(), caught_up: false }
    }

    /// How many rows are in it.
    pub(crate) fn rows(&self) -> usize {
        self.written.len() + self.rejected.len()
    }

    /// Whether it is large enough to be handed over.
    pub(crate) fn is_full(&self) -> bool {
        self.rows() >= CHANGES || self.block.len() >= BYTES
    }
}

impl Written {
    /// The same in a block that begins where the old one had its byte `by`.
    #[cfg(feature = "redis")]
    pub(crate) fn shifted(mut self, by: usize) -> Self {
        let pieces = &mut self.pieces;
        for place in [&mut pieces.start, &mut pieces.id_end, &mut pieces.table_end, &mut pieces.end] {
            *place -= by;
        }
        for place in [&mut pieces.key_end, &mut pieces.before_end, &mut pieces.after_end, &mut pieces.apart_end] {
            *place = place.map(|place| place - by);
        }
        self
    }

    /// The change, over the block that the text has become.
    ///
    /// # Errors
    /// What is rejected: a name is longer than it may be.
    pub(crate) fn into_change(self, block: &Bytes, text: &str, partition: PartitionId) -> Result<Change, Rejected> {
        let Pieces { start, id_end, table_end, end, .. } = self.pieces;
        let mut from = table_end;
        let mut piece = |end: Option<usize>| {
            let end = end?;
            Some(&text[std::mem::replace(&mut from, end)..end])
        };
        let (key, before, after) = (piece(self.pieces.key_end), piece(self.pieces.before_end), piece(self.pieces.after_end));
        let apart = piece(self.pieces.apart_end);
        let parts = Parts {
            id: &text[start..id_end],
            table: &text[id_end..table_end],
            key,
            operation: self.operation,
            time_ms: self.time_ms,
            before,
            after,
        };
        let position = Position { partition, at: self.at, within: self.within };
        let block = block.slice(start..end);
        let made = match apart {
            None => Change::new(block, position, parts),
            Some(apart) => Change::with_names_apart(block, position, parts, apart),
        };
        made.map_err(|why| Rejected {
            position,
            why: format!("{}, {} {}: {why}", parts.table, self.operation.as_str(), parts.id),
            text: text[start..end].to_owned(),
        })
    }
}
