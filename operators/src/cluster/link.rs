//! A control connection to one other process: a thread that writes, one that reads.
//!
//! What is said often is not sent each time it is said: epochs, room and quiet are flagged, and gathered once per millisecond at
//! most ([`Tally`](super::message::Tally)).

use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::message::Message;
use super::wire;
use crate::error::{Error, Result};

/// A control connection.
pub(super) struct Link {
    /// The process at its other end.
    pub peer: usize,
    pub outbox: Arc<Outbox>,
    socket: TcpStream,
    /// When something was last heard, in milliseconds since the cluster formed.
    pub heard_ms: AtomicU64,
}

/// What is to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    come: Condvar,
    gone: Condvar,
    nudged: AtomicBool,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    closed: bool,
    written: bool,
}

/// Between two tallies.
const GATHER: Duration = Duration::from_millis(1);

impl Outbox {
    /// Sends a message.
    pub(super) fn send(&self, message: Message) {
        self.queue.lock().messages.push_back(message);
        self.come.notify_one();
    }

    /// There is something to tally. Costs one swap if that is known.
    pub(super) fn nudge(&self) {
        if !self.nudged.swap(true, Ordering::AcqRel) {
            // Under the lock, or the writer could look before and sleep after.
            drop(self.queue.lock());
            self.come.notify_one();
        }
    }

    /// Nothing more is sent after what there is; waits a little until that is written.
    pub(super) fn close(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.come.notify_one();
        while !queue.written && !self.gone.wait_until(&mut queue, until).timed_out() {}
    }

    /// The next messages, and whether to tally; `None` once there will be none.
    fn next(&self) -> Option<(VecDeque<Message>, bool)> {
        let mut queue = self.queue.lock();
        while queue.messages.is_empty() && !self.nudged.load(Ordering::Acquire) {
            if queue.closed {
                return None;
            }
            self.come.wait(&mut queue);
        }
        // Lowered before anything is gathered: what comes later raises it again.
        Some((std::mem::take(&mut queue.messages), self.nudged.swap(false, Ordering::AcqRel)))
    }

    fn all_written(&self) {
        self.queue.lock().written = true;
        self.gone.notify_all();
    }
}

impl Link {
    pub(super) fn new(peer: usize, outbox: Arc<Outbox>, socket: TcpStream) -> Self {
        Link { peer, outbox, socket, heard_ms: AtomicU64::new(0) }
    }

    /// Starts its threads.
    pub(super) fn start(self: &Arc<Self>, shared: &Arc<Shared>) -> Result {
        let failed = |error| Error::stop("cannot start a thread for a control connection").because(error);
        let (link, all, socket) = (self.clone(), shared.clone(), self.socket.try_clone().map_err(failed)?);
        let spawn = |name: &str| std::thread::Builder::new().name(format!("{name}-{}", self.peer));
        spawn("tell").spawn(move || link.write(&all, socket)).map_err(failed)?;
        let (link, all, socket) = (self.clone(), shared.clone(), self.socket.try_clone().map_err(failed)?);
        spawn("hear").spawn(move || link.read(&all, socket)).map_err(failed)?;
        Ok(())
    }

    fn write(&self, shared: &Shared, socket: TcpStream) {
        let mut out = BufWriter::new(socket);
        let mut tallied = Instant::now();
        while let Some((messages, tally)) = self.outbox.next() {
            let mut written = messages.iter().try_for_each(|message| wire::write(&mut out, message));
            if tally && written.is_ok() {
                written = out.flush();
                std::thread::sleep(GATHER.saturating_sub(tallied.elapsed()));
                written = written.and_then(|()| wire::write(&mut out, &Message::Tally(shared.tally(self.peer))));
                tallied = Instant::now();
            }
            // Who reads notices that the connection has broken.
            if written.and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        self.outbox.all_written();
    }

    fn read(&self, shared: &Arc<Shared>, socket: TcpStream) {
        let mut input = BufReader::new(socket);
        loop {
            match wire::read::<Message>(&mut input, wire::MESSAGE_MAX) {
                Ok(message) => {
                    self.heard_ms.store(shared.now_ms(), Ordering::Relaxed);
                    shared.hear(self.peer, message);
                }
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return shared.lost(self.peer, &format!("it said something that cannot be understood: {error}"));
                }
                Err(_) => return shared.lost(self.peer, "its connection has ended"),
            }
        }
    }

    /// Ends the connection.
    pub(super) fn shut_down(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
