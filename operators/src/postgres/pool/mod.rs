//! Pools: connections that are shared in turn, kept ready, replaced when they are lost.

mod counts;
mod keeper;
mod manager;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use deadpool::managed::{self, PoolError, QueueMode, TimeoutType, Timeouts};
use deadpool_postgres::ClientWrapper;
use parking_lot::Mutex;
use tokio::time::timeout;

use self::counts::Counts;
use self::manager::Manager;
use super::connect::Opener;
use super::url::Url;
use crate::guard::backoff::Backoff;
use crate::pools::{self, PoolStatus, Shown};
use crate::{Error, ErrorKind, Result};

/// How many connections a pool has, and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Idle connections that are kept ready, from the first use on. Default: 5.
    pub min_connections: usize,
    /// The most connections there are at once; who wants one more waits. Default: 50.
    pub max_connections: usize,
    /// How long [`Pool::get`] may take, opening included, and how long a call may hang when the server answers nobody. Default: 30 s.
    pub connection_timeout: Duration,
    /// How long a connection above `min_connections` may rest before it is closed. Default: 10 minutes.
    pub idle_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            min_connections: 5,
            max_connections: 50,
            connection_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
        }
    }
}

impl PoolConfig {
    fn check(self) -> Result<Self> {
        if self.max_connections == 0 || self.min_connections > self.max_connections {
            return Err(Error::stop(format!(
                "min_connections is {}, max_connections is {}: the latter is at least 1, and not below the former",
                self.min_connections, self.max_connections
            )));
        }
        if self.connection_timeout.is_zero() {
            return Err(Error::stop("connection_timeout is 0: give it the time that opening a connection may take"));
        }
        Ok(self)
    }
}

/// Connections to one database, for one purpose. Clones share them.
///
/// ```no_run
/// # async fn example() -> highwater_operators::Result {
/// use highwater_operators::postgres::{Pool, PoolConfig, Url, failed};
/// let url = Url::parse("postgres://ada@localhost/shop")?;
/// let pool = Pool::new(&url, PoolConfig { max_connections: 8, ..PoolConfig::default() }, "prices")?;
/// let client = pool.get().await?;
/// let rows = client.query("select price from item", &[]).await.map_err(|error| failed("reading prices", error))?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    pool: managed::Pool<Manager>,
    config: Mutex<PoolConfig>,
    counts: Arc<Counts>,
    in_use: Arc<AtomicUsize>,
    kept: AtomicBool,
    what: String,
    password_may_change: bool,
}

impl Pool {
    /// A pool; nothing is opened before the first [`get`](Self::get). The server shows its connections as `highwater PURPOSE`.
    ///
    /// # Errors
    /// Of kind *stop* if the settings contradict each other.
    pub fn new(url: &Url, config: PoolConfig, purpose: &str) -> Result<Pool> {
        Self::with_session(url, config, purpose, "")
    }

    /// The same, with settings for each session, as statements.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_session(url: &Url, config: PoolConfig, purpose: &str, session: &'static str) -> Result<Pool> {
        let config = config.check()?;
        let in_use = Arc::new(AtomicUsize::new(0));
        let opener = Opener::new(url, purpose, config.connection_timeout, in_use.clone()).with_session(session);
        let counts = Arc::new(Counts::default());
        let manager = Manager { opener, counts: counts.clone() };
        let pool = managed::Pool::builder(manager)
            .max_size(config.max_connections)
            .runtime(deadpool::Runtime::Tokio1)
            // The one used last is given out first, so that what is not needed rests, and is closed.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| Error::stop("the pool cannot be made").because(error))?;
        let inner = Arc::new(Inner {
            pool,
            config: Mutex::new(config),
            counts,
            in_use,
            kept: AtomicBool::new(false),
            what: format!("a connection to {url} for {purpose}"),
            password_may_change: url.password_may_change(),
        });
        let shown: Weak<Inner> = Arc::downgrade(&inner);
        pools::show(purpose, shown);
        Ok(Pool(inner))
    }

    /// A connection, given back when it is dropped. While the server is away this tries again, with back-off, until `connection_timeout` is over.
    ///
    /// A connection that has rested for a while is asked whether it still lives before it is given out.
    ///
    /// # Errors
    /// Of kind *retry* if there was none in time; of kind *stop* if the server refuses for good.
    pub async fn get(&self) -> Result<PooledClient> {
        self.keep();
        let limit = self.0.config.lock().connection_timeout;
        let until = Instant::now() + limit;
        let mut failed = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // The limits of the pool's own hold for each of several connections that it tries; this one for all of them.
            let got = timeout(left + Duration::from_millis(5), self.0.pool.timeout_get(&timeouts(left))).await;
            let error = match got {
                Ok(Ok(object)) => return Ok(PooledClient::new(object, self.0.in_use.clone())),
                Ok(Err(PoolError::Backend(error))) => error,
                Ok(Err(PoolError::Timeout(TimeoutType::Wait))) => return Err(self.0.none_free(limit)),
                Ok(Err(_)) | Err(_) => return Err(self.0.no_answer(limit)),
            };
            failed += 1;
            let wait = BACKOFF.wait(failed).min(limit / 4);
            let may_pass = error.kind() == ErrorKind::Retry || self.0.password_may_change;
            if !may_pass || until.saturating_duration_since(Instant::now()) <= wait {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Changes the most connections there may be, while running. Those in use beyond it are closed when they are given back.
    pub fn resize(&self, max_connections: usize) {
        let max = max_connections.max(1);
        let mut config = self.0.config.lock();
        config.max_connections = max;
        config.min_connections = config.min_connections.min(max);
        self.0.pool.resize(max);
    }

    /// How it stands.
    pub fn status(&self) -> PoolStatus {
        self.0.status()
    }
}

impl Inner {
    fn none_free(&self, limit: Duration) -> Error {
        let max = self.pool.status().max_size;
        let what = &self.what;
        Error::retry(format!(
            "{what} was not free within {limit:?}: all {max} are in use; raise max_connections, or hold each for less long"
        ))
    }

    fn no_answer(&self, limit: Duration) -> Error {
        let what = &self.what;
        Error::retry(format!("{what} was not to be had within {limit:?}: the server does not answer; look whether it runs"))
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({}, {:?})", self.0.what, self.status())
    }
}

/// The waits while a server is away. The largest is short: a server that is back is to be found at once.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(2) };

fn timeouts(left: Duration) -> Timeouts {
    // Zero would mean "do not wait at all".
    let left = left.max(Duration::from_millis(1));
    Timeouts { wait: Some(left), create: Some(left), recycle: Some(left.min(manager::HEALTH_LIMIT)) }
}

/// A connection of a pool, given back when dropped. Derefs to [`tokio_postgres::Client`], with `prepare_cached` beside it.
///
/// What its session was told (`set`, `listen`, locks) is not undone: for such things open a [`Connection`](super::Connection).
pub struct PooledClient {
    object: managed::Object<Manager>,
    in_use: Arc<AtomicUsize>,
}

impl PooledClient {
    fn new(object: managed::Object<Manager>, in_use: Arc<AtomicUsize>) -> Self {
        in_use.fetch_add(1, Ordering::Relaxed);
        PooledClient { object, in_use }
    }
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Deref for PooledClient {
    type Target = ClientWrapper;
    fn deref(&self) -> &ClientWrapper {
        &self.object
    }
}

impl DerefMut for PooledClient {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.object
    }
}

impl std::fmt::Debug for PooledClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PooledClient")
    }
}
