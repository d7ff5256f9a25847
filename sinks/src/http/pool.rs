//! The connections to one origin: used again, bounded, counted, and resizable while they are in use.
//!
//! Why not `hyper_util`'s client: its pool cannot be asked how it stands, knows no most and no age, and cannot be resized. A webhook has
//! one origin, so a stack of idle connections is a pool. HTTP/1 takes one for each call; of HTTP/2 one connection takes all calls, and
//! only the level of the guard bounds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_operators::pools::{PoolStatus, Shown};
use http_body_util::Full;
use hyper::client::conn::http2;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::{Connection, Connector};
use crate::network::dial::NoConnection;

/// The bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolBounds {
    pub max_connections: usize,
    pub idle_timeout: Duration,
    pub max_age: Duration,
}

pub(crate) struct Pool {
    connector: Connector,
    bounds: PoolBounds,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    /// Whether the origin is known to speak HTTP/1: then connections are opened side by side.
    is_http1: AtomicBool,
    opening: tokio::sync::Mutex<()>,
    counts: Counts,
}

#[derive(Default)]
struct State {
    max_connections: usize,
    /// Permits that a smaller size still has to take back.
    surplus: usize,
    idle: Vec<Idle>,
    shared: Option<(http2::SendRequest<Full<Bytes>>, Instant)>,
    reaps: bool,
}

#[derive(Default)]
struct Counts {
    active: AtomicUsize,
    waiting: AtomicUsize,
    opened: AtomicU64,
    opening_us: AtomicU64,
    errors: AtomicU64,
    away: AtomicBool,
    used: AtomicU64,
}

struct Idle {
    connection: Connection,
    born: Instant,
    since: Instant,
}

/// A connection in use. Dropped, it is closed; [`give_back`](Taken::give_back) keeps it.
pub(crate) struct Taken {
    pub connection: Connection,
    /// Whether it was used before: then the other side may have closed it unseen.
    pub is_old: bool,
    born: Instant,
    lease: Lease,
}

