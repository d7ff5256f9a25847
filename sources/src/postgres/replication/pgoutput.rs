//! Messages of the server's plugin `pgoutput` (protocol 1), taken apart where they stand. No I/O, no state, and every byte is checked.
//!
//! <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

use super::lsn::Lsn;
use super::relation::ReplicaIdentity;
use super::rows::Cell;

/// A message. The values of rows stand in the cells that [`read`] was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// A transaction begins; it is already known where and when it commits.
    Begin {
        commit: Lsn,
        time_us: i64,
    },
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    /// A table, before its first row and after it was altered.
    Relation(Described),
    Insert {
        relation: u32,
    },
    Update {
        relation: u32,
        old: Old,
    },
    Delete {
        relation: u32,
        old: Old,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// What somebody wrote into the log.
    Emitted {
        in_transaction: bool,
        lsn: Lsn,
        prefix: &'a [u8],
        content: &'a [u8],
    },
    /// Where a transaction came from, and names of types: nothing that is needed.
    Other,
}

/// What is told of the row before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    Nothing,
    /// Its key, because that changed, or of a delete.
    Key,
    /// All of it.
    Whole,
}

/// A table as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<DescribedColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DescribedColumn {
    pub is_key: bool,
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
}

/// The values of the row before and of the row after, as places in the message. Used for message after message.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub old: Vec<Cell>,
    pub new: Vec<Cell>,
}

/// Takes a message apart.
///
/// # Errors
/// Say what is wrong with it.
pub(super) fn read<'a>(message: &'a [u8], cells: &mut Cells) -> Result<Message<'a>, &'static str> {
    let mut bytes = Bytes { all: message, at: 0 };
    let read = match bytes.byte()? {
        b'B' => {
            let (commit, time_us) = (Lsn(bytes.u64()?), bytes.u64()? as i64);
            bytes.u32()?;
            Message::Begin { commit, time_us }
        }
        b'C' => {
            bytes.byte()?;
            let (commit, end) = (Lsn(bytes.u64()?), Lsn(bytes.u64()?));
            bytes.u64()?;
            Message::Commit { commit, end }
        }
        b'R' => Message::Relation(bytes.relation()?),
        b'I' => {
            let relation = bytes.u32()?;
            match bytes.byte()? {
                b'N' => bytes.row(&mut cells.new)?,
                _ => return Err("an insert without its row"),
            }
            Message::Insert { relation }
        }
        b'U' => {
            let relation = bytes.u32()?;
            let mut kind = bytes.byte()?;
            let old = match kind {
                b'K' => Old::Key,
                b'O' => Old::Whole,
                _ => Old::Nothing,
            };
            if old != Old::Nothing {
                bytes.row(&mut cells.old)?;
                kind = bytes.byte()?;
            }
            match kind {
                b'N' => bytes.row(&mut cells.new)?,
                _ => return Err("an update without its row"),
            }
            Message::Update { relation, old }
        }
        b'D' => {
            let relation = bytes.u32()?;
            let old = match bytes.byte()? {
                b'K' => Old::Key,
                b'O' => Old::Whole,
                _ => return Err("a delete without its row"),
            };
            bytes.row(&mut cells.old)?;
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = bytes.u32()? as usize;
            // What cascaded and what was restarted is not told on.
            bytes.byte()?;
            // Not more room than there are bytes.
            let mut relations = Vec::with_capacity(count.min(message.len() / 4));
            for _ in 0..count {
                relations.push(bytes.u32()?);
            }
            Message::Truncate { relations }
        }
        b'M' => {
            let (in_transaction, lsn) = (bytes.byte()? & 1 == 1, Lsn(bytes.u64()?));
            let prefix = bytes.name()?;
            let length = bytes.u32()? as usize;
            Message::Emitted { in_transaction, lsn, prefix, content: bytes.take(length)? }
        }
        // They hold names of the user's; where they end is where the message does.
        b'O' | b'Y' => return Ok(Message::Other),
        _ => return Err("it is of a kind that this version of the protocol does not have"),
    };
    if bytes.at == message.len() { Ok(read) } else { Err("something follows its end") }
}

/// What was read of a message.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

const CUT_OFF: &str = "it is cut off";

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let taken = self.all[self.at..].get(..length).ok_or(CUT_OFF)?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let taken = self.all[self.at..].first_chunk::<N>().ok_or(CUT_OFF)?;
        self.at += N;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    fn name(&mut self) -> Result<&'a [u8], &'static str> {
        let rest = &self.all[self.at..];
        let length = rest.iter().position(|byte| *byte == 0).ok_or(CUT_OFF)?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn text(&mut self) -> Result<String, &'static str> {
        let name = std::str::from_utf8(self.name()?);
        name.map(str::to_owned).map_err(|_| "a name in it is not UTF-8")
    }

    fn relation(&mut self) -> Result<Described, &'static str> {
        let (oid, mut schema, name) = (self.u32()?, self.text()?, self.text()?);
        if schema.is_empty() {
            "pg_catalog".clone_into(&mut schema);
        }
        let identity = match self.byte()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return Err("a table has a replica identity that does not exist"),
        };
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(count.min(1664).into());
        for _ in 0..count {
            let is_key = self.byte()? & 1 == 1;
            columns.push(DescribedColumn { is_key, name: self.text()?, type_oid: self.u32()?, typmod: self.u32()? as i32 });
        }
        Ok(Described { oid, schema, name, identity, columns })
    }

    /// The values of a row.
    fn row(&mut self, cells: &mut Vec<Cell>) -> Result<(), &'static str> {
        cells.clear();
        for _ in 0..self.u16()? {
            cells.push(match self.byte()? {
                b'n' => Cell::Null,
                b'u' => Cell::Unchanged,
                b't' => {
                    let length = self.u32()? as usize;
                    let start = self.at;
                    self.take(length)?;
                    let place = |at| u32::try_from(at).map_err(|_| "it is longer than a message may be");
                    Cell::Text(place(start)?, place(self.at)?)
                }
                b'b' => return Err("it has binary values, and text was asked for"),
                _ => return Err("a value is of a kind that does not exist"),
            });
        }
        Ok(())
    }
}

/// What the fuzzer calls: nothing that comes from outside may panic.
#[doc(hidden)]
pub fn fuzz(message: &[u8]) {
    let mut cells = Cells::default();
    let Ok(_) = read(message, &mut cells) else { return };
    for cell in cells.old.iter().chain(&cells.new) {
        if let Cell::Text(start, end) = *cell {
            let text = &message[start as usize..end as usize];
            let mut out = Vec::new();
            super::rows::value(&super::relation::Form::List(Box::new(super::relation::Form::Number)), text, &mut out);
            super::rows::quote(text, &mut out);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
