//! A store whose calls fail, before the work is done and after it, when the answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_operators::action::BoxFuture;
use highwater_operators::checkpoint::store::Parked;
use highwater_operators::{Change, Error, Result};
use highwater_sinks::jobs::{Claim, Counts, Enqueued, JobNumber, JobStore, NewJob, Settlement, Taken};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Fails a share of all calls.
pub struct Faulty {
    inner: Arc<dyn JobStore>,
    share: f64,
    random: Mutex<StdRng>,
    /// No lease is renewed any more.
    pub renews_nothing: AtomicBool,
}

impl Faulty {
    pub fn new(inner: Arc<dyn JobStore>, share: f64, seed: u64) -> Arc<Self> {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Faulty { inner, share, random, renews_nothing: AtomicBool::new(false) })
    }

    async fn perhaps<T>(&self, call: BoxFuture<'_, Result<T>>) -> Result<T> {
        let (before, after) = {
            let mut random = self.random.lock();
            (random.random_bool(self.share / 2.0), random.random_bool(self.share / 2.0))
        };
        if before {
            return Err(Error::retry("a test: it was not done"));
        }
        let done = call.await;
        if after { Err(Error::retry("a test: it was done, and the answer is lost")) } else { done }
    }
}

impl JobStore for Faulty {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn open(&self) -> BoxFuture<'_, Result> {
        Box::pin(self.perhaps(self.inner.open()))
    }

    fn enqueue<'a>(&'a self, jobs: &'a [NewJob]) -> BoxFuture<'a, Result<Vec<Enqueued>>> {
        Box::pin(self.perhaps(self.inner.enqueue(jobs)))
    }

    fn take(&self, most: usize, lease: Duration) -> BoxFuture<'_, Result<Taken>> {
        Box::pin(self.perhaps(self.inner.take(most, lease)))
    }

    fn renew<'a>(&'a self, held: &'a [Claim], lease: Duration) -> BoxFuture<'a, Result<Vec<bool>>> {
        if self.renews_nothing.load(Ordering::Relaxed) {
            return Box::pin(std::future::pending());
        }
        Box::pin(self.perhaps(self.inner.renew(held, lease)))
    }

    fn settle<'a>(&'a self, settled: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(self.perhaps(self.inner.settle(settled)))
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts>> {
        self.inner.counts()
    }

    fn parked(&self, after: JobNumber, most: usize) -> BoxFuture<'_, Result<Vec<Parked>>> {
        self.inner.parked(after, most)
    }

    fn retry<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        self.inner.retry(parked)
    }

    fn discard<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        self.inner.discard(parked)
    }

    fn edit<'a>(&'a self, parked: JobNumber, change: &'a Change) -> BoxFuture<'a, Result<bool>> {
        self.inner.edit(parked, change)
    }

    fn arrived(&self, most: Duration) -> BoxFuture<'_, ()> {
        self.inner.arrived(most)
    }
}
