//! Reads the log on and on: pages, who may still write, gaps. Runs on a thread of its own, one step ahead of whoever makes changes of the
//! rows, so that the server is asked for the next page before the last is looked at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::{Error, ErrorKind, Result};

use super::gaps::Gaps;
use super::rows::{self, Taken};
use super::session::{Copied, Guard, Session};
use super::token::{self, Identity, Place};
use super::{Description, IDLE, IDLE_NOTIFIED};
use crate::OnReject;
use crate::ahead::{AWAY, Chunk, Gone, Refused, Way};
use crate::postgres::tuple::Tuple;

/// Bytes of a page at most, about.
const PAGE_BYTES: u64 = 4 << 20;
/// Rows of the first page: how large they are is not known yet.
const FIRST_PAGE: u32 = 256;
/// While page follows page it is asked this often who may still write.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// The first wait when nothing was there.
const SOON: Duration = Duration::from_millis(2);
/// Ranges that one statement reads again.
const RANGES_MAX: usize = 1000;
/// A gap that is open for this long is told of.
const OLD_GAP: Duration = Duration::from_secs(60);

/// The longest wait between two looks.
pub(super) fn longest_wait(description: &Description) -> Duration {
    let usual = if description.notify.is_some() { IDLE_NOTIFIED } else { IDLE };
    description.idle.unwrap_or(usual)
}

/// Reads a log on.
pub(super) struct Tail {
    description: Arc<Description>,
    partition: String,
    /// Whose log the token was of.
    begun: Option<Identity>,
    gaps: Gaps,
    /// Rows read in all.
    read: u64,
    chunk: Option<Chunk>,
    /// Ids in the chunk that were found in gaps.
    found: Vec<i64>,
    ready: VecDeque<Chunk>,
    ready_bytes: u64,
    row_bytes: u64,
    page_rows: u32,
    /// When it was last asked who may still write, and when it was last told that this takes long.
    asked: Instant,
    told: Instant,
    guarded: Instant,
    /// The highest id the sequence was seen to have given.
    last: i64,
    way: Way,
}

impl Tail {
    pub(super) fn new(description: Arc<Description>, partition: String, from: Option<(u64, Place)>, way: Way) -> Self {
        let now = Instant::now();
        let (read, place) = from.map_or((0, None), |(read, place)| (read, Some(place)));
        let begun = place.as_ref().map(|place| place.identity);
        let (hi, open) = place.map_or((i64::MIN, Vec::new()), |place| (place.hi, place.open));
        let gaps = Gaps::new(hi, open, description.gap_hold, now);
        let (chunk, found, ready) = (None, Vec::new(), VecDeque::new());
        let page_rows = FIRST_PAGE.min(description.page);
        let (row_bytes, ready_bytes, last) = (1024, 0, i64::MIN);
        let (asked, told, guarded) = (now, now, now);
        Tail {
            description,
            partition,
            begun,
            gaps,
            read,
            chunk,
            found,
            ready,
            ready_bytes,
            row_bytes,
            page_rows,
            asked,
            told,
            guarded,
            last,
            way,
        }
    }

    /// Reads until something is wrong that time does not mend, or nobody takes what is read. A database that is away is waited for.
    pub(super) async fn run(mut self) -> Result {
        let mut failed = 0;
        loop {
            let Err(error) = self.session(&mut failed).await else { return Ok(()) };
            self.way.doing.idle(false);
            // What was read before is read, whatever happened then.
            self.flush();
            if self.hand_over().await.is_err() {
                return Ok(());
            }
            if error.kind() != ErrorKind::Retry {
                return Err(Error::stop(error.to_string()));
            }
            failed += 1;
            if failed == 1 {
                tracing::warn!(partition = %self.partition, "{error}; tried again until it comes back");
            }
            tokio::time::sleep(AWAY.wait(failed)).await;
        }
    }

    /// One connection's life. `Ok`: nobody takes what is read.
    async fn session(&mut self, failed: &mut u32) -> Result {
        let mut session = Session::open(&self.description).await?;
        if let Some(begun) = &self.begun {
            session.log.must_be(begun, self.description.after_failover)?;
        }
        if session.log.identity.partition() != self.partition {
            return Err(Error::stop(format!(
                "{} is another log than when the run began (now {}, then {}): it was dropped and made anew, or another server has its place",
                session.log.name,
                session.log.identity.partition(),
                self.partition
            )));
        }
        self.begun = Some(session.log.identity);
        self.gaps.forget_blockers();
        if std::mem::take(failed) > 0 {
            tracing::warn!(partition = %self.partition, "the database is back");
        }
        let mut quiet = SOON;
        loop {
            let before = self.read;
            let is_full = self.round(&mut session).await?;
            if self.hand_over().await.is_err() {
                return Ok(());
            }
            if is_full {
                continue;
            }
            let is_quiet = self.read == before;
            self.way.doing.idle(is_quiet);
            quiet = if is_quiet { (quiet * 2).min(longest_wait(&self.description)) } else { SOON };
            self.wait(&mut session, quiet).await?;
        }
    }

