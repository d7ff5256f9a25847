//! Reads rows in blocks: what is left of a block is never kept, for the parser continues in the middle of a row.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader as Core, ReaderBuilder};
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Read, Reader, Rejected};
use highwater_operators::{Error, PartitionId, Position, Result, ResumeToken};
use memchr::{memchr, memchr_iter};

use super::record::{Columns, Fields, Written};

/// Bytes of the file behind one batch, about.
const BLOCK: usize = 256 * 1024;
/// The longest row that is read. What is longer is mostly a quote that somebody forgot to close.
const ROW_MAX: usize = 16 * 1024 * 1024;
const FIELDS_MAX: usize = 64 * 1024;
/// How much before a resume token is compared on resume.
const TAIL: usize = 256;

pub(super) fn core(delimiter: u8) -> Core {
    let mut core = ReaderBuilder::new().delimiter(delimiter).build();
    // Once it has read something it does not look for a byte order mark any more, which stands at the beginning of a file only.
    core.read_record(b"\n", &mut [0], &mut [0]);
    core
}

/// The fields of the first row, and where it ends.
pub(super) fn header(start: &[u8], delimiter: u8) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut core = ReaderBuilder::new().delimiter(delimiter).build();
    let (mut text, mut ends) = (vec![0; start.len() + 1], vec![0; start.len() + 2]);
    let (mut read, mut written, mut ended) = (0, 0, 0);
    for input in [start, b"\n"] {
        let (result, nin, nout, nend) = core.read_record(input, &mut text[written..], &mut ends[ended..]);
        (read, written, ended) = (read + nin, written + nout, ended + nend);
        if read >= super::HEADER_MAX as usize {
            return None;
        }
        if let ReadRecordResult::Record = result {
            let begins = std::iter::once(0).chain(ends.iter().copied());
            let fields = begins.zip(&ends[..ended]).map(|(begin, end)| text[begin..*end].to_vec()).collect();
            return Some((fields, read.min(start.len())));
        }
    }
    // An empty file has no columns; anything else that is no row has a quote that is not closed.
    start.iter().all(|byte| matches!(byte, b'\r' | b'\n')).then(|| (Vec::new(), start.len()))
}

/// The end of what was read, by which the place is known again.
pub(super) fn tail_of(read: &[u8]) -> Vec<u8> {
    read[read.len().saturating_sub(TAIL)..].to_vec()
}

pub(super) struct RowReader {
    path: PathBuf,
    partition: PartitionId,
    file: File,
    window: Arc<InFlight>,
    core: Core,
    columns: Columns,
    input: Vec<u8>,
    /// What of `input` is not parsed yet.
    next: usize,
    filled: usize,
    /// Where `next` stands in the file.
    offset: u64,
    /// Line ends before `offset`.
    lines: u64,
    /// The last bytes before `offset`.
    tail: Vec<u8>,
    /// The row that is being parsed.
    text: Vec<u8>,
    ends: Vec<usize>,
    ended: bool,
}

/// What came of looking for a row.
enum Row {
    Whole { text: usize, ends: usize },
    TooLong,
    NotClosed,
    End,
}

impl Reader for RowReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        if self.ended {
            return Ok(Read::End);
        }
        let begun = self.offset;
        let mut out = self.window.buffer(BLOCK);
        out.clear();
        let mut written: Vec<(Written, u64)> = Vec::new();
        while !self.ended && self.offset - begun < BLOCK as u64 {
            self.skip_line_ends()?;
            let (at, line) = (self.offset, self.lines + 1);
            let position = Position { partition: self.partition, at, within: 0 };
            match self.row()? {
                Row::Whole { text, ends } => {
                    let fields = Fields { text: &self.text[..text], ends: &self.ends[..ends] };
                    match self.columns.write(&fields, position, &mut out) {
                        Ok(row) => written.push((row, line)),
                        Err(why) => {
                            let shown = self.text[..text.min(16 * 1024)].to_vec();
                            batch.rejected.push(self.reject(position, line, &why, &shown));
                        }
                    }
                }
                fault @ (Row::TooLong | Row::NotClosed) => {
                    let why = match fault {
                        Row::TooLong => format!("the row is longer than {} MiB; is a quote not closed?", ROW_MAX >> 20),
                        _ => "a quote that opens in this row is not closed before the file ends".to_owned(),
                    };
                    let shown = self.back_to(at, line - 1)?;
                    batch.rejected.push(self.reject(position, line, &why, &shown));
                }
                Row::End => self.ended = true,
            }
        }
        batch.bytes = self.offset - begun;
        let length = out.len();
        let block = self.window.block(out, length);
        for (row, line) in written {
            let position = row.position;
            match row.into_change(&block) {
                Ok(change) => batch.changes.push(change),
                Err(why) => batch.rejected.push(self.reject(position, line, &why, b"")),
            }
        }
        if batch.bytes == 0 {
            return Ok(Read::End);
        }
        let detail = [&self.lines.to_le_bytes()[..], &tail_of(&self.tail)].concat();
        batch.token = ResumeToken { order: self.offset, detail: detail.into() };
        Ok(Read::Some)
    }
}

