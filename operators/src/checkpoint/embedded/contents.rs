//! What the journal says, as far as it is kept in memory: everything small, and where the large things stand in the file.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use super::entry::{Attachment, Entry, ParkedEntry, SaveEntry, SegmentEntry};
use crate::checkpoint::store::{ChangeHash, Note, Outcome, ParkedHead, ParkedId, Resolution, Resolved, Save};
use crate::position::{Epoch, PartitionId, Position};

/// Memory and disk that a note takes, about. Used only to judge how much of a journal is alive.
const NOTE_BYTES: u64 = 48;

/// Where an attachment stands in the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) attachment: Attachment,
}

impl Place {
    /// The head of the record that stands here, with its size.
    pub(super) fn sized(&self, head: &ParkedHead) -> ParkedHead {
        ParkedHead { bytes: self.attachment.length, ..head.clone() }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) save: u64,
    /// Counts segments as they were read, so that those of one save keep their order across operators.
    pub(super) sequence: u64,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NoteKey {
    change: ChangeHash,
    position: Position,
    action: u16,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NoteValue {
    epoch: Epoch,
    outcome: Outcome,
    of_this_run: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub(super) generation: u64,
    pub(super) started_at_ms: u64,
    pub(super) process: u32,
    pub(super) partitions: BTreeMap<PartitionId, String>,
    pub(super) actions: BTreeMap<String, u16>,
    pub(super) save: Option<Save>,
    pub(super) saved_at_ms: u64,
    pub(super) segments: BTreeMap<String, VecDeque<Segment>>,
    pub(super) notes: HashMap<NoteKey, NoteValue>,
    pub(super) parked: BTreeMap<ParkedId, (ParkedHead, Place)>,
    pub(super) next_parked: ParkedId,
    pub(super) resolved: BTreeMap<String, (u64, u64)>,
    sequence: u64,
    /// Bytes of live attachments.
    attached: u64,
}

impl Contents {
    pub(super) fn new() -> Self {
        Contents { next_parked: 1, ..Contents::default() }
    }

    /// Applies an entry whose attachments begin at `attached_at`. Reading and committing go this one way.
    pub(super) fn apply(&mut self, entry: Entry<'_>, attached_at: u64) {
        match entry {
            Entry::Generation { number, started_at_ms, process } => {
                (self.generation, self.started_at_ms, self.process) = (number, started_at_ms, process);
                self.notes.values_mut().for_each(|note| note.of_this_run = false);
            }
            Entry::Action { number, name } => {
                self.actions.insert(name.into_owned(), number);
            }
            Entry::Group(group) => {
                let group = *group;
                self.partitions.extend(group.partitions.into_owned());
                self.add_notes(&group.notes, true);
                let state_at = self.add_parked(group.parked, attached_at);
                group.resolved.iter().for_each(|resolved| self.resolve(resolved));
                if let Some(save) = group.save {
                    self.save(save, state_at, group.at_ms);
                }
            }
            Entry::Snapshot(snapshot) => {
                let snapshot = *snapshot;
                self.generation = snapshot.generation;
                self.started_at_ms = snapshot.started_at_ms;
                self.process = snapshot.process;
                self.partitions = snapshot.partitions.into_owned();
                self.actions = snapshot.actions.into_owned();
                self.resolved = snapshot.resolved.into_owned();
                self.next_parked = snapshot.next_parked;
                self.save = snapshot.save.map(SaveEntry::into_save);
                self.saved_at_ms = snapshot.saved_at_ms;
            }
            Entry::SnapshotState(segments) => {
                self.add_segments(segments, attached_at);
            }
            Entry::SnapshotNotes { of_this_run, notes } => self.add_notes(&notes, of_this_run),
            Entry::SnapshotParked(parked) => {
                self.add_parked(parked, attached_at);
            }
            Entry::SnapshotEnd => {}
        }
    }

    fn add_notes(&mut self, notes: &[Note], of_this_run: bool) {
        for note in notes {
            let key = NoteKey { change: note.change, position: note.position, action: note.action };
            self.notes.insert(key, NoteValue { epoch: note.epoch, outcome: note.outcome, of_this_run });
        }
    }

    fn add_parked(&mut self, parked: Vec<ParkedEntry<'_>>, mut offset: u64) -> u64 {
        for ParkedEntry { head, attachment } in parked {
            let head = head.into_owned();
            self.next_parked = self.next_parked.max(head.id.saturating_add(1));
            self.attached += attachment.length;
            if let Some((_, replaced)) = self.parked.insert(head.id, (head, Place { offset, attachment })) {
                self.attached -= replaced.attachment.length;
            }
            offset += attachment.length;
        }
        offset
    }

    fn resolve(&mut self, resolved: &Resolved) {
        let Some((_, place)) = self.parked.remove(&resolved.id) else {
            return;
        };
        self.attached -= place.attachment.length;
        let (delivered, dropped) = self.resolved.entry(resolved.action.clone()).or_default();
        match resolved.resolution {
            Resolution::Delivered => *delivered = delivered.saturating_add(1),
            Resolution::Dropped => *dropped = dropped.saturating_add(1),
        }
    }

    fn add_segments(&mut self, segments: Vec<SegmentEntry<'_>>, mut offset: u64) {
        for SegmentEntry { save, operator, attachment } in segments {
            let segment = Segment { save, sequence: self.sequence, place: Place { offset, attachment } };
            self.sequence += 1;
            self.attached += attachment.length;
            offset += attachment.length;
            match self.segments.get_mut(&*operator) {
                Some(segments) => segments.push_back(segment),
                None => drop(self.segments.insert(operator.into_owned(), VecDeque::from([segment]))),
            }
        }
    }

    fn save(&mut self, mut save: SaveEntry<'_>, state_at: u64, at_ms: u64) {
        self.add_segments(std::mem::take(&mut save.state), state_at);
        for (operator, from) in save.state_from.iter() {
            let Some(segments) = self.segments.get_mut(operator) else { continue };
            while let Some(dead) = segments.pop_front_if(|segment| segment.save < *from) {
                self.attached -= dead.place.attachment.length;
            }
            if segments.is_empty() {
                self.segments.remove(operator);
            }
        }
        for (action, change, position) in save.forgotten.iter() {
            let key = NoteKey { change: *change, position: *position, action: *action };
            // A change of an earlier run that was read again and noted anew is this run's matter.
            if self.notes.get(&key).is_some_and(|note| !note.of_this_run) {
                self.notes.remove(&key);
            }
        }
        let epoch = save.epoch;
        self.notes.retain(|_, note| !note.of_this_run || note.epoch >= epoch);
        if self.notes.capacity() / 8 > self.notes.len().max(4096) {
            // A retain walks the whole capacity: after a burst the map must not stay as wide as the burst was.
            self.notes.shrink_to(self.notes.len() * 2);
        }
        self.save = Some(save.into_save());
        self.saved_at_ms = at_ms;
    }

    /// The notes, each with whether the present generation made it.
    pub(super) fn notes(&self) -> impl Iterator<Item = (bool, Note)> {
        self.notes.iter().map(|(key, value)| {
            let NoteKey { change, position, action } = *key;
            let NoteValue { epoch, outcome, of_this_run } = *value;
            (of_this_run, Note { action, change, position, epoch, outcome })
        })
    }

    /// Live state segments with their operators, in order of saves.
    pub(super) fn segments(&self) -> Vec<(&str, Segment)> {
        let mut segments: Vec<_> = self
            .segments
            .iter()
            .flat_map(|(operator, segments)| segments.iter().map(|segment| (operator.as_str(), *segment)))
            .collect();
        segments.sort_unstable_by_key(|(_, segment)| (segment.save, segment.sequence));
        segments
    }

    /// What a compaction would write, about.
    pub(super) fn live_bytes(&self) -> u64 {
        self.attached + self.notes.len() as u64 * NOTE_BYTES + self.parked.len() as u64 * NOTE_BYTES * 2
    }
}
