//! What is far behind: decoded in batches by SQL on a temporary copy of the slot, which is faster than any stream. The slot itself stays free, and
//! moves as what was read becomes durable.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use highwater_operators::postgres::{Connection, failed, quote, quote_text};
use highwater_operators::{Error, Result};
use tokio::task::JoinHandle;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{CopyOutStream, Statement};

use super::lsn::Lsn;
use super::session::{self, ask, ask_one};
use super::stream::{Stream, broken};
use crate::postgres::AS_IT_IS;
use crate::postgres::tuple::Tuple;

/// Messages that the first call asks for; a call ends with a whole transaction.
const FIRST: u32 = 50_000;
const FEWEST: u32 = 1_000;
const MOST: u32 = 1_000_000;
/// Bytes that a call should bring, about: the server keeps them until it has them all.
const BYTES: u64 = 48 << 20;
/// A call that brings less than this has reached the end of the log.
const LITTLE: u64 = 2_000;
/// How long a catch-up that an old transaction slows down is not tried again.
const REST: Duration = Duration::from_secs(60);

/// What a call has brought.
#[derive(Clone, Copy, Debug, Default)]
struct Brought {
    messages: u64,
    bytes: u64,
}

impl Stream {
    /// Reads until nearly nothing is left. Then all is read up to [`Log::end`](super::log::Log::end), and the slot can be followed from there.
    pub(super) async fn catch_up(&mut self, side: &Arc<Connection>) -> Result {
        let mut calls = Calls::begin(self).await?;
        let mut next = calls.call();
        let mut before = calls.place(side).await?;
        loop {
            let copied = taken(next).await?;
            // Asked for before this one is looked at, so that the server goes on meanwhile.
            let after = calls.call();
            let brought = self.drain(side, copied).await?;
            self.outbox.passes("catch_up.batch")?;
            self.advance(side, false).await?;
            next = after;
            let now = calls.place(side).await?;
            let is_slow = calls.size.hear(brought, before, now);
            before = now;
            if is_slow {
                let partition = self.partition();
                tracing::info!(
                    partition,
                    "an old transaction is open, and every batch is read from its beginning: the slot is followed instead"
                );
                self.follows_until = Instant::now() + REST;
            }
            if brought.messages < LITTLE || is_slow {
                break;
            }
        }
        let copied = taken(next).await?;
        self.drain(side, copied).await?;
        // All that was committed before is read: nothing more is asked for.
        let end = calls.place(side).await?.read;
        self.stand_at(end).await?;
        self.log.reach(end);
        self.hand_over().await?;
        Ok(self.outbox.passes("hand_over.copied")?)
    }

    /// Takes what a call brings.
    async fn drain(&mut self, side: &Connection, mut copied: Pin<Box<CopyOutStream>>) -> Result<Brought> {
        // Every call describes the tables anew.
        self.log.begin_anew();
        let mut brought = Brought::default();
        let mut is_first = true;
        while let Some(row) = copied.try_next().await.map_err(|error| failed("reading the log", error))? {
            let strange = |why: &str| broken(self.log.end(), why);
            let Some(mut tuple) = Tuple::of(&row, std::mem::take(&mut is_first)).map_err(strange)? else { continue };
            let place = tuple.next().map_err(strange)?.and_then(|field| field.try_into().ok().map(u64::from_be_bytes));
            let (lsn, _) = (place.ok_or_else(|| strange("a place is none"))?, tuple.next().map_err(strange)?);
            let text = tuple.next().map_err(strange)?.ok_or_else(|| strange("a message is NULL"))?;
            brought.messages += 1;
            brought.bytes += text.len() as u64;
            self.hear_text(side, Lsn(lsn), text).await?;
        }
        if self.log.is_in_transaction() {
            return Err(broken(self.log.end(), "a batch ends inside a transaction"));
        }
        self.hand_over().await?;
        Ok(brought)
    }
}

/// A call under way: the server works on it, or its answer comes.
type Call = JoinHandle<Result<CopyOutStream, tokio_postgres::Error>>;

async fn taken(call: Call) -> Result<Pin<Box<CopyOutStream>>> {
    let copied = call.await.map_err(|_| Error::retry("a call for a batch was not ended"))?;
    Ok(Box::pin(copied.map_err(|error| failed("decoding a batch of the log", error))?))
}

/// Calls on a copy of the slot, which goes with its session.
struct Calls {
    session: Arc<Connection>,
    copy: String,
    size: Size,
    /// Sets how many messages the next batch has; a copy takes no parameters.
    set: Statement,
    batch: Statement,
}

