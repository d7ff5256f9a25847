//! One journal file: its header, reading it frame by frame, appending to it, reading pieces of it.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::contents::{Contents, Place};
use super::entry::{Entry, encode};
use super::frame::{FrameHeader, HEADER, Seal};
use super::medium::Medium;
use crate::error::{Error, Result};

/// As in PNG: no ASCII in front, so that nobody takes it for text, then line ends that a careless transfer would change.
const MAGIC: [u8; 8] = *b"\x89HWJ\r\n\x1a\n";
/// The newest format this program writes and reads.
pub(super) const VERSION: u32 = 1;
const FIXED: usize = 40;
const NAME_MAX: usize = 4096;
/// Bytes read or copied at a time.
pub(super) const BUFFER: usize = 256 * 1024;

/// Who a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pipeline: String,
    pub(super) state_id: u128,
}

pub(super) struct Journal {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) owner: Owner,
    /// The length of what is whole.
    pub(super) end: u64,
    pub(super) file: File,
    /// Why nothing more may be appended: a write or a sync failed, and what the file ends with is unknown.
    pub(super) broken: Option<String>,
    seal: Seal,
}

/// What reading a journal found beside its contents.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Where the last whole frame begins.
    pub(super) last_frame: u64,
    /// Bytes after the last whole frame: a write that a crash cut short.
    pub(super) torn: u64,
}

