//! JSON lines as a source: a file, the files of a directory, a log that grows and is rotated, standard input.
//!
//! **A partition is a content**, named by what its first line says, never by a path: a file that is renamed, copied or compressed
//! stays the same partition, and what is compressed (gzip, Zstandard; recognised by its first bytes) is read by its offsets before
//! compression. Two files of which one's content begins with the other's are one partition, of which the longer is read; two files
//! that begin with the same line and then differ are two.
//!
//! | description | partitions | ends |
//! | --- | --- | --- |
//! | [`JsonLinesSource::file`] | the file | at its end |
//! | [`JsonLinesSource::directory`] | each file there is at start | when all were read |
//! | either with [`follow`](JsonLinesSource::follow) | what there is and what comes | when the pipeline is told to stop |
//! | [`JsonLinesSource::stdin`] | standard input | at its end |

mod catalog;
mod content;
mod ended;
mod follow;
mod landmark;
mod lines;
mod name;
mod stdin;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::{Known, PartitionName};
use highwater_operators::ingest::{OrderOf, Partition, Reader, Source};
use highwater_operators::{Error, Order, Result, ResumeToken};

use crate::envelope::Envelope;
use catalog::{Catalog, Files};
use ended::Ended;
use follow::Follower;
use landmark::Progress;
use lines::Lines;

/// What becomes of a line that is no change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReject {
    /// It is parked with cause `rejected`, and reading goes on.
    #[default]
    Park,
    /// The run stops with an error that names the line; the mark stays before it, so the next run begins with it.
    Stop,
}

/// How lines are read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    envelope: Envelope,
    on_reject: OnReject,
    line_max: usize,
    follow: bool,
    missing_ok: bool,
    partitions_max: usize,
    settled_after: Duration,
}

/// A source of JSON lines. It is opened when the pipeline runs.
#[derive(Clone, Debug)]
pub struct JsonLinesSource {
    place: Place,
    reading: Reading,
    global_ids: bool,
}

#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Directory(PathBuf, String),
    Stdin,
}

impl JsonLinesSource {
    fn new(place: Place) -> Self {
        let reading = Reading {
            envelope: Envelope::default(),
            on_reject: OnReject::default(),
            line_max: 64 << 20,
            follow: false,
            missing_ok: false,
            partitions_max: 10_000,
            settled_after: Duration::from_secs(5),
        };
        JsonLinesSource { place, reading, global_ids: false }
    }

    /// The file at this path, plain or compressed.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Place::File(path.into()))
    }

    /// The files of a directory, without those whose names begin with a dot, and without its directories. Each content is a
    /// partition; there is no order between them.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::new(Place::Directory(path.into(), "*".to_owned()))
    }

    /// Standard input.
    ///
    /// # Guarantee
    /// None beyond a crash: what was read from it cannot be read again. It is said at start. Each run's input is a partition of
    /// its own; a dedup knows ids of earlier runs only with [`global_ids`](Self::global_ids).
    pub fn stdin() -> Self {
        Self::new(Place::Stdin)
    }

    /// Only the files whose names match: `*` stands for any characters, `?` for one.
    pub fn matching(mut self, pattern: impl Into<String>) -> Self {
        if let Place::Directory(_, own) = &mut self.place {
            *own = pattern.into();
        }
        self
    }

    /// Reads on as files grow and new ones come, until the pipeline is told to stop. A line is taken once its newline is there. A
    /// file is followed through its rotation: with `app.log` everything is read whose name goes on with a dot or a hyphen
    /// (`app.log.1`, `app.log-20240101.gz`), also what was there before; in a directory, what matches.
    ///
    /// # Guarantee
    /// Nothing is lost or read twice when a file is renamed, when it is copied and then truncated, when it is compressed, and when
    /// it is deleted after it was read whole and [`settled`](Self::settled_after). What is written and truncated or deleted
    /// before it was read is lost to everybody.
    pub fn follow(mut self) -> Self {
        self.reading.follow = true;
        self
    }

    /// When following: a file that was read to its end, and was not written for this long while a newer one was, counts as
    /// complete, as does a compressed one that was read whole; with the next checkpoint it may be deleted. What is missing at
    /// start and was not complete is refused. 5 s unless said otherwise.
    pub fn settled_after(mut self, quiet: Duration) -> Self {
        self.reading.settled_after = quiet;
        self
    }

    /// When following: what the checkpoint continues and no file holds any more is taken as complete, instead of refusing to
    /// run. What of it was not read is lost.
    pub fn missing_ok(mut self) -> Self {
        self.reading.missing_ok = true;
        self
    }

    /// The most files there may be at once; more of them are an error. 10,000 unless said otherwise.
    pub fn partitions_max(mut self, files: usize) -> Self {
        self.reading.partitions_max = files;
        self
    }

    /// How a line becomes a change.
    pub fn envelope(mut self, envelope: Envelope) -> Self {
        self.reading.envelope = envelope;
        self
    }

    /// What becomes of a line that is no change: it is parked, unless said otherwise.
    pub fn on_reject(mut self, what: OnReject) -> Self {
        self.reading.on_reject = what;
        self
    }

    /// The longest line in bytes; a longer one is no change. 64 MiB unless said otherwise. So much memory a single line can
    /// take.
    pub fn line_max(mut self, bytes: usize) -> Self {
        self.reading.line_max = bytes;
        self
    }

    /// Declares that ids are unique beyond one partition.
    pub fn global_ids(mut self) -> Self {
        self.global_ids = true;
        self
    }

    fn files(&self) -> Option<Files> {
        Some(match &self.place {
            Place::File(path) if self.reading.follow => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                Files::Family { directory: parent.unwrap_or(Path::new(".")).to_owned(), name }
            }
            Place::File(path) => Files::One(path.clone()),
            Place::Directory(directory, pattern) => Files::Matching { directory: directory.clone(), pattern: pattern.clone() },
            Place::Stdin => return None,
        })
    }

    fn bound(&self, known: &[Known]) -> Result<Bound> {
        self.reading.envelope.check().map_err(Error::stop)?;
        let reading = Arc::new(self.reading.clone());
        let catalog = match self.files() {
            Some(files) => Some(Arc::new(Catalog::new(reading.clone(), files, known)?)),
            None => None,
        };
        Ok(Bound { description: self.clone(), reading, catalog })
    }
}

