//! Opening: a new run raises the generation, a further process joins it.
//!
//! Raising removes the rows by which earlier runs write. It waits for a group of theirs that is under way, so whatever they have
//! written is seen, and whatever they try afterwards finds no row to pass.

use std::time::Duration;

use tokio_postgres::Transaction;

use super::holder::{Holder, Living};
use super::ledger::Chunk;
use super::link::Of;
use super::read::{self, Pipeline};
use super::save::Floor;
use super::text::bigint;
use super::write::replaced;
use crate::checkpoint::place::Seat;
use crate::checkpoint::requests::{Request, RequestId};
use crate::checkpoint::store::{Note, Restored, Save};
use crate::error::{Error, Result};
use crate::postgres::{Connection, failed};

const WHAT: &str = "opening the checkpoint store";

/// What opening found.
pub(super) struct Found {
    pub generation: u64,
    pub restored: Restored,
    /// The last save, as later ones must follow it.
    pub last: Option<Save>,
    pub floor: Floor,
    pub living: Living,
    /// What people have asked for.
    pub asked: Vec<(RequestId, Request)>,
    /// Who held the leases of earlier runs, and for how many milliseconds at most after their last renewal they may act.
    pub before: Vec<(Holder, u64)>,
}

/// Begins a new run.
pub(super) async fn raise(of: &Of, seat: Seat, lease: Duration) -> Result<Found> {
    let mut client = of.link.client().await?;
    let wrong = |error| failed(WHAT, error);
    let tables = of.link.faults.step(super::schema::make(&mut client));
    Box::pin(tables).await?;
    let backend: i32 = client.query_one("select pg_backend_pid()", &[]).await.map_err(wrong)?.get(0);
    let transaction = tokio_postgres::Client::transaction(&mut client).await.map_err(wrong)?;
    let raising = raised(of, seat, lease, &transaction);
    let found = tokio::select! {
        found = Box::pin(raising) => found?,
        () = Box::pin(end_blockers(of, backend)) => unreachable!("it goes on until it is dropped"),
    };
    of.link.faults.step(async { transaction.commit().await.map_err(wrong) }).await?;
    Ok(found)
}

async fn raised(of: &Of, seat: Seat, lease: Duration, transaction: &Transaction<'_>) -> Result<Found> {
    let wrong = |error| failed(WHAT, error);
    let name = &*of.pipeline;
    let state_id = rand::random::<u128>().to_be_bytes();
    let durable = "select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'";
    transaction.execute(durable, &[]).await.map_err(wrong)?;
    transaction
        .execute(
            "insert into observer_checkpoints (listener_id, generation, state_id) values ($1, 0, $2) on conflict do nothing",
            &[&name, &&state_id[..]],
        )
        .await
        .map_err(wrong)?;
    let known = read::pipeline(transaction, name, "for update").await?;
    let known = known.ok_or_else(|| Error::retry("the pipeline's row was removed while it was opened"))?;
    let rows = transaction
        .query("delete from observer_processes where listener_id = $1 returning last_parked", &[&name])
        .await
        .map_err(wrong)?;
    let last_parked = rows.iter().map(|row| row.get::<_, i64>(0)).max().unwrap_or(0);
    let next_parked = known.next_parked.max(super::text::number(last_parked) + 1);
    let generation = known.generation + 1;
    let processes = seat.processes as i32;
    transaction
        .execute(
            "update observer_checkpoints set generation = $2, processes = $3, next_parked = $4, started_at = now(), \
             updated_at = now() where listener_id = $1",
            &[&name, &bigint(generation), &processes, &bigint(next_parked)],
        )
        .await
        .map_err(wrong)?;
    let known = Pipeline { generation, processes: seat.processes as u64, next_parked, ..known };
    let noted_since = known.saved.as_ref().filter(|saved| saved.generation + 1 == generation).map(|saved| saved.save.epoch);
    let notes = read::notes(transaction, name, noted_since).await?;
    merge(transaction, name, generation, &notes).await?;
    sit_down(of, seat, lease, transaction, known, notes).await
}

/// The ledger of all earlier runs becomes one.
async fn merge(transaction: &Transaction<'_>, name: &str, generation: u64, notes: &[Note]) -> Result {
    let wrong = |error| failed(WHAT, error);
    transaction.execute("delete from observer_ledger where listener_id = $1", &[&name]).await.map_err(wrong)?;
    for (chunk, sequence) in Chunk::earlier(notes)?.iter().zip(0i64..) {
        transaction
            .execute(
                "insert into observer_ledger (listener_id, generation, process, sequence, kind, last_epoch, notes) \
                 values ($1, $2, 0, $3, $4, 0, $5)",
                &[&name, &bigint(generation), &sequence, &(chunk.kind as i16), &chunk.bytes],
            )
            .await
            .map_err(wrong)?;
    }
    Ok(())
}