impl Journal {
    /// A new file with nothing but its header, not synced.
    pub(super) fn create(path: PathBuf, number: u64, owner: Owner, medium: &Medium) -> Result<Journal> {
        let length = match owner.pipeline.len() {
            1..=NAME_MAX => owner.pipeline.len() as u32,
            length => return Err(Error::stop(format!("a pipeline's name has 1 to {NAME_MAX} bytes, not {length}"))),
        };
        let mut header = Vec::with_capacity(FIXED + owner.pipeline.len() + 4);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        header.extend_from_slice(&owner.state_id.to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        header.extend_from_slice(owner.pipeline.as_bytes());
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        let file = medium
            .create("compaction.create", &path)
            .and_then(|file| medium.write("compaction.header", &file, &mut [IoSlice::new(&header)]).map(|()| file))
            .map_err(|error| failed("create", &path, error))?;
        let seal = Seal::new(owner.state_id, number);
        Ok(Journal { path, number, owner, end: header.len() as u64, file, broken: None, seal })
    }

    /// Opens a journal and reads it whole. The file is not changed.
    pub(super) fn read(path: &Path, number: u64, file: File) -> Result<(Journal, Contents, Tail)> {
        let length = file.metadata().map_err(|error| failed("read", path, error))?.len();
        let mut reader = BufReader::with_capacity(BUFFER, &file);
        reader.seek(SeekFrom::Start(0)).map_err(|error| failed("read", path, error))?;
        let (owner, first) = read_header(&mut reader, path, number, length)?;
        let seal = Seal::new(owner.state_id, number);
        let mut frames = Frames { reader, path, seal, offset: first, length, buffer: Vec::new() };
        let mut contents = Contents::new();
        let mut tail = Tail::default();
        let mut snapshot_is_whole = false;
        while let Some((entry, attached_at)) = frames.next(&mut tail)? {
            snapshot_is_whole |= matches!(entry, Entry::SnapshotEnd);
            contents.apply(entry, attached_at);
        }
        let end = frames.offset;
        if !snapshot_is_whole {
            // All this was synced before the file got its name, so no crash explains it.
            return Err(damaged(path, end));
        }
        tail.torn = length - end;
        Ok((Journal { path: path.to_owned(), number, owner, end, file, broken: None, seal }, contents, tail))
    }

    /// Appends a frame whose attachments are in memory, in one write. Returns where they stand. Nothing is synced.
    pub(super) fn append(&mut self, entry: &Entry<'_>, attachments: &[&[u8]], medium: &Medium) -> Result<u64> {
        let front = self.front(entry)?;
        let mut slices = Vec::with_capacity(1 + attachments.len());
        slices.push(IoSlice::new(&front));
        slices.extend(attachments.iter().map(|bytes| IoSlice::new(bytes)));
        self.write("journal.write", &mut slices, medium)?;
        let attached_at = self.end + front.len() as u64;
        self.end = attached_at + entry.attached_length();
        Ok(attached_at)
    }

    /// Appends a frame whose attachments stand in another journal; they are verified as they are copied.
    pub(super) fn append_copied(&mut self, entry: &Entry<'_>, from: &Journal, places: &[Place], medium: &Medium) -> Result<()> {
        let front = self.front(entry)?;
        self.write("compaction.write", &mut [IoSlice::new(&front)], medium)?;
        let mut buffer = Vec::new();
        for place in places {
            from.pieces(*place, &mut buffer, |bytes| self.write("compaction.write", &mut [IoSlice::new(bytes)], medium))?;
        }
        self.end += front.len() as u64 + entry.attached_length();
        Ok(())
    }

    /// The same journal with a cursor of its own, to be read while this one is appended to.
    pub(super) fn reader(&self) -> Result<Journal> {
        let file = File::open(&self.path).map_err(|error| failed("read", &self.path, error))?;
        let (path, owner) = (self.path.clone(), self.owner.clone());
        Ok(Journal { path, number: self.number, owner, end: self.end, file, broken: None, seal: self.seal })
    }

    /// Reads the frames between two offsets at which frames begin and end, each entry with where its attachments stand. Only for a
    /// [`reader`](Self::reader): it moves the cursor.
    pub(super) fn each_frame(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(Entry<'static>, &[Place]) -> Result<()>,
    ) -> Result<()> {
        let mut reader = BufReader::with_capacity(BUFFER, &self.file);
        reader.seek(SeekFrom::Start(from)).map_err(|error| failed("read", &self.path, error))?;
        let mut frames = Frames { reader, path: &self.path, seal: self.seal, offset: from, length: to, buffer: Vec::new() };
        while let Some((entry, mut offset)) = frames.next(&mut Tail::default())? {
            let places: Vec<Place> = entry
                .attachments()
                .map(|attachment| {
                    let place = Place { offset, attachment };
                    offset += attachment.length;
                    place
                })
                .collect();
            each(entry, &places)?;
        }
        if frames.offset == to { Ok(()) } else { Err(damaged(&self.path, frames.offset)) }
    }

    /// Header and entry of the frame that comes next.
    fn front(&self, entry: &Entry<'_>) -> Result<Vec<u8>> {
        let mut front = encode(entry, vec![0; HEADER])?;
        let encoded = &front[HEADER..];
        let header = FrameHeader {
            entry_length: u32::try_from(encoded.len())
                .map_err(|_| Error::stop("a group is larger than 4 GiB without its state and its parked changes"))?,
            entry_crc: crc32fast::hash(encoded),
            attached_length: entry.attached_length(),
        };
        front[..HEADER].copy_from_slice(&header.encode(self.seal, self.end));
        Ok(front)
    }

    fn write(&mut self, name: &'static str, slices: &mut [IoSlice<'_>], medium: &Medium) -> Result<()> {
        if let Some(why) = &self.broken {
            return Err(Error::stop(format!(
                "{} takes nothing more in this run, after an earlier error: {why}",
                self.path.display()
            )));
        }
        let written = medium.write(name, &self.file, slices);
        written.map_err(|error| self.breaks(failed("write", &self.path, error)))
    }

    pub(super) fn sync(&mut self, name: &'static str, medium: &Medium) -> Result<()> {
        medium.sync(name, &self.file).map_err(|error| self.breaks(failed("sync", &self.path, error)))
    }

    /// After this error nothing more may be appended.
    pub(super) fn breaks(&mut self, error: Error) -> Error {
        self.broken.get_or_insert_with(|| error.to_string());
        error
    }

    /// Removes a torn tail, and moves the cursor to where the next frame goes.
    ///
    /// The last frame is written again where it stands: had its sync failed in an earlier run, the kernel might hold
    /// pages for clean that never reached the disk, and a sync now would pass them over.
    pub(super) fn recover(&mut self, tail: &Tail, medium: &Medium) -> Result<()> {
        let last = usize::try_from(self.end - tail.last_frame).map_err(|_| damaged(&self.path, tail.last_frame))?;
        let again = |error| failed("repair", &self.path, error);
        if tail.torn > 0 {
            tracing::warn!(journal = %self.path.display(), offset = self.end, bytes = tail.torn, "cut off a write that a crash had torn");
            medium.step("journal.cut", || self.file.set_len(self.end)).map_err(again)?;
        }
        let mut frame = vec![0; last];
        self.file.read_exact_at(&mut frame, tail.last_frame).map_err(again)?;
        (&self.file).seek(SeekFrom::Start(tail.last_frame)).map_err(again)?;
        medium.write("journal.write_again", &self.file, &mut [IoSlice::new(&frame)]).map_err(again)?;
        self.sync("journal.sync_again", medium)
    }

    /// Moves the cursor of a journal that was just read to where the next frame goes. It may have no torn tail.
    pub(super) fn continue_after(&mut self, tail: &Tail) -> Result<()> {
        if tail.torn > 0 {
            return Err(damaged(&self.path, self.end));
        }
        (&self.file).seek(SeekFrom::Start(self.end)).map_err(|error| failed("read", &self.path, error))?;
        Ok(())
    }

    /// One attachment, whole and verified.
    pub(super) fn attachment(&self, place: Place) -> Result<Bytes> {
        let length = usize::try_from(place.attachment.length).map_err(|_| damaged(&self.path, place.offset))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, place.offset).map_err(|error| failed("read", &self.path, error))?;
        if crc32fast::hash(&bytes) != place.attachment.crc {
            return Err(damaged(&self.path, place.offset));
        }
        Ok(bytes.into())
    }

