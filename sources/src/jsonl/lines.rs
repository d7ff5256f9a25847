//! Lines of a content become batches of changes.
//!
//! Blocks are read whole and cut at the last newline; a change is a slice of its block, so nothing is copied but the rest of a
//! cut line. The position of a change is the byte offset of its line in the content.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Rejected};
use highwater_operators::{Error, PartitionId, Position, Result};
use memchr::{memchr, memchr_iter, memrchr};

use super::content::Content;
use super::landmark::{Landmark, Progress, WINDOW};
use super::{OnReject, Reading};

/// Bytes read at once. A batch holds what fits, so this also is how much a single slow change can keep alive.
const BLOCK: usize = 256 * 1024;
/// A batch of fewer bytes is copied to its own size: a line that comes alone must not hold a whole block.
const SMALL: usize = BLOCK / 8;
/// How much of a line that is no change is shown.
const SHOWN: usize = 16 * 1024;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The batch is filled.
    Lines,
    /// There is no whole line now.
    Dry,
}

/// Cuts the content of one partition into lines.
pub(super) struct Lines {
    reading: Arc<Reading>,
    partition: PartitionId,
    window: Arc<InFlight>,
    /// How far lines were handed out.
    pub progress: Progress,
    /// What was read and not handed out: the beginning of a line.
    rest: Vec<u8>,
    /// A line that is too long and is being passed over.
    skip: Option<Skip>,
    /// A buffer that met nothing to read.
    spare: Option<Vec<u8>>,
    /// Why the next step fails: a line that is no change, where such a line is to stop the run.
    stop: Option<Error>,
    /// Whether the content ended in the middle of its compression.
    pub torn: bool,
}

struct Skip {
    length: u64,
    shown: Vec<u8>,
    tail: Vec<u8>,
}

impl Lines {
    pub fn new(reading: &Arc<Reading>, partition: PartitionId, window: &Arc<InFlight>, progress: Progress) -> Self {
        Lines {
            reading: reading.clone(),
            partition,
            window: window.clone(),
            progress,
            rest: Vec::new(),
            skip: None,
            spare: None,
            stop: None,
            torn: false,
        }
    }

    /// Where the content that is read next must stand.
    pub fn at(&self) -> u64 {
        self.progress.offset + self.rest.len() as u64 + self.skip.as_ref().map_or(0, |skip| skip.length)
    }

    /// Whether the beginning of a line was read whose end is not there.
    pub fn has_rest(&self) -> bool {
        !self.rest.is_empty() || self.skip.is_some()
    }

    /// Forgets what was read and not handed out: it is read again, from another file.
    pub fn forget_rest(&mut self) {
        self.rest.clear();
        self.skip = None;
    }

    /// Reads what fits into a batch. `to_the_end`: what stands behind the last newline is a line too, once the content has ended.
    ///
    /// # Errors
    /// If the content cannot be read on, or a line is no change and the run is to stop for that.
    pub fn step(&mut self, content: &mut Content, to_the_end: bool, batch: &mut Batch) -> Result<Step> {
        if let Some(error) = self.stop.take() {
            return Err(error);
        }
        self.torn = false;
        if self.skip.is_some() {
            return self.skip(content, to_the_end, batch);
        }
        let least = (self.rest.len() + BLOCK / 2).next_multiple_of(BLOCK);
        let mut buffer = self.spare.take().filter(|spare| spare.len() >= least).unwrap_or_else(|| self.window.buffer(least));
        let mut filled = self.rest.len();
        buffer[..filled].copy_from_slice(&self.rest);
        let most = self.reading.line_max.saturating_add(BLOCK);
        let end = loop {
            // Behind a line that was passed over there may be whole ones.
            if let Some(newline) = memrchr(b'\n', &buffer[..self.rest.len()]) {
                break newline + 1;
            }
            if filled == buffer.len() {
                buffer.resize((filled * 2).min(most.max(filled + BLOCK)), 0);
            }
            let read = content.fill(&mut buffer[filled..]).map_err(|error| self.cannot_read(content, &error))?;
            let searched = filled;
            filled += read;
            if let Some(newline) = memrchr(b'\n', &buffer[searched..filled]) {
                break searched + newline + 1;
            }
            if filled > self.reading.line_max {
                let skipped = &buffer[..filled];
                let shown = skipped[..filled.min(1024)].to_vec();
                self.skip = Some(Skip { length: filled as u64, shown, tail: skipped[filled.saturating_sub(WINDOW)..].to_vec() });
                self.rest.clear();
                return self.skip(content, to_the_end, batch);
            }
            if read == 0 {
                if to_the_end && content.ended && filled > 0 {
                    break filled;
                }
                self.rest.clear();
                self.rest.extend_from_slice(&buffer[..filled]);
                self.spare = Some(buffer);
                return Ok(Step::Dry);
            }
        };
        self.rest.clear();
        self.rest.extend_from_slice(&buffer[end..filled]);
        let block = if end < SMALL {
            let block = self.window.block(buffer[..end].to_vec(), end);
            self.spare = Some(buffer);
            block
        } else {
            self.window.block(buffer, end)
        };
        self.parse(&content.path.display().to_string(), &block, batch)
    }

