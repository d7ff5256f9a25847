//! The checkpoint store in Postgres: tables of its own, made and migrated by itself, that several processes of one run can write.
//!
//! Every group is one statement, which writes only if its run is still the one the store knows (`group`); its number tells a
//! group again whose answer was lost. What a run holds while it may act on what cannot be fenced is a lease (`renew`). What
//! the tables hold, and what can be asked of them, is told in `docs/checkpoint-store.md`.

mod faults;
mod group;
mod holder;
mod inspect;
mod ledger;
mod letters;
mod link;
mod open;
mod read;
mod renew;
mod save;
mod schema;
mod store;
mod sweep;
mod text;
mod write;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use self::letters::{Mailbox, TableLetters};
use self::link::{Link, Of};
use self::open::Found;
use self::renew::Renewal;
use self::sweep::Dead;
use self::write::Writer;
use crate::checkpoint::lease::Lease;
use crate::checkpoint::place::{Inspect, Letters, OpenStore, Seat, StorePlace};
use crate::clock::since_boot;
use crate::error::{Error, Result};
use crate::postgres::{PoolConfig, Url};

#[cfg(any(test, feature = "testing"))]
pub use faults::Fault;
pub use faults::Faults;
pub use store::PostgresStore;

/// How long a lease lasts if nobody says otherwise.
const LEASE: Duration = Duration::from_secs(2);
/// The shortest lease: it is renewed four times while it lasts.
const LEASE_MIN: Duration = Duration::from_millis(200);

/// A checkpoint store in a Postgres database: many pipelines, and several processes of each.
///
/// ```no_run
/// use std::time::Duration;
/// use highwater_operators::checkpoint::postgres::PostgresCheckpointStore;
/// use highwater_operators::postgres::PoolConfig;
/// let store = PostgresCheckpointStore::with_pool_config(
///     "postgres://ada@localhost/shop",
///     PoolConfig {
///         min_connections: 2,
///         max_connections: 10,
///         connection_timeout: Duration::from_secs(30),
///         idle_timeout: Duration::from_secs(300),
///     },
/// );
/// ```
///
/// A description: a URL that cannot be read is told of when the pipeline is checked or run.
#[derive(Clone)]
pub struct PostgresCheckpointStore {
    url: Result<Url, String>,
    config: PoolConfig,
    lease: Duration,
    faults: Faults,
    link: Arc<Mutex<OnceLock<Arc<Link>>>>,
}

impl PostgresCheckpointStore {
    /// The store in the database of this URL, `postgres://user:password@host:port/database`. Its tables stand in the first schema
    /// of the search path; `?options=-csearch_path%3DNAME` names another.
    pub fn at(url: &str) -> Self {
        // One for the groups, one for clean-up and questions; the lease has its own.
        Self::with_pool_config(url, PoolConfig { min_connections: 1, max_connections: 4, ..PoolConfig::default() })
    }

    /// The same, with so many connections.
    pub fn with_pool_config(url: &str, config: PoolConfig) -> Self {
        let url = Url::parse(url).map_err(|error| error.to_string());
        PostgresCheckpointStore { url, config, lease: LEASE, faults: Faults::default(), link: Arc::default() }
    }

