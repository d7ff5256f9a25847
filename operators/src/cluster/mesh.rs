//! The connections on which the dataflow itself runs from process to process.
//!
//! timely's communication threads panic when a connection breaks. Ours never see it break: what is written to a broken
//! connection is dropped, and who reads from one is kept waiting until the workers are gone. Meanwhile the process has been told
//! that the other one is lost, and halts with a sentence.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::{AllocatorBuilder, Hooks};

use super::place::Place;
use crate::error::{Error, Result};

/// Told when the connection to a process breaks.
type Lost = Arc<dyn Fn(usize) + Send + Sync>;

/// The connections to all other processes, formed and not yet in use.
pub(super) struct Sockets(pub Vec<Option<TcpStream>>);

/// The connections in use.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    sockets: Vec<TcpStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In use.
    Up,
    /// The run ends; the workers may still be at work.
    Down,
    /// The workers are gone.
    Left,
}

/// How long a broken connection waits for somebody to say why it broke, before it is the reason itself.
const REASON: Duration = Duration::from_millis(300);

impl Mesh {
    /// Gives the connections to timely. The allocators are for this process's workers.
    pub(super) fn start(sockets: Sockets, place: Place, lost: Lost) -> Result<(Mesh, Vec<AllocatorBuilder>)> {
        let failed = |error| Error::stop("cannot use the connections to the other processes").because(error);
        let own = sockets.0.iter().flatten().map(TcpStream::try_clone).collect::<io::Result<_>>().map_err(failed)?;
        let inner = Arc::new(Inner { sockets: own, state: Mutex::new(State::Up), changed: Condvar::new() });
        let streams = sockets.0.into_iter().enumerate().map(|(peer, socket)| {
            let (mesh, lost) = (inner.clone(), lost.clone());
            socket.map(|socket| Wire { socket, peer, mesh, lost, frames: Frames::default() })
        });
        let hooks = Hooks::default();
        let workers = ProcessBuilder::new_typed_vector(place.workers, hooks.refill.clone(), None);
        let (builders, threads) =
            initialize_networking_from_sockets(workers, streams.collect(), place.process, place.workers, hooks)
                .map_err(failed)?;
        // To drop it is to wait for threads that may read from a process that is frozen. They end by themselves, see `leave`.
        std::mem::forget(threads);
        Ok((Mesh(inner), builders.into_iter().map(AllocatorBuilder::Tcp).collect()))
    }

    /// The run ends: what is still written goes nowhere, and nobody is waited for.
    pub fn shut_down(&self) {
        let mut state = self.0.state.lock();
        if *state == State::Up {
            *state = State::Down;
        }
        for socket in &self.0.sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.0.changed.notify_all();
    }

    /// The workers are gone: the reading threads may end.
    pub fn leave(&self) {
        self.shut_down();
        *self.0.state.lock() = State::Left;
        self.0.changed.notify_all();
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mesh")
    }
}

/// One connection, as timely sees it: it never fails.
struct Wire {
    socket: TcpStream,
    peer: usize,
    mesh: Arc<Inner>,
    lost: Lost,
    frames: Frames,
}

impl Wire {
    /// The connection ended where it should not have. Does not come back.
    fn broken(&self) -> ! {
        let mut state = self.mesh.state.lock();
        if *state == State::Up {
            // Whoever ends the run says why on the control connection, and may be a moment later there.
            self.mesh.changed.wait_for(&mut state, REASON);
            if *state == State::Up {
                drop(state);
                (self.lost)(self.peer);
                state = self.mesh.state.lock();
            }
        }
        while *state != State::Left {
            self.mesh.changed.wait(&mut state);
        }
        drop(state);
        // Ends timely's thread without a word. A panic of the usual kind would print its trace.
        std::panic::resume_unwind(Box::new("the run is over"));
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(buffer) {
                Ok(read) if read > 0 => {
                    self.frames.pass(&buffer[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The other one has said that there is no more.
                _ if self.frames.ended => return Ok(0),
                _ => self.broken(),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.socket.write(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Ok(written) if written > 0 => Ok(written),
            // Who reads notices.
            _ => Ok(buffer.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Wire {
    fn try_clone(&self) -> io::Result<Self> {
        let (mesh, lost) = (self.mesh.clone(), self.lost.clone());
        Ok(Wire { socket: self.socket.try_clone()?, peer: self.peer, mesh, lost, frames: Frames::default() })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let _ = self.socket.shutdown(how);
        Ok(())
    }
}

/// Follows timely's frames: six numbers of eight bytes, the fifth the length of what comes after. A length of nothing ends the stream.
struct Frames {
    head: [u8; 48],
    filled: usize,
    left: u64,
    ended: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { head: [0; 48], filled: 0, left: 0, ended: false }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len() as u64);
                self.left -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            let taken = bytes.len().min(self.head.len() - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.head.len() {
                self.filled = 0;
                let length: [u8; 8] = self.head[32..40].try_into().expect("eight of forty-eight bytes");
                self.left = u64::from_be_bytes(length);
                self.ended = self.left == 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use timely::communication::networking::MessageHeader;

    use super::*;

    #[test]
    fn the_end_of_a_stream_is_known_wherever_it_is_cut() {
        let header = |length| MessageHeader { channel: 1, source: 2, target_lower: 3, target_upper: 4, length, seqno: 5 };
        let mut bytes = Vec::new();
        for length in [1_usize, 48, 100] {
            header(length).write_to(&mut bytes).unwrap();
            bytes.extend(std::iter::repeat_n(0, length));
        }
        let before = bytes.len();
        MessageHeader { length: 0, channel: 0, source: 0, target_lower: 0, target_upper: 0, seqno: 0 }
            .write_to(&mut bytes)
            .unwrap();
        for step in [1, 7, 48, 1_000] {
            let mut frames = Frames::default();
            let mut passed = 0;
            for piece in bytes.chunks(step) {
                frames.pass(piece);
                passed += piece.len();
                assert_eq!(
                    frames.ended,
                    passed == bytes.len(),
                    "after {passed} bytes of {before} and an end, in steps of {step}"
                );
            }
        }
    }
}
