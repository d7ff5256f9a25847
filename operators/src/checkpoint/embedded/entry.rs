//! What a frame says. One definition serves writing, which borrows, and reading, which owns.
//!
//! The encoding is positional: any change here is a new format version (`docs/state-format.md`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::record::encode_record;
use crate::checkpoint::store::{ChangeHash, CutBackFile, Group, Note, ParkedHead, ParkedId, Resolved, Save};
use crate::error::{Error, Result};
use crate::position::{Epoch, PartitionId, Position, ResumeToken};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Entry<'a> {
    Generation { number: u64, started_at_ms: u64, process: u32 },
    Action { number: u16, name: Cow<'a, str> },
    Group(Box<GroupEntry<'a>>),
    Snapshot(Box<Snapshot<'a>>),
    SnapshotState(Vec<SegmentEntry<'a>>),
    SnapshotNotes { of_this_run: bool, notes: Cow<'a, [Note]> },
    SnapshotParked(Vec<ParkedEntry<'a>>),
    SnapshotEnd,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GroupEntry<'a> {
    pub(super) at_ms: u64,
    pub(super) partitions: Cow<'a, [(PartitionId, String)]>,
    pub(super) notes: Cow<'a, [Note]>,
    pub(super) parked: Vec<ParkedEntry<'a>>,
    pub(super) resolved: Cow<'a, [Resolved]>,
    pub(super) save: Option<SaveEntry<'a>>,
}

/// A save; its state stands in the frame's attachments.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SaveEntry<'a> {
    pub(super) number: u64,
    pub(super) epoch: Epoch,
    pub(super) mark: Cow<'a, BTreeMap<PartitionId, ResumeToken>>,
    pub(super) books: Cow<'a, BTreeMap<String, u64>>,
    pub(super) files: Cow<'a, [CutBackFile]>,
    pub(super) state: Vec<SegmentEntry<'a>>,
    pub(super) state_from: Cow<'a, BTreeMap<String, u64>>,
    pub(super) forgotten: Cow<'a, [(u16, ChangeHash, Position)]>,
    pub(super) ended: bool,
}

/// A state segment, whose bytes are an attachment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SegmentEntry<'a> {
    pub(super) save: u64,
    pub(super) operator: Cow<'a, str>,
    pub(super) attachment: Attachment,
}

/// A parked change, whose whole record is an attachment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ParkedEntry<'a> {
    pub(super) head: Cow<'a, ParkedHead>,
    pub(super) attachment: Attachment,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub(super) length: u64,
    pub(super) crc: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot<'a> {
    pub(super) generation: u64,
    pub(super) started_at_ms: u64,
    pub(super) process: u32,
    pub(super) partitions: Cow<'a, BTreeMap<PartitionId, String>>,
    pub(super) actions: Cow<'a, BTreeMap<String, u16>>,
    pub(super) resolved: Cow<'a, BTreeMap<String, (u64, u64)>>,
    pub(super) next_parked: ParkedId,
    pub(super) save: Option<SaveEntry<'a>>,
    pub(super) saved_at_ms: u64,
}

impl Attachment {
    fn of(bytes: &[u8]) -> Self {
        Attachment { length: bytes.len() as u64, crc: crc32fast::hash(bytes) }
    }
}

impl<'a> Entry<'a> {
    pub(super) fn decode(bytes: &[u8]) -> Option<Entry<'static>> {
        match postcard::take_from_bytes(bytes) {
            Ok((entry, [])) => Some(entry),
            _ => None,
        }
    }

    /// A group as an entry, with the parked changes, which must be encoded to be attached. State is attached as it is.
    pub(super) fn of_group(group: &'a Group, at_ms: u64) -> Result<(Self, Vec<u8>)> {
        // No `..`: a field added to the contract must find its place on disk.
        let Group { partitions, notes, parked, resolved, save } = group;
        let mut records = Vec::new();
        let mut parked_entries = Vec::with_capacity(parked.len());
        for parked in parked {
            let start = records.len();
            records = encode_record(parked, records)?;
            let attachment = Attachment::of(&records[start..]);
            parked_entries.push(ParkedEntry { head: Cow::Owned(parked.head()), attachment });
        }
        let entry = Entry::Group(Box::new(GroupEntry {
            at_ms,
            partitions: Cow::Borrowed(partitions),
            notes: Cow::Borrowed(notes),
            parked: parked_entries,
            resolved: Cow::Borrowed(resolved),
            save: save.as_ref().map(SaveEntry::of),
        }));
        Ok((entry, records))
    }

    /// Bytes of all attachments.
    pub(super) fn attached_length(&self) -> u64 {
        self.attachments().map(|attachment| attachment.length).fold(0, u64::saturating_add)
    }

    /// The attachments, in the order in which they stand in the frame.
    pub(super) fn attachments(&self) -> impl Iterator<Item = Attachment> {
        let (parked, state) = match self {
            Entry::Group(group) => (&group.parked[..], group.save.as_ref().map_or(&[][..], |save| &save.state[..])),
            Entry::SnapshotState(state) => (&[][..], &state[..]),
            Entry::SnapshotParked(parked) => (&parked[..], &[][..]),
            _ => (&[][..], &[][..]),
        };
        parked.iter().map(|parked| parked.attachment).chain(state.iter().map(|segment| segment.attachment))
    }
}

impl<'a> SaveEntry<'a> {
    pub(super) fn of(save: &'a Save) -> Self {
        let Save { number, epoch, mark, books, files, state, state_from, forgotten, ended } = save;
        let segment = |segment: &'a crate::checkpoint::store::StateSegment| SegmentEntry {
            save: *number,
            operator: Cow::Borrowed(&segment.operator),
            attachment: Attachment::of(&segment.bytes),
        };
        SaveEntry {
            number: *number,
            epoch: *epoch,
            mark: Cow::Borrowed(mark),
            books: Cow::Borrowed(books),
            files: Cow::Borrowed(files),
            state: state.iter().map(segment).collect(),
            state_from: Cow::Borrowed(state_from),
            forgotten: Cow::Borrowed(forgotten),
            ended: *ended,
        }
    }

    /// The save without what it brought (state) and what it took away (forgotten notes).
    pub(super) fn into_save(self) -> Save {
        Save {
            number: self.number,
            epoch: self.epoch,
            mark: self.mark.into_owned(),
            books: self.books.into_owned(),
            files: self.files.into_owned(),
            state: Vec::new(),
            state_from: self.state_from.into_owned(),
            forgotten: Vec::new(),
            ended: self.ended,
        }
    }
}

pub(super) fn encode(value: &impl Serialize, into: Vec<u8>) -> Result<Vec<u8>> {
    postcard::to_extend(value, into).map_err(|error| Error::stop("a checkpoint entry could not be encoded").because(error))
}
