//! The reader of a slot: takes what the thread that talks to the server has read, and makes changes of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Partition, Read, Reader, Rejected};
use highwater_operators::position::{PartitionId, Position};
use highwater_operators::{Error, Result, ResumeToken};
use tokio::sync::{Semaphore, oneshot};

use super::chunk::{Chunk, Refused};
use super::confirm::Saved;
use super::doing::Doing;
use super::outbox::Way;
use super::stream::Begin;
use super::{Description, session, token};
use crate::OnReject;

/// Chunks that may wait to be taken.
const AHEAD: usize = 8;
/// How long a read waits before it says that there is nothing.
const PATIENCE: Duration = Duration::from_millis(40);
/// It waits by itself; this is long enough for the reading thread to be seen at rest.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Reads a slot.
pub(super) struct SlotReader {
    partition: PartitionId,
    window: Arc<InFlight>,
    chunks: Receiver<Chunk>,
    room: Arc<Semaphore>,
    doing: Arc<Doing>,
    thread: Option<JoinHandle<Result>>,
    stops_on_reject: bool,
    /// Dropped with the reader: then the thread ends.
    _alive: oneshot::Sender<Infallible>,
}

impl SlotReader {
    /// Begins to read.
    pub(super) fn start(
        description: &Arc<Description>,
        partition: &Partition,
        from: Option<&ResumeToken>,
        window: &Arc<InFlight>,
        saved: &Arc<Saved>,
    ) -> Result<Self> {
        let from = match from {
            None => None,
            Some(token) => {
                let place = token::read(&token.detail);
                let place = place.ok_or_else(|| Error::stop("the checkpoint's token is none of a slot, or of a newer form"))?;
                saved.tell(token);
                Some((token.order, place))
            }
        };
        let (out, chunks) = unbounded();
        let (room, doing) = (Arc::new(Semaphore::new(AHEAD)), Arc::new(Doing::new()));
        let runtime = session::runtime()?;
        let way = Way { out, room: room.clone(), doing: doing.clone(), window: window.clone(), saved: saved.hear() };
        let begin = Begin { description: description.clone(), partition: partition.name.clone(), from };
        let (alive, gone) = oneshot::channel::<Infallible>();
        let saved = saved.clone();
        let read = move || {
            // Who tells what is durable must not be gone before who hears it.
            let _saved = saved;
            let read = runtime.block_on(async {
                tokio::select! {
                    // Nobody takes anything any more: whatever is under way is dropped, and the connections with it.
                    _ = gone => Ok(()),
                    read = Box::pin(begin.run(way)) => read,
                }
            });
            runtime.shutdown_background();
            read
        };
        let thread = std::thread::Builder::new().name("replication".into()).spawn(read);
        let thread = thread.map_err(|error| Error::stop("cannot start a thread").because(error))?;
        Ok(SlotReader {
            partition: partition.id,
            window: window.clone(),
            chunks,
            room,
            doing,
            thread: Some(thread),
            stops_on_reject: description.on_reject == OnReject::Stop,
            _alive: alive,
        })
    }

    fn take(&self, chunk: Chunk, batch: &mut Batch) -> Result {
        let Chunk { block, written, rejected, order, token, caught_up } = chunk;
        let length = block.len();
        let block = self.window.block(block, length);
        let text = std::str::from_utf8(&block).map_err(|_| Error::stop("a block of rows is no text"))?;
        batch.changes.reserve(written.len());
        for written in written {
            match written.into_change(&block, text, self.partition) {
                Ok(change) => batch.changes.push(change),
                Err(rejected) if self.stops_on_reject => return Err(Error::stop(rejected.why)),
                Err(rejected) => batch.rejected.push(rejected),
            }
        }
        let partition = self.partition;
        batch.rejected.extend(rejected.into_iter().map(|Refused { at, within, why, text }| Rejected {
            position: Position { partition, at, within },
            why,
            text,
        }));
        batch.bytes = length as u64;
        batch.caught_up = caught_up;
        batch.token = ResumeToken { order, detail: token };
        Ok(())
    }
}

impl Reader for SlotReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        match self.chunks.recv_timeout(PATIENCE) {
            Ok(chunk) => {
                self.room.add_permits(1);
                self.take(chunk, batch)?;
                Ok(Read::Some)
            }
            Err(RecvTimeoutError::Timeout) if self.doing.is_idle() => Ok(Read::Idle(AT_ONCE)),
            Err(RecvTimeoutError::Timeout) => Ok(Read::Away(AT_ONCE)),
            Err(RecvTimeoutError::Disconnected) => match self.thread.take().map(JoinHandle::join) {
                Some(Ok(Err(error))) => Err(error),
                _ => Err(Error::stop("the thread that reads the slot has ended")),
            },
        }
    }
}
