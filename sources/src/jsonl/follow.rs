//! Reads on as a content grows, wherever it is: in the file it was begun in, in one that a rotation made of it, in a copy.
//!
//! A file is never trusted to be what it was. Whatever is read is handed out only if what stands before it in the file is still
//! what was read before, and a file that is shorter than what was read is left for one that holds more.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::Result;
use highwater_operators::ingest::{Batch, Read, Reader};

use super::catalog::{Catalog, TORN_AFTER, cannot};
use super::content::{Content, FileId};
use super::landmark::Landmark;
use super::lines::{Lines, Step};

/// The longest that a new line waits to be seen.
const PATIENCE: Duration = Duration::from_millis(40);
/// With more partitions than this, files of which all was read are closed meanwhile.
const OPEN_MAX: usize = 128;

pub(super) struct Follower {
    pub catalog: Arc<Catalog>,
    pub name: String,
    pub lines: Lines,
    input: Option<Input>,
    /// The version of the catalog that was looked at.
    seen: u64,
    /// Reads that found nothing, one after the other.
    quiet: u32,
    /// Since when there was nothing.
    since: Instant,
    /// Looks that had begun when the file was lost; `None` if none was.
    lost_at: Option<u64>,
    /// Closed because nothing happens.
    dozing: bool,
}

struct Input {
    content: Content,
    id: FileId,
    head: Vec<Landmark>,
}

impl Follower {
    pub fn new(catalog: Arc<Catalog>, name: String, lines: Lines) -> Self {
        let since = Instant::now();
        Follower { catalog, name, lines, input: None, seen: 0, quiet: 0, since, lost_at: None, dozing: false }
    }

    fn nothing(&mut self) -> Read {
        self.quiet = self.quiet.saturating_add(1);
        let count = self.catalog.count() as u32;
        let sealed = if self.lines.progress.sealed { Duration::from_millis(200) } else { PATIENCE };
        let patience = (Duration::from_millis(1) * (1 << self.quiet.min(8))).min(sealed);
        // However many partitions there are, looking at them takes little of the time.
        Read::Idle(patience.max(Duration::from_micros(500) * count.saturating_sub(OPEN_MAX as u32)))
    }

    /// The file is not what it was: another one holds the content, or will.
    fn lose(&mut self) -> Read {
        self.input = None;
        self.lines.forget_rest();
        self.lost_at = Some(self.catalog.version(&self.name).1);
        Read::Idle(Duration::from_millis(1))
    }

    /// Notes with the next checkpoint that all was read and no more will come: the file may go.
    fn seal(&mut self, batch: &mut Batch) -> Read {
        self.lines.progress.sealed = true;
        self.catalog.note(&self.name, &self.lines.progress);
        batch.token = self.lines.progress.token();
        Read::Some
    }

    fn find(&mut self, batch: &mut Batch) -> Result<Option<Read>> {
        let (version, looks) = self.catalog.version(&self.name);
        if self.dozing && version == self.seen {
            return Ok(Some(self.nothing()));
        }
        self.seen = version;
        if let Some(found) = self.catalog.locate(&self.name, &self.lines.progress, None)? {
            self.lines.forget_rest();
            self.input = Some(Input { content: found.content, id: found.id, head: found.head });
            (self.lost_at, self.dozing) = (None, false);
            return Ok(None);
        }
        // What was cut was copied before, so a look that began afterwards has seen the copy. If there is none, all that can be
        // read was read.
        let looked_since = self.lost_at.is_some_and(|lost| looks >= lost + 2);
        let progress = &self.lines.progress;
        if looked_since && !progress.sealed && progress.last.is_some() && !self.catalog.is_pending() {
            return Ok(Some(self.seal(batch)));
        }
        Ok(Some(self.nothing()))
    }

    /// At the end of what the file holds now.
    fn at_end(&mut self, batch: &mut Batch) -> Result<Read> {
        let Some(input) = &self.input else { return Ok(self.nothing()) };
        if self.quiet == 0 {
            self.since = Instant::now();
        }
        let version = self.catalog.version(&self.name).0;
        if version != self.seen {
            self.seen = version;
            if let Some(better) = self.catalog.locate(&self.name, &self.lines.progress, Some(input.id))? {
                self.lines.forget_rest();
                self.input = Some(Input { content: better.content, id: better.id, head: better.head });
                return Ok(Read::Idle(Duration::ZERO));
            }
        }
        let is_over = match input.content.plain() {
            // All of it was there, and compressed files do not grow.
            None => true,
            Some(file) => {
                let metadata = file.metadata().map_err(|error| cannot("read", &input.content.path, &error))?;
                let quiet = self.since.elapsed();
                let unlinked = metadata.nlink() == 0;
                let modified = metadata.modified().unwrap_or(std::time::SystemTime::UNIX_EPOCH);
                let settled = self.catalog.reading.settled_after;
                quiet >= settled && (unlinked || self.catalog.has_newer(input.id, modified)) && !self.lines.has_rest()
            }
        };
        if is_over && !self.lines.progress.sealed && self.lines.progress.last.is_some() {
            return Ok(self.seal(batch));
        }
        if is_over && self.catalog.count() > OPEN_MAX {
            self.input = None;
            self.dozing = true;
        }
        Ok(self.nothing())
    }
}

impl Reader for Follower {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        if self.input.is_none()
            && let Some(read) = self.find(batch)?
        {
            return Ok(read);
        }
        let Some(input) = self.input.as_mut() else { return Ok(self.nothing()) };
        let compressed = input.content.is_compressed();
        if let Some(file) = input.content.plain() {
            let length = file.metadata().map_err(|error| cannot("read", &input.content.path, &error))?.len();
            match length.cmp(&self.lines.at()) {
                std::cmp::Ordering::Less => return Ok(self.lose()),
                std::cmp::Ordering::Equal => return self.at_end(batch),
                std::cmp::Ordering::Greater => {}
            }
        }
        let before = self.lines.progress.clone();
        let step = match self.lines.step(&mut input.content, compressed, batch) {
            Ok(step) => step,
            Err(error) => {
                let rests = self.catalog.rests_since(input.id);
                if self.lines.torn && rests.is_none_or(|rests| rests < TORN_AFTER) {
                    // It is still being written, or has gone: what it holds is in another file too, or will be.
                    self.lose();
                    return Ok(Read::Idle(Duration::from_millis(200)));
                }
                return Err(error);
            }
        };
        if let Some(file) = input.content.plain()
            && !is_still(file, before.last, &input.head, self.lines.progress.head())
        {
            self.lines.progress = before;
            *batch = Batch { partition: batch.partition, ..Batch::default() };
            return Ok(self.lose());
        }
        match step {
            Step::Lines => {
                self.quiet = 0;
                self.catalog.note(&self.name, &self.lines.progress);
                Ok(Read::Some)
            }
            Step::Dry => self.at_end(batch),
        }
    }
}

/// Whether the file holds before a place what was read there; asked after reading behind it.
fn is_still(file: &std::fs::File, last: Option<Landmark>, head: &[Landmark], read: &[Landmark]) -> bool {
    let Some(last) = last else {
        // The first read: what was read must begin as the content that was found.
        return head.iter().zip(read).all(|(known, read)| known == read);
    };
    let mut window = vec![0; last.length as usize];
    let read = file.read_exact_at(&mut window, last.end - u64::from(last.length));
    read.is_ok() && Landmark::of(&window, last.end) == last
}
