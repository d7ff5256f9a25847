//! Renews the leases of all jobs that are held.

use std::time::Duration;

use highwater_operators::clock::since_boot;

use super::Pool;
use crate::jobs::store::{BATCH_MAX, Claim};

impl Pool {
    pub(super) async fn renew_for_ever(&self) {
        let lease = self.settings.lease;
        let mut wait = lease / 3;
        loop {
            tokio::time::sleep(wait).await;
            wait = if self.renew_all(lease).await { lease / 3 } else { lease / 20 };
        }
    }

    /// `false`: the store did not answer.
    async fn renew_all(&self, lease: Duration) -> bool {
        let held = self.desk.held();
        for held in held.chunks(BATCH_MAX) {
            let claims: Vec<Claim> = held.iter().map(|held| held.claim()).collect();
            let asked_at = since_boot();
            // Later than the lease an answer is of no use; and a store that hangs must not keep others from being renewed.
            let Ok(Ok(renewed)) = tokio::time::timeout(lease / 3, self.store.renew(&claims, lease)).await else { return false };
            for (held, renewed) in held.iter().zip(renewed) {
                // One that has just been settled is not renewed either; nobody waits for it.
                match renewed {
                    true => held.renew(asked_at + lease.as_nanos() as u64),
                    false => held.end(),
                }
            }
        }
        true
    }
}
