//! The loop that reads on: all streams that have room by one `XREAD`, on a connection of its own.
//!
//! Each read is a transaction that first asks what stands of every stream (`XINFO STREAM`), so that what was cut off since the last read is
//! noticed before anything behind it is taken. When there is nothing, the connection waits at the server (`XREAD BLOCK`); what that answers is
//! only a bell, for a transaction cannot wait.
//!
//! The next read is under way while the last one is written into chunks.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join, select_all};
use highwater_operators::redis::{BlockingConnection, Line, inspect};
use highwater_operators::{Error, ErrorKind, Result};
use redis::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::Description;
use super::ask::{self, Got, Raw, Wanted};
use super::id::EntryId;
use super::progress::Progress;
use super::standing::{Entry, Trouble};
use super::stream::Stream;
use super::token::Place;
use crate::ahead::AWAY;

/// Bytes of an answer at most, about.
const ANSWER_BYTES: usize = 2 << 20;
/// Entries of the first answer: how large they are is not known yet.
const FIRST: u32 = 256;
/// The first wait at the server when nothing was there, and the longest.
const SOON: Duration = Duration::from_millis(2);
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// The longest wait at the server while another stream waits for room here.
const BESIDE: Duration = Duration::from_millis(10);

/// What was read and is not written yet: of which stream, its entries, and the place behind them.
type Held = Vec<(usize, Vec<Raw>, Place)>;

/// Reads streams on.
pub(super) struct Tail {
    pub description: Arc<Description>,
    /// Streams that join those that are read.
    pub joining: UnboundedReceiver<Stream>,
    pub progress: Arc<Progress>,
    streams: Vec<Stream>,
    held: Held,
    /// Bytes of an entry, about.
    entry_bytes: usize,
    count: u32,
}

impl Tail {
    pub fn new(description: Arc<Description>, joining: UnboundedReceiver<Stream>, progress: Arc<Progress>) -> Self {
        let count = FIRST.min(description.count);
        Tail { description, joining, progress, streams: Vec::new(), held: Vec::new(), entry_bytes: 1024, count }
    }

    /// Reads until something is wrong that time does not mend, or nobody takes what is read. A server that is away is waited for.
    pub async fn run(mut self) -> Result {
        let mut failed = 0;
        loop {
            let Err(error) = self.session(&mut failed).await else { return Ok(()) };
            // What was read before is read, whatever happened then.
            self.write_held()?;
            for stream in &mut self.streams {
                stream.way.doing.idle(false);
                stream.hand_over(true).await;
            }
            if self.is_over() {
                return Ok(());
            }
            if error.kind() != ErrorKind::Retry {
                return Err(Error::stop(error.to_string()));
            }
            failed += 1;
            if failed == 1 {
                tracing::warn!("{error}; tried again until it comes back");
            }
            sleep(AWAY.wait(failed)).await;
        }
    }

    /// Whether nobody takes anything any more.
    fn is_over(&self) -> bool {
        !self.streams.is_empty() && self.streams.iter().all(|stream| stream.is_gone)
    }

    /// One connection's life. `Ok`: nobody takes what is read.
    async fn session(&mut self, failed: &mut u32) -> Result {
        let mut connection = BlockingConnection::open(self.description.url()?, "streams").await?;
        let line = connection.line().await?;
        inspect(&line).await?;
        for stream in &mut self.streams {
            stream.enter(&line, &self.description).await?;
        }
        if std::mem::take(failed) > 0 {
            tracing::warn!("Redis is back");
        }
        let mut quiet = SOON;
        loop {
            while let Ok(mut stream) = self.joining.try_recv() {
                stream.enter(&line, &self.description).await?;
                self.streams.push(stream);
            }
            if let Some(refused) = self.progress.refused() {
                return Err(refused);
            }
            let read = self.round(&line).await?;
            for stream in &mut self.streams {
                stream.hand_over(false).await;
            }
            if self.is_over() {
                return Ok(());
            }
            if read > 0 {
                quiet = SOON;
                continue;
            }
            self.wait(&mut connection, line.number(), quiet).await?;
            quiet = (quiet * 2).min(QUIET);
        }
    }

