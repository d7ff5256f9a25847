//! The checkpoint store of a single process: one journal in a data directory.
//!
//! A group becomes one frame at the end of the journal, made durable by one sync. What the journal says is kept in
//! memory as far as it is small; state and parked changes are read back from where they stand. The bytes, and what a
//! crash at each point leaves of them, are told in `docs/state-format.md`.

mod background;
mod compact;
mod contents;
mod directory;
mod entry;
mod frame;
mod inspect;
mod journal;
mod lock;
mod medium;
mod page;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::checkpoint::store::{CheckpointStore, Group, Parked, ParkedId, Restored, StateSegment};
use crate::error::{Error, Result};
use crate::parked::{Filter, Page};

use background::{Background, Compacted, Failed};
use contents::Contents;
use entry::Entry;
use journal::{Journal, Owner, damaged, failed};
use lock::Lock;

pub use directory::DataDirectory;
pub use inspect::Inspection;
pub use medium::Medium;
#[cfg(any(test, feature = "testing"))]
pub use medium::{Fault, Faults};
pub(super) use medium::{create_directory, sync_directory};

/// What a test may want otherwise.
#[derive(Clone)]
pub struct Settings {
    /// A journal larger than this and twice its live bytes is compacted.
    pub compact_above: u64,
    /// The way to the disk.
    pub medium: Medium,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { compact_above: 64 << 20, medium: Medium::default() }
    }
}

/// A checkpoint store in a data directory, which it holds locked as long as it lives.
pub struct EmbeddedStore {
    directory: PathBuf,
    journal: Journal,
    contents: Contents,
    settings: Settings,
    /// After a compaction that failed: the length of the journal at which to try again.
    compact_again_at: u64,
    /// A compaction under way. It ends before the lock is given back.
    background: Option<Background>,
    _lock: Lock,
}

impl EmbeddedStore {
    /// Opens the data directory of a pipeline, or makes it, and begins a new generation.
    ///
    /// # Errors
    /// All are of kind stop. The sentence names the directory or file where it is in use by another run, belongs to another
    /// pipeline, was written by a newer program, is damaged, may not be written, or stands on a full disk.
    pub fn open(directory: &Path, pipeline: &str) -> Result<EmbeddedStore> {
        Self::open_with(directory, pipeline, Settings::default())
    }

    /// [`open`](Self::open) with settings of one's own.
    pub fn open_with(directory: &Path, pipeline: &str, settings: Settings) -> Result<EmbeddedStore> {
        create_directory(directory).map_err(|error| failed("create", directory, error))?;
        let medium = &settings.medium;
        let lock = Lock::take(directory, medium)?;
        let mut listing = compact::list(directory).map_err(|error| failed("read", directory, error))?;
        let (journal, contents) = match listing.journals.pop() {
            None => create(directory, pipeline, &settings)?,
            Some((number, path)) => {
                let file = medium
                    .step("journal.open", || OpenOptions::new().read(true).write(true).open(&path))
                    .map_err(|error| failed("open", &path, error))?;
                let (mut journal, contents, tail) = Journal::read(&path, number, file)?;
                if journal.owner.pipeline != pipeline {
                    return Err(Error::stop(format!(
                        "the data directory {} belongs to the pipeline {:?}, not to {pipeline:?}: give each its own",
                        directory.display(),
                        journal.owner.pipeline
                    )));
                }
                journal.recover(&tail, medium)?;
                (journal, contents)
            }
        };
        let directory = directory.to_owned();
        let mut store =
            EmbeddedStore { directory, journal, contents, settings, compact_again_at: 0, background: None, _lock: lock };
        let number = store.contents.generation.checked_add(1).ok_or_else(|| damaged(&store.journal.path, 0))?;
        store.append(Entry::Generation { number, started_at_ms: now_ms(), process: std::process::id() }, &[])?;
        listing.journals.into_iter().map(|(_, path)| path).chain(listing.unfinished).for_each(|path| store.remove(&path));
        if store.is_worth_compacting() {
            store.compact()?;
        }
        Ok(store)
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes an entry durable and true.
    fn append(&mut self, entry: Entry<'_>, attachments: &[&[u8]]) -> Result<()> {
        let attached_at = self.journal.append(&entry, attachments, &self.settings.medium)?;
        self.journal.sync("journal.sync", &self.settings.medium)?;
        self.contents.apply(entry, attached_at);
        if let Some(background) = &self.background {
            background.synced(self.journal.end);
        }
        Ok(())
    }

    fn is_worth_compacting(&self) -> bool {
        let enough = self.settings.compact_above.saturating_add(2 * self.contents.live_bytes());
        self.journal.end > enough.max(self.compact_again_at)
    }

    /// Writes what is alive into a new journal and goes on with that one: at once, while nobody waits for a commit.
    ///
    /// # Errors
    /// Trouble in writing the new journal is only logged: the old one is as good as before. Damage in the old one, or
    /// trouble after the new one may have its name, is an error.
    fn compact(&mut self) -> Result<()> {
        let medium = self.settings.medium.clone();
        let mut journal = match compact::begin(&self.directory, self.journal.number + 1, self.journal.owner.clone(), &medium) {
            Ok(journal) => journal,
            Err(error) => {
                self.put_off_compaction(&error);
                return Ok(());
            }
        };
        if let Err(error) = compact::fill(&mut journal, Some(&self.journal), &self.contents, &medium) {
            if journal.broken.is_none() {
                return Err(self.journal.breaks(error));
            }
            self.put_off_compaction(&error);
            return Ok(());
        }
        let (journal, contents) = compact::read_back(journal).map_err(|error| self.journal.breaks(error))?;
        self.go_on_with(journal, contents)
    }

    /// The same beside the commits: begins it, or takes what came of it.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    fn compact_beside(&mut self) -> Result<()> {
        let Some(background) = &self.background else {
            if self.is_worth_compacting() {
                let old = self.journal.reader().map_err(|error| self.journal.breaks(error))?;
                let (directory, medium) = (self.directory.clone(), self.settings.medium.clone());
                match Background::start(directory, old, self.contents.clone(), medium) {
                    Ok(background) => self.background = Some(background),
                    Err(error) => self.put_off_compaction(&Error::stop(format!("no thread for it: {error}"))),
                }
            }
            return Ok(());
        };
        let Some(answer) = background.answer() else { return Ok(()) };
        self.background = None;
        match answer.and_then(|compacted| self.bring_over_the_rest(compacted)) {
            Ok(Compacted { journal, contents, .. }) => self.go_on_with(journal, contents),
            Err(Failed::ToRead(error)) => Err(self.journal.breaks(error)),
            Err(Failed::ToWrite(error)) => {
                self.put_off_compaction(&error);
                Ok(())
            }
        }
    }