    /// One attachment, piece by piece; what is damaged is told at its end.
    fn pieces(&self, place: Place, buffer: &mut Vec<u8>, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut sum = crc32fast::Hasher::new();
        let mut done = 0;
        while done < place.attachment.length {
            buffer.resize((place.attachment.length - done).min(BUFFER as u64) as usize, 0);
            self.file.read_exact_at(buffer, place.offset + done).map_err(|error| failed("read", &self.path, error))?;
            sum.update(buffer);
            each(buffer)?;
            done += buffer.len() as u64;
        }
        if sum.finalize() == place.attachment.crc { Ok(()) } else { Err(damaged(&self.path, place.offset)) }
    }
}

fn read_header(reader: &mut impl Read, path: &Path, number: u64, length: u64) -> Result<(Owner, u64)> {
    let unreadable = |error| failed("read", path, error);
    let mut fixed = [0; FIXED];
    if length < FIXED as u64 {
        return Err(damaged(path, 0));
    }
    reader.read_exact(&mut fixed).map_err(unreadable)?;
    if fixed[..8] != MAGIC {
        return Err(Error::stop(format!("{} is no journal of Highwater, or its first bytes are damaged", path.display())));
    }
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let version = word(8);
    if version > VERSION {
        return Err(Error::stop(format!(
            "{} has format version {version} and this program reads versions up to {VERSION}: run the newer program",
            path.display()
        )));
    }
    let name_length = word(12) as usize;
    if version == 0 || name_length > NAME_MAX || length < (FIXED + name_length + 4) as u64 {
        return Err(damaged(path, 8));
    }
    let mut rest = vec![0; name_length + 4];
    reader.read_exact(&mut rest).map_err(unreadable)?;
    let (name, sum) = rest.split_at(name_length);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed);
    hasher.update(name);
    let named = fixed[32..40] == number.to_le_bytes();
    let pipeline = match std::str::from_utf8(name) {
        Ok(name) if hasher.finalize().to_le_bytes() == *sum => name.to_owned(),
        _ => return Err(damaged(path, 8)),
    };
    if !named {
        return Err(Error::stop(format!("{} was renamed: inside it bears another number", path.display())));
    }
    let mut state_id = [0; 16];
    state_id.copy_from_slice(&fixed[16..32]);
    Ok((Owner { pipeline, state_id: u128::from_le_bytes(state_id) }, (FIXED + name_length + 4) as u64))
}

/// Reads frame after frame, and tells a torn tail from damage.
struct Frames<'a> {
    reader: BufReader<&'a File>,
    path: &'a Path,
    seal: Seal,
    /// Where the next frame begins.
    offset: u64,
    /// The length of the file when reading began. What a running pipeline appends meanwhile is not looked at.
    length: u64,
    buffer: Vec<u8>,
}

