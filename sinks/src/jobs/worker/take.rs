//! Takes jobs in batches, as there is room for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::clock::since_boot;
use highwater_operators::{Error, ErrorKind, Result};

use super::Pool;
use super::held::Held;
use super::settle::AWAY;
use crate::jobs::store::Taken;

/// How often is looked whether there are jobs of which nothing was heard.
const LOOK: Duration = Duration::from_secs(1);

/// How often is looked whether all is done.
const DONE: Duration = Duration::from_millis(100);

impl Pool {
    pub(super) async fn take_until_the_end(&self) {
        let mut failed = 0;
        while !self.desk.is_ended() {
            match self.step().await {
                Ok(()) => {
                    if failed > 0 {
                        tracing::info!(queue = self.settings.name, "the store is back");
                    }
                    failed = 0;
                }
                Err(error) if error.kind() == ErrorKind::Stop => self.desk.end(Some(error)),
                Err(error) => {
                    failed += 1;
                    if failed == 1 {
                        tracing::warn!(queue = self.settings.name, %error, "no jobs can be taken; it is tried again");
                    }
                    self.unless_ended(tokio::time::sleep(AWAY.wait(failed))).await;
                }
            }
        }
    }

    /// Takes some, or waits.
    async fn step(&self) -> Result {
        self.ready().await?;
        if let Some(until) = self.desk.pause() {
            self.unless_ended(tokio::time::sleep_until(until.into())).await;
            return Ok(());
        }
        let room = self.desk.room();
        if room == 0 {
            self.desk.roomy().await;
            return Ok(());
        }
        let asked_at = since_boot();
        let Taken { jobs, next } = self.store.take(room, self.settings.lease).await?;
        self.figures.taken(&jobs);
        let until = asked_at + self.settings.lease.as_nanos() as u64;
        let is_short = jobs.len() < room;
        let is_none = jobs.is_empty();
        self.desk.lay_down(jobs.into_iter().map(|leased| Arc::new(Held::new(leased, until))).collect());
        if is_none && self.until_empty && self.desk.is_empty() && self.is_done().await? {
            self.desk.end(None);
        } else if is_short {
            let most = if self.until_empty { DONE } else { LOOK };
            self.wait(next.unwrap_or(most).min(most)).await;
        }
        Ok(())
    }

    /// Waits for jobs to come, or for a worker to have nothing to do while there may be some: a job that ends may let the next of its key go.
    async fn wait(&self, most: Duration) {
        let began = Instant::now();
        tokio::select! {
            () = self.store.arrived(most) => {}
            () = self.desk.roomy() => {}
        }
        // Not more often than this, whoever wakes: a batch is worth more than a job.
        let rest = Duration::from_micros(200).saturating_sub(began.elapsed());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }

    async fn is_done(&self) -> Result<bool> {
        let counts = self.store.counts().await?;
        // What waits behind a parked job does not move by itself.
        Ok(counts.ready + counts.later + counts.in_flight == 0)
    }

    async fn unless_ended(&self, wait: impl Future<Output = ()>) {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return,
                () = self.desk.roomy() => if self.desk.is_ended() { return },
            }
        }
    }

    /// Opens the store, until it is open.
    async fn ready(&self) -> Result<(), Error> {
        self.open.ready().await.map(drop)
    }
}