    fn parse(&mut self, path: &str, block: &Bytes, batch: &mut Batch) -> Result<Step> {
        let start = self.progress.offset;
        let ends = memchr_iter(b'\n', block).chain((block.last() != Some(&b'\n')).then_some(block.len()));
        let (mut begin, mut length) = (0, 0);
        let mut next = self.next_landmark();
        for end in ends {
            let position = self.position(start + begin as u64);
            let line = block[begin..end].trim_ascii();
            if !line.is_empty() {
                let parsed = match line.len() > self.reading.line_max {
                    true => Err(self.too_long()),
                    false => self.reading.envelope.read(block.slice_ref(line), position),
                };
                match parsed {
                    Ok(Some(change)) => batch.changes.push(change),
                    // It rightly says nothing: a tombstone.
                    Ok(None) => {}
                    Err(why) => {
                        let whole = end < block.len();
                        let rejected = self.reject(path, position, &why, line, whole);
                        if self.reading.on_reject == OnReject::Stop {
                            self.stop = Some(stopped_by(&rejected));
                            break;
                        }
                        batch.rejected.push(rejected);
                    }
                }
            }
            let line = &block[begin..block.len().min(end + 1)];
            if end < block.len() {
                self.progress.lines += 1;
                if self.progress.lines == next {
                    self.progress.landmarks.push(Landmark::of(line, start + end as u64 + 1));
                    next = self.next_landmark();
                }
            }
            (begin, length) = (begin + line.len(), line.len());
        }
        if begin == 0 {
            return Err(self.stop.take().expect("a block has a line, and only a stop ends before it"));
        }
        if begin < block.len() {
            // The run stops before this line, so nothing behind it is looked at.
            self.rest.clear();
        }
        let read = &block[..begin];
        self.progress.advance(read, length, read.last() == Some(&b'\n'));
        batch.bytes = begin as u64;
        batch.token = self.progress.token();
        Ok(Step::Lines)
    }

    /// Passes over a line that is too long, in pieces.
    fn skip(&mut self, content: &mut Content, to_the_end: bool, batch: &mut Batch) -> Result<Step> {
        let mut piece = vec![0; BLOCK];
        loop {
            let read = content.fill(&mut piece).map_err(|error| self.cannot_read(content, &error))?;
            let newline = memchr(b'\n', &piece[..read]);
            let skip = self.skip.as_mut().expect("a line is being passed over");
            let own = newline.map_or(read, |newline| newline + 1);
            skip.length += own as u64;
            skip.tail.extend_from_slice(&piece[..own]);
            skip.tail.drain(..skip.tail.len().saturating_sub(WINDOW));
            if read == 0 && !(to_the_end && content.ended) {
                return Ok(Step::Dry);
            }
            if newline.is_some() || read == 0 {
                self.rest.extend_from_slice(&piece[own..read]);
                let Skip { length, shown, tail } = self.skip.take().expect("a line is being passed over");
                let position = self.position(self.progress.offset);
                let path = content.path.display().to_string();
                let rejected = self.reject(&path, position, &self.too_long(), &shown, true);
                if self.reading.on_reject == OnReject::Stop {
                    return Err(stopped_by(&rejected));
                }
                batch.rejected.push(rejected);
                let before = self.progress.offset;
                if newline.is_some() {
                    self.progress.lines += 1;
                    if self.progress.wants(self.progress.lines) {
                        self.progress.landmarks.push(Landmark::of(&tail, before + length));
                    }
                }
                self.progress.advance(&tail, tail.len(), newline.is_some());
                self.progress.pass_over(before + length);
                batch.bytes = length;
                batch.token = self.progress.token();
                return Ok(Step::Lines);
            }
        }
    }

    fn next_landmark(&self) -> u64 {
        let next = self.progress.lines + 1;
        match self.progress.wants(next) {
            true => next,
            false if self.progress.wants(1) => next.next_power_of_two(),
            false => u64::MAX,
        }
    }

    fn position(&self, at: u64) -> Position {
        Position { partition: self.partition, at, within: 0 }
    }

    fn too_long(&self) -> String {
        match self.reading.line_max {
            max if max.is_multiple_of(1 << 20) => format!("the line is longer than {} MiB", max >> 20),
            max => format!("the line is longer than {max} bytes"),
        }
    }

    fn reject(&self, path: &str, position: Position, why: &str, line: &[u8], whole: bool) -> Rejected {
        let cut = if whole { "" } else { "; the line has no newline: it may have been cut short" };
        Rejected {
            position,
            why: format!("{path}, line {} (byte {}): {why}{cut}", self.progress.lines + 1, position.at),
            text: String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned(),
        }
    }

    fn cannot_read(&mut self, content: &Content, error: &io::Error) -> Error {
        self.torn = error.kind() == io::ErrorKind::UnexpectedEof;
        Error::stop(format!(
            "cannot read {} beyond byte {} of its content, line {}: {}",
            content.path.display(),
            content.at,
            self.progress.lines + 1,
            content.explain(error)
        ))
    }
}

fn stopped_by(rejected: &Rejected) -> Error {
    Error::stop(format!(
        "{}; the run stops there, as its source is told to: mend the line, or have such lines parked with \
         .on_reject(OnReject::Park)",
        rejected.why
    ))
}
