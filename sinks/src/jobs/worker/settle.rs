//! Says in batches what became of jobs.

use std::time::Duration;

use highwater_operators::ErrorKind;
use highwater_operators::guard::backoff::Backoff;

use super::Pool;
use crate::jobs::figures::add;
use crate::jobs::store::{Fate, Settlement};

/// The waits while the store is away. The largest is short: leases run out meanwhile.
pub(super) const AWAY: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

impl Pool {
    pub(super) async fn settle_until_the_end(&self) {
        while let Some(settled) = self.desk.to_say().await {
            self.settle(&settled).await;
            self.desk.settled(&settled);
        }
    }

    /// Says it until it is heard: the store decides by the fencing number whether it is still for us to say.
    async fn settle(&self, settled: &[Settlement]) {
        let mut failed = 0;
        loop {
            match self.store.settle(settled).await {
                Ok(accepted) => {
                    self.count(settled, &accepted);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Retry => {
                    failed += 1;
                    if failed == 1 {
                        tracing::warn!(queue = self.settings.name, %error, "what became of jobs cannot be said; it is tried again");
                    }
                    tokio::time::sleep(AWAY.wait(failed)).await;
                }
                Err(error) => {
                    self.desk.end(Some(error));
                    return;
                }
            }
        }
    }

    fn count(&self, settled: &[Settlement], accepted: &[bool]) {
        let (mut finished, mut refused) = (0, 0);
        for (settlement, accepted) in settled.iter().zip(accepted) {
            match (accepted, &settlement.fate) {
                (true, Fate::Finished) => finished += 1,
                (true, _) => {}
                (false, _) => refused += 1,
            }
        }
        add(&self.figures.finished, finished);
        if refused > 0 {
            add(&self.figures.refused, refused);
            let queue = &self.settings.name;
            tracing::warn!(
                queue,
                refused,
                "jobs had been given to other workers before this one was done: they are done once more"
            );
        }
    }

    /// What was broken off goes back.
    pub(super) fn give_back(&self) {
        let jobs = self.desk.give_back();
        if jobs > 0 {
            tracing::warn!(queue = self.settings.name, jobs, "jobs under way were broken off, and will be done again");
        }
    }
}
