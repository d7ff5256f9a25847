//! The log, message by message: which transaction it is in, which row at one place, what was read before. What comes out are changes, or
//! what else has to be done.

use std::collections::HashMap;
use std::sync::Arc;

use highwater_operators::Operation;

use super::chunk::{Before, Event, Place};
use super::lsn::Lsn;
use super::pgoutput::{Cells, Described, Message, Old, read};
use super::relation::Relation;
use super::rows::Values;
use crate::ahead::Chunk;

/// From 1970 to 2000, in milliseconds.
const Y2000_MS: i64 = 946_684_800_000;

/// The prefix of messages that move an idle slot on.
pub(super) const HEARTBEAT_PREFIX: &str = "highwater";

/// How far the log was read.
#[derive(Debug, Default)]
pub(super) struct Log {
    relations: HashMap<u32, Arc<Relation>>,
    cells: Cells,
    /// The end of what was read whole.
    end: Lsn,
    transaction: Option<Transaction>,
    /// Inside the transaction with this commit so many messages were handed over by whoever read before.
    before: Option<(Lsn, u64)>,
}

/// A transaction that is being read.
#[derive(Debug)]
struct Transaction {
    commit: Lsn,
    time_ms: i64,
    /// Its messages that were read, those passed over too.
    read: u64,
    /// So many of them were handed over before.
    known: u64,
    /// The place of the last row, and how many were read there.
    row: Lsn,
    rows: u32,
}

/// What a message comes to.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each row and taken apart at once: a box would be an allocation per row"
)]
pub(super) enum Heard<'a> {
    Nothing,
    /// A table has to be made known by [`Log::know`] before its rows come.
    Table(Described),
    /// What happened to a row, as one change or two.
    Row(Happened<'a>),
    /// Tables lost all their rows.
    Truncate(Vec<(Arc<Relation>, Place)>, i64),
    Message {
        place: Place,
        time_ms: i64,
        prefix: &'a [u8],
        content: &'a [u8],
        in_transaction: bool,
    },
    /// A transaction was read whole, or the log was seen to have nothing up to here.
    End,
}

/// What happened to a row.
#[derive(Debug)]
pub(super) struct Happened<'a> {
    pub first: Event<'a>,
    /// The row under its new key.
    pub second: Option<Event<'a>>,
    /// Why the last of them is no change.
    pub refused: Option<String>,
}

impl Happened<'_> {
    /// Writes it into a chunk.
    ///
    /// # Errors
    /// It stands where no change can be told from others.
    pub(super) fn write(&self, chunk: &mut Chunk) -> Result<(), String> {
        chunk.push(&self.first)?;
        match (&self.second, &self.refused) {
            (None, _) => Ok(()),
            (Some(second), None) => chunk.push(second),
            (Some(second), Some(why)) => chunk.refuse(second, why),
        }
    }
}

impl Log {
    /// Continues there.
    pub(super) fn from(end: Lsn, within: Option<(Lsn, u64)>) -> Self {
        Log { end, before: within, ..Log::default() }
    }

    /// The end of what was read whole.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// Inside a transaction: its commit, and how many of its messages were read.
    pub(super) fn within(&self) -> Option<(Lsn, u64)> {
        match &self.transaction {
            Some(transaction) if transaction.commit >= self.end => {
                Some((transaction.commit, transaction.read.max(transaction.known))).filter(|(_, read)| *read > 0)
            }
            _ => self.before,
        }
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// The last message was not taken after all: whoever continues takes it again.
    pub(super) fn take_back(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.read = transaction.read.saturating_sub(1);
        }
    }

    /// The connection was lost or is another one: what comes next begins anew, and may have been read.
    pub(super) fn begin_anew(&mut self) {
        self.before = self.within();
        self.transaction = None;
        self.relations.clear();
    }

    /// The table as it is from now on.
    pub(super) fn know(&mut self, relation: Arc<Relation>) {
        self.relations.insert(relation.oid, relation);
    }

    /// Whether the table was described on this connection: if it is described again it was altered.
    pub(super) fn knows(&self, oid: u32) -> bool {
        self.relations.contains_key(&oid)
    }