    fn bring_over_the_rest(&self, mut compacted: Compacted) -> Result<Compacted, Failed> {
        let old = self.journal.reader().map_err(Failed::ToRead)?;
        compacted.bring_over(&old, self.journal.end, &self.settings.medium)?;
        Ok(compacted)
    }

    /// Takes a new journal, which is whole and synced, for the old one.
    fn go_on_with(&mut self, mut journal: Journal, contents: Contents) -> Result<()> {
        // From here on either journal may be the store after a crash, so nothing may enter the old one any more.
        let medium = &self.settings.medium;
        compact::publish(&mut journal, &self.directory, medium).map_err(|error| self.journal.breaks(error))?;
        let old = std::mem::replace(&mut self.journal, journal);
        self.contents = contents;
        self.compact_again_at = 0;
        self.remove(&old.path);
        Ok(())
    }

    fn put_off_compaction(&mut self, error: &Error) {
        tracing::warn!(%error, "the journal could not be compacted and stays as long as it is");
        self.remove(&compact::unfinished_path(&self.directory, self.journal.number + 1));
        self.compact_again_at = self.journal.end + self.journal.end / 4;
    }

    /// Removes a file that is of no use any more. If it stays, the next open removes it.
    fn remove(&self, path: &Path) {
        if let Err(error) = self.settings.medium.step("journal.remove", || fs::remove_file(path)) {
            tracing::warn!(%error, path = %path.display(), "could not remove a file that is of no use any more");
        }
    }
}

impl CheckpointStore for EmbeddedStore {
    fn restore(&mut self) -> Result<Restored> {
        let contents = &self.contents;
        let segment = |(operator, segment): (&str, contents::Segment)| {
            let bytes = self.journal.attachment(segment.place)?;
            Ok((segment.save, StateSegment { operator: operator.to_owned(), bytes }))
        };
        Ok(Restored {
            generation: contents.generation,
            state_id: self.journal.owner.state_id,
            partitions: contents.partitions.clone(),
            actions: contents.actions.clone(),
            checkpoint: contents.save.clone(),
            state: contents.segments().into_iter().map(segment).collect::<Result<_>>()?,
            notes: contents.notes().map(|(_, note)| note).collect(),
            parked: contents.parked.values().map(|(head, place)| place.sized(head)).collect(),
            next_parked: contents.next_parked,
            parked_step: 1,
            resolved: contents.resolved.clone(),
        })
    }

    fn action(&mut self, name: &str) -> Result<u16> {
        if let Some(number) = self.contents.actions.get(name) {
            return Ok(*number);
        }
        let number = u16::try_from(self.contents.actions.len())
            .map_err(|_| Error::stop("the checkpoint store has numbers for 65,536 action names, and all are taken"))?;
        self.append(Entry::Action { number, name: name.into() }, &[])?;
        Ok(number)
    }

    fn commit(&mut self, group: &Group) -> Result<()> {
        let Group { partitions, notes, parked, resolved, save } = group;
        if partitions.is_empty() && notes.is_empty() && parked.is_empty() && resolved.is_empty() && save.is_none() {
            return Ok(());
        }
        if let Some(save) = save {
            self.contents.save.as_ref().map_or(Ok(()), |last| save.may_follow(last))?;
        }
        let (entry, records) = Entry::of_group(group, now_ms())?;
        let state = save.iter().flat_map(|save| &save.state).map(|segment| &segment.bytes[..]);
        let attachments: Vec<&[u8]> = std::iter::once(&records[..]).chain(state).collect();
        self.append(entry, &attachments)?;
        self.compact_beside()
    }

    fn parked(&mut self, id: ParkedId) -> Result<Option<Parked>> {
        page::record(&self.journal, &self.contents, id)
    }

    fn parked_page(&mut self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        page::page(&self.journal, &self.contents, filter, after, most)
    }
}

/// The first journal: an empty snapshot.
fn create(directory: &Path, pipeline: &str, settings: &Settings) -> Result<(Journal, Contents)> {
    let owner = Owner { pipeline: pipeline.to_owned(), state_id: rand::random() };
    let mut journal = compact::begin(directory, 1, owner, &settings.medium)?;
    compact::fill(&mut journal, None, &Contents::new(), &settings.medium)?;
    let (mut journal, contents) = compact::read_back(journal)?;
    compact::publish(&mut journal, directory, &settings.medium)?;
    Ok((journal, contents))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
