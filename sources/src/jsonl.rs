//! A file of JSON lines as a source: one partition, named by what its first line says.
//!
//! Blocks of the file are read whole and cut at the last newline; a change is a slice of its block, so nothing is copied
//! but the rest of a cut line. The position of a change is the byte offset of its line.

use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::PartitionName;
use highwater_operators::ingest::{Batch, Partition, Read, Reader, Rejected, Source};
use highwater_operators::{Error, PartitionId, Position, Result, ResumeToken};
use memchr::{memchr, memchr_iter, memrchr};
use xxhash_rust::xxh3::xxh3_128;

use crate::envelope::Envelope;

/// Bytes read at once. A batch holds what fits, so this also is how much a single slow change can keep alive.
const BLOCK: usize = 256 * 1024;
/// The longest line that is read; a longer one is rejected.
const LINE_MAX: usize = 64 * 1024 * 1024;
/// How much of the first line names the file.
const FINGERPRINT_MAX: usize = 64 * 1024;
/// How much before a resume token is compared on resume.
const TAIL: usize = 256;

/// A file of JSON lines in the default [`envelope`](crate::envelope).
#[derive(Clone, Debug)]
pub struct JsonLinesFile {
    path: PathBuf,
    global_ids: bool,
}

impl JsonLinesFile {
    /// The file at this path. It is opened when the pipeline runs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        JsonLinesFile { path: path.into(), global_ids: false }
    }

    /// Declares that ids are unique beyond this file.
    pub fn global_ids(mut self) -> Self {
        self.global_ids = true;
        self
    }

    fn cannot(&self, what: &str, error: io::Error) -> Error {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; check the path, or make the file first",
            io::ErrorKind::PermissionDenied => "; this user may not read it",
            _ => "",
        };
        Error::stop(format!("cannot {what} {}: {error}{hint}", self.path.display()))
    }
}

impl Source for JsonLinesFile {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        let mut file = File::open(&self.path).map_err(|error| self.cannot("open", error))?;
        let metadata = file.metadata().map_err(|error| self.cannot("read", error))?;
        if metadata.is_dir() {
            return Err(Error::stop(format!("{} is a directory; name a file of JSON lines", self.path.display())));
        }
        let mut start = vec![0; FINGERPRINT_MAX];
        let length = fill(&mut file, &mut start).map_err(|error| self.cannot("read", error))?;
        start.truncate(length);
        if start.is_empty() {
            return Ok(Vec::new());
        }
        let first_line = &start[..memchr(b'\n', &start).unwrap_or(start.len())];
        Ok(vec![PartitionName { name: format!("{:032x}", xxh3_128(first_line)), bytes: Some(metadata.len()) }])
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let mut file = File::open(&self.path).map_err(|error| self.cannot("open", error))?;
        let mut tail = Vec::new();
        let offset = from.map_or(0, |token| token.order);
        let mut lines = 0;
        if let Some(token) = from {
            let length = file.metadata().map_err(|error| self.cannot("read", error))?.len();
            if length < offset {
                return Err(Error::stop(format!(
                    "{} is {length} bytes long, but the checkpoint continues at byte {offset}: the file was cut short; \
                     restore it, or start again with a new data directory",
                    self.path.display()
                )));
            }
            let (counted, expected) = token.detail.split_first_chunk().ok_or_else(|| {
                Error::stop(format!("the checkpoint's resume token for {} was not made by this source", self.path.display()))
            })?;
            lines = u64::from_le_bytes(*counted);
            tail = vec![0; expected.len()];
            file.seek(SeekFrom::Start(offset - tail.len() as u64)).map_err(|error| self.cannot("read", error))?;
            file.read_exact(&mut tail).map_err(|error| self.cannot("read", error))?;
            if tail != expected {
                return Err(Error::stop(format!(
                    "{} was changed before byte {offset}, where the checkpoint continues; restore it, or start again with a \
                     new data directory",
                    self.path.display()
                )));
            }
        }
        Ok(Box::new(LineReader {
            path: self.path.clone(),
            partition: partition.id,
            file,
            window: window.clone(),
            rest: Vec::new(),
            offset,
            lines,
            tail,
            ended: false,
            envelope: Envelope::default(),
        }))
    }

    fn bytes_before(&self, token: &ResumeToken) -> u64 {
        token.order
    }

    fn has_global_ids(&self) -> bool {
        self.global_ids
    }
}

