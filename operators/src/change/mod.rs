//! A change: one block of bytes and where in it things stand. Made once, moved often, parsed only where asked.

mod builder;
mod encoded;
mod found;

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::position::{PartitionId, Position};
use crate::row::{Row, Value, apart};
pub use builder::ChangeBuilder;
pub use found::Found;

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Operation {
    /// A new row.
    Insert,
    /// A row that was changed.
    Update,
    /// A row that is gone.
    Delete,
    /// A row that was there when a snapshot was read.
    Read,
    /// All rows of the table are gone at once. It has no row.
    Truncate,
    /// A message that somebody wrote into the log of the source; it is of no table. The row holds what it says.
    Message,
}

impl Operation {
    /// The operation's name, as the default envelope writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Read => "read",
            Operation::Truncate => "truncate",
            Operation::Message => "message",
        }
    }

    /// The operation of a name, in any of the usual spellings.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "insert" | "i" | "c" | "create" | "INSERT" => Operation::Insert,
            "update" | "u" | "UPDATE" => Operation::Update,
            "delete" | "d" | "DELETE" => Operation::Delete,
            "read" | "r" | "READ" | "snapshot" => Operation::Read,
            "truncate" | "TRUNCATE" => Operation::Truncate,
            "message" | "MESSAGE" => Operation::Message,
            _ => return None,
        })
    }
}

/// One change event.
///
/// It owns a slice of the block it was read in and 70 bytes of places in it, 104 bytes in all, so that making,
/// exchanging and dropping one costs some 50 ns and no allocation. Rows are parsed when a field is asked for.
#[derive(Clone, Serialize, Deserialize)]
pub struct Change {
    block: Bytes,
    /// What lookups attached, the latest first.
    found: Option<Arc<Found>>,
    time_ms: i64,
    at: u64,
    within: u64,
    partition: PartitionId,
    before: (u32, u32),
    after: (u32, u32),
    id: (u16, u16),
    key: (u16, u16),
    table_start: u16,
    table_length: u8,
    /// The operation in [`OPERATION`], and [`FAILED`] and [`APART`].
    marks: u8,
    /// Made where the change is made, while its line is in the cache; 0 where that is not known, and then made when asked for.
    #[serde(skip)]
    key_hash: u64,
}

const _: () = assert!(std::mem::size_of::<Change>() <= 104);

/// Marks a change to which a stage has attached that it failed: nobody else need look at what is attached.
const FAILED: u8 = 4;
/// Marks a change of whose fields not all is said in its rows: their names stand behind the last row in the block (`row/apart.rs`).
const APART: u8 = 16;
/// The bits of the operation. Two of them are as old as the marks; the third came when there was no room beside them.
const OPERATION: u8 = 1 | 2 | 8;

/// The operation as it stands in the marks.
const fn mark_of(operation: Operation) -> u8 {
    let number = operation as u8;
    number & 3 | (number & 4) << 1
}

/// Longest id and longest key, in bytes.
pub const NAME_MAX: usize = 32 * 1024;
/// Longest table name, in bytes.
pub const TABLE_MAX: usize = u8::MAX as usize;

const NONE: u16 = u16::MAX;
const NO_ROW: (u32, u32) = (u32::MAX, 0);

/// What a source knows of a change it has read: pieces that lie in its block, or beside it where they had to be unescaped.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The change's id, unique in its source.
    pub id: &'a str,
    /// The table it happened in.
    pub table: &'a str,
    /// The row's key; without one, the id is the key.
    pub key: Option<&'a str>,
    /// What happened.
    pub operation: Operation,
    /// Commit time, Unix milliseconds.
    pub time_ms: i64,
    /// The row before, as the text of a JSON object.
    pub before: Option<&'a str>,
    /// The row after, as the text of a JSON object.
    pub after: Option<&'a str>,
}

