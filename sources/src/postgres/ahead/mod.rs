//! Reading ahead: a thread that talks to the server, and the reader that makes changes of what it has read.
//!
//! The thread is a step ahead, so that the server is asked for more before the last is looked at; chunks wait for the reader, few at a time.

mod chunk;
mod doing;

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use highwater_operators::guard::backoff::Backoff;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Partition, Read, Reader, Rejected};
use highwater_operators::position::{PartitionId, Position};
use highwater_operators::{Error, Result, ResumeToken};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};

pub(super) use self::chunk::{Chunk, Pieces, Refused, Written};
pub(super) use self::doing::Doing;
use crate::OnReject;

/// Chunks that may wait to be taken.
const AHEAD: usize = 8;
/// How long a read waits before it says that there is nothing.
const PATIENCE: Duration = Duration::from_millis(40);
/// It waits by itself; this is long enough for the reading thread to be seen at rest.
const AT_ONCE: Duration = Duration::from_millis(1);

/// A database that is away is tried again after waits up to this.
pub(super) const AWAY: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// In a session in which rows come: where the database's encoding does not say what its text is, it is sent as it is. Converted, one row that is no
/// UTF-8 would end the session, over and over; as it is, it is found here and set aside.
pub(super) const AS_IT_IS: &str =
    "select set_config('client_encoding', 'SQL_ASCII', false) where current_setting('server_encoding') = 'SQL_ASCII'";

/// Nobody takes what is read any more.
pub(super) struct Gone;

/// Where the thread puts what it reads.
pub(super) struct Way {
    out: Sender<Chunk>,
    /// A permit for each chunk that may wait to be taken.
    room: Arc<Semaphore>,
    pub doing: Arc<Doing>,
    pub window: Arc<InFlight>,
}

impl Way {
    /// An empty chunk, over a block of the window's.
    pub(super) fn chunk(&self) -> Chunk {
        Chunk::new(self.window.buffer(chunk::BLOCK))
    }

    /// Whether a chunk would be taken at once.
    pub(super) fn has_room(&self) -> bool {
        self.room.available_permits() > 0
    }

    /// Hands a chunk over, when there is room.
    ///
    /// # Errors
    /// Nobody takes it any more.
    pub(super) async fn hand_over(&self, chunk: Chunk) -> Result<(), Gone> {
        self.doing.idle(false);
        self.room.acquire().await.map_err(|_| Gone)?.forget();
        self.out.send(chunk).map_err(|_| Gone)
    }
}

/// A runtime for one thread: whoever reads one log needs no more.
pub(super) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::stop("cannot start a runtime").because(error))
}

/// Asks on a thread of its own: whoever calls may be in a runtime already.
///
/// # Errors
/// Those of the answer; the system gives no thread.
pub(super) fn apart<T: Send + 'static, F: Future<Output = Result<T>>>(
    what: &'static str,
    ask: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let asks = move || runtime()?.block_on(Box::pin(ask()));
    let thread = std::thread::Builder::new().name(what.into()).spawn(asks);
    let thread = thread.map_err(|error| Error::stop("cannot start a thread").because(error))?;
    thread.join().unwrap_or_else(|_| Err(Error::stop(format!("looking at the {what} panicked"))))
}

/// The reader of what a thread has read ahead.
pub(super) struct AheadReader {
    what: &'static str,
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

impl AheadReader {
    /// Starts a thread of this name, which does what `read` gives until that ends or nobody takes what it has read.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start<F: Future<Output = Result>>(
        what: &'static str,
        partition: &Partition,
        window: &Arc<InFlight>,
        doing: Doing,
        on_reject: OnReject,
        read: impl FnOnce(Way) -> F + Send + 'static,
    ) -> Result<Self> {
        let (out, chunks) = unbounded();
        let (room, doing) = (Arc::new(Semaphore::new(AHEAD)), Arc::new(doing));
        let way = Way { out, room: room.clone(), doing: doing.clone(), window: window.clone() };
        let runtime = runtime()?;
        let (alive, gone) = oneshot::channel::<Infallible>();
        let run = move || {
            let ended = runtime.block_on(async {
                tokio::select! {
                    // Nobody takes anything any more: whatever is under way is dropped, and the connections with it.
                    _ = gone => Ok(()),
                    ended = Box::pin(read(way)) => ended,
                }
            });
            runtime.shutdown_background();
            ended
        };
        let thread = std::thread::Builder::new().name(what.into()).spawn(run);
        let thread = thread.map_err(|error| Error::stop("cannot start a thread").because(error))?;
        Ok(AheadReader {
            what,
            partition: partition.id,
            window: window.clone(),
            chunks,
            room,
            doing,
            thread: Some(thread),
            stops_on_reject: on_reject == OnReject::Stop,
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

impl Reader for AheadReader {
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
                _ => Err(Error::stop(format!("the thread \"{}\" has ended", self.what))),
            },
        }
    }
}