    /// For how long a run may act on what cannot be fenced (webhooks, mail) after it last heard from the store. After a run that
    /// cannot be known to be dead, the next one waits so long, and a quarter more, before it acts. Default: 2 s; at least 200 ms.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(LEASE_MIN);
        self
    }

    /// The same with faults that a test has planned.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Opens the store itself, as [`StorePlace::open`] does.
    ///
    /// # Errors
    /// As there.
    pub fn open_store(&self, pipeline: &str, seat: Seat) -> Result<(PostgresStore, Arc<dyn Letters>, Lease)> {
        let of = self.of(pipeline)?;
        let lease = self.lease;
        let work = |_| Box::pin(open::raise(&of, seat, lease));
        let asked_at = since_boot();
        let found = of.link.insist_briefly("the checkpoint store could not be opened", work)?;
        Ok(self.begin(of, seat, found, asked_at))
    }

    fn of(&self, pipeline: &str) -> Result<Of> {
        let url = self.url.as_ref().map_err(|sentence| Error::stop(sentence.clone()))?;
        let shared = self.link.lock();
        if shared.get().is_none() {
            let _ = shared.set(Arc::new(Link::new(url, self.config, self.faults.clone())?));
        }
        let link = shared.get().expect("it was set just now").clone();
        Ok(Of { link, pipeline: pipeline.into() })
    }

    /// Puts together what a process of a run has: its store, the renewal of its lease, its letters, and clean-up.
    fn begin(&self, of: Of, seat: Seat, mut found: Found, asked_at: u64) -> (PostgresStore, Arc<dyn Letters>, Lease) {
        let mailbox = Arc::new(Mailbox::with(std::mem::take(&mut found.asked)));
        let (lease, renewing) = Lease::by(since_boot, mailbox.wake.clone());
        lease.renew(asked_at + self.lease.as_nanos() as u64);
        let now = since_boot();
        let longest = found.before.iter().filter(|(holder, _)| !holder.is_gone()).map(|(_, lease_ms)| *lease_ms).max();
        let over_at = longest.map_or(now, |lease_ms| {
            let wait = Duration::from_millis(lease_ms) + Duration::from_millis(lease_ms) / 4;
            tracing::info!(?wait, "an earlier run may still act; this one waits until its lease has ended");
            now + wait.as_nanos() as u64
        });
        lease.begin(over_at);
        let writer = Writer { process: seat.process as i32, generation: text::bigint(found.generation) };
        let dead = Arc::new(Dead::default());
        let store = PostgresStore::new(of.clone(), seat, &mut found, dead.clone());
        let renewal = Renewal {
            of: of.clone(),
            writer,
            renewing,
            length: self.lease,
            mailbox: mailbox.clone(),
            dead: Arc::downgrade(&dead),
            over_at,
            living: found.living,
        };
        of.link.spawn(renewal.run());
        of.link.spawn(sweep::sweep(of.clone(), writer, Arc::downgrade(&dead)));
        (store, Arc::new(TableLetters { of, run: Some((mailbox, writer)) }), lease)
    }
}

impl StorePlace for PostgresCheckpointStore {
    fn place(&self) -> String {
        match &self.url {
            Ok(url) => url.to_string(),
            Err(_) => "a Postgres database".to_owned(),
        }
    }

    fn takes_several_processes(&self) -> Result {
        Ok(())
    }

    fn check(&self) -> Result {
        let of = self.of("")?;
        of.link.insist_briefly("the checkpoint store cannot be reached", |_| async {
            schema::version(&**of.link.client().await?).await.map(drop)
        })
    }

    fn open(&self, pipeline: &str, seat: Seat) -> Result<OpenStore> {
        let (store, letters, lease) = self.open_store(pipeline, seat)?;
        Ok(OpenStore { store: Box::new(store), letters, lease, scratch: None })
    }

    fn join(&self, pipeline: &str, generation: u64, seat: Seat) -> Result<OpenStore> {
        let of = self.of(pipeline)?;
        let work = |_| Box::pin(open::join(&of, generation, seat, self.lease));
        let asked_at = since_boot();
        let found = of.link.insist_briefly("the checkpoint store could not be joined", work)?;
        let (store, letters, lease) = self.begin(of, seat, found, asked_at);
        Ok(OpenStore { store: Box::new(store), letters, lease, scratch: None })
    }

    fn inspect(&self, pipeline: &str) -> Result<Option<Box<dyn Inspect>>> {
        let of = self.of(pipeline)?;
        let look = |_| Box::pin(inspect::look(&of));
        let seen = of.link.insist_briefly("the checkpoint store could not be read", look)?;
        Ok(seen.map(|seen| Box::new(seen) as Box<dyn Inspect>))
    }

    fn letters(&self, pipeline: &str) -> Result<Arc<dyn Letters>> {
        Ok(Arc::new(TableLetters { of: self.of(pipeline)?, run: None }))
    }
}

impl std::fmt::Debug for PostgresCheckpointStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresCheckpointStore({}, {:?})", self.place(), self.config)
    }
}
