//! A compaction beside the commits: a thread writes the new journal while groups go on entering the old one, and brings over what
//! entered meanwhile. The last of it, and the change of names, is the store's own step.
//!
//! Until that step the old journal is the store and the new one is nobody's, so a crash at any moment finds what a compaction
//! that nobody interrupts would find.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::compact;
use super::contents::Contents;
use super::journal::Journal;
use super::medium::Medium;
use crate::error::{Error, Result};

/// What is left to bring over when the store takes the new journal, about: the wait of the one commit that does so.
const LEFT_MAX: u64 = 256 * 1024;

/// After so many times of bringing over what came meanwhile, the store takes the rest, however much it is.
const ROUNDS_MAX: usize = 16;

/// A compaction under way. Dropped, it is given up, and its thread has ended.
pub(super) struct Background {
    shared: Arc<Shared>,
    done: Receiver<Result<Compacted, Failed>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The length of the old journal up to which all is synced.
    end: AtomicU64,
    given_up: AtomicBool,
}

/// A new journal that says what the old one said up to an offset.
pub(super) struct Compacted {
    pub(super) journal: Journal,
    pub(super) contents: Contents,
    pub(super) up_to: u64,
}

/// Why there is no new journal.
pub(super) enum Failed {
    /// The new one could not be written: the old one is as good as before.
    ToWrite(Error),
    /// The old one could not be read, or the new one not be read back.
    ToRead(Error),
}

impl Background {
    /// Starts to write what `contents` says, which is what stands in `old` up to its end.
    pub(super) fn start(directory: PathBuf, old: Journal, contents: Contents, medium: Medium) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { end: AtomicU64::new(old.end), given_up: AtomicBool::new(false) });
        let (tell, done) = bounded(1);
        let own = shared.clone();
        let thread = thread::Builder::new().name("compaction".into()).spawn(move || {
            if let Some(answer) = write(&directory, &old, &contents, &medium, &own).transpose() {
                // A store that has gone does not listen any more.
                let _ = tell.send(answer);
            }
        })?;
        Ok(Background { shared, done, thread: Some(thread) })
    }

    /// The old journal is synced up to here.
    pub(super) fn synced(&self, end: u64) {
        self.shared.end.store(end, Ordering::Release);
    }

    /// What came of it; `None` while it is under way.
    pub(super) fn answer(&self) -> Option<Result<Compacted, Failed>> {
        match self.done.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Failed::ToWrite(Error::stop("the thread that compacts has panicked")))),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.given_up.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(
    directory: &std::path::Path,
    old: &Journal,
    contents: &Contents,
    medium: &Medium,
    shared: &Shared,
) -> Result<Option<Compacted>, Failed> {
    let owner = old.owner.clone();
    let mut journal = compact::begin(directory, old.number + 1, owner, medium).map_err(Failed::ToWrite)?;
    compact::fill(&mut journal, Some(old), contents, medium).map_err(|error| failed(&journal, error))?;
    let (journal, contents) = compact::read_back(journal).map_err(Failed::ToRead)?;
    let mut compacted = Compacted { journal, contents, up_to: old.end };
    for _ in 0..ROUNDS_MAX {
        if shared.given_up.load(Ordering::Acquire) {
            return Ok(None);
        }
        let end = shared.end.load(Ordering::Acquire);
        if end - compacted.up_to <= LEFT_MAX {
            break;
        }
        compacted.bring_over(old, end, medium)?;
    }
    Ok(Some(compacted))
}

fn failed(journal: &Journal, error: Error) -> Failed {
    if journal.broken.is_some() { Failed::ToWrite(error) } else { Failed::ToRead(error) }
}

impl Compacted {
    /// Brings over what entered the old journal up to `end`, and syncs it.
    pub(super) fn bring_over(&mut self, old: &Journal, end: u64, medium: &Medium) -> Result<(), Failed> {
        let Compacted { journal, contents, up_to } = self;
        let copied = old.each_frame(*up_to, end, |entry, places| {
            journal.append_copied(&entry, old, places, medium)?;
            let attached_at = journal.end - entry.attached_length();
            contents.apply(entry, attached_at);
            Ok(())
        });
        copied.and_then(|()| journal.sync("compaction.sync", medium)).map_err(|error| failed(journal, error))?;
        *up_to = end;
        Ok(())
    }
}
