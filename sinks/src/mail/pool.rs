//! The connections to one server: used again, bounded, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use highwater_operators::pools::{PoolStatus, Shown};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::{Connector, NoServer};

/// After so long a rest a connection is asked whether it still lives before a mail is given to it.
const RESTED: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    connector: Connector,
    max_connections: usize,
    idle_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    reaps: AtomicBool,
    waiting: AtomicUsize,
    opened: AtomicU64,
    opening_us: AtomicU64,
    errors: AtomicU64,
    away: AtomicBool,
    used: AtomicU64,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// A connection in use. Dropped, it is closed; [`give_back`](Taken::give_back) keeps it.
pub(super) struct Taken {
    pub connection: AsyncSmtpConnection,
    pool: Arc<Pool>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(connector: Connector, max_connections: usize, idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Pool {
            connector,
            max_connections,
            idle_timeout,
            permits: Arc::new(Semaphore::new(max_connections)),
            idle: Mutex::default(),
            reaps: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            opening_us: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            away: AtomicBool::new(false),
            used: AtomicU64::new(0),
        })
    }

    /// A connection: one that is ready, else a new one, as soon as there may be one.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Taken, NoServer> {
        self.waiting.fetch_add(1, Relaxed);
        let waits = Waits(&self.waiting);
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await.ok();
        drop(waits);
        self.used.fetch_add(1, Relaxed);
        while let Some(mut idle) = self.pop_idle() {
            if idle.since.elapsed() < RESTED || idle.connection.test_connected().await {
                return Ok(Taken { connection: idle.connection, pool: self.clone(), _permit: permit });
            }
        }
        let began = Instant::now();
        // On the heap: it is rare, and large with all that TLS needs.
        let connected = Box::pin(self.connector.connect()).await;
        self.away.store(connected.is_err(), Relaxed);
        if connected.is_err() {
            self.errors.fetch_add(1, Relaxed);
        }
        let connection = connected?;
        self.opened.fetch_add(1, Relaxed);
        self.opening_us.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
        Ok(Taken { connection, pool: self.clone(), _permit: permit })
    }

    /// The one that was used last: those at the bottom grow old, and are closed.
    fn pop_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.lock();
        while let Some(last) = idle.pop() {
            if !self.is_over(&last) && !last.connection.has_broken() {
                return Some(last);
            }
        }
        None
    }

    fn is_over(&self, idle: &Idle) -> bool {
        idle.since.elapsed() >= self.idle_timeout
    }

    /// Takes leave on idle connections when their time is over, as long as there are any.
    fn reap(self: &Arc<Self>) {
        let (pool, every) = (Arc::downgrade(self), self.idle_timeout.max(Duration::from_millis(10)) / 2);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(pool) = pool.upgrade() else { return };
                let (over, none_left) = {
                    let mut idle = pool.idle.lock();
                    let over: Vec<Idle> = idle.extract_if(.., |idle| pool.is_over(idle)).collect();
                    let none_left = idle.is_empty();
                    // Within the lock: who gives one back now starts the next.
                    pool.reaps.store(!none_left, Relaxed);
                    (over, none_left)
                };
                for mut idle in over {
                    // However long the server takes, it is closed then.
                    let _ = tokio::time::timeout(RESTED, idle.connection.quit()).await;
                }
                if none_left {
                    return;
                }
            }
        });
    }
}

impl Taken {
    /// Keeps the connection for others. It must stand between two mails.
    pub(super) fn give_back(self) {
        // Before the permit is given back: whoever gets that finds this one.
        let mut idle = self.pool.idle.lock();
        idle.push(Idle { connection: self.connection, since: Instant::now() });
        if !self.pool.reaps.swap(true, Relaxed) {
            self.pool.reap();
        }
    }
}

impl Shown for Pool {
    fn status(&self) -> PoolStatus {
        PoolStatus {
            active: self.max_connections - self.permits.available_permits().min(self.max_connections),
            idle: self.idle.lock().len(),
            waiting: self.waiting.load(Relaxed),
            max_connections: self.max_connections,
            opened: self.opened.load(Relaxed),
            opening: Duration::from_micros(self.opening_us.load(Relaxed)),
            errors: self.errors.load(Relaxed),
            away: self.away.load(Relaxed),
            used: self.used.load(Relaxed),
        }
    }
}

/// Counts a caller that waits, for as long as it does.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