    /// Waits for a notification or until it is time to look.
    async fn wait(&mut self, session: &mut Session, quiet: Duration) -> Result {
        let now = Instant::now();
        let look = self.gaps.next_look().map_or(quiet, |look| look.saturating_duration_since(now).clamp(SOON, quiet));
        if self.description.notify.is_none() {
            tokio::time::sleep(look).await;
            return Ok(());
        }
        tokio::select! {
            notified = session.connection.notified() => {
                notified?;
                // One look answers all that have come.
                while session.connection.notifications().try_recv().is_ok() {}
                self.gaps.look_soon(Instant::now());
            }
            () = tokio::time::sleep(look) => {}
        }
        Ok(())
    }

    /// Page, guard, holders, gaps. Says whether the page was full, so that there is more at once.
    async fn round(&mut self, session: &mut Session) -> Result<bool> {
        let mut is_full = false;
        if self.gaps.count() < self.description.gaps_max {
            is_full = self.read_page(session).await?;
        } else {
            self.tell_old("reading pauses: there are as many open gaps as gaps_max allows");
        }
        let now = Instant::now();
        let asks = self.gaps.is_open() && (!is_full || now.saturating_duration_since(self.asked) >= ASK_EVERY);
        if asks || self.gaps.hi() > self.last || now.saturating_duration_since(self.guarded) >= IDLE_NOTIFIED {
            let guard = session.guard().await?;
            self.guarded = now;
            if !self.is_as_it_was(&guard, session)? {
                return Ok(is_full);
            }
        }
        if asks {
            self.asked = now;
            let with_backends = session.log.sequence.as_ref().is_some_and(|sequence| sequence.cache > 1);
            self.gaps.held_by(&session.holders(with_backends).await?);
            self.read_gaps(session).await?;
            if self.gaps.oldest().is_some_and(|(since, _)| since.elapsed() > OLD_GAP) {
                self.tell_old("ids below the highest one read are still open");
            }
        }
        self.flush();
        Ok(is_full)
    }

    /// Q1.
    async fn read_page(&mut self, session: &Session) -> Result<bool> {
        let rows = self.page_rows;
        let (before, mut last) = (self.read, self.gaps.hi());
        let mut copied = session.page(last, rows).await?;
        let mut bytes = 0;
        while let Some(message) = copied.next().await? {
            bytes += message.len() as u64;
            self.take(session, &mut copied, &message, &mut last, false)?;
            self.make_room().await;
        }
        let read = self.read - before;
        self.size_pages(read, bytes);
        Ok(read >= u64::from(rows))
    }

    /// How many rows the next page has, so that it is not much larger than it should be.
    fn size_pages(&mut self, rows: u64, bytes: u64) {
        if let Some(size) = bytes.checked_div(rows) {
            self.row_bytes = size.max(1).max((self.row_bytes + size) / 2);
        }
        let most = PAGE_BYTES.min(self.way.window.limits().1 / 8) / self.row_bytes;
        let most = most.clamp(1, self.description.page.into()) as u32;
        self.page_rows = most.min(self.page_rows.saturating_mul(4));
    }

    /// Q3, in pieces.
    async fn read_gaps(&mut self, session: &Session) -> Result {
        let due = self.gaps.due(Instant::now());
        for piece in due.chunks(RANGES_MAX) {
            let (mut left, rows) = (piece.to_vec(), self.page_rows);
            while !left.is_empty() {
                let (before, mut last) = (self.read, i64::MIN);
                let mut copied = session.gaps(&left, rows).await?;
                while let Some(message) = copied.next().await? {
                    self.take(session, &mut copied, &message, &mut last, true)?;
                    self.make_room().await;
                }
                if self.read - before < u64::from(rows) {
                    break;
                }
                left.retain(|range| range.1 > last);
                if let Some(first) = left.first_mut() {
                    first.0 = first.0.max(last + 1);
                }
            }
        }
        self.flush();
        self.gaps.read_again(Instant::now());
        Ok(())
    }

