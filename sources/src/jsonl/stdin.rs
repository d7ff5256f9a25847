//! Standard input as a content. A thread of its own reads it, because a read that waits cannot be told to stop.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::content::Content;

/// Pieces read ahead.
const AHEAD: usize = 4;
const PIECE: usize = 256 * 1024;
/// How long a read waits for something.
const PATIENCE: Duration = Duration::from_millis(25);

/// Standard input; compressed if it begins so.
pub(super) fn open() -> Content {
    let (pieces, inbox) = bounded(AHEAD);
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            let mut from = match decoded(Box::new(io::stdin())) {
                Ok(from) => from,
                Err(error) => return drop(pieces.send(Err(error))),
            };
            loop {
                let mut piece = vec![0; PIECE];
                match from.read(&mut piece) {
                    // Closing the channel says that this was all.
                    Ok(0) => return,
                    Ok(read) => {
                        piece.truncate(read);
                        if pieces.send(Ok(piece)).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return drop(pieces.send(Err(error))),
                }
            }
        })
        .expect("the system gives a thread at start");
    Content::stream("standard input", Box::new(Pieces { inbox, piece: Vec::new(), at: 0 }))
}

fn decoded(from: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let start = from.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(from)?),
        _ => Box::new(from),
    })
}

struct Pieces {
    inbox: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece = match self.inbox.recv_timeout(PATIENCE) {
                Ok(piece) => piece?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::WouldBlock.into()),
            };
            self.at = 0;
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