impl Change {
    /// A change over `block`, which is the slice that holds this change and nothing else.
    ///
    /// Pieces that lie in the block are taken where they stand. If one does not (it was unescaped), or a name stands too
    /// far inside for its 16-bit place, the change is copied into a block of its own.
    ///
    /// # Errors
    /// The sentence says which piece is longer than it may be.
    pub fn new(block: Bytes, position: Position, parts: Parts<'_>) -> Result<Self, String> {
        check(&block, &parts)?;
        Ok(Self::in_place(block, position, &parts).unwrap_or_else(|| Self::copied(position, &parts, None)))
    }

    /// A change of whose rows their text does not say all. `apart` is a list of JSON strings, names of fields: one that the row after lacks is
    /// [unchanged](Value::Unchanged), one that is null there is the document `null`, not NULL. A list at its end names such nulls of the row
    /// before. Taken where it stands if it stands right behind the last row.
    ///
    /// ```
    /// # use highwater_operators::change::{Change, Operation, Parts};
    /// # use highwater_operators::{Position, row::Value};
    /// # let position = Position { partition: 0, at: 1, within: 0 };
    /// # let parts = Parts { id: "1", table: "t", key: None, operation: Operation::Update, time_ms: 0, before: None, after: None };
    /// let parts = Parts { after: Some(r#"{"id":1,"note":null,"document":null}"#), ..parts };
    /// let change = Change::with_names_apart(Default::default(), position, parts, r#"["body","document"]"#)?;
    /// assert_eq!(
    ///     change.after().pick(["note", "document", "body"]),
    ///     [Some(Value::Null), Some(Value::Other("null")), Some(Value::Unchanged)]
    /// );
    /// # Ok::<(), String>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new); or there is no row.
    pub fn with_names_apart(block: Bytes, position: Position, parts: Parts<'_>, apart: &str) -> Result<Self, String> {
        let Some(last) = parts.after.or(parts.before) else {
            return Err("something is told of the fields of a row that is not there".to_owned());
        };
        if !apart::are_names(apart) {
            return Err("what is told of fields apart from their row is no list of names".to_owned());
        }
        let follows = match (place(&block, last), place(&block, apart)) {
            (Some((row, length)), Some((list, _))) => row + length == list,
            _ => false,
        };
        check(&block, &parts)?;
        let in_place = if follows { Self::in_place(block, position, &parts) } else { None };
        let mut change = in_place.unwrap_or_else(|| Self::copied(position, &parts, Some(apart)));
        change.marks |= APART;
        Ok(change)
    }

    fn in_place(block: Bytes, position: Position, parts: &Parts<'_>) -> Option<Self> {
        let name = |text: &str| {
            let (start, length) = place(&block, text)?;
            Some((u16::try_from(start).ok().filter(|start| *start != NONE)?, length as u16))
        };
        let row = |text: Option<&str>| match text {
            None => Some(NO_ROW),
            Some(text) => place(&block, text).map(|(start, length)| (start as u32, length as u32)),
        };
        let table = name(parts.table)?;
        let key = parts.key.unwrap_or(parts.id);
        Some(Change {
            key_hash: xxh3_64(key.as_bytes()),
            found: None,
            time_ms: parts.time_ms,
            at: position.at,
            within: position.within,
            partition: position.partition,
            before: row(parts.before)?,
            after: row(parts.after)?,
            id: name(parts.id)?,
            key: parts.key.map_or(Some((NONE, 0)), name)?,
            table_start: table.0,
            table_length: table.1 as u8,
            marks: mark_of(parts.operation),
            block,
        })
    }

