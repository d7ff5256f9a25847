//! The way to the database: a runtime of its own and a pool, shared by the store, its lease, its letters and its clean-up.
//!
//! Why a runtime of its own: the lease must be renewed and notes must become durable also while closures of the user occupy the
//! runtime that makes the calls.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::faults::Faults;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::backoff::Backoff;
use crate::postgres::{Pool, PoolConfig, PooledClient, Url};

/// Waits between attempts on a database that is away.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_secs(2) };

/// No statement of the store reads a whole table. The server would plan one for a table that was empty when it last looked, and keep to
/// that plan while the table fills.
const BY_INDEX: &str = "set enable_seqscan = off";

/// The way to the database.
pub(super) struct Link {
    pub url: Url,
    pub pool: Pool,
    pub faults: Faults,
    connection_timeout: Duration,
    runtime: Option<Runtime>,
}

impl Link {
    pub(super) fn new(url: &Url, config: PoolConfig, faults: Faults) -> Result<Link> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(|error| Error::stop("cannot start the runtime of the checkpoint store").because(error))?;
        let pool = Pool::with_session(url, config, "checkpoint", BY_INDEX)?;
        let connection_timeout = config.connection_timeout;
        Ok(Link { url: url.clone(), pool, faults, connection_timeout, runtime: Some(runtime) })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken when the link is dropped")
    }

    /// Waits for work on the calling thread.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime().block_on(work)
    }

    /// Work beside.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime().spawn(work);
    }

    /// Tries until the work succeeds, fails for good, or `given_up` says that nobody waits for it any more. Between attempts it
    /// waits, with back-off and full jitter.
    ///
    /// The work must be such that doing it again after an answer was lost does no harm.
    pub(super) fn insist<T, F>(
        &self,
        what: &str,
        given_up: impl Fn(Duration) -> bool,
        mut work: impl FnMut(u32) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let began = std::time::Instant::now();
        let mut failed = 0;
        loop {
            // Also in the midst of an attempt: opening a connection alone may take half a minute.
            let left = async {
                while !given_up(began.elapsed()) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let attempt = work(failed);
            let tried = self.block_on(async {
                tokio::select! {
                    tried = attempt => tried,
                    () = left => Err(Error::retry("it did not answer")),
                }
            });
            let error = match tried {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() != ErrorKind::Retry => return Err(Error::stop(error.to_string())),
                Err(error) => error,
            };
            failed += 1;
            let until = std::time::Instant::now() + BACKOFF.wait(failed);
            if failed == 1 || failed % 16 == 0 {
                tracing::warn!(%error, place = %self.url, seconds = began.elapsed().as_secs(), "{what}: tried again until it succeeds");
            }
            loop {
                if given_up(began.elapsed()) {
                    return Err(Error::stop(format!("{what}: given up after {:.1?}: {error}", began.elapsed())));
                }
                let left = until.saturating_duration_since(std::time::Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(Duration::from_millis(20)));
            }
        }
    }

    /// The same at start and for people who look: for as long as opening a connection may take.
    pub(super) fn insist_briefly<T, F>(&self, what: &str, work: impl FnMut(u32) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.insist(what, |passed| passed >= self.connection_timeout, work)
    }

    pub(super) async fn client(&self) -> Result<PooledClient> {
        self.pool.get().await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A link and the pipeline it is used for.
#[derive(Clone)]
pub(super) struct Of {
    pub link: Arc<Link>,
    pub pipeline: Arc<str>,
}