/// Joins the run of a generation.
pub(super) async fn join(of: &Of, generation: u64, seat: Seat, lease: Duration) -> Result<Found> {
    let mut client = of.link.client().await?;
    let wrong = |error| failed(WHAT, error);
    super::schema::version(&**client).await?;
    let transaction = tokio_postgres::Client::transaction(&mut client).await.map_err(wrong)?;
    let name = &*of.pipeline;
    let known = read::pipeline(&transaction, name, "for share").await?;
    let known = known.ok_or_else(|| Error::stop(format!("{name} has no checkpoint to join: its first process opens it")))?;
    if known.generation != generation {
        return Err(replaced(name, generation, known.generation));
    }
    let seats = Seat { process: seat.process, processes: known.processes as usize };
    if seat.processes != seats.processes || seat.process >= seats.processes {
        return Err(Error::stop(format!(
            "process {} of {} cannot join run {generation} of {name}, which has {} processes",
            seat.process, seat.processes, seats.processes
        )));
    }
    let notes = Box::pin(read::notes(&transaction, name, None)).await?;
    let found = Box::pin(sit_down(of, seat, lease, &transaction, known, notes)).await?;
    transaction.commit().await.map_err(wrong)?;
    Ok(found)
}

/// Takes the place of one process: the row by which it writes, its lease, and all that it begins with.
async fn sit_down(
    of: &Of,
    seat: Seat,
    lease: Duration,
    transaction: &Transaction<'_>,
    known: Pipeline,
    notes: Vec<Note>,
) -> Result<Found> {
    let wrong = |error| failed(WHAT, error);
    let name = &*of.pipeline;
    let (process, generation) = (seat.process as i32, bigint(known.generation));
    transaction
        .execute(
            "insert into observer_processes (listener_id, process, generation) values ($1, $2, $3) \
             on conflict (listener_id, process) do update set generation = excluded.generation, group_number = 0",
            &[&name, &process, &generation],
        )
        .await
        .map_err(wrong)?;
    let before = transaction
        .query(
            "select machine, pid, pid_started, token, lease_ms from observer_leases where listener_id = $1 and generation < $2",
            &[&name, &generation],
        )
        .await
        .map_err(wrong)?;
    let holder = |row: &tokio_postgres::Row| {
        let holder = Holder { machine: row.get(0), pid: row.get(1), pid_started: row.get(2), token: row.get(3) };
        (holder, super::text::number(row.get(4)))
    };
    let living = Living::here();
    let Holder { machine, pid, pid_started, token } = &living.0;
    transaction
        .execute(
            "insert into observer_leases (listener_id, generation, process, lease_ms, machine, pid, pid_started, token) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (listener_id, generation, process) do update set \
             lease_ms = excluded.lease_ms, renewed_at = now(), machine = excluded.machine, pid = excluded.pid, \
             pid_started = excluded.pid_started, token = excluded.token, notice = null",
            &[&name, &generation, &process, &(lease.as_millis() as i64), machine, pid, pid_started, token],
        )
        .await
        .map_err(wrong)?;
    let floor = known.saved.as_ref().map(|saved| saved.floor.clone()).unwrap_or_default();
    let last = known.saved.map(|saved| saved.save);
    let restored = Restored {
        generation: known.generation,
        state_id: known.state_id,
        partitions: read::partitions(transaction, name).await?,
        actions: read::actions(transaction, name).await?,
        checkpoint: last.clone(),
        state: read::state(transaction, name, &floor).await?,
        notes,
        parked: read::heads(transaction, name).await?,
        next_parked: first_id(known.next_parked, seat),
        parked_step: seat.processes as u64,
        resolved: read::resolved(transaction, name).await?,
    };
    let asked = super::letters::pending(transaction, name).await.map_err(wrong)?;
    let before = before.iter().map(holder).collect();
    Ok(Found { generation: known.generation, restored, last, floor, living, asked, before })
}

/// The first id that this process gives out: those of each process leave its own remainder, so no two give out the same.
fn first_id(next: u64, seat: Seat) -> u64 {
    let (process, processes) = (seat.process as u64, seat.processes as u64);
    next + (process + processes - next % processes) % processes
}

/// Ends connections of this program that keep a statement from going on: of a run that was frozen in the middle of a group, or
/// of an attempt that nobody waits for any more.
/// Goes on until it is dropped.
pub(super) async fn end_blockers(of: &Of, blocked: i32) {
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let Ok(other) = Connection::open(&of.link.url, "checkpoint").await else { continue };
        let ended = other
            .query(
                "select pid, pg_terminate_backend(pid) from pg_stat_activity \
                 where pid = any (pg_blocking_pids($1)) and application_name = current_setting('application_name')",
                &[&blocked],
            )
            .await;
        for row in ended.iter().flatten() {
            let backend: i32 = row.get(0);
            tracing::warn!(
                backend,
                "ended a connection of an earlier run, or of an attempt that was given up: it stood in the way"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_processes_give_out_the_same_parked_id_wherever_they_begin() {
        let mut seen = std::collections::BTreeSet::new();
        for (process, begins) in [(0, 7), (1, 7), (2, 12)] {
            let first = first_id(begins, Seat { process, processes: 3 });
            assert!(first >= begins && first < begins + 3);
            assert!((0..10).all(|k| seen.insert(first + 3 * k)));
        }
        assert_eq!(first_id(7, Seat::ALONE), 7);
        assert_eq!(first_id(1, Seat { process: 0, processes: 2 }), 2, "0 is no id");
    }
}