    fn copied(position: Position, parts: &Parts<'_>, apart: Option<&str>) -> Self {
        let (key, before, after) = (parts.key.unwrap_or(""), parts.before.unwrap_or(""), parts.after.unwrap_or(""));
        let pieces = [parts.id, parts.table, key, before, after, apart.unwrap_or("")];
        let mut block = BytesMut::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
        let [id, table, key, before, after, _] = pieces.map(|piece| {
            let start = block.len();
            block.extend_from_slice(piece.as_bytes());
            (start as u32, piece.len() as u32)
        });
        Change {
            key_hash: xxh3_64(parts.key.unwrap_or(parts.id).as_bytes()),
            block: block.freeze(),
            found: None,
            time_ms: parts.time_ms,
            at: position.at,
            within: position.within,
            partition: position.partition,
            before: if parts.before.is_some() { before } else { NO_ROW },
            after: if parts.after.is_some() { after } else { NO_ROW },
            id: (id.0 as u16, id.1 as u16),
            key: if parts.key.is_some() { (key.0 as u16, key.1 as u16) } else { (NONE, 0) },
            table_start: table.0 as u16,
            table_length: table.1 as u8,
            marks: mark_of(parts.operation),
        }
    }

    /// The same change in a block of its own size, for what outlives its batch: a kept slice would keep its whole block.
    pub fn detached(&self) -> Self {
        let parts = Parts {
            id: self.id(),
            table: self.table(),
            key: (self.key.0 != NONE).then(|| self.key()),
            operation: self.operation(),
            time_ms: self.time_ms,
            before: self.row_text(self.before),
            after: self.row_text(self.after),
        };
        Change { found: self.found.clone(), marks: self.marks, ..Self::copied(self.position(), &parts, self.apart()) }
    }

    /// The same change with what lookups attached to another, which it was made of.
    pub(crate) fn with_attachments_of(mut self, other: &Change) -> Self {
        self.found = other.found.clone();
        self.marks |= other.marks & FAILED;
        self
    }

    /// Bytes of the block that it is a slice of; of one that is [`detached`](Self::detached), its own size.
    pub(crate) fn block_length(&self) -> usize {
        self.block.len()
    }

    /// Whether every piece lies in the block and is text: of a change that came from outside as bytes nothing else says so.
    pub(crate) fn is_sound(&mut self) -> bool {
        // Records of before there was a mark have none.
        if self.attachments().any(|found| found.failure().is_some()) {
            self.marks |= FAILED;
        }
        let name = |(start, length): (u16, u16)| (u64::from(start), u64::from(length));
        let row = |(start, length): (u32, u32)| (u64::from(start), u64::from(length));
        let table = (u64::from(self.table_start), u64::from(self.table_length));
        let key = (self.key.0 != NONE).then(|| name(self.key));
        let rows = [self.before, self.after].into_iter().filter(|place| *place != NO_ROW).map(row);
        let is_text = rows.chain(key).chain([name(self.id), table]).all(|(start, length)| {
            let piece = self.block.get(start as usize..(start + length) as usize);
            piece.is_some_and(|piece| std::str::from_utf8(piece).is_ok())
        });
        is_text && (self.marks & APART == 0 || self.apart().is_some())
    }

    /// The names of fields of which the text of their row does not say all, as a list of JSON.
    fn apart(&self) -> Option<&str> {
        if self.marks & APART == 0 {
            return None;
        }
        let last = if self.after == NO_ROW { self.before } else { self.after };
        let behind = self.block.get(last.0 as usize + last.1 as usize..)?;
        std::str::from_utf8(behind.get(..apart::length(behind)?)?).ok()
    }

    fn text(&self, (start, length): (usize, usize)) -> &str {
        // Every piece was a `str` when it was placed.
        std::str::from_utf8(&self.block[start..start + length]).unwrap_or_default()
    }

    fn row_text(&self, row: (u32, u32)) -> Option<&str> {
        (row != NO_ROW).then(|| self.text((row.0 as usize, row.1 as usize)))
    }

    fn row_at<'a>(&'a self, row: (u32, u32), apart: Option<&'a str>) -> Row<'a> {
        let object = match row {
            NO_ROW => return Row::ABSENT,
            (start, length) => &self.block[start as usize..(start + length) as usize],
        };
        apart.map_or(Row::json(object), |apart| Row::with_names_apart(object, apart.as_bytes()))
    }

    /// The change's id.
    pub fn id(&self) -> &str {
        self.text((self.id.0.into(), self.id.1.into()))
    }

