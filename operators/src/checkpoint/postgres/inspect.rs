//! Looking into the store without disturbing a run.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::link::Of;
use super::read::{self, Pipeline};
use super::text::number;
use crate::checkpoint::place::Inspect;
use crate::checkpoint::store::{Parked, ParkedHead, ParkedId, Save};
use crate::error::Result;
use crate::parked::{Filter, Page};
use crate::position::PartitionId;
use crate::postgres::failed;

/// What the store held at one moment.
pub(super) struct Inspection {
    of: Of,
    pipeline: Pipeline,
    partitions: BTreeMap<PartitionId, String>,
    /// Read when somebody asks for all of them: there may be a million.
    heads: OnceCell<Vec<ParkedHead>>,
    parked: u64,
    notes: usize,
    /// The process of the last run, if it is one of this machine.
    pid: Option<u32>,
    state: (u64, u64),
}

pub(super) const STATE_SIZE: &str =
    "select count(*), coalesce(sum(octet_length(bytes)), 0)::bigint from observer_state where listener_id = $1";
pub(super) const HOLDER: &str =
    "select machine, pid, pid_started, token from observer_leases where listener_id = $1 and generation = $2 and process = 0";

/// Looks, in one snapshot.
pub(super) async fn look(of: &Of) -> Result<Option<Inspection>> {
    let wrong = |error| failed("reading the checkpoint store", error);
    let mut client = of.link.client().await?;
    if super::schema::version(&**client).await?.is_none() {
        return Ok(None);
    }
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(wrong)?;
    let transaction: &tokio_postgres::Transaction<'_> = &transaction;
    let name = &*of.pipeline;
    let Some(pipeline) = read::pipeline(transaction, name, "").await? else { return Ok(None) };
    let noted_since =
        pipeline.saved.as_ref().filter(|saved| saved.generation == pipeline.generation).map(|saved| saved.save.epoch);
    let notes = read::notes(transaction, name, noted_since).await?.len();
    let state = transaction.query_one(STATE_SIZE, &[&name]).await.map_err(wrong)?;
    let generation = super::text::bigint(pipeline.generation);
    let holder = transaction.query_opt(HOLDER, &[&name, &generation]).await.map_err(wrong)?;
    let pid = holder.and_then(|row| {
        let holder = super::holder::Holder { machine: row.get(0), pid: row.get(1), pid_started: row.get(2), token: row.get(3) };
        holder.is_here().then(|| u32::try_from(holder.pid).ok()).flatten()
    });
    Ok(Some(Inspection {
        of: of.clone(),
        partitions: read::partitions(transaction, name).await?,
        heads: OnceCell::new(),
        parked: read::count(transaction, name).await?,
        notes,
        pid,
        state: (number(state.get(0)), number(state.get(1))),
        pipeline,
    }))
}

impl Inspect for Inspection {
    fn pipeline(&self) -> &str {
        &self.of.pipeline
    }

    fn medium(&self) -> String {
        let (rows, bytes) = self.state;
        format!("database {} ({rows} rows of state, {bytes} bytes)", self.of.link.url)
    }

    fn generation(&self) -> u64 {
        self.pipeline.generation
    }

    fn started(&self) -> (u64, Option<u32>) {
        (self.pipeline.started_at_ms, self.pid)
    }

    fn checkpoint(&self) -> Option<&Save> {
        self.pipeline.saved.as_ref().map(|saved| &saved.save)
    }

    fn saved_at_ms(&self) -> Option<u64> {
        self.pipeline.saved.as_ref().map(|saved| saved.at_ms)
    }

    fn partitions(&self) -> &BTreeMap<PartitionId, String> {
        &self.partitions
    }

    fn parked_heads(&self) -> Vec<&ParkedHead> {
        let of = &self.of;
        let read = |_| async move { read::heads(&**of.link.client().await?, &of.pipeline).await };
        let heads = || {
            of.link.insist_briefly("the parked changes could not be read", read).unwrap_or_else(|error| {
                tracing::warn!(%error, "parked changes are left out");
                Vec::new()
            })
        };
        self.heads.get_or_init(heads).iter().collect()
    }

    fn parked_count(&self) -> u64 {
        self.parked
    }

    fn parked_page(&self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        let of = &self.of;
        let read = |_| async move { Box::pin(read::page(of, filter, after, most)).await };
        of.link.insist_briefly("parked changes could not be read", read)
    }

    fn parked(&self, id: ParkedId) -> Result<Option<Parked>> {
        let of = &self.of;
        of.link.insist_briefly("a parked change could not be read", |_| async move { Ok(read::records(of, &[id]).await?.pop()) })
    }

    fn notes(&self) -> usize {
        self.notes
    }
}
