//! How a pool's connections are opened, and asked whether they still live.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;

use super::counts::Counts;
use crate::postgres::connect::Opener;
use crate::{Error, Result};

/// After so long a rest a connection is asked before it is given out. Below it, the loss of a connection that was just used is noticed as it is
/// used: who retries does so anyway.
const RESTED: Duration = Duration::from_secs(1);

/// How long a rested connection may take to answer; then it is closed and another one taken.
pub(super) const HEALTH_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Manager {
    pub opener: Opener,
    pub counts: Arc<Counts>,
}

impl managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = Error;

    async fn create(&self) -> Result<ClientWrapper> {
        let began = Instant::now();
        match self.opener.open(None).await {
            Ok((client, task)) => {
                if self.counts.opened(began.elapsed()) {
                    tracing::info!(database = %self.opener.url, purpose = self.opener.purpose, "the database is back");
                }
                Ok(ClientWrapper::new(client, task))
            }
            Err(error) => {
                if self.counts.failed() {
                    tracing::warn!(purpose = self.opener.purpose, %error, "the database is away; it is tried again");
                }
                Err(error)
            }
        }
    }

    async fn recycle(&self, client: &mut ClientWrapper, metrics: &Metrics) -> RecycleResult<Error> {
        if client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if metrics.last_used() >= RESTED {
            client.simple_query("").await.map_err(|_| RecycleError::message("no answer"))?;
        }
        Ok(())
    }
}