    /// The table it happened in.
    pub fn table(&self) -> &str {
        self.text((self.table_start.into(), self.table_length.into()))
    }

    /// The row's key; without one, the id.
    pub fn key(&self) -> &str {
        match self.key.0 {
            NONE => self.id(),
            start => self.text((start.into(), self.key.1.into())),
        }
    }

    /// What happened.
    pub fn operation(&self) -> Operation {
        const UPDATE: u8 = mark_of(Operation::Update);
        const DELETE: u8 = mark_of(Operation::Delete);
        const READ: u8 = mark_of(Operation::Read);
        const TRUNCATE: u8 = mark_of(Operation::Truncate);
        const MESSAGE: u8 = mark_of(Operation::Message);
        match self.marks & OPERATION {
            UPDATE => Operation::Update,
            DELETE => Operation::Delete,
            READ => Operation::Read,
            TRUNCATE => Operation::Truncate,
            MESSAGE => Operation::Message,
            _ => Operation::Insert,
        }
    }

    /// Commit time in Unix milliseconds.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    /// Where the change stands in its source.
    pub fn position(&self) -> Position {
        Position { partition: self.partition, at: self.at, within: self.within }
    }

    /// The row before the change, absent for an insert.
    pub fn before(&self) -> Row<'_> {
        self.row_at(self.before, self.apart().and_then(apart::of_before))
    }

    /// The row after the change, absent for a delete.
    pub fn after(&self) -> Row<'_> {
        self.row_at(self.after, self.apart())
    }

    /// The row: after the change or, if there is none (a delete), before it.
    pub fn row(&self) -> Row<'_> {
        if self.after == NO_ROW { self.before() } else { self.after() }
    }

    /// What the lookup of this name found, absent where it found nothing.
    pub fn found(&self, lookup: &str) -> Row<'_> {
        self.attachments().find(|found| *found.lookup == *lookup).map_or(Row::ABSENT, Found::row)
    }

    /// Whether `field` has `value` after this change and had not before: an insert with it counts, a delete never does. An update
    /// without its row before counts too; the condition [`became`](crate::condition::became) does not guess.
    pub fn became(&self, field: &str, value: &str) -> bool {
        self.after().has(field, value) && !self.before().has(field, value)
    }

    /// Whether this change gave `field` another value: on an insert if it has one, on a delete never.
    pub fn changed(&self, field: &str) -> bool {
        let after = self.after().get(field);
        self.after != NO_ROW && after != Some(Value::Unchanged) && after != self.before().get(field)
    }

    /// The hash of the key that decides worker and shard. The same in every run and on every machine.
    pub fn key_hash(&self) -> u64 {
        if self.key_hash == 0 { xxh3_64(self.key_bytes()) } else { self.key_hash }
    }

    /// Takes a change in that came from another process: its block is held by `hold`, and its key's hash made, once.
    pub(crate) fn take_in(&mut self, hold: impl FnOnce(Bytes) -> Bytes) {
        self.block = hold(std::mem::take(&mut self.block));
        self.key_hash = xxh3_64(self.key_bytes());
    }

    /// Bytes that it takes with it to another process.
    pub(crate) fn bytes(&self) -> usize {
        self.block.len()
    }

    /// Reads a byte where the id and the key stand. Done for many changes in a row, with nothing in between, it brings them
    /// into the cache together.
    pub(crate) fn touch(&self) -> u8 {
        let first = |piece: &[u8]| piece.first().copied().unwrap_or_default();
        first(self.id_bytes()) ^ first(self.key_bytes())
    }

    /// The same for the row: a byte of each line of the cache that it stands in, up to some.
    pub(crate) fn touch_row(&self) -> u8 {
        let (start, length) = if self.after == NO_ROW { self.before } else { self.after };
        let row = self.block.get(start as usize..(start as usize).saturating_add(length as usize)).unwrap_or_default();
        row.iter().step_by(64).take(4).fold(0, |touched, byte| touched ^ byte)
    }

    /// The key, not looked at as text: for hashing.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        self.piece(if self.key.0 == NONE { self.id } else { self.key })
    }

    /// The id, not looked at as text: for hashing.
    pub(crate) fn id_bytes(&self) -> &[u8] {
        self.piece(self.id)
    }

    fn piece(&self, (start, length): (u16, u16)) -> &[u8] {
        &self.block[start.into()..usize::from(start) + usize::from(length)]
    }

    /// Everything the lookups attached, the latest first.
    pub fn attachments(&self) -> impl Iterator<Item = &Found> {
        std::iter::successors(self.found.as_deref(), |found| found.next.as_deref())
    }

    /// Attaches what a lookup found. A first lookup shares the cached node; a later one makes a node of its own.
    pub fn attach(&mut self, found: &Arc<Found>) {
        self.attach_own(found.clone());
    }

    /// [`attach`](Self::attach), for a share of the node that is the change's already.
    pub(crate) fn attach_own(&mut self, found: Arc<Found>) {
        if found.failure().is_some() {
            self.marks |= FAILED;
        }
        self.found = Some(match self.found.take() {
            None => found,
            earlier => Arc::new(Found { next: earlier, ..Found::clone(&found) }),
        });
    }

    /// Whether a stage failed for this change. Does not look at what is attached.
    pub(crate) fn has_failed(&self) -> bool {
        self.marks & FAILED != 0
    }

    /// The stage that failed for this change, if one did.
    pub fn failed_stage(&self) -> Option<Arc<str>> {
        self.attachments().find(|found| found.failure().is_some()).map(|found| found.lookup.clone())
    }

    /// Removes what a stage attached, so that it can attach something better.
    pub fn heal(&mut self, stage: &str) {
        let kept: Vec<Found> = self.attachments().filter(|found| *found.lookup != *stage).cloned().collect();
        self.found = None;
        self.marks &= !FAILED;
        for found in kept.into_iter().rev() {
            self.attach(&Arc::new(Found { next: None, ..found }));
        }
    }
}

