//! Keeps a pool between its bounds: as many ready as were asked for, none beyond that for longer than they may rest.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool::managed::{PoolError, TimeoutType, Timeouts};

use super::{BACKOFF, Inner, Pool, timeouts};

impl Pool {
    /// Starts the task that keeps it, once; it ends with the last clone of the pool.
    pub(super) fn keep(&self) {
        if !self.0.kept.swap(true, Ordering::Relaxed) {
            tokio::spawn(run(Arc::downgrade(&self.0)));
        }
    }
}

async fn run(pool: Weak<Inner>) {
    let mut failed = 0;
    loop {
        let Some(inner) = pool.upgrade() else { return };
        inner.close_rested();
        failed = if inner.top_up().await { 0 } else { failed + 1 };
        let rest = inner.config.lock().idle_timeout / 4;
        drop(inner);
        let pause = rest.clamp(Duration::from_millis(20), Duration::from_secs(1));
        tokio::time::sleep(if failed == 0 { pause } else { BACKOFF.wait(failed).max(pause) }).await;
    }
}

impl Inner {
    /// Closes connections that rested for too long, the longest resting first, down to `min_connections`; lost ones in any case.
    fn close_rested(&self) {
        let config = *self.config.lock();
        let mut spare = self.pool.status().available.saturating_sub(config.min_connections);
        let closed = self.pool.retain(|client, metrics| {
            let too_many = spare > 0 && metrics.last_used() >= config.idle_timeout;
            spare -= usize::from(too_many);
            !too_many && !client.is_closed()
        });
        drop(closed);
    }

    /// Opens connections until enough are ready. `false`: one could not be opened.
    async fn top_up(&self) -> bool {
        let config = *self.config.lock();
        if self.pool.status().available >= config.min_connections {
            return true;
        }
        // A pool gives out what is ready before it opens another, so those are held meanwhile: for as long as opening the rest takes.
        let mut held = Vec::new();
        let limits = Timeouts { wait: Some(Duration::ZERO), ..timeouts(config.connection_timeout) };
        while held.len() < config.min_connections {
            match self.pool.timeout_get(&limits).await {
                Ok(object) => held.push(object),
                // All that may be are in use: that is enough.
                Err(PoolError::Timeout(TimeoutType::Wait)) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