struct LineReader {
    path: PathBuf,
    partition: PartitionId,
    file: File,
    window: Arc<InFlight>,
    /// What was read and not handed out: the beginning of a line.
    rest: Vec<u8>,
    /// Where `rest` begins in the file.
    offset: u64,
    /// Lines before `offset`, for messages.
    lines: u64,
    /// The last bytes before `offset`, for the resume token.
    tail: Vec<u8>,
    ended: bool,
    envelope: Envelope,
}

impl Reader for LineReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        if self.ended {
            return Ok(Read::End);
        }
        let mut buffer = self.window.buffer((self.rest.len() + BLOCK / 2).next_multiple_of(BLOCK));
        let mut filled = self.rest.len();
        buffer[..filled].copy_from_slice(&self.rest);
        let lines = loop {
            if filled == buffer.len() {
                buffer.resize((filled * 2).min(LINE_MAX + BLOCK), 0);
            }
            let read = fill(&mut self.file, &mut buffer[filled..]).map_err(|error| self.cannot_read(&error))?;
            let searched = filled;
            filled += read;
            if read == 0 {
                self.ended = true;
                break filled;
            }
            if let Some(newline) = memrchr(b'\n', &buffer[searched..filled]) {
                break searched + newline + 1;
            }
            if filled >= LINE_MAX {
                buffer.truncate(filled);
                self.rest.clear();
                return self.skip_line(buffer, batch);
            }
        };
        self.rest.clear();
        self.rest.extend_from_slice(&buffer[lines..filled]);
        if lines == 0 {
            return Ok(Read::End);
        }
        let start = self.offset;
        batch.bytes = lines as u64;
        self.advance(&buffer[..lines]);
        self.parse(self.window.block(buffer, lines), start, batch);
        batch.token = self.token();
        Ok(Read::Some)
    }
}

impl LineReader {
    fn parse(&mut self, block: Bytes, start: u64, batch: &mut Batch) {
        let mut begin = 0;
        let ends = memchr_iter(b'\n', &block).chain((block.last() != Some(&b'\n')).then_some(block.len()));
        for end in ends {
            let position = Position { partition: self.partition, at: start + begin as u64, within: 0 };
            self.lines += 1;
            let line = block[begin..end].trim_ascii();
            if !line.is_empty() {
                match self.envelope.parse(block.slice_ref(line), position) {
                    Ok(change) => batch.changes.push(change),
                    Err(why) => batch.rejected.push(self.reject(position, &why, line)),
                }
            }
            begin = end + 1;
        }
    }

    /// Passes over a line that is too long, in pieces.
    fn skip_line(&mut self, start: Vec<u8>, batch: &mut Batch) -> Result<Read> {
        let position = Position { partition: self.partition, at: self.offset, within: 0 };
        self.lines += 1;
        let why = format!("the line is longer than {} MiB", LINE_MAX / 1024 / 1024);
        batch.rejected.push(self.reject(position, &why, &start[..1024]));
        batch.bytes = start.len() as u64;
        self.advance(&start);
        let mut piece = start;
        loop {
            piece.resize(BLOCK, 0);
            let read = fill(&mut self.file, &mut piece).map_err(|error| self.cannot_read(&error))?;
            piece.truncate(read);
            let newline = memchr(b'\n', &piece);
            if let Some(newline) = newline {
                self.rest = piece.split_off(newline + 1);
            }
            self.ended = read == 0;
            batch.bytes += piece.len() as u64;
            self.advance(&piece);
            if newline.is_some() || read == 0 {
                batch.token = self.token();
                return Ok(Read::Some);
            }
        }
    }

