//! Reading ahead: a thread that talks to the server, and the reader that makes changes of what it has read.
//!
//! The thread is a step ahead, so that the server is asked for more before the last is looked at; chunks wait for the reader, few at a time.

mod chunk;
mod doing;
mod form;
#[cfg(feature = "postgres")]
mod placed;
mod thread;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use highwater_operators::guard::backoff::Backoff;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Read, Reader, Rejected};
use highwater_operators::position::{PartitionId, Position};
use highwater_operators::{Error, Result, ResumeToken};
use tokio::sync::Semaphore;

pub(crate) use self::chunk::{Chunk, Pieces, Refused, Written};
pub(crate) use self::doing::Doing;
pub(crate) use self::form::Form;
#[cfg(feature = "postgres")]
pub(crate) use self::placed::Placed;
pub(crate) use self::thread::{Thread, apart, runtime};
use crate::OnReject;

/// Chunks that may wait to be taken.
const AHEAD: usize = 8;
/// How long a read waits before it says that there is nothing.
const PATIENCE: Duration = Duration::from_millis(40);
/// It waits by itself; this is long enough for the reading thread to be seen at rest.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A server that is away is tried again after waits up to this.
pub(crate) const AWAY: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Nobody takes what is read any more.
pub(crate) struct Gone;

/// Where the thread puts what it reads.
pub(crate) struct Way<W = Written> {
    out: Sender<Chunk<W>>,
    /// A permit for each chunk that may wait to be taken.
    room: Arc<Semaphore>,
    pub doing: Arc<Doing>,
    pub window: Arc<InFlight>,
}

impl<W> Way<W> {
    /// An empty chunk, over a block of the window's.
    pub(crate) fn chunk(&self) -> Chunk<W> {
        Chunk::new(self.window.buffer(chunk::BLOCK))
    }

    /// Whether a chunk would be taken at once.
    pub(crate) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Hands a chunk over, when there is room.
    ///
    /// # Errors
    /// Nobody takes it any more.
    pub(crate) async fn hand_over(&self, chunk: Chunk<W>) -> Result<(), Gone> {
        self.doing.idle(false);
        self.room.acquire().await.map_err(|_| Gone)?.forget();
        self.out.send(chunk).map_err(|_| Gone)
    }

    /// Waits until a chunk would be taken at once.
    #[cfg(feature = "redis")]
    pub(crate) async fn room(&self) {
        drop(self.room.acquire().await);
    }
}

/// The reader of what a thread has read ahead.
pub(crate) struct AheadReader<F: Form> {
    form: F,
    partition: PartitionId,
    window: Arc<InFlight>,
    chunks: Receiver<Chunk<F::Written>>,
    room: Arc<Semaphore>,
    doing: Arc<Doing>,
    thread: Arc<Thread>,
    stops_on_reject: bool,
}

/// A way for what is read of one partition, and its other end.
pub(crate) fn way<W>(window: &Arc<InFlight>, doing: Doing) -> (Way<W>, Receiver<Chunk<W>>) {
    let (out, chunks) = unbounded();
    let room = Arc::new(Semaphore::new(AHEAD));
    (Way { out, room, doing: Arc::new(doing), window: window.clone() }, chunks)
}

impl<F: Form> AheadReader<F> {
    /// The reader at the end of a way on which a thread puts what it reads, among other ways perhaps.
    #[cfg(feature = "redis")]
    pub(crate) fn of(
        thread: &Arc<Thread>,
        way: &Way<F::Written>,
        chunks: Receiver<Chunk<F::Written>>,
        partition: PartitionId,
        form: F,
        on_reject: OnReject,
    ) -> Self {
        let (window, room, doing) = (way.window.clone(), way.room.clone(), way.doing.clone());
        let stops_on_reject = on_reject == OnReject::Stop;
        AheadReader { form, partition, window, chunks, room, doing, thread: thread.clone(), stops_on_reject }
    }

    fn take(&self, chunk: Chunk<F::Written>, batch: &mut Batch) -> Result {
        let Chunk { block, written, rejected, order, token, caught_up } = chunk;
        let length = block.len();
        let block = self.window.block(block, length);
        batch.changes.reserve(written.len());
        self.form.take(written, &block, self.partition, batch)?;
        if let Some(rejected) = batch.rejected.first().filter(|_| self.stops_on_reject) {
            return Err(Error::stop(rejected.why.clone()));
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

impl<F: Form> Reader for AheadReader<F> {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        match self.chunks.recv_timeout(PATIENCE) {
            Ok(chunk) => {
                self.room.add_permits(1);
                self.take(chunk, batch)?;
                Ok(Read::Some)
            }
            Err(RecvTimeoutError::Timeout) if self.doing.is_idle() => Ok(Read::Idle(AT_ONCE)),
            Err(RecvTimeoutError::Timeout) => Ok(Read::Away(AT_ONCE)),
            Err(RecvTimeoutError::Disconnected) => Err(self.thread.ended()),
        }
    }
}
