//! One stream on its way: how far it was read, how far that was written into chunks, and the chunks that wait for room.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::ingest::{Batch, Rejected};
use highwater_operators::position::{PartitionId, Position};
use highwater_operators::redis::Line;
use highwater_operators::{Error, Result};
use redis::cmd;

use super::Description;
use super::ask::{self, Raw};
use super::begin::look;
use super::entries::Taken;
use super::id::EntryId;
use super::token::Place;
use crate::ahead::{Chunk, Form, Refused, Way, Written};
use crate::{Envelope, OnReject};

/// Pending entries that are looked at together.
const PENDING: u32 = 100;

/// What was written of an entry.
pub(super) enum Item {
    /// A line that an envelope reads.
    Line { start: usize, end: usize, id: EntryId },
    /// A change.
    Change(Written),
}

/// A stream that is read.
pub(super) struct Stream {
    pub name: Arc<str>,
    /// Where it is read on; what was read is held, or written.
    pub read: Place,
    /// What the next token tells.
    written: Place,
    /// Whether it was looked at.
    is_begun: bool,
    /// Whether it was read by an earlier run, or by this one.
    is_known: bool,
    /// Entries read in all.
    order: u64,
    chunk: Option<Chunk<Item>>,
    ready: VecDeque<Chunk<Item>>,
    /// Nobody takes what is read of it any more.
    pub is_gone: bool,
    pub way: Way<Item>,
}

impl Stream {
    pub fn new(name: &str, from: Option<(u64, Place)>, way: Way<Item>) -> Self {
        let (order, place) = from.unwrap_or_default();
        let (is_begun, is_known, name) = (false, from.is_some(), name.into());
        let (chunk, ready, is_gone) = (None, VecDeque::new(), false);
        Stream { name, read: place, written: place, is_begun, is_known, order, chunk, ready, is_gone, way }
    }

    /// Looks at it on a connection that is new.
    pub async fn enter(&mut self, line: &Line, description: &Description) -> Result {
        let from = (self.is_known || self.is_begun).then_some(self.read);
        let standing = look(line, description, &self.name, from).await?;
        standing.settle(line, description, &self.name).await?;
        (self.read, self.written) = (standing.place, standing.place);
        if std::mem::replace(&mut self.is_begun, true) || self.is_known {
            return Ok(());
        }
        if let Some(group) = description.group.as_ref().filter(|_| standing.pending() > 0) {
            tracing::info!(
                stream = %self.name,
                pending = standing.pending(),
                behind = %self.read.id,
                "takes over the group {group}: what is pending is read first"
            );
        }
        if let Some(missing) = standing.missing().filter(|_| self.read.id > EntryId::ZERO) {
            tracing::warn!(stream = %self.name, missing, "entries behind the place where reading begins were removed before");
        }
        Ok(())
    }

    /// Whether it may be read on.
    pub fn has_room(&self) -> bool {
        !self.is_gone && self.ready.is_empty() && self.way.has_room()
    }

    /// Reads a page of what others left pending, and makes it over to us.
    pub async fn read_pending(&mut self, line: &Line, description: &Description) -> Result {
        let Some(at) = self.read.pending else { return Ok(()) };
        let name = self.name.clone();
        let Some(group) = &description.group else {
            return Err(Error::stop(format!(
                "the checkpoint is in the middle of taking over a group of the stream {name}: name it again by .group(..), to read what is left pending"
            )));
        };
        let ids = ask::pending(line, &name, group, (at.next(), self.read.id), PENDING, None).await?;
        let Some(&last) = ids.last() else {
            (self.read.pending, self.written.pending) = (None, None);
            return Ok(());
        };
        let found = ask::by_id(line, &name, &ids).await?;
        if found.len() < ids.len() {
            let gone: Vec<_> = ids.iter().filter(|id| !found.iter().any(|raw| raw.id == **id)).map(EntryId::to_string).collect();
            tracing::warn!(stream = %name, group, entries = %gone.join(" "), "pending entries were removed before they could be read");
        }
        let mut claim = cmd("XCLAIM");
        claim.arg(&*name).arg(group).arg(&description.consumer).arg(0);
        for raw in &found {
            claim.arg(raw.id.to_string());
        }
        if !found.is_empty() {
            claim.arg("JUSTID");
            line.query::<()>(&format!("taking over pending entries of the stream {name}"), &claim).await?;
        }
        if self.way.window.passes("redis_stream.claimed") {
            return Err(Error::stop("it has crashed here"));
        }
        self.read.pending = Some(last);
        self.write(description, found, self.read)
    }