impl Frames<'_> {
    fn next(&mut self, tail: &mut Tail) -> Result<Option<(Entry<'static>, u64)>> {
        let mut header = [0; HEADER];
        if self.length - self.offset < HEADER as u64 {
            return Ok(None);
        }
        self.fill(&mut header)?;
        let Some(header) = FrameHeader::decode(&header, self.seal, self.offset) else {
            return match self.header_after(self.offset + 1)? {
                true => Err(damaged(self.path, self.offset)),
                false => Ok(None),
            };
        };
        let end = header.end(self.offset);
        if end > self.length {
            return Ok(None);
        }
        let Some(entry) = self.body(header)? else {
            // Whatever stands behind this frame was written after its sync.
            return if end < self.length { Err(damaged(self.path, self.offset)) } else { Ok(None) };
        };
        tail.last_frame = self.offset;
        let attached_at = end - header.attached_length;
        self.offset = end;
        Ok(Some((entry, attached_at)))
    }

    /// The entry, if it and all that is attached to it is as it was written.
    fn body(&mut self, header: FrameHeader) -> Result<Option<Entry<'static>>> {
        let mut encoded = std::mem::take(&mut self.buffer);
        encoded.resize(header.entry_length as usize, 0);
        self.fill(&mut encoded)?;
        let is_whole = crc32fast::hash(&encoded) == header.entry_crc;
        let entry = is_whole.then(|| Entry::decode(&encoded));
        self.buffer = encoded;
        let Some(entry) = entry else { return Ok(None) };
        let Some(entry) = entry.filter(|entry| entry.attached_length() == header.attached_length) else {
            // The sums are right, so this was written so: by a program that should have raised the version.
            return Err(Error::stop(format!(
                "{} holds at offset {} an entry that this program does not know",
                self.path.display(),
                self.offset
            )));
        };
        for attachment in entry.attachments() {
            let mut sum = crc32fast::Hasher::new();
            let mut left = attachment.length;
            while left > 0 {
                let piece = self.reader.fill_buf().map_err(|error| failed("read", self.path, error))?;
                let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
                if piece.is_empty() {
                    return Err(failed("read", self.path, std::io::ErrorKind::UnexpectedEof.into()));
                }
                sum.update(piece);
                let read = piece.len();
                left -= read as u64;
                self.reader.consume(read);
            }
            if sum.finalize() != attachment.crc {
                return Ok(None);
            }
        }
        Ok(Some(entry))
    }

    /// Whether a frame was written at any offset from `from` on.
    fn header_after(&mut self, from: u64) -> Result<bool> {
        let file = *self.reader.get_ref();
        let mut window = vec![0; BUFFER];
        let mut at = from;
        while self.length.saturating_sub(at) >= HEADER as u64 {
            window.resize((self.length - at).min(BUFFER as u64) as usize, 0);
            file.read_exact_at(&mut window, at).map_err(|error| failed("read", self.path, error))?;
            let found = window
                .array_windows::<HEADER>()
                .zip(at..)
                .any(|(bytes, offset)| FrameHeader::decode(bytes, self.seal, offset).is_some());
            if found {
                return Ok(true);
            }
            at += (window.len() - HEADER + 1) as u64;
        }
        Ok(false)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.reader.read_exact(bytes).map_err(|error| failed("read", self.path, error))
    }
}

/// What went wrong with a file, in a sentence that says what one can do where that is known.
pub(super) fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::stop(format!(
            "cannot {doing} {path}: the disk is full; nothing that was acknowledged is lost, so make room and start again"
        )),
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => Error::stop(format!(
            "cannot {doing} {path}: there is a file where a directory must be; move it away, or name another data directory"
        )),
        std::io::ErrorKind::FileTooLarge => Error::stop(format!(
            "cannot {doing} {path}: this process may not write files so large; nothing that was acknowledged is lost, so raise \
             the limit (`ulimit -f`) and start again"
        )),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            Error::stop(format!("cannot {doing} {path}: the data directory must be readable and writable")).because(error)
        }
        _ => Error::stop(format!("cannot {doing} {path}")).because(error),
    }
}

pub(super) fn damaged(path: &Path, offset: u64) -> Error {
    Error::stop(format!(
        "{} is damaged at offset {offset}, and not by a crash: restore the data directory from a copy, or begin anew in another one",
        path.display()
    ))
}