impl Calls {
    async fn begin(stream: &Stream) -> Result<Calls> {
        let description = &stream.description;
        let session = session::open(description.url()?, "replication catch-up").await?;
        // A batch is kept by the server until it is whole: in memory, if it may.
        ask(&session, "setting up the session", "select set_config('work_mem', '64MB', false)", &[]).await?;
        ask(&session, "setting up the session", AS_IT_IS, &[]).await?;
        let copy = format!("highwater_{}", session.backend_pid());
        let sql = "select pg_copy_logical_replication_slot($1, $2, true)";
        let what = format!("copying the slot {}", description.slot);
        ask_one(&session, &what, sql, &[&description.slot, &copy]).await?;
        let cannot = |error| failed("preparing to read the log", error);
        let set = session.prepare("select set_config('highwater.messages', $1, false)").await.map_err(cannot)?;
        let sql = format!(
            "copy (select lsn, xid, data from pg_logical_slot_get_binary_changes({}, null, current_setting('highwater.messages')::int4, \
             'proto_version', '1', 'publication_names', {}, 'messages', 'true')) to stdout (format binary)",
            quote_text(&copy),
            quote_text(&quote(description.publication()))
        );
        let batch = session.prepare(&sql).await.map_err(cannot)?;
        Ok(Calls { session: Arc::new(session), copy, size: Size { messages: FIRST }, set, batch })
    }

    /// Asks for the next batch, and waits for nothing: an answer would come behind the batch that is under way, which is to be read first.
    fn call(&self) -> Call {
        let (session, set, batch) = (self.session.clone(), self.set.clone(), self.batch.clone());
        let messages = self.size.messages.to_string();
        tokio::spawn(async move {
            let messages: [&(dyn ToSql + Sync); 1] = [&messages];
            let (set, copied) = tokio::join!(biased; session.query(&set, &messages), session.copy_out(&batch));
            set?;
            copied
        })
    }

    /// How far the copy has read, and from where it would begin to decode again.
    async fn place(&self, side: &Connection) -> Result<Reached> {
        let sql = "select confirmed_flush_lsn, restart_lsn from pg_replication_slots where slot_name = $1";
        let row = ask_one(side, "looking at the copy of the slot", sql, &[&self.copy]).await?;
        let lsn = |at| row.get::<_, Option<PgLsn>>(at).map_or(Lsn(0), |lsn| Lsn(lsn.into()));
        Ok(Reached { read: lsn(0), begins: lsn(1) })
    }
}

/// How far a copy has read, and from where it would begin to decode again: no later than where the oldest open transaction began.
#[derive(Clone, Copy, Debug)]
struct Reached {
    read: Lsn,
    begins: Lsn,
}

/// How many messages a call asks for.
struct Size {
    messages: u32,
}

impl Size {
    /// Chooses how much the next call asks for. `true`: the log is read over and over, and larger calls do not help any more.
    fn hear(&mut self, brought: Brought, before: Reached, now: Reached) -> bool {
        let progress = now.read.0.saturating_sub(before.read.0);
        let again = before.read.0.saturating_sub(before.begins.0);
        if let Some(size) = brought.bytes.checked_div(brought.messages) {
            let fits = (BYTES / size.max(1)).clamp(FEWEST.into(), MOST.into()) as u32;
            // More at once where much is read again each time.
            self.messages = if again > 2 * progress { self.messages.saturating_mul(2).min(MOST) } else { fits };
        }
        again > 8 * progress.max(32 << 20) && self.messages >= MOST && brought.messages >= LITTLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Calls of 100 bytes a message, of which each reads so much of the log on, behind a transaction that began at a place, if there is one.
    /// `Some` is the call that turned out to be too slow.
    fn calls(open_since: Option<u64>, progress_of: impl Fn(u32) -> u64) -> (Option<usize>, u32) {
        let mut size = Size { messages: FIRST };
        let mut reached = Reached { read: Lsn(1000 * MIB), begins: Lsn(open_since.unwrap_or(1000 * MIB)) };
        for call in 0..50 {
            let messages = u64::from(size.messages);
            let read = Lsn(reached.read.0 + progress_of(size.messages));
            let now = Reached { read, begins: if open_since.is_some() { reached.begins } else { reached.read } };
            if size.hear(Brought { messages, bytes: 100 * messages }, reached, now) {
                return (Some(call), size.messages);
            }
            reached = now;
        }
        (None, size.messages)
    }

    #[test]
    fn calls_are_as_large_as_their_bytes_let_them_while_nothing_is_read_again() {
        let (slow, messages) = calls(None, |messages| u64::from(messages) * 200);
        assert_eq!((slow, u64::from(messages)), (None, BYTES / 100));
    }

    #[test]
    fn behind_an_old_open_transaction_calls_grow_and_then_the_slot_is_followed() {
        // 900 MiB are decoded again with every call, which brings little.
        let (slow, messages) = calls(Some(100 * MIB), |_| MIB);
        assert_eq!(messages, MOST, "first larger calls are tried");
        assert!(slow.is_some_and(|call| call < 10), "{slow:?}");
        // Where little is read again, compared with what a call brings, that is no reason.
        let mut size = Size { messages: MOST };
        let reached = Reached { read: Lsn(1000 * MIB), begins: Lsn(900 * MIB) };
        let now = Reached { read: Lsn(1200 * MIB), ..reached };
        assert!(!size.hear(Brought { messages: u64::from(MOST), bytes: 100 * u64::from(MOST) }, reached, now));
    }

    #[test]
    fn few_messages_are_the_end_of_the_log_and_no_reason() {
        let mut size = Size { messages: MOST };
        let reached = Reached { read: Lsn(1000 * MIB), begins: Lsn(0) };
        assert!(!size.hear(Brought { messages: LITTLE - 1, bytes: 100 }, reached, reached));
    }
}