    /// Reads what has room, and writes what was read last; how many entries came.
    async fn round(&mut self, line: &Line) -> Result<usize> {
        let description = self.description.clone();
        let mut taken_over = 0;
        for stream in self.streams.iter_mut().filter(|stream| stream.read.pending.is_some() && stream.has_room()) {
            stream.read_pending(line, &description).await?;
            taken_over += 1;
        }
        let open = |stream: &Stream| stream.read.pending.is_none() && stream.has_room();
        let wanted: Vec<(usize, Arc<str>, EntryId)> = (self.streams.iter().enumerate())
            .filter(|(_, stream)| open(stream))
            .map(|(number, stream)| (number, stream.name.clone(), stream.read.id))
            .collect();
        let count = self.count;
        let reads = async {
            let wanted: Vec<_> = wanted.iter().map(|(_, stream, behind)| Wanted { stream, behind: *behind }).collect();
            if wanted.is_empty() { Ok(Vec::new()) } else { ask::read(line, &wanted, count).await }
        };
        let writes = async {
            // So that the question is on its way before this keeps the thread.
            tokio::task::yield_now().await;
            self.write_held()
        };
        let (got, written) = join(reads, writes).await;
        written?;
        let mut read = 0;
        for ((number, ..), got) in wanted.iter().zip(got?) {
            read += self.take(*number, got, count)?;
        }
        Ok(read + taken_over)
    }

    /// Holds what was read of a stream, after it was made sure that nothing is missing before it.
    fn take(&mut self, number: usize, got: Got, count: u32) -> Result<usize> {
        let stream = &mut self.streams[number];
        let place = stream.read;
        let Got { facts, entries } = got;
        let refuse = |trouble: Trouble| Error::stop(trouble.sentence(&stream.name, &place, facts.as_ref()));
        let checked = match &facts {
            Some(facts) => facts.check(&place, Entry::Unasked),
            None if place.id > EntryId::ZERO || place.added.is_some_and(|added| added > 0) => Err(Trouble::Gone),
            None => Ok(()),
        };
        checked.map_err(refuse)?;
        let read = entries.len();
        let mut after = place;
        if let Some(last) = entries.last() {
            after.id = last.id;
            after.added = after.added.map(|added| added + read as u64);
        }
        if let Some(facts) = facts.filter(|_| read < count as usize) {
            facts.read_to_end(&mut after).map_err(refuse)?;
        }
        stream.way.doing.idle(read == 0);
        stream.read = after;
        if read > 0 {
            self.size(&entries);
            self.held.push((number, entries, after));
        }
        Ok(read)
    }

    /// How many entries the next answer has, so that it is not much larger than it should be.
    fn size(&mut self, entries: &[Raw]) {
        let sample = entries.iter().step_by(entries.len().div_ceil(64));
        let (mut bytes, mut number) = (0, 0);
        for raw in sample {
            bytes += 64 + raw.fields().iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            number += 1;
        }
        let size = bytes / number.max(1);
        self.entry_bytes = size.max((self.entry_bytes + size) / 2).max(1);
        let window = self.streams.first().map_or(u64::MAX, |stream| stream.way.window.limits().1);
        let bytes = (window / 8).min(ANSWER_BYTES as u64) as usize / self.streams.len().max(1);
        let most = (bytes / self.entry_bytes).max(1).min(self.description.count as usize) as u32;
        self.count = most.min(self.count.saturating_mul(4));
    }

    fn write_held(&mut self) -> Result {
        for (number, entries, after) in self.held.drain(..) {
            self.streams[number].write(&self.description, entries, after)?;
        }
        Ok(())
    }

    /// Waits at the server, or for room here.
    async fn wait(&mut self, connection: &mut BlockingConnection, number: u64, quiet: Duration) -> Result {
        if self.streams.is_empty() {
            // Nobody is there yet.
            return match self.joining.recv().await {
                Some(mut stream) => {
                    let line = connection.line().await?;
                    stream.enter(&line, &self.description).await?;
                    self.streams.push(stream);
                    Ok(())
                }
                // The source was dropped before it was read.
                None => std::future::pending().await,
            };
        }
        let (open, full): (Vec<&Stream>, Vec<&Stream>) =
            self.streams.iter().filter(|stream| !stream.is_gone).partition(|stream| stream.has_room());
        if open.is_empty() {
            let room = select_all(full.iter().map(|stream| stream.way.room().boxed_local()));
            let _ = timeout(QUIET, room).await;
            return Ok(());
        }
        let wanted: Vec<_> = open.iter().map(|stream| Wanted { stream: &stream.name, behind: stream.read.id }).collect();
        let wait = if full.is_empty() { quiet } else { quiet.min(BESIDE) };
        // Only that it rings counts: a transaction reads.
        connection.query::<Value>("waiting for entries", &ask::bell(&wanted, wait), wait).await?;
        if connection.line().await?.number() != number {
            return Err(Error::retry("the connection to Redis was lost"));
        }
        Ok(())
    }
}