impl Source for JsonLinesSource {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn place(&self) -> String {
        let following = if self.reading.follow { ", followed" } else { "" };
        match &self.place {
            Place::File(path) => format!("{}{following}", path.display()),
            Place::Directory(path, pattern) => format!("{}{following}", path.join(pattern).display()),
            Place::Stdin => "standard input, which cannot be read again".to_owned(),
        }
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        self.bound(&[])?.partitions()
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let bound = self.bound(&[Known { name: partition.name.clone(), token: from.cloned() }])?;
        bound.partitions()?;
        bound.open(partition, from, window)
    }

    fn bind(&self, known: &[Known]) -> Result<Option<Arc<dyn Source>>> {
        Ok(Some(Arc::new(self.bound(known)?)))
    }

    fn may_be_missing(&self, name: &str, token: &ResumeToken) -> bool {
        let is_complete = Progress::from_token(token).is_some_and(|progress| progress.sealed);
        name.starts_with("stdin-") || is_complete || (self.reading.follow && self.reading.missing_ok)
    }

    fn bytes_before(&self, token: &ResumeToken) -> u64 {
        token.order
    }

    fn can_be_read_again(&self) -> bool {
        !matches!(self.place, Place::Stdin)
    }

    fn has_global_ids(&self) -> bool {
        self.global_ids
    }

    /// One file is one partition, and its lines stand in order.
    fn order(&self) -> Option<OrderOf> {
        let is_one = matches!(self.place, Place::File(_)) && !self.reading.follow;
        is_one.then_some(|change| Order::of_place(change.position()))
    }
}

/// The source in one run.
struct Bound {
    description: JsonLinesSource,
    reading: Arc<Reading>,
    /// What is in which file; `None` for standard input.
    catalog: Option<Arc<Catalog>>,
}

impl Source for Bound {
    fn kind(&self) -> &'static str {
        self.description.kind()
    }

    fn place(&self) -> String {
        self.description.place()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        match &self.catalog {
            Some(catalog) => catalog.begin(),
            None => {
                // Another input in each run, so another partition: positions in one mean nothing in another.
                let now = highwater_operators::epoch::unix_ms();
                let name = format!("stdin-{now}-{}", std::process::id());
                Ok(vec![PartitionName { name, bytes: None }])
            }
        }
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let progress = match from {
            None => Progress::default(),
            Some(token) => Progress::from_token(token).ok_or_else(|| {
                Error::stop(format!("the checkpoint's resume token for {} was not made by this source", self.place()))
            })?,
        };
        let lines = Lines::new(&self.reading, partition.id, window, progress);
        match &self.catalog {
            None => Ok(Box::new(Ended::new(stdin::open(), lines))),
            Some(catalog) if self.reading.follow => Ok(Box::new(Follower::new(catalog.clone(), partition.name.clone(), lines))),
            Some(catalog) => {
                let located = catalog.locate(&partition.name, &lines.progress, None)?;
                let located = located.ok_or_else(|| {
                    Error::stop(format!("a file of {} was changed or removed while the pipeline started", catalog.place()))
                })?;
                Ok(Box::new(Ended::new(located.content, lines)))
            }
        }
    }

    fn grows(&self) -> bool {
        self.reading.follow && self.catalog.is_some()
    }

    fn look(&self) -> Result<(Vec<PartitionName>, Duration)> {
        match &self.catalog {
            Some(catalog) => catalog.look(),
            None => Ok((Vec::new(), Duration::from_secs(1))),
        }
    }

    fn may_be_missing(&self, name: &str, token: &ResumeToken) -> bool {
        self.description.may_be_missing(name, token)
    }

    fn bytes_before(&self, token: &ResumeToken) -> u64 {
        self.description.bytes_before(token)
    }

    fn can_be_read_again(&self) -> bool {
        self.description.can_be_read_again()
    }

    fn has_global_ids(&self) -> bool {
        self.description.has_global_ids()
    }
}
