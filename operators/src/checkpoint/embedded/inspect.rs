//! Looking into a data directory without disturbing the pipeline that may be running on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::EmbeddedStore;
use super::compact;
use super::contents::Contents;
use super::journal::{Journal, failed};
use super::page;
use crate::checkpoint::store::{Parked, ParkedHead, ParkedId, Save};
use crate::error::{Error, Result};
use crate::parked::{Filter, Page};
use crate::position::PartitionId;

/// Looks at a directory that changes meanwhile, before what is seen is believed.
const LOOKS_MAX: usize = 5;

/// What a data directory held at one moment. It keeps the journal open, so what it told of stays readable.
pub struct Inspection {
    journal: Journal,
    contents: Contents,
    torn: u64,
}

impl EmbeddedStore {
    /// Reads a data directory, without a lock and without changing anything, also beside a running pipeline.
    ///
    /// # Errors
    /// The directory holds no journal, or one that is damaged or of a newer format.
    pub fn inspect(directory: &Path) -> Result<Inspection> {
        let mut looks = 1;
        loop {
            match look(directory) {
                // The run may have replaced the journal, or cut a torn tail off, under our eyes.
                Err(_) if looks < LOOKS_MAX => looks += 1,
                seen => return seen,
            }
        }
    }
}

fn look(directory: &Path) -> Result<Inspection> {
    let mut listing = compact::list(directory).map_err(|error| failed("read", directory, error))?;
    let Some((number, path)) = listing.journals.pop() else {
        return Err(Error::stop(format!("{} is no data directory: it holds no journal", directory.display())));
    };
    let file = File::open(&path).map_err(|error| failed("read", &path, error))?;
    let (journal, contents, tail) = Journal::read(&path, number, file)?;
    Ok(Inspection { journal, contents, torn: tail.torn })
}

impl Inspection {
    /// The pipeline's name.
    pub fn pipeline(&self) -> &str {
        &self.journal.owner.pipeline
    }

    /// The random number made with the store.
    pub fn state_id(&self) -> u128 {
        self.journal.owner.state_id
    }

    /// The number of the last run.
    pub fn generation(&self) -> u64 {
        self.contents.generation
    }

    /// When the last run began, in Unix milliseconds, and its process id. It may have ended since.
    pub fn started(&self) -> (u64, u32) {
        (self.contents.started_at_ms, self.contents.process)
    }

    /// The last checkpoint, without its state.
    pub fn checkpoint(&self) -> Option<&Save> {
        self.contents.save.as_ref()
    }

    /// When it was saved, in Unix milliseconds.
    pub fn saved_at_ms(&self) -> Option<u64> {
        self.contents.save.as_ref().map(|_| self.contents.saved_at_ms)
    }

    /// Partition names by number.
    pub fn partitions(&self) -> &BTreeMap<PartitionId, String> {
        &self.contents.partitions
    }

    /// Numbers of action names.
    pub fn actions(&self) -> &BTreeMap<String, u16> {
        &self.contents.actions
    }

    /// Everything parked, in order of id.
    pub fn parked_heads(&self) -> impl ExactSizeIterator<Item = &ParkedHead> {
        self.contents.parked.values().map(|(head, _)| head)
    }

    /// One parked change, whole, or `None` if it was not parked at that moment.
    pub fn parked(&self, id: ParkedId) -> Result<Option<Parked>> {
        page::record(&self.journal, &self.contents, id)
    }

    /// A page of parked changes, as [`CheckpointStore::parked_page`](crate::checkpoint::store::CheckpointStore::parked_page).
    pub fn parked_page(&self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        page::page(&self.journal, &self.contents, filter, after, most)
    }

    /// By action: (delivered, dropped) parked records since the pipeline began.
    pub fn resolved(&self) -> &BTreeMap<String, (u64, u64)> {
        &self.contents.resolved
    }

    /// Lines of the ledger.
    pub fn notes(&self) -> usize {
        self.contents.notes.len()
    }

    /// By operator: live state segments and their bytes.
    pub fn state(&self) -> BTreeMap<&str, (usize, u64)> {
        let size = |segments: &std::collections::VecDeque<super::contents::Segment>| {
            (segments.len(), segments.iter().map(|segment| segment.place.attachment.length).sum())
        };
        self.contents.segments.iter().map(|(operator, segments)| (operator.as_str(), size(segments))).collect()
    }

    /// The journal's file.
    pub fn journal(&self) -> &Path {
        &self.journal.path
    }

    /// Bytes of the journal; of these, bytes that a compaction would keep, about.
    pub fn journal_bytes(&self) -> (u64, u64) {
        (self.journal.end, self.contents.live_bytes().min(self.journal.end))
    }

    /// Bytes at the journal's end that are no whole frame: a write under way, or one that a crash cut short.
    pub fn torn_bytes(&self) -> u64 {
        self.torn
    }
}
