//! Renewing the lease, and hearing meanwhile what there is to hear: that the run was replaced, what was saved, what people ask.

use std::sync::Arc;
use std::time::Duration;

use super::holder::Living;
use super::letters::Mailbox;
use super::link::Of;
use super::sweep::Dead;
use super::text::number;
use super::write::{Writer, replaced};
use crate::checkpoint::lease::{GivenBack, Lease, Renewing};
use crate::clock::since_boot;
use crate::error::Result;
use crate::postgres::{Connection, failed};

/// A renewal need not survive a crash of the server, so it does not wait for the disk. The run's own generation is asked for in
/// the same statement: a run that was replaced cannot renew.
pub(super) const RENEW: &str = "with renewed as (
        update observer_leases lease set renewed_at = now() from observer_checkpoints pipeline
        where lease.listener_id = $1 and lease.generation = $2 and lease.process = $3
            and pipeline.listener_id = $1 and pipeline.generation = $2
        returning set_config('synchronous_commit', 'off', true)
    ) select pipeline.generation, pipeline.epoch, (select count(*) from renewed),
        (select json_agg(json_build_array(asked.id, asked.request) order by asked.id)::text
            from (select id, request from observer_requests where listener_id = $1 order by id limit 1000) asked)
    from observer_checkpoints pipeline where pipeline.listener_id = $1";

/// What a lease is kept by.
pub(super) struct Renewal {
    pub of: Of,
    pub writer: Writer,
    pub renewing: Renewing,
    pub length: Duration,
    pub mailbox: Arc<Mailbox>,
    pub dead: std::sync::Weak<Dead>,
    /// Leases of runs before this one that are over from here on.
    pub over_at: u64,
    pub living: Living,
}

impl Renewal {
    /// Renews until the lease is given back, or nobody has it any more.
    pub(super) async fn run(self) {
        let mut connection = None;
        let mut before_are_over = false;
        loop {
            let began = tokio::time::Instant::now();
            let lease = match self.renewing.lease() {
                Ok(lease) => lease,
                Err(how) => return self.end(how, connection).await,
            };
            if connection.is_none() {
                tokio::select! {
                    opened = Box::pin(Connection::open(&self.of.link.url, "lease")) => match opened {
                        Ok(opened) => connection = Some(opened),
                        Err(error) => {
                            tracing::debug!(%error, "no connection to renew the lease by");
                            tokio::time::sleep(self.length / 8).await;
                            continue;
                        }
                    },
                    () = self.mailbox.woken() => continue,
                }
            }
            // An answer that comes later is worth less than asking again.
            let asked = tokio::time::timeout(self.length, Box::pin(self.renew(&lease, connection.as_ref()))).await;
            let lasting = match asked {
                Ok(Ok(lasting)) => lasting,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease could not be renewed");
                    connection = None;
                    true
                }
                Err(_) => {
                    connection = None;
                    true
                }
            };
            if !lasting {
                return self.renewing.over();
            }
            drop(lease);
            if !before_are_over && since_boot() >= self.over_at && connection.is_some() {
                before_are_over = self.end_earlier(connection.as_ref()).await;
            }
            let next = began + self.length / 4;
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.mailbox.woken() => {}
            }
        }
    }

    /// Renews once. `false`: the run was replaced.
    async fn renew(&self, lease: &Lease, connection: Option<&Connection>) -> Result<bool> {
        let (name, Writer { process, generation }) = (&*self.of.pipeline, self.writer);
        let Some(connection) = connection else { return Ok(true) };
        self.mailbox.send(connection, &self.of, self.writer).await?;
        // Before it is asked: the server may have answered any time after.
        let asked_at = since_boot();
        let row = connection
            .query_opt(RENEW, &[&name, &generation, &process])
            .await
            .map_err(|error| failed("renewing the lease", error))?;
        let newer = row.as_ref().map_or(0, |row| number(row.get(0)));
        if row.as_ref().is_none_or(|row| row.get::<_, i64>(2) == 0) {
            lease.lose(replaced(name, number(generation), newer).to_string());
            return Ok(false);
        }
        lease.renew(asked_at + self.length.as_nanos() as u64);
        if let Some(row) = row {
            if let (Some(dead), Some(epoch)) = (self.dead.upgrade(), row.get::<_, Option<i64>>(1)) {
                dead.saved(number(epoch));
            }
            self.mailbox.received(row.get(3));
        }
        Ok(true)
    }

    /// Removes the leases of earlier runs, none of which can act any more.
    async fn end_earlier(&self, connection: Option<&Connection>) -> bool {
        let Some(connection) = connection else { return false };
        let gone = "delete from observer_leases where listener_id = $1 and generation < $2";
        connection.execute(gone, &[&&*self.of.pipeline, &self.writer.generation]).await.is_ok()
    }

    /// The run has ended. If nothing of it is under way, the next need not wait.
    async fn end(self, how: GivenBack, connection: Option<Connection>) {
        // From here on the lease is known to be nobody's, to a run in this process.
        drop(self.living);
        if how == GivenBack::AsItStands {
            return self.renewing.over();
        }
        let gone = "delete from observer_leases where listener_id = $1 and generation = $2 and process = $3";
        let Writer { process, generation } = self.writer;
        let release = async {
            let connection = match connection {
                Some(connection) => connection,
                None => Connection::open(&self.of.link.url, "lease").await?,
            };
            // What the run has seen to since the last renewal: its requests would be met again.
            self.mailbox.send(&connection, &self.of, self.writer).await?;
            let name = &*self.of.pipeline;
            connection.execute(gone, &[&name, &generation, &process]).await.map_err(|error| failed("releasing the lease", error))
        };
        // Where it cannot be given back it ends by itself.
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), Box::pin(release)).await {
            tracing::debug!(%error, "the lease could not be given back");
        }
        self.renewing.over();
    }
}
