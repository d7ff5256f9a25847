//! A replication session in which commands are given, and nothing is streamed.

use highwater_operators::postgres::Url;
use highwater_operators::{Error, Result};
use pgwire_replication::{PgWireError, ReplicationClient};

use super::super::follower::{said_of, session_config};

/// It ends when this is dropped, at once, whatever it is doing.
pub(super) struct Walsender(ReplicationClient);

impl Walsender {
    pub(super) async fn open(url: &Url, purpose: &str) -> Result<Walsender> {
        let reach = url.reach(purpose)?;
        let Some((host, port)) = reach.hosts.first() else { return Err(Error::stop("the URL of the database has no host")) };
        let config = session_config(&reach, host, *port, "", "");
        Ok(Walsender(ReplicationClient::connect_gated(config).await.map_err(failed)?))
    }

    /// The rows of its answer, as texts.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let rows = self.0.simple_query(sql).await.map_err(failed)?;
        let text = |field: Option<bytes::Bytes>| field.map(|field| String::from_utf8_lossy(&field).into_owned());
        Ok(rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    }

    /// The first field of its answer.
    pub(super) async fn one(&mut self, sql: &str) -> Result<String> {
        Ok(self.query(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
    }
}

impl Drop for Walsender {
    fn drop(&mut self) {
        // Left to itself it would wait for the answer to its last command.
        self.0.abort();
    }
}

fn failed(error: PgWireError) -> Error {
    said_of("taking a snapshot", &error)
}