    /// Takes a row.
    fn take(&mut self, session: &Session, copied: &mut Copied, message: &[u8], last: &mut i64, in_gap: bool) -> Result {
        let log = &session.log;
        let broken =
            |why: &str| Error::stop(format!("reading {}: the server's answer is not what was asked for: {why}", log.name));
        let Some(mut tuple) = Tuple::of(message, std::mem::take(&mut copied.is_first)).map_err(broken)? else { return Ok(()) };
        let id = rows::id(&mut tuple).map_err(broken)?;
        if id <= *last {
            return Err(Error::stop(format!(
                "{} has two rows with the id {id}, or they came out of order: ids must be unique over all of it, its partitions included",
                log.name
            )));
        }
        *last = id;
        let chunk = self.chunk.get_or_insert_with(|| self.way.chunk());
        match log.shape.write(id, tuple, &mut chunk.block).map_err(broken)? {
            Taken::Change(written) => chunk.written.push(written),
            Taken::Rejected { why, .. } if self.description.on_reject == OnReject::Stop => {
                return Err(Error::stop(format!("row {id} of {} is no change: {why}", log.name)));
            }
            Taken::Rejected { why, text } => {
                let why = format!("row {id} of {}: {why}", log.name);
                chunk.rejected.push(Refused { at: id as u64, within: 0, why, text });
            }
        }
        let is_full = chunk.is_full();
        self.read += 1;
        if in_gap {
            self.found.push(id);
        } else {
            self.gaps.passed(id, Instant::now());
        }
        if is_full {
            self.flush();
        }
        Ok(())
    }

    /// Makes the rows taken so far ready to be handed over, with the token that continues after them.
    fn flush(&mut self) {
        self.gaps.found(&self.found);
        self.found.clear();
        let (Some(mut chunk), Some(identity)) = (self.chunk.take(), &self.begun) else { return };
        chunk.order = self.read;
        chunk.token = token::write(identity, self.gaps.hi(), self.gaps.ranges(), self.gaps.count());
        self.ready_bytes += chunk.block.len() as u64;
        self.ready.push_back(chunk);
    }

    /// A page of rows that are much larger than those before would take too much memory: then it is handed over while it comes.
    async fn make_room(&mut self) {
        if self.ready_bytes > 2 * PAGE_BYTES {
            let _ = self.hand_over().await;
        }
    }

    /// Hands over what is ready. The page was read to its end: while this waits, no snapshot is held at the server.
    ///
    /// # Errors
    /// Nobody takes it any more.
    async fn hand_over(&mut self) -> Result<(), Gone> {
        while let Some(chunk) = self.ready.pop_front() {
            self.ready_bytes -= chunk.block.len() as u64;
            self.way.hand_over(chunk).await?;
        }
        Ok(())
    }

    /// Whether all is as it was when the page was read. `false`: the sequence draws ahead now, so who may still write is asked otherwise.
    fn is_as_it_was(&mut self, guard: &Guard, session: &mut Session) -> Result<bool> {
        let log = &mut session.log;
        if guard.table != Some(log.identity.table) {
            return Err(Error::stop(format!(
                "{} is another table than when the run began, or is gone (its number was {}); give the old one back, or start with a new data \
                 directory",
                log.name, log.identity.table
            )));
        }
        let (Some(drawn), Some(sequence)) = (guard.sequence, &mut log.sequence) else { return Ok(true) };
        let holds = !self.description.gap_hold.is_zero();
        if !drawn.is_plain {
            return Err(Error::stop(format!(
                "the sequence {} was altered: it does not count up one by one any more",
                sequence.name
            )));
        }
        let hi = self.gaps.hi();
        if hi > drawn.last && hi > i64::MIN && !holds {
            return Err(Error::stop(format!(
                "a row of {} has the id {hi}, and its sequence {} has given ids up to {} only: ids are made outside of it, or it was set back (a \
                 truncation that restarts it does that). Rows whose ids come again would not be read. Set it on, \
                 `select setval('{}', {hi})`; if ids are made elsewhere on purpose, say .gap_hold(..) and accept its limit; if the log was emptied, \
                 start with a new data directory",
                log.name, sequence.name, drawn.last, sequence.name
            )));
        }
        self.last = if holds { i64::MAX } else { drawn.last };
        let draws_ahead = drawn.cache > 1 && sequence.cache <= 1;
        sequence.cache = drawn.cache.max(sequence.cache);
        Ok(!draws_ahead)
    }

    /// Tells of gaps that stay open, once in a while.
    fn tell_old(&mut self, what: &str) {
        if self.told.elapsed() < OLD_GAP {
            return;
        }
        self.told = Instant::now();
        let Some((since, blockers)) = self.gaps.oldest() else { return };
        tracing::warn!(
            partition = %self.partition,
            open = self.gaps.count(),
            oldest_s = since.elapsed().as_secs(),
            "{what}; they may still be written by {blockers:?} (virtualtransaction in pg_locks, pid in pg_stat_activity)"
        );
    }
}