    /// Writes what was read into chunks; behind it, reading stands at `after`.
    ///
    /// # Errors
    /// An entry is no change, and the run is to stop for that.
    pub fn write(&mut self, description: &Description, entries: Vec<Raw>, after: Place) -> Result {
        let count = entries.len();
        for (number, raw) in entries.iter().enumerate() {
            let chunk = self.chunk.get_or_insert_with(|| self.way.chunk());
            match description.take(&self.name, raw, &mut chunk.block) {
                Taken::Line(start, end) => chunk.written.push(Item::Line { start, end, id: raw.id }),
                Taken::Change(written) => chunk.written.push(Item::Change(written)),
                Taken::Rejected(why) => {
                    let why = sentence(&self.name, raw.id, &why);
                    if description.on_reject == OnReject::Stop {
                        // What was read before it is read.
                        self.seal(number.checked_sub(1).map(|before| &entries[before]));
                        return Err(Error::stop(why));
                    }
                    let text = raw.fields().show();
                    chunk.rejected.push(Refused { at: raw.id.ms, within: raw.id.seq, why, text });
                }
            }
            let is_full = chunk.is_full();
            self.order += 1;
            if self.written.pending.is_some() {
                self.written.pending = Some(raw.id);
            } else {
                self.written.id = raw.id;
                self.written.added = self.written.added.map(|added| added + 1);
            }
            let is_last = number + 1 == count;
            if is_last {
                (self.written.added, self.written.pending) = (after.added, after.pending);
            }
            if is_full || is_last {
                self.seal(Some(raw));
            }
        }
        self.read.says = self.written.says;
        Ok(())
    }

    /// Makes the chunk ready to be handed over, with the token behind its last entry.
    fn seal(&mut self, last: Option<&Raw>) {
        let (Some(mut chunk), Some(last)) = (self.chunk.take(), last) else { return };
        if self.written.pending.is_none() {
            self.written.says = last.fields().says();
        }
        chunk.order = self.order;
        chunk.token = self.written.write();
        self.ready.push_back(chunk);
    }

    /// Hands over what there is room for; with `waits`, all of it.
    pub async fn hand_over(&mut self, waits: bool) {
        while waits || self.way.has_room() {
            let Some(chunk) = self.ready.pop_front() else { break };
            if self.way.hand_over(chunk).await.is_err() {
                self.is_gone = true;
                self.ready.clear();
            }
        }
    }
}

/// How items of a stream become changes.
pub(super) struct Shape {
    pub stream: String,
    pub envelope: Option<Envelope>,
}

impl Form for Shape {
    type Written = Item;

    fn take(&self, written: Vec<Item>, block: &Bytes, partition: PartitionId, batch: &mut Batch) -> Result {
        for item in written {
            match item {
                Item::Line { start, end, id } => {
                    let position = Position { partition, at: id.ms, within: id.seq };
                    let Some(envelope) = &self.envelope else { continue };
                    match envelope.read(block.slice(start..end), position) {
                        Ok(Some(change)) => batch.changes.push(change),
                        // It rightly says nothing: a tombstone.
                        Ok(None) => {}
                        Err(why) => {
                            let text = String::from_utf8_lossy(&block[start..end.min(start + 16 * 1024)]).into_owned();
                            batch.rejected.push(Rejected { position, why: sentence(&self.stream, id, &why), text });
                        }
                    }
                }
                Item::Change(written) => {
                    let (start, end) = (written.pieces.start, written.pieces.end);
                    let text = std::str::from_utf8(&block[start..end]).map_err(|_| Error::stop("a row is no text"))?;
                    match written.shifted(start).into_change(&block.slice(start..end), text, partition) {
                        Ok(change) => batch.changes.push(change),
                        Err(rejected) => batch.rejected.push(rejected),
                    }
                }
            }
        }
        Ok(())
    }
}

fn sentence(stream: &str, id: EntryId, why: &str) -> String {
    format!("entry {id} of the stream {stream}: {why}")
}
