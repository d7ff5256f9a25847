//! Reading: connections that see one snapshot share out ranges, and copy them page by page in the order of the key.
//!
//! What was read waits, bounded in bytes, until somebody takes it. A piece of a page is handed over as soon as it is there, for rows come in the order
//! of the key: up to its last row all of the range was read.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::TryStreamExt;
use highwater_operators::postgres::{Connection, failed};
use highwater_operators::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::super::token::Range;
use super::copied::Rows;
use super::ranges;
use super::table::Published;

/// What is handed over at once: so many rows, or so many bytes, about.
const PIECE_ROWS: usize = 1024;
const PIECE_BYTES: usize = 192 * 1024;
/// Bytes of a page at most, about.
const PAGE_BYTES: u64 = 4 << 20;
/// Rows of the first page: how large they are is not known yet.
const FIRST_PAGE: u32 = 256;
/// Bytes that may wait to be taken, in kilobytes.
pub(super) const AHEAD_KB: u32 = 8 << 10;

/// A range that is to be read.
pub(super) struct Job {
    pub table: Arc<Published>,
    pub range: Range,
}

/// Rows that were read.
pub(super) struct Piece {
    pub table: Arc<Published>,
    pub rows: Rows,
    /// The range as it was before these rows were read.
    pub range: Range,
    /// How far it was read with this; `None`: to its end.
    pub read_to: Option<Vec<String>>,
    /// Given back when the piece was taken.
    pub _room: OwnedSemaphorePermit,
}

/// What all that read share.
pub(super) struct Work {
    pub jobs: Mutex<VecDeque<Job>>,
    /// How far those are that are read before others.
    pub ahead: Ahead,
    /// Rows of a page at most.
    pub page_rows: u32,
    /// When no further page is to be begun. Each range that was begun has one page at least.
    pub until: Option<Instant>,
    pub room: Arc<Semaphore>,
}

/// The first jobs of a round, which are handed over whole before any other is begun: changes of other tables are looked up in theirs.
pub(super) struct Ahead {
    first: usize,
    begun: AtomicUsize,
    /// How many of them are left; `None`: they will not all be read in this round.
    left: watch::Sender<Option<usize>>,
}

impl Ahead {
    pub(super) fn of(first: usize) -> Self {
        Ahead { first, begun: AtomicUsize::new(0), left: watch::Sender::new(Some(first)) }
    }

    /// Whether the next job may be begun, and if so whether it is one of the first. Waits for them if it is not.
    async fn next(&self) -> Option<bool> {
        if self.begun.fetch_add(1, Ordering::Relaxed) < self.first {
            return Some(true);
        }
        // It is gone only with whoever waits here.
        let left = self.left.subscribe().wait_for(|left| left.is_none_or(|left| left == 0)).await.ok()?.is_some();
        left.then_some(false)
    }

    fn ended(&self, is_whole: bool) {
        self.left.send_modify(|left| *left = left.filter(|_| is_whole).map(|left| left - 1));
    }
}

/// Reads ranges until there are none left, the time is over, or nobody takes what is read.
///
/// Gives the connection back, whose transaction keeps what is read by all from being rewritten.
pub(super) async fn read(connection: Connection, work: Arc<Work>, out: mpsc::Sender<Result<Piece>>) -> Connection {
    loop {
        let Some(is_first) = work.ahead.next().await else { return connection };
        let next = work.jobs.lock().pop_front();
        let Some(job) = next else { return connection };
        let read = range(&connection, &work, job, &out).await;
        if is_first {
            work.ahead.ended(matches!(read, Ok(true)));
        }
        match read {
            Ok(true) => {}
            Ok(false) => return connection,
            Err(error) => {
                let _ = out.send(Err(error)).await;
                return connection;
            }
        }
    }
}