    /// The server says that there is nothing up to here but what was read. Whether that is news.
    pub(super) fn reach(&mut self, end: Lsn) -> bool {
        if self.transaction.is_some() || self.before.is_some() || end <= self.end {
            return false;
        }
        self.end = end;
        true
    }

    /// Reads a message, which is to be taken next.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read<'a>(&mut self, text: &'a [u8]) -> Result<Message<'a>, &'static str> {
        read(text, &mut self.cells)
    }

    /// Takes the message that stands at `lsn`; `text` is where its rows stand.
    ///
    /// # Errors
    /// It is none that may come here.
    pub(super) fn take<'a>(&'a mut self, lsn: Lsn, message: Message<'a>, text: &'a [u8]) -> Result<Heard<'a>, String> {
        match message {
            Message::Begin { commit, time_us } => {
                if let Some(open) = &self.transaction {
                    return Err(format!("a transaction begins inside the one that commits at {}", open.commit));
                }
                let known = match self.before {
                    _ if commit < self.end => u64::MAX,
                    Some((before, known)) if before == commit => known,
                    Some((before, known)) => {
                        return Err(format!(
                            "{known} messages of the transaction that commits at {before} were handed over, and the next one commits at {commit}"
                        ));
                    }
                    None => 0,
                };
                let time_ms = time_us.div_euclid(1000).saturating_add(Y2000_MS);
                self.transaction = Some(Transaction { commit, time_ms, read: 0, known, row: Lsn(0), rows: 0 });
                Ok(Heard::Nothing)
            }
            Message::Commit { commit, end } => match self.transaction.take() {
                Some(transaction) if transaction.commit == commit && end > commit => {
                    if commit < self.end {
                        return Ok(Heard::Nothing);
                    }
                    if transaction.read < transaction.known {
                        return Err(format!(
                            "the transaction that commits at {commit} has {} messages, and {} of it were read before",
                            transaction.read, transaction.known
                        ));
                    }
                    (self.end, self.before) = (end, None);
                    Ok(Heard::End)
                }
                _ => Err(format!("a commit at {commit} ends no transaction that began")),
            },
            Message::Relation(described) => Ok(Heard::Table(described)),
            Message::Insert { relation } => self.row(lsn, relation, Operation::Insert, Old::Nothing, text),
            Message::Update { relation, old } => self.row(lsn, relation, Operation::Update, old, text),
            Message::Delete { relation, old } => self.row(lsn, relation, Operation::Delete, old, text),
            Message::Truncate { relations } => {
                let is_new = self.count(lsn)?;
                let mut tables = Vec::with_capacity(relations.len());
                for oid in relations {
                    let place = self.place(lsn)?;
                    tables.push((self.relation(oid)?.clone(), place));
                }
                let time_ms = self.transaction.as_ref().map_or(0, |transaction| transaction.time_ms);
                Ok(if is_new { Heard::Truncate(tables, time_ms) } else { Heard::Nothing })
            }
            Message::Emitted { in_transaction: true, lsn, prefix, content } => {
                let (is_new, place) = (self.count(lsn)?, self.place(lsn)?);
                let time_ms = self.transaction.as_ref().map_or(0, |transaction| transaction.time_ms);
                Ok(if is_new { Heard::Message { place, time_ms, prefix, content, in_transaction: true } } else { Heard::Nothing })
            }
            Message::Emitted { in_transaction: false, lsn, prefix, content } => {
                if self.transaction.is_some() {
                    return Err(format!("a message at {lsn}, of no transaction, stands inside one"));
                }
                // Its place is where it ends, and the next commit may stand there.
                if lsn <= self.end {
                    return Ok(Heard::Nothing);
                }
                self.end = lsn;
                if prefix == HEARTBEAT_PREFIX.as_bytes() {
                    return Ok(Heard::End);
                }
                let place = Place::Log { commit: lsn, row: lsn, index: 0 };
                Ok(Heard::Message { place, time_ms: 0, prefix, content, in_transaction: false })
            }
            Message::Other => Ok(Heard::Nothing),
        }
    }

    fn relation(&self, oid: u32) -> Result<&Arc<Relation>, String> {
        self.relations.get(&oid).ok_or_else(|| format!("a row is of the table number {oid}, which was not described"))
    }

    /// Counts a message of the transaction. Whether it was not handed over before.
    fn count(&mut self, lsn: Lsn) -> Result<bool, String> {
        let transaction = self.transaction.as_mut().ok_or_else(|| format!("a row at {lsn} is in no transaction"))?;
        transaction.read += 1;
        Ok(transaction.read > transaction.known)
    }

    /// The place of the next row at `lsn`.
    fn place(&mut self, lsn: Lsn) -> Result<Place, String> {
        let transaction = self.transaction.as_mut().ok_or_else(|| format!("a row at {lsn} is in no transaction"))?;
        if transaction.row != lsn {
            (transaction.row, transaction.rows) = (lsn, 0);
        }
        let index = transaction.rows.saturating_mul(2);
        transaction.rows = transaction.rows.saturating_add(1);
        Ok(Place::Log { commit: transaction.commit, row: lsn, index })
    }

    fn row<'a>(&'a mut self, lsn: Lsn, oid: u32, operation: Operation, old: Old, text: &'a [u8]) -> Result<Heard<'a>, String> {
        let (is_new, place) = (self.count(lsn)?, self.place(lsn)?);
        if !is_new {
            return Ok(Heard::Nothing);
        }
        let time_ms = self.transaction.as_ref().map_or(0, |transaction| transaction.time_ms);
        let relation: &Relation = self.relation(oid)?;
        let before = Values { text, cells: &self.cells.old };
        let after = Values { text, cells: &self.cells.new };
        for (values, is_there) in [(before, old != Old::Nothing), (after, operation != Operation::Delete)] {
            if is_there && values.cells.len() != relation.columns.len() {
                return Err(format!(
                    "a row of {} has {} values, and the table has {} columns",
                    relation.table,
                    values.cells.len(),
                    relation.columns.len()
                ));
            }
        }
        let told = match old {
            Old::Nothing => Before::Nothing,
            Old::Key => Before::Key(before),
            Old::Whole => Before::Whole(before),
        };
        let event = Event { relation, operation, place, time_ms, key: Some(after), before: told, after: Some(after) };
        let one = |first| Ok(Heard::Row(Happened { first, second: None, refused: None }));
        match operation {
            Operation::Delete => one(Event { key: Some(before), after: None, ..event }),
            Operation::Update if old != Old::Nothing => {
                let is_same = |column: &usize| after.is_unchanged(*column) || before.get(*column) == after.get(*column);
                if relation.key.iter().all(is_same) {
                    // A large key that did not change stands in the row before only.
                    return one(Event { key: Some(before), ..event });
                }
                Ok(Heard::Row(split(event, before, after)))
            }
            _ => one(event),
        }
    }
}

/// An update that changes the key is a delete under the old one and an insert under the new one.
fn split<'a>(event: Event<'a>, before: Values<'a>, after: Values<'a>) -> Happened<'a> {
    let next = match event.place {
        Place::Log { commit, row, index } => Place::Log { commit, row, index: index + 1 },
        place @ Place::Snapshot(_) => place,
    };
    let first = Event { operation: Operation::Delete, key: Some(before), after: None, ..event };
    let is_whole = matches!(event.before, Before::Whole(_));
    let filling = if is_whole { Before::Filling(before) } else { Before::Nothing };
    let second = Event { operation: Operation::Insert, place: next, before: filling, ..event };
    let lacks = |at: &usize| !is_whole && after.is_unchanged(*at);
    let lacking: Vec<&str> =
        (0..event.relation.columns.len()).filter(lacks).map(|at| event.relation.columns[at].name.as_str()).collect();
    let refused = (!lacking.is_empty()).then(|| {
        format!(
            "the row's key was changed, and the server does not send the large values of {} that did not change, so the row under its new key \
             would lack them; `alter table {} replica identity full` lets it send them",
            lacking.join(", "),
            event.relation.table
        )
    });
    Happened { first, second: Some(second), refused }
}

#[cfg(test)]
mod tests;
