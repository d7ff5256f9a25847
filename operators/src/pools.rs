//! Pools of connections as figures, whatever they connect to: each pool of the process shows itself here by its purpose.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;

/// How a pool stands at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolStatus {
    /// Connections given out.
    pub active: usize,
    /// Connections ready.
    pub idle: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// The most connections there may be.
    pub max_connections: usize,
    /// Connections opened since the pool was made.
    pub opened: u64,
    /// What opening them took, together.
    pub opening: Duration,
    /// Attempts to open one that failed, since the pool was made.
    pub errors: u64,
    /// Whether the last attempt to open one failed.
    pub away: bool,
    /// Uses of connections since the pool was made, where the pool counts them.
    pub used: u64,
}

impl PoolStatus {
    /// The share of the connections that may be which are in use, 0 to 1. Over a long time 0.6 to 0.8 is well sized.
    pub fn utilisation(&self) -> f64 {
        self.active as f64 / self.max_connections.max(1) as f64
    }

    /// The share of uses that opened no connection, 0 to 1, where the pool counts them.
    pub fn reuse_rate(&self) -> Option<f64> {
        (self.used > 0).then(|| 1.0 - self.opened.min(self.used) as f64 / self.used as f64)
    }

    /// What opening a connection takes on average.
    pub fn time_to_connect(&self) -> Duration {
        self.opening.div_f64(self.opened.max(1) as f64)
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &PoolStatus) -> PoolStatus {
        PoolStatus {
            active: self.active + other.active,
            idle: self.idle + other.idle,
            waiting: self.waiting + other.waiting,
            max_connections: self.max_connections + other.max_connections,
            opened: self.opened + other.opened,
            opening: self.opening + other.opening,
            errors: self.errors + other.errors,
            away: self.away || other.away,
            used: self.used + other.used,
        }
    }
}

/// What can say how it stands.
pub trait Shown: Send + Sync {
    /// How it stands now.
    fn status(&self) -> PoolStatus;

    /// Lets it have so many connections from now on. `false`: it cannot be resized.
    fn resize(&self, max_connections: usize) -> bool {
        let _ = max_connections;
        false
    }
}

static POOLS: Mutex<Vec<(String, Weak<dyn Shown>)>> = Mutex::new(Vec::new());

/// Shows a pool for as long as it is there.
pub fn show(purpose: &str, pool: Weak<dyn Shown>) {
    let mut pools = POOLS.lock();
    pools.retain(|(_, pool)| pool.strong_count() > 0);
    pools.push((purpose.to_owned(), pool));
}

/// Lets the pools of a purpose have so many connections each, from now on. `false`: there are none, or they cannot be resized.
pub fn resize(purpose: &str, max_connections: usize) -> bool {
    let shown = POOLS.lock().clone();
    let pools = shown.into_iter().filter(|(of, _)| of == purpose).filter_map(|(_, pool)| pool.upgrade());
    pools.filter(|pool| pool.resize(max_connections)).count() > 0
}

/// All pools of the process by purpose; those of one purpose are added together.
pub fn all() -> BTreeMap<String, PoolStatus> {
    // Asked outside the lock: a pool that is dropped here may show another one.
    let shown = POOLS.lock().clone();
    let mut all: BTreeMap<String, PoolStatus> = BTreeMap::new();
    for (purpose, pool) in shown {
        if let Some(pool) = pool.upgrade() {
            let sum = all.entry(purpose).or_default();
            *sum = sum.and(&pool.status());
        }
    }
    all
}
