//! A snapshot and the point of the log that it is of.
//!
//! Making a replication slot exports a snapshot: it holds exactly the transactions whose commit stands in the log before the slot's consistent
//! point (`tests/point.rs` tries it). To find such a point the server waits for every transaction that is open, however long; we tell who is waited
//! for, and go on waiting. The slot is temporary, is never read, and goes with its session, as soon as those who read have taken the snapshot over.

use std::time::Duration;

use highwater_operators::postgres::{Connection, Url, Walsender, failed, quote_text};
use highwater_operators::{Error, Result};
use tokio::time::{Instant, sleep};

use super::super::lsn::Lsn;
use super::session;

/// Waiting for open transactions is told of after this, and then again and again.
const TELL_AFTER: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A snapshot that can be taken over until this is dropped.
pub(super) struct Exported {
    /// Transactions that commit before it are in the snapshot, and no others.
    pub point: Lsn,
    name: String,
    _session: Walsender,
}

/// Who is waited for. A prepared transaction has no process.
const BLOCKERS: &str = "select coalesce(a.pid, 0), coalesce(a.usename::text, ''), coalesce(a.application_name, ''), coalesce(a.state, ''), \
       coalesce(extract(epoch from now() - a.xact_start), 0)::int8 \
     from unnest(pg_blocking_pids($1)) b(pid) left join pg_stat_activity a on a.pid = b.pid";

/// Transactions that the server holds for running: each keeps a lock on itself until it is out of everybody's way. One that waits for a standby is
/// committed for whoever asks.
const RUNNING: &str = "select l.transactionid::text::int8 from pg_locks l \
     where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted and l.pid is distinct from pg_backend_pid() \
     and not exists (select from pg_stat_activity a where a.pid = l.pid and a.wait_event = 'SyncRep')";

/// What a snapshot holds: everything below the first, nothing from the second on, and between them all but these.
const HOLDS: &str = "select pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8, array(select pg_snapshot_xip(s)::text::int8) \
     from pg_current_snapshot() s";

/// Transactions, by their full numbers. The second may be the smaller one here, so that it is no snapshot that the server would take back.
struct Holds {
    below: i64,
    from: i64,
    between: Vec<i64>,
}

impl Exported {
    /// Has the server make one. Waits as long as it must; dropping the future ends it at the server too.
    pub(super) async fn make(url: &Url) -> Result<Exported> {
        let watch = session::open(url, "snapshot (who is waited for)").await?;
        let mut walsender = Walsender::open(url, "snapshot (point)").await?;
        walsender.query(session::settings()).await?;
        let pid: Option<i32> = one(&mut walsender, "select pg_backend_pid()").await?.parse().ok();
        // No two sessions that live have the same process.
        let slot = format!("highwater_snapshot_{}", pid.unwrap_or_default());
        let command = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput");
        let rows = {
            let mut made = std::pin::pin!(walsender.query(&command));
            let began = Instant::now();
            let mut tell = TELL_AFTER;
            loop {
                tokio::select! {
                    rows = &mut made => break rows?,
                    () = sleep(tell) => tell_who(&watch, pid, began.elapsed()).await,
                }
                tell = TELL_EVERY;
            }
        };
        let field = |at: usize| rows.first().and_then(|row: &Vec<Option<String>>| row.get(at)?.clone());
        let (Some(point), Some(name)) = (field(1), field(2)) else {
            return Err(Error::stop(
                "the server's answer to CREATE_REPLICATION_SLOT has neither a consistent point nor a snapshot",
            ));
        };
        let point: Lsn = point.parse().map_err(Error::stop)?;
        Ok(Exported { point, name, _session: walsender })
    }

    /// Takes the snapshot over in a transaction that reads.
    pub(super) async fn begin(&self, connection: &Connection) -> Result {
        let begin =
            format!("begin isolation level repeatable read read only; set transaction snapshot {}", quote_text(&self.name));
        connection.batch_execute(&begin).await.map_err(|error| failed("taking over a snapshot", error))
    }
}

/// The first field of an answer.
async fn one(walsender: &mut Walsender, sql: &str) -> Result<String> {
    let rows = walsender.query(sql).await?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
}

/// Waits until the server holds for committed what the snapshot does: a matter of microseconds, and then of nothing.
///
/// A commit stands in the log before it is entered where those look who ask what became of the transaction. Whoever saw its rows between the two would
/// take them for undone, and write that down beside them.
pub(super) async fn settle(in_snapshot: &Connection, outside: &Connection) -> Result {
    let cannot = |error| failed("looking whether a snapshot is settled", error);
    let row = in_snapshot.query_one(HOLDS, &[]).await.map_err(cannot)?;
    let holds = Holds { below: row.get(0), from: row.get(1), between: row.get(2) };
    let mut wait = Duration::from_micros(500);
    loop {
        let running = outside.query(RUNNING, &[]).await.map_err(cannot)?;
        if !running.iter().any(|row| holds.has(row.get(0))) {
            return Ok(());
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

impl Holds {
    /// Whether it holds the transaction with this short number.
    fn has(&self, short: i64) -> bool {
        // Short numbers go round; those that can be met at one time are less than half a round apart.
        let is_before = |full: i64| (short as u32).wrapping_sub(full as u32) as i32 <= -1;
        let is_listed = || self.between.iter().any(|full| *full as u32 == short as u32);
        is_before(self.below) || (is_before(self.from) && !is_listed())
    }
}

/// Tells who is waited for, if that can be known.
async fn tell_who(watch: &Connection, pid: Option<i32>, waited: Duration) {
    let Ok(rows) = watch.query(BLOCKERS, &[&pid]).await else { return };
    let who: Vec<String> = rows
        .iter()
        .map(|row| match row.get(0) {
            0 => "a prepared transaction (see pg_prepared_xacts)".to_owned(),
            pid => {
                let (user, program, state, age): (&str, &str, &str, i64) = (row.get(1), row.get(2), row.get(3), row.get(4));
                let pid: i32 = pid;
                format!("process {pid} ({program} of {user}, {state}, its transaction is {age} s old)")
            }
        })
        .collect();
    let who = if who.is_empty() { "transactions that are open".to_owned() } else { who.join(", ") };
    tracing::warn!(
        waited_s = waited.as_secs(),
        "a snapshot begins when every transaction that was open has ended; waiting for {who}. What takes too long can be ended with \
         pg_terminate_backend(pid)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round() {
        let round = 1_i64 << 32;
        let holds = Holds { below: round - 2, from: round + 3, between: vec![round, round + 1] };
        let found = [round - 3, round - 2, round - 1, 0, 1, 2, 3, 4].map(|short| holds.has(short));
        assert_eq!(found, [true, true, true, false, false, true, false, false]);
        let odd = Holds { below: 782, from: 781, between: Vec::new() };
        assert_eq!([781, 782].map(|short| odd.has(short)), [true, false]);
    }
}