/// Reads a range. `false`: nothing more is to be read.
async fn range(connection: &Connection, work: &Work, job: Job, out: &mpsc::Sender<Result<Piece>>) -> Result<bool> {
    let Job { table, range } = job;
    let mut reading = Reading { table: &table, range: &range, work, out, read_to: None, rows: None };
    let mut page_rows = FIRST_PAGE.min(work.page_rows);
    let mut row_bytes = 0;
    loop {
        let Some((rows, bytes)) = reading.page(connection, page_rows).await? else { return Ok(false) };
        if rows < u64::from(page_rows) {
            return reading.end().await;
        }
        row_bytes = (bytes / rows.max(1)).max(1).max(row_bytes / 2);
        let fit = u32::try_from(PAGE_BYTES / row_bytes).unwrap_or(u32::MAX).max(1);
        page_rows = fit.min(page_rows.saturating_mul(4)).min(work.page_rows);
        if !reading.hand_over().await? || work.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
    }
}

/// A range on the way.
struct Reading<'a> {
    table: &'a Arc<Published>,
    range: &'a Range,
    work: &'a Work,
    out: &'a mpsc::Sender<Result<Piece>>,
    /// How far it was handed over in this round.
    read_to: Option<Vec<String>>,
    rows: Option<Rows>,
}

impl Reading<'_> {
    /// Reads a page and hands over all of it but the last rows: rows and bytes of it. `None`: nobody takes them.
    async fn page(&mut self, connection: &Connection, limit: u32) -> Result<Option<(u64, u64)>> {
        let cannot = |error| failed(&format!("reading {}", self.table.name()), error);
        let copied = connection.copy_out(&self.table.copy(&self.conditions()?, limit)).await.map_err(cannot)?;
        let mut copied = pin!(copied);
        let (mut rows, mut bytes) = (0, 0);
        while let Some(line) = copied.try_next().await.map_err(cannot)? {
            rows += 1;
            bytes += line.len() as u64;
            let columns = self.table.relation.columns.len();
            let piece = self.rows.get_or_insert_with(|| Rows::new(columns, PIECE_BYTES / 4));
            piece.push(&line).map_err(|why| {
                Error::stop(format!("reading {}: the server's answer is not what was asked for: {why}", self.table.name()))
            })?;
            if (piece.count() >= PIECE_ROWS || piece.bytes() >= PIECE_BYTES) && !self.hand_over().await? {
                return Ok(None);
            }
        }
        Ok(Some((rows, bytes)))
    }

    /// Which rows are still to be read.
    fn conditions(&self) -> Result<Vec<String>> {
        let key = &self.table.key;
        if let (None, Some(only)) = (&self.read_to, ranges::only(self.range)) {
            return Ok(vec![key.row_is("=", only)?]);
        }
        let above = self.read_to.as_ref().or(ranges::from(self.range)).map(|from| key.row_is(">", from)).transpose()?;
        let up_to = self.range.up_to.as_ref().map(|up_to| key.row_is("<=", up_to)).transpose()?;
        Ok(above.into_iter().chain(up_to).collect())
    }

    /// Hands over what was read. `false`: nobody takes it.
    async fn hand_over(&mut self) -> Result<bool> {
        let Some(rows) = self.rows.take() else { return Ok(true) };
        let last = rows.count().checked_sub(1).and_then(|last| rows.get(last));
        let key = last.and_then(|last| {
            let text = |at: &usize| String::from_utf8(last.get(*at)?.to_vec()).ok();
            self.table.places.iter().map(text).collect::<Option<Vec<String>>>()
        });
        let Some(key) = key else {
            return Err(Error::stop(format!("reading {}: a row's key is NULL, or no UTF-8", self.table.name())));
        };
        let is_taken = self.send(rows, Some(key.clone())).await;
        self.read_to = Some(key);
        Ok(is_taken)
    }

    /// Hands over the last rows of the range.
    async fn end(&mut self) -> Result<bool> {
        let rows = self.rows.take().unwrap_or_default();
        Ok(self.send(rows, None).await)
    }

    async fn send(&self, rows: Rows, read_to: Option<Vec<String>>) -> bool {
        // One piece is always let through, however large.
        let kilobytes = u32::try_from(rows.bytes() / 1024 + 1).unwrap_or(AHEAD_KB).min(AHEAD_KB);
        let Ok(room) = self.work.room.clone().acquire_many_owned(kilobytes).await else { return false };
        let mut range = self.range.clone();
        range.read_to = self.read_to.clone().or(range.read_to);
        let table = self.table.clone();
        self.out.send(Ok(Piece { table, rows, range, read_to, _room: room })).await.is_ok()
    }
}
