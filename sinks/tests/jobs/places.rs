//! The places where jobs can be kept, each with an empty queue of its own for each test.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use highwater_operators::postgres::PoolConfig;
use highwater_operators::testing::postgres::{Database, Server};
use highwater_operators::testing::redis;
use highwater_sinks::jobs::{JobStore, MemoryJobStore, PostgresJobStore, RedisJobStore, Remember};

/// Somewhere jobs can be kept.
pub enum Place {
    Memory,
    Postgres(Box<Database>),
    Redis,
}

static QUEUES: AtomicU64 = AtomicU64::new(0);

static REDIS: LazyLock<redis::Server> = LazyLock::new(|| redis::Server::start().unwrap());

impl Place {
    pub fn all() -> Vec<Place> {
        vec![Place::Memory, Place::postgres(), Place::Redis]
    }

    pub fn postgres() -> Place {
        Place::Postgres(Box::new(Server::shared().database().unwrap()))
    }

    /// An empty queue; as a closure that opens it once more, as another process would.
    pub fn queue(&self, remember: Remember) -> Box<dyn Fn() -> Arc<dyn JobStore> + '_> {
        let name = format!("q{}", QUEUES.fetch_add(1, Ordering::Relaxed));
        match self {
            Place::Memory => {
                let store = MemoryJobStore::new().remember(remember);
                Box::new(move || Arc::new(store.clone()))
            }
            Place::Postgres(database) => Box::new(move || {
                let pool = PoolConfig { min_connections: 0, max_connections: 4, ..PoolConfig::default() };
                Arc::new(PostgresJobStore::new(database.url().reveal(), &name, remember, pool).unwrap())
            }),
            Place::Redis => Box::new(move || Arc::new(RedisJobStore::new(REDIS.url().reveal(), &name, remember).unwrap())),
        }
    }

    pub async fn open(&self) -> Arc<dyn JobStore> {
        let store = self.queue(Remember::default())();
        store.open().await.unwrap();
        store
    }
}
