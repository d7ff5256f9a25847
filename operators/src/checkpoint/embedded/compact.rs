//! A new journal that says the same in fewer bytes. It is the store from the moment its name is changed.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use super::contents::{Contents, Place};
use super::entry::{Entry, ParkedEntry, SaveEntry, SegmentEntry, Snapshot};
use super::journal::{Journal, Owner, failed};
use super::medium::Medium;
use crate::checkpoint::store::Note;
use crate::error::Result;

/// Notes, segments or parked changes put into one frame of a snapshot, so that reading it back needs little at a time.
const FRAME_ITEMS: usize = 1024;

/// Where the journal of a number stands.
pub(super) fn journal_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number:06}.hw"))
}

/// Where it stands until it is whole.
pub(super) fn unfinished_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number:06}.hw.new"))
}

/// A new journal under its unfinished name.
pub(super) fn begin(directory: &Path, number: u64, owner: Owner, medium: &Medium) -> Result<Journal> {
    Journal::create(unfinished_path(directory, number), number, owner, medium)
}

/// Writes all that is alive into a new journal and syncs it. `from` is where state and parked changes stand now.
pub(super) fn fill(into: &mut Journal, from: Option<&Journal>, contents: &Contents, medium: &Medium) -> Result<()> {
    let snapshot = Entry::Snapshot(Box::new(Snapshot {
        generation: contents.generation,
        started_at_ms: contents.started_at_ms,
        process: contents.process,
        partitions: Cow::Borrowed(&contents.partitions),
        actions: Cow::Borrowed(&contents.actions),
        resolved: Cow::Borrowed(&contents.resolved),
        next_parked: contents.next_parked,
        save: contents.save.as_ref().map(SaveEntry::of),
        saved_at_ms: contents.saved_at_ms,
    }));
    into.append(&snapshot, &[], medium)?;
    if let Some(from) = from {
        copy_attached(into, from, contents, medium)?;
    }
    for of_this_run in [false, true] {
        let notes: Vec<Note> = contents.notes().filter(|(of_this, _)| *of_this == of_this_run).map(|(_, note)| note).collect();
        for notes in notes.chunks(FRAME_ITEMS) {
            into.append(&Entry::SnapshotNotes { of_this_run, notes: Cow::Borrowed(notes) }, &[], medium)?;
        }
    }
    into.append(&Entry::SnapshotEnd, &[], medium)?;
    into.sync("compaction.sync", medium)
}

fn copy_attached(into: &mut Journal, from: &Journal, contents: &Contents, medium: &Medium) -> Result<()> {
    for segments in contents.segments().chunks(FRAME_ITEMS) {
        let places: Vec<Place> = segments.iter().map(|(_, segment)| segment.place).collect();
        let entries = segments.iter().map(|(operator, segment)| SegmentEntry {
            save: segment.save,
            operator: Cow::Borrowed(operator),
            attachment: segment.place.attachment,
        });
        into.append_copied(&Entry::SnapshotState(entries.collect()), from, &places, medium)?;
    }
    let parked: Vec<_> = contents.parked.values().collect();
    for parked in parked.chunks(FRAME_ITEMS) {
        let places: Vec<Place> = parked.iter().map(|(_, place)| *place).collect();
        let entries = parked.iter().map(|(head, place)| ParkedEntry { head: Cow::Borrowed(head), attachment: place.attachment });
        into.append_copied(&Entry::SnapshotParked(entries.collect()), from, &places, medium)?;
    }
    Ok(())
}

/// Reads a filled journal back: what cannot be read must not become the store.
pub(super) fn read_back(journal: Journal) -> Result<(Journal, Contents)> {
    let (mut journal, contents, tail) = Journal::read(&journal.path, journal.number, journal.file)?;
    journal.continue_after(&tail)?;
    Ok((journal, contents))
}

/// Gives a journal its name: from here on it is the store.
pub(super) fn publish(journal: &mut Journal, directory: &Path, medium: &Medium) -> Result<()> {
    let path = journal_path(directory, journal.number);
    medium
        .step("compaction.rename", || fs::rename(&journal.path, &path))
        .and_then(|()| medium.sync_directory("compaction.sync_directory", directory))
        .map_err(|error| journal.breaks(failed("rename", &path, error)))?;
    journal.path = path;
    Ok(())
}

/// What a data directory holds, by the names of its files.
#[derive(Default)]
pub(super) struct Listing {
    /// The journals by number, the newest last.
    pub(super) journals: Vec<(u64, PathBuf)>,
    /// What interrupted compactions left.
    pub(super) unfinished: Vec<PathBuf>,
}

pub(super) fn list(directory: &Path) -> std::io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("journal-")) else { continue };
        if rest.ends_with(".hw.new") {
            listing.unfinished.push(entry.path());
        } else if let Some(number) = rest.strip_suffix(".hw").and_then(|number| number.parse().ok()) {
            listing.journals.push((number, entry.path()));
        }
    }
    listing.journals.sort_unstable();
    Ok(listing)
}