/// What a use of a connection holds of its pool.
struct Lease {
    pool: Arc<Pool>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(crate) fn new(connector: Connector, bounds: PoolBounds) -> Arc<Self> {
        let max_connections = bounds.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Pool {
            is_http1: AtomicBool::new(connector.tls.is_none()),
            connector,
            bounds,
            permits: Arc::new(Semaphore::new(max_connections)),
            state: Mutex::new(State { max_connections, ..State::default() }),
            opening: tokio::sync::Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// A connection: one that is ready, else a new one, as soon as there may be one.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Taken, NoConnection> {
        if let Some(taken) = self.shared() {
            return Ok(taken);
        }
        // What is not known to be HTTP/1 may be one connection for all: the first that opens one tells.
        let _opening = match self.is_http1.load(Relaxed) {
            true => None,
            false => Some(self.opening.lock().await),
        };
        if let Some(taken) = self.shared() {
            return Ok(taken);
        }
        let lease = self.lease().await;
        while let Some(idle) = self.pop_idle() {
            let Connection::Http1(mut sender) = idle.connection else { continue };
            if sender.ready().await.is_ok() {
                self.counts.used.fetch_add(1, Relaxed);
                return Ok(Taken { connection: Connection::Http1(sender), is_old: true, born: idle.born, lease });
            }
        }
        let (connection, born) = (self.open().await?, Instant::now());
        self.counts.used.fetch_add(1, Relaxed);
        match connection {
            Connection::Http1(_) => {
                self.is_http1.store(true, Relaxed);
                Ok(Taken { connection, is_old: false, born, lease })
            }
            Connection::Http2(sender) => {
                self.is_http1.store(false, Relaxed);
                self.state.lock().shared = Some((sender.clone(), born));
                drop(lease.permit_only());
                let lease = Lease::new(self, None);
                Ok(Taken { connection: Connection::Http2(sender), is_old: false, born, lease })
            }
        }
    }

    /// The connection that all calls share, if there is one.
    fn shared(self: &Arc<Self>) -> Option<Taken> {
        let mut state = self.state.lock();
        let (sender, born) = state.shared.as_ref()?;
        if sender.is_closed() || born.elapsed() >= self.bounds.max_age {
            state.shared = None;
            return None;
        }
        self.counts.used.fetch_add(1, Relaxed);
        let connection = Connection::Http2(sender.clone());
        Some(Taken { connection, is_old: true, born: *born, lease: Lease::new(self, None) })
    }

    async fn lease(self: &Arc<Self>) -> Lease {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiting = Waiting::new(&self.counts.waiting);
                // The semaphore is never closed.
                self.permits.clone().acquire_owned().await.ok()
            }
        };
        Lease::new(self, permit)
    }

    /// The connection that was used last: those at the bottom grow old and are closed.
    fn pop_idle(&self) -> Option<Idle> {
        let mut state = self.state.lock();
        while let Some(idle) = state.idle.pop() {
            if self.is_fresh(&idle) {
                return Some(idle);
            }
        }
        None
    }

    fn is_fresh(&self, idle: &Idle) -> bool {
        let is_open = matches!(&idle.connection, Connection::Http1(sender) if !sender.is_closed());
        is_open && idle.since.elapsed() < self.bounds.idle_timeout && idle.born.elapsed() < self.bounds.max_age
    }

    async fn open(&self) -> Result<Connection, NoConnection> {
        let began = Instant::now();
        // On the heap: it is rare, and large with all that TLS needs, and every call would carry room for it.
        let opened = Box::pin(self.connector.connect()).await;
        let counts = &self.counts;
        counts.away.store(opened.is_err(), Relaxed);
        match &opened {
            Ok(_) => {
                counts.opened.fetch_add(1, Relaxed);
                counts.opening_us.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
            }
            Err(_) => drop(counts.errors.fetch_add(1, Relaxed)),
        }
        opened
    }

    /// Closes idle connections when their time is over, as long as there are any.
    fn reap(self: &Arc<Self>) {
        let (pool, every) = (Arc::downgrade(self), self.bounds.idle_timeout.max(Duration::from_millis(10)) / 2);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut state = pool.state.lock();
                state.idle.retain(|idle| pool.is_fresh(idle));
                if state.idle.is_empty() {
                    state.reaps = false;
                    return;
                }
            }
        });
    }

    /// Takes a permit out of the pool for good, if it has become smaller.
    fn settle_surplus(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.state.lock();
        if state.surplus > 0 {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

impl Taken {
    /// Keeps the connection for others. All of its answer must have been read.
    pub(crate) fn give_back(self) {
        let Taken { connection, born, lease, .. } = self;
        if let Connection::Http1(sender) = &connection
            && !sender.is_closed()
            && born.elapsed() < lease.pool.bounds.max_age
        {
            let mut state = lease.pool.state.lock();
            // Before the permit is given back: whoever gets that finds this one.
            if state.surplus == 0 {
                state.idle.push(Idle { connection, born, since: Instant::now() });
                if !std::mem::replace(&mut state.reaps, true) {
                    lease.pool.reap();
                }
            }
        }
    }
}

impl Lease {
    fn new(pool: &Arc<Pool>, permit: Option<OwnedSemaphorePermit>) -> Self {
        pool.counts.active.fetch_add(1, Relaxed);
        Lease { pool: pool.clone(), permit }
    }

    fn permit_only(mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.counts.active.fetch_sub(1, Relaxed);
        if let Some(permit) = self.permit.take() {
            self.pool.settle_surplus(permit);
        }
    }
}

impl Shown for Pool {
    fn status(&self) -> PoolStatus {
        let (state, counts) = (self.state.lock(), &self.counts);
        let shared = usize::from(state.shared.as_ref().is_some_and(|(sender, _)| !sender.is_closed()));
        let active = counts.active.load(Relaxed);
        PoolStatus {
            // Calls that share a connection are no connections.
            active: if shared > 0 { active.min(1) } else { active },
            idle: state.idle.len() + shared.saturating_sub(active),
            waiting: counts.waiting.load(Relaxed),
            max_connections: state.max_connections,
            opened: counts.opened.load(Relaxed),
            opening: Duration::from_micros(counts.opening_us.load(Relaxed)),
            errors: counts.errors.load(Relaxed),
            away: counts.away.load(Relaxed),
            used: counts.used.load(Relaxed),
        }
    }

    fn resize(&self, max_connections: usize) -> bool {
        let max_connections = max_connections.clamp(1, Semaphore::MAX_PERMITS);
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.max_connections, max_connections);
        if max_connections > before {
            let grown = max_connections - before;
            let kept = grown.min(state.surplus);
            state.surplus -= kept;
            self.permits.add_permits(grown - kept);
        } else {
            state.surplus += before - max_connections;
            state.surplus -= self.permits.forget_permits(state.surplus);
            let most = state.idle.len().min(max_connections);
            let too_many = state.idle.len() - most;
            state.idle.drain(..too_many);
        }
        true
    }
}

/// Counts a caller that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
