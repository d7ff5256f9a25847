//! The content of a file: its bytes as they are, or as they were before compression. What a file is, its first bytes say.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

/// Bytes of a file read at once for a decoder.
const RAW: usize = 64 * 1024;

/// Device and inode: a file, whatever its path.
pub(super) type FileId = (u64, u64);

pub(super) fn id_of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The content of one file, read forwards. Compressed content is never held whole: a decoder keeps its window, no more.
pub(super) struct Content {
    pub path: PathBuf,
    /// The file, whatever its path is by now.
    pub id: FileId,
    inner: Inner,
    /// Where the next byte stands in the content.
    pub at: u64,
    /// An error that was met behind bytes that were handed out.
    later: Option<io::Error>,
    /// Whether the last read met the end.
    pub ended: bool,
}

enum Inner {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<Counted>>>),
    Zstd(Box<ZstdDecoder<'static, BufReader<Counted>>>),
    Stream(Box<dyn Read + Send>),
}

/// Counts what a decoder takes from its file, for messages.
struct Counted {
    file: File,
    read: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

impl Content {
    /// Opens a file at its beginning.
    pub fn open(path: &Path) -> io::Result<Content> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file but a pipe or a device"));
        }
        let mut magic = [0; 4];
        let known = file.read_at(&mut magic, 0)?;
        let counted = |file| BufReader::with_capacity(RAW, Counted { file, read: 0 });
        let inner = match magic {
            [0x1f, 0x8b, ..] if known >= 2 => Inner::Gzip(Box::new(MultiGzDecoder::new(counted(file)))),
            // A frame, or one that a reader is to pass over, which some writers begin with.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                Inner::Zstd(Box::new(ZstdDecoder::with_buffer(counted(file))?))
            }
            _ => Inner::Plain(file),
        };
        Ok(Content { path: path.to_owned(), id: id_of(&metadata), inner, at: 0, later: None, ended: false })
    }

    /// Opens a file that was seen at a path. Another one may be there by now: then this one is not found.
    pub fn open_again(path: &Path, id: FileId) -> io::Result<Content> {
        let content = Content::open(path)?;
        match content.id == id {
            true => Ok(content),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What comes from elsewhere and cannot be read again. Its reader says `WouldBlock` when there is nothing now.
    pub fn stream(name: &str, reader: Box<dyn Read + Send>) -> Content {
        Content { path: name.into(), id: (0, 0), inner: Inner::Stream(reader), at: 0, later: None, ended: false }
    }

    /// The file itself, if its bytes are its content.
    pub fn plain(&self) -> Option<&File> {
        match &self.inner {
            Inner::Plain(file) => Some(file),
            _ => None,
        }
    }

    pub fn is_compressed(&self) -> bool {
        matches!(self.inner, Inner::Gzip(_) | Inner::Zstd(_))
    }

    /// Reads until the buffer is full, the content ends, or there is nothing more now. An error that is met behind some bytes
    /// is told by the next call.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.later.take() {
            return Err(error);
        }
        self.ended = false;
        let mut filled = 0;
        while filled < buffer.len() {
            let read = match &mut self.inner {
                Inner::Plain(file) => file.read(&mut buffer[filled..]),
                Inner::Gzip(decoder) => decoder.read(&mut buffer[filled..]),
                Inner::Zstd(decoder) => decoder.read(&mut buffer[filled..]),
                Inner::Stream(reader) => reader.read(&mut buffer[filled..]),
            };
            match read {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if filled == 0 => return Err(error),
                Err(error) => {
                    self.later = Some(error);
                    break;
                }
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    /// Goes on to a place further on; says how far it came, which is less where the content ends before.
    pub fn skip_to(&mut self, to: u64) -> io::Result<u64> {
        if let Inner::Plain(file) = &mut self.inner {
            let reached = to.min(file.metadata()?.len());
            file.seek(SeekFrom::Start(reached))?;
            self.at = reached;
            return Ok(reached);
        }
        let mut piece = vec![0; RAW];
        while self.at < to {
            let length = (to - self.at).min(RAW as u64) as usize;
            if self.fill(&mut piece[..length])? == 0 {
                break;
            }
        }
        Ok(self.at)
    }

    /// An error of a read, with the place in the file where a decoder met it.
    pub fn explain(&self, error: &io::Error) -> String {
        let (kind, place) = match &self.inner {
            Inner::Plain(_) | Inner::Stream(_) => return error.to_string(),
            Inner::Gzip(decoder) => ("gzip", decoder.get_ref()),
            Inner::Zstd(decoder) => ("zstd", decoder.get_ref()),
        };
        let byte = place.get_ref().read - place.buffer().len() as u64;
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the file ends in the middle of its compressed content".to_owned(),
            _ => format!("the compressed content is damaged: {error}"),
        };
        format!("{what} ({kind}, byte {byte} of the file)")
    }
}