impl RowReader {
    pub(super) fn new(
        path: PathBuf,
        partition: PartitionId,
        file: File,
        window: Arc<InFlight>,
        core: Core,
        columns: Columns,
        (offset, lines, tail): (u64, u64, Vec<u8>),
    ) -> Self {
        RowReader {
            path,
            partition,
            file,
            window,
            core,
            columns,
            input: vec![0; BLOCK],
            next: 0,
            filled: 0,
            offset,
            lines,
            tail,
            text: vec![0; 4096],
            ends: vec![0; 64],
            ended: false,
        }
    }

    /// Parses one row, wherever blocks of the file end in it.
    fn row(&mut self) -> Result<Row> {
        let (mut text, mut ends, mut begun) = (0, 0, false);
        loop {
            if self.next == self.filled && !self.fill()? {
                if !begun {
                    return Ok(Row::End);
                }
                // The last row needs no line end. One that does not end here either stands in an open quote.
                let (result, _, nout, nend) = self.core.read_record(b"\n", &mut self.text[text..], &mut self.ends[ends..]);
                match result {
                    ReadRecordResult::Record => return Ok(Row::Whole { text: text + nout, ends: ends + nend }),
                    ReadRecordResult::OutputFull => self.text.resize(self.text.len() + 1, 0),
                    ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() + 1, 0),
                    ReadRecordResult::InputEmpty | ReadRecordResult::End => return Ok(Row::NotClosed),
                }
                (text, ends) = (text + nout, ends + nend);
                continue;
            }
            let input = &self.input[self.next..self.filled];
            let (result, nin, nout, nend) = self.core.read_record(input, &mut self.text[text..], &mut self.ends[ends..]);
            self.take(nin);
            begun |= nin > 0;
            (text, ends) = (text + nout, ends + nend);
            match result {
                ReadRecordResult::Record => return Ok(Row::Whole { text, ends }),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if text >= ROW_MAX => return Ok(Row::TooLong),
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if ends >= FIELDS_MAX => return Ok(Row::TooLong),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::End => return Ok(Row::End),
            }
        }
    }

    /// Line ends between rows belong to neither: so a row's position is where its text begins.
    fn skip_line_ends(&mut self) -> Result {
        loop {
            let input = &self.input[self.next..self.filled];
            let ends = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.take(ends);
            if self.next < self.filled || !self.fill()? {
                return Ok(());
            }
        }
    }

    /// After a row that has no end: goes back to it, passes over its first line, and returns that, as far as it is shown.
    fn back_to(&mut self, at: u64, lines: u64) -> Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(at)).map_err(|error| self.cannot_read(&error))?;
        self.core.reset();
        self.core.read_record(b"\n", &mut [0], &mut [0]);
        (self.offset, self.lines, self.next, self.filled) = (at, lines, 0, 0);
        self.tail.clear();
        let mut shown = Vec::new();
        while self.next < self.filled || self.fill()? {
            let input = &self.input[self.next..self.filled];
            let end = memchr(b'\n', input);
            let piece = &input[..end.map_or(input.len(), |end| end + 1)];
            shown.extend_from_slice(&piece[..piece.len().min((16 * 1024_usize).saturating_sub(shown.len()))]);
            self.take(piece.len());
            if end.is_some() {
                break;
            }
        }
        Ok(shown)
    }

    /// Counts so many bytes of the input as read.
    fn take(&mut self, bytes: usize) {
        let read = &self.input[self.next..self.next + bytes];
        self.lines += memchr_iter(b'\n', read).count() as u64;
        if bytes >= TAIL {
            self.tail = tail_of(read);
        } else {
            self.tail.extend_from_slice(read);
            if self.tail.len() > 4 * TAIL {
                self.tail.drain(..self.tail.len() - TAIL);
            }
        }
        self.next += bytes;
        self.offset += bytes as u64;
    }

    /// Reads the next block; `false` at the end of the file.
    fn fill(&mut self) -> Result<bool> {
        loop {
            match self.file.read(&mut self.input) {
                Ok(read) => {
                    (self.next, self.filled) = (0, read);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cannot_read(&error)),
            }
        }
    }

    fn reject(&self, position: Position, line: u64, why: &str, shown: &[u8]) -> Rejected {
        Rejected {
            position,
            why: format!("{}, line {line} (byte {}): {why}", self.path.display(), position.at),
            text: String::from_utf8_lossy(shown).into_owned(),
        }
    }

    fn cannot_read(&self, error: &io::Error) -> Error {
        Error::stop(format!("cannot read {} from byte {} on: {error}", self.path.display(), self.offset))
    }
}