    fn advance(&mut self, read: &[u8]) {
        self.offset += read.len() as u64;
        self.tail.extend_from_slice(&read[read.len().saturating_sub(TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    fn token(&self) -> ResumeToken {
        ResumeToken { order: self.offset, detail: [&self.lines.to_le_bytes()[..], &self.tail].concat().into() }
    }

    fn reject(&self, position: Position, why: &str, line: &[u8]) -> Rejected {
        let shown = &line[..line.len().min(16 * 1024)];
        Rejected {
            position,
            why: format!("{}, line {} (byte {}): {why}", self.path.display(), self.lines, position.at),
            text: String::from_utf8_lossy(shown).into_owned(),
        }
    }

    fn cannot_read(&self, error: &io::Error) -> Error {
        Error::stop(format!("cannot read {} from byte {} on: {error}", self.path.display(), self.offset))
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything {
        ids: Vec<String>,
        rejected: Vec<String>,
        tokens: Vec<ResumeToken>,
    }

    fn read_all(path: &std::path::Path, from: Option<&ResumeToken>) -> Result<Everything> {
        let source = JsonLinesFile::new(path);
        let window = InFlight::new(u64::MAX, u64::MAX);
        let partition = Partition { id: 0, name: String::new() };
        let mut reader = source.open(&partition, from, &window)?;
        let mut all = Everything { ids: Vec::new(), rejected: Vec::new(), tokens: Vec::new() };
        loop {
            let mut batch = Batch::default();
            if reader.read(&mut batch)? == Read::End {
                return Ok(all);
            }
            all.ids.extend(batch.changes.iter().map(|change| change.id().to_owned()));
            all.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
            all.tokens.push(batch.token);
        }
    }

    fn lines(n: usize, pad: usize) -> String {
        (0..n).map(|id| format!("{{\"id\":{id},\"op\":\"insert\",\"after\":{{\"pad\":\"{}\"}}}}\n", "x".repeat(pad))).collect()
    }

    #[test]
    fn lines_of_any_length_are_read_and_every_token_continues() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        for (n, pad) in [(1, 0), (5000, 100), (7, 300_000), (3, 600_000)] {
            std::fs::write(&path, lines(n, pad)).unwrap();
            let all = read_all(&path, None).unwrap();
            let expected: Vec<String> = (0..n).map(|id| id.to_string()).collect();
            assert_eq!(all.ids, expected);
            for token in &all.tokens {
                let rest = read_all(&path, Some(token)).unwrap().ids;
                assert_eq!(rest, expected[n - rest.len()..]);
            }
            assert!(read_all(&path, all.tokens.last()).unwrap().ids.is_empty());
        }
    }

    #[test]
    fn the_last_line_needs_no_newline_and_empty_lines_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, "{\"id\":1,\"op\":\"c\"}\r\n\n{\"id\":2,\"op\":\"c\"}").unwrap();
        assert_eq!(read_all(&path, None).unwrap().ids, ["1", "2"]);
    }

    #[test]
    fn broken_lines_are_rejected_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, "{\"id\":1,\"op\":\"c\"}\n{\"id\":\n{\"id\":2,\"op\":\"c\"}\n").unwrap();
        let all = read_all(&path, None).unwrap();
        assert_eq!(all.ids, ["1", "2"]);
        assert!(all.rejected[0].contains("in.jsonl, line 2 (byte 18): EOF while parsing"), "{:?}", all.rejected);
    }

    #[test]
    fn a_line_beyond_the_bound_is_rejected_and_the_next_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        let mut text = lines(1, LINE_MAX + 2 * BLOCK);
        text.push_str("{\"id\":\"next\",\"op\":\"c\"}\n");
        std::fs::write(&path, text).unwrap();
        let all = read_all(&path, None).unwrap();
        assert_eq!(all.ids, ["next"]);
        assert!(all.rejected[0].contains("longer than 64 MiB"));
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, lines(3, 5)).unwrap();
        let end = read_all(&path, None).unwrap().tokens.pop().unwrap();
        std::fs::write(&path, lines(2, 5)).unwrap();
        assert!(read_all(&path, Some(&end)).err().unwrap().to_string().contains("was cut short"));
        std::fs::write(&path, lines(4, 6)).unwrap();
        assert!(read_all(&path, Some(&end)).err().unwrap().to_string().contains("was changed before byte"));
    }
}