/// Whether the pieces are as long as they may be.
fn check(block: &Bytes, parts: &Parts<'_>) -> Result<(), String> {
    for (what, text) in [("id", parts.id), ("key", parts.key.unwrap_or(""))] {
        if text.len() > NAME_MAX {
            return Err(format!("{what} is {} bytes long; at most {NAME_MAX} are allowed", text.len()));
        }
    }
    if parts.table.len() > TABLE_MAX {
        return Err(format!("table name is {} bytes long; at most {TABLE_MAX} are allowed", parts.table.len()));
    }
    let rows = parts.before.map_or(0, str::len) + parts.after.map_or(0, str::len);
    if rows.max(block.len()) > u32::MAX as usize / 2 {
        return Err(format!("the change is {rows} bytes long; at most 2 GiB are allowed"));
    }
    Ok(())
}

/// Where `text` stands in `block`, if it is a piece of it.
fn place(block: &Bytes, text: &str) -> Option<(usize, usize)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let start = (text.as_ptr() as usize).checked_sub(block.as_ptr() as usize)?;
    (start + text.len() <= block.len()).then_some((start, text.len()))
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("id", &self.id())
            .field("table", &self.table())
            .field("key", &self.key())
            .field("operation", &self.operation())
            .field("time_ms", &self.time_ms)
            .field("position", &self.position())
            .field("before", &self.before())
            .field("after", &self.after())
            .field("found", &self.attachments().collect::<Vec<_>>())
            .finish()
    }
}

impl PartialEq for Change {
    /// Two changes are equal if they say the same; where their bytes stand does not matter.
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.table(), self.key(), self.operation(), self.time_ms, self.position())
            == (other.id(), other.table(), other.key(), other.operation(), other.time_ms, other.position())
            && self.row_text(self.before) == other.row_text(other.before)
            && self.row_text(self.after) == other.row_text(other.after)
            && self.apart() == other.apart()
    }
}

#[cfg(test)]
mod tests;
