//! How a run begins: it raises the generation in the fence, past whoever holds a share of it.
//!
//! A transaction under way is waited for. One whose client is frozen or gone would be waited for in vain: after some patience the
//! server is asked who is in the way, and those of them that are ours are ended. The server rolls them back.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use highwater_operators::action::transactional::{Recorded, RunOf};
use highwater_operators::postgres::{PooledClient, failed};
use highwater_operators::{Error, Result};
use tokio::time::sleep;
use tokio_postgres::types::Type;

use super::bookkeeping::checkpoint;
use super::{Description, Open};

/// How often those in the way are looked for, once the patience is over.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long somebody else's session may be in the way.
const TO_STRANGERS: Duration = Duration::from_secs(60);

pub(super) async fn begin(open: &Open, description: &Description, run: &RunOf) -> Result<Vec<Recorded>> {
    let client = open.pool.get().await?;
    open.bookkeeping.make(&client).await?;
    // What it refuses, it refuses before anything is fenced off.
    open.layout(&client, description).await?;
    let raise = Box::pin(raise(open, &client, run));
    let pid = client.query_one("select pg_backend_pid()", &[]).await.map_err(|error| failed("asking for the backend", error))?;
    past_others(open, pid.get(0), description.patience, raise).await?;
    open.bookkeeping.recorded(&client, run).await
}

/// Raises the generation, unless it stands higher or is of another checkpoint.
async fn raise(open: &Open, client: &PooledClient, run: &RunOf) -> Result {
    let fence = &open.bookkeeping.fence;
    let what = || format!("raising the generation in {fence}");
    let raise = format!(
        "insert into {fence} as fence (pipeline, action, checkpoint, generation, raised_by) values ($1, $2, $3, $4, $5)
         on conflict (pipeline, action) do update
         set generation = excluded.generation, raised_by = excluded.raised_by, raised_at = now()
         where fence.checkpoint = excluded.checkpoint
           and (fence.generation < excluded.generation
                or (fence.generation = excluded.generation and fence.raised_by = excluded.raised_by))"
    );
    let (checkpoint, generation) = (checkpoint(run), run.generation as i64);
    let of_action = [(&run.pipeline as _, Type::TEXT), (&run.action as _, Type::TEXT)];
    let values = [
        (&run.pipeline as _, Type::TEXT),
        (&run.action as _, Type::TEXT),
        (&checkpoint as _, Type::TEXT),
        (&generation as _, Type::INT8),
        (&open.raised_by as _, Type::INT8),
    ];
    if client.execute_typed(&raise, &values).await.map_err(|error| failed(&what(), error))? == 1 {
        return Ok(());
    }
    let stands = format!("select generation, checkpoint from {fence} where pipeline = $1 and action = $2");
    let rows = client.query_typed(&stands, &of_action).await.map_err(|error| failed(&what(), error))?;
    let row = rows.first().ok_or_else(|| Error::retry(format!("{}: its row has just been removed", what())))?;
    open.bookkeeping.check(row, run)?;
    Err(Error::stop(format!(
        "two runs of pipeline \"{}\" have begun with the number {}: start one of them again",
        run.pipeline, run.generation
    )))
}

/// Waits for `raise`; after some patience ends our own sessions that are in its way.
async fn past_others(open: &Open, pid: i32, patience: Duration, raise: impl Future<Output = Result>) -> Result {
    let mut raise = pin!(raise);
    let began = Instant::now();
    let mut wait = patience;
    loop {
        tokio::select! {
            raised = &mut raise => return raised,
            () = sleep(wait) => {}
        }
        wait = LOOK_AGAIN;
        let Ok(other) = open.pool.get().await else { continue };
        let in_the_way = "select pid, coalesce(application_name, ''), case when application_name like 'highwater %'
             then pg_terminate_backend(pid) end from pg_stat_activity where pid = any (pg_blocking_pids($1))";
        let found = match other.query_typed(in_the_way, &[(&pid, Type::INT4)]).await {
            Ok(found) => found,
            Err(error) => {
                let error = failed("ending the sessions of an earlier run", error);
                tracing::warn!(%error, "an earlier run is in the way; it must be of the same user, or this one have pg_signal_backend");
                continue;
            }
        };
        for row in &found {
            let (pid, application, ended): (i32, String, Option<bool>) = (row.get(0), row.get(1), row.get(2));
            if ended == Some(true) {
                tracing::warn!(pid, application, "a transaction of an earlier run did not end; its connection was ended");
            } else if began.elapsed() > TO_STRANGERS {
                return Err(Error::stop(format!(
                    "session {pid} (\"{application}\") has held {} for {TO_STRANGERS:?}: end it, then start again",
                    open.bookkeeping.fence
                )));
            }
        }
    }
}
