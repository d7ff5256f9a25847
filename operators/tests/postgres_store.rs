//! The checkpoint store in Postgres: the suite of every store, on a real server.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use highwater_operators::Result;
use highwater_operators::checkpoint::place::Seat;
use highwater_operators::checkpoint::postgres::{Fault, Faults, PostgresCheckpointStore, PostgresStore};
use highwater_operators::postgres::PoolConfig;
use highwater_operators::testing::postgres::{Database, Server, Settings};
use highwater_operators::testing::store_suite::{self, Failure, Storage};
use rand::rngs::SmallRng;

/// The rows of one pipeline among those of others, with round trips that can fail.
struct Tables {
    place: PostgresCheckpointStore,
    pipeline: String,
    faults: Faults,
}

impl Tables {
    fn new() -> Self {
        // Without syncs, for thousands of groups: nothing here asks what a power cut leaves.
        static SERVER: LazyLock<Server> = LazyLock::new(|| Settings::default().fast().start().unwrap());
        static DATABASE: LazyLock<Database> = LazyLock::new(|| SERVER.database().unwrap());
        static PIPELINES: AtomicU32 = AtomicU32::new(0);
        let faults = Faults::default();
        let pool = PoolConfig { min_connections: 0, max_connections: 2, ..PoolConfig::default() };
        let place = PostgresCheckpointStore::with_pool_config(DATABASE.url().reveal(), pool).with_faults(faults.clone());
        Tables { place, pipeline: format!("orders {}", PIPELINES.fetch_add(1, Ordering::Relaxed)), faults }
    }
}

impl Storage for Tables {
    type Store = PostgresStore;

    fn open(&mut self) -> Result<PostgresStore> {
        self.place.open_store(&self.pipeline, Seat::ALONE).map(|(store, ..)| store)
    }

    fn fail(&mut self, nth: u64, failure: Failure) {
        // A statement is done or not: there is nothing between for a round trip to leave.
        let fault = if failure == Failure::After { Fault::After } else { Fault::Before };
        self.faults.fail(nth, fault);
    }

    fn recover(&mut self, _: &mut SmallRng) {
        self.faults.revive();
    }
}

#[test]
fn the_store_passes_the_suite_of_every_store() {
    let many = std::env::var("HIGHWATER_SEEDS").ok().map_or(10, |text| text.parse().expect("HIGHWATER_SEEDS is a number"));
    store_suite::run_seeds(Tables::new, 2, many);
}
