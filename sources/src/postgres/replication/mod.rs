//! Tables by logical replication: the rows that are there, then every change of them, whole transactions in the order of their commits.
//!
//! ```no_run
//! use highwater_sources::PostgresReplication;
//! // The slot and a publication of its name are made if they are not there yet.
//! let orders = PostgresReplication::slot("postgres://repl@db.example/shop", "orders_slot").tables(["public.orders", "public.customers"]);
//! // Or what a publication publishes that somebody has made.
//! let all = PostgresReplication::slot("postgres://repl@db.example/shop", "orders_slot").publication("everything");
//! ```
//!
//! **How it is read.** What is far behind is decoded in batches by SQL, on a temporary copy of the slot, which is faster than any stream;
//! what is near comes by `START_REPLICATION`. The slot itself moves only to what a checkpoint has made durable.
//!
//! **What a change is.** Its id and position are made of the commit's place in the log, the row's, and a number among the rows at one
//! place, so that it is itself in whatever way it is read. Its key is that of the replica identity. Values are JSON of their types, exactly; a
//! large value that did not change and was not sent is [unchanged](highwater_operators::Value::Unchanged), not null.

mod anew;
mod catalog;
mod catch_up;
mod chunk;
mod confirm;
mod follow;
mod follower;
mod heartbeat;
mod log;
mod lsn;
mod outbox;
mod pgoutput;
mod reader;
mod relation;
mod rounds;
mod rows;
mod session;
mod setup;
mod snapshot;
mod stream;
mod token;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::{Known, PartitionName};
use highwater_operators::ingest::{OrderOf, Partition, Reader, Source};
use highwater_operators::postgres::{Table, Url};
use highwater_operators::{Error, ErrorKind, Result, ResumeToken};

use self::confirm::Saved;
#[doc(hidden)]
pub use self::pgoutput::fuzz;
use self::setup::Found;
use crate::OnReject;
use crate::ahead::apart;

/// How often an idle slot is moved.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Connections that read a snapshot.
const SNAPSHOT_CONNECTIONS: u32 = 2;
/// Who is so many bytes behind while following, for so long, catches up in batches.
const FAR_BEHIND: (u64, Duration) = (64 << 20, Duration::from_secs(10));
/// Rows of a page of it at most.
const SNAPSHOT_PAGE: u32 = 65_536;

/// Tables of a Postgres database, by logical replication. See the [module](self) for what it guarantees.
#[derive(Clone, Debug)]
pub struct PostgresReplication(Arc<Description>);

/// What becomes of the rows that are there before anything is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// They are read first, as changes with the operation `read`; so are those of a table that comes later.
    #[default]
    Initial,
    /// They are not read.
    Never,
}

/// What was said of the source.
#[derive(Clone, Debug)]
struct Description {
    url: Result<Url, String>,
    slot: String,
    /// Without a name the publication is called as the slot is.
    publication: Option<String>,
    wanted: Wanted,
    snapshot: Snapshot,
    without_snapshot: Vec<Result<Table, String>>,
    snapshot_connections: u32,
    snapshot_page: u32,
    heartbeat: Duration,
    /// Behind by so many bytes, for so long: then it catches up in batches. `None`: never.
    catches_up: Option<(u64, Duration)>,
    on_reject: OnReject,
    after_failover: Option<u32>,
    /// Tables in which changes of others are looked up.
    kept: Arc<OnceLock<BTreeSet<String>>>,
}

/// Which tables are wanted.
#[derive(Clone, Debug)]
enum Wanted {
    /// What the publication has.
    Published,
    All,
    Schemas(Vec<String>),
    Tables(Vec<Result<Table, String>>),
}

impl PostgresReplication {
    /// What this slot of this database tells. Nothing is opened yet; a URL that cannot be read is told at start.
    ///
    /// The slot is made if there is none and nothing was read from it yet.
    pub fn slot(url: impl AsRef<str>, name: &str) -> Self {
        Self::of(Url::parse(url.as_ref()).map_err(|error| error.to_string()), name)
    }

    /// The same, of a URL that was read already.
    pub fn at(url: &Url, slot: &str) -> Self {
        Self::of(Ok(url.clone()), slot)
    }

    fn of(url: Result<Url, String>, slot: &str) -> Self {
        PostgresReplication(Arc::new(Description {
            url,
            slot: slot.to_owned(),
            publication: None,
            wanted: Wanted::Published,
            snapshot: Snapshot::default(),
            without_snapshot: Vec::new(),
            snapshot_connections: SNAPSHOT_CONNECTIONS,
            snapshot_page: SNAPSHOT_PAGE,
            heartbeat: HEARTBEAT,
            catches_up: Some(FAR_BEHIND),
            on_reject: OnReject::default(),
            after_failover: None,
            kept: Arc::default(),
        }))
    }

    /// The publication's name, if it is not the slot's. Without [`tables`](Self::tables) and the like it must be there, and says what is read.
    pub fn publication(self, name: &str) -> Self {
        self.with(|description| description.publication = Some(name.to_owned()))
    }

    /// These tables (`name` or `schema.name`). The publication is made for them, or they are added to it, if the user may do that.
    pub fn tables<T: AsRef<str>>(self, tables: impl IntoIterator<Item = T>) -> Self {
        let parse = |table: T| Table::parse(table.as_ref()).map_err(|error| error.to_string());
        let tables = tables.into_iter().map(parse).collect();
        self.with(|description| description.wanted = Wanted::Tables(tables))
    }

    /// All tables of a schema, those that come later too. The publication is made so, which only a superuser may do.
    pub fn schema(self, name: &str) -> Self {
        self.with(|description| match &mut description.wanted {
            Wanted::Schemas(schemas) => schemas.push(name.to_owned()),
            wanted => *wanted = Wanted::Schemas(vec![name.to_owned()]),
        })
    }

    /// All tables of the database, those that come later too. The publication is made so, which only a superuser may do.
    pub fn all_tables(self) -> Self {
        self.with(|description| description.wanted = Wanted::All)
    }

    /// What becomes of the rows that are there before anything is read. Default: they are read first.
    pub fn snapshot(self, what: Snapshot) -> Self {
        self.with(|description| description.snapshot = what)
    }

    /// Of this table only changes are read, not the rows that are there: for one without a primary key, by which rows are read in parts.
    pub fn without_snapshot(self, table: &str) -> Self {
        let table = Table::parse(table).map_err(|error| error.to_string());
        self.with(|description| description.without_snapshot.push(table))
    }

    /// Connections that read rows that are there (2; at least 1).
    pub fn snapshot_connections(self, connections: u32) -> Self {
        self.with(|description| description.snapshot_connections = connections.max(1))
    }

    /// Rows of a page of a snapshot at most (65,536; at least 1). A page is smaller where rows are large.
    pub fn snapshot_page(self, rows: u32) -> Self {
        self.with(|description| description.snapshot_page = rows.max(1))
    }

    /// How often an idle slot is moved on, so that the server need not keep the log that other databases write (10 s). It costs a message of
    /// some bytes in the log, and needs no table.
    pub fn heartbeat(self, every: Duration) -> Self {
        self.with(|description| description.heartbeat = every.max(Duration::from_millis(1)))
    }

    /// Who follows and is more than so many bytes of log behind, for so long, reads what is there in batches before it goes on following (64 MiB, 10 s).
    pub fn catch_up_beyond(self, bytes: u64, after: Duration) -> Self {
        self.with(|description| description.catches_up = Some((bytes, after)))
    }

    /// Never reads in batches what is far behind, however long following takes for it: for a server that must not be asked by SQL.
    pub fn only_follow(self) -> Self {
        self.with(|description| description.catches_up = None)
    }

    /// What becomes of a row that cannot be made a change. Default: it is parked, and reading goes on.
    pub fn on_reject(self, what: OnReject) -> Self {
        self.with(|description| description.on_reject = what)
    }

    /// Continues on this timeline of the server, after a fail-over to it. Say so only if the new primary has every transaction that the old one
    /// had confirmed (it was a synchronous standby) and the slot with it: of others changes may be gone that were read.
    pub fn after_failover(self, timeline: u32) -> Self {
        self.with(|description| description.after_failover = Some(timeline))
    }

    fn with(mut self, set: impl FnOnce(&mut Description)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }
}

impl Description {
    fn url(&self) -> Result<&Url> {
        self.url.as_ref().map_err(Error::stop)
    }

    /// Looks at the server as it is now, on a thread of its own: whoever calls may be in a runtime already. Refuses to continue what cannot be.
    fn look(self: &Arc<Self>, begun: Option<token::Place>) -> Result<Found> {
        let description = self.clone();
        apart("replication", move || async move { stream::look(&description, begun.as_ref()).await })
    }

    /// The publication's name.
    fn publication(&self) -> &str {
        self.publication.as_deref().unwrap_or(&self.slot)
    }
}

impl Source for PostgresReplication {
    fn kind(&self) -> &'static str {
        "replication"
    }

    fn place(&self) -> String {
        match &self.0.url {
            Ok(url) => format!("slot {} in {url}", self.0.slot),
            Err(problem) => problem.clone(),
        }
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: self.0.look(None)?.partition(&self.0), bytes: None }])
    }

    fn order(&self) -> Option<OrderOf> {
        Some(chunk::order_of)
    }

    fn keeps_tables(&self, tables: &BTreeSet<String>) {
        let _ = self.0.kept.set(tables.clone());
    }

    /// Holds what earlier runs have read against the slot as it is. Where the database is away and the slot is known, the run begins, and waits for
    /// it.
    fn bind(&self, known: &[Known]) -> Result<Option<Arc<dyn Source>>> {
        let bound = |partition: String| {
            Some(Arc::new(Bound { source: self.clone(), partition, saved: Arc::default() }) as Arc<dyn Source>)
        };
        let place = |known: &Known| token::read(&known.token.as_ref()?.detail);
        // One that is read anew elsewhere is only remembered.
        let is_anew = |known: &&Known| place(known).is_some_and(|place| place.is_anew());
        let mut begun: Vec<&Known> = known.iter().filter(|known| known.token.is_some()).collect();
        begun.sort_by_key(is_anew);
        let begun = begun.first().copied();
        let place = begun.and_then(place);
        match self.0.look(place) {
            Ok(found) => Ok(bound(found.partition(&self.0))),
            Err(error) => match begun {
                Some(known) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!("{error}; the run begins, and waits for it");
                    Ok(bound(known.name.clone()))
                }
                _ => Err(Error::stop(error.to_string())),
            },
        }
    }

    fn read_anew(&self, partition: &str, token: &ResumeToken, tables: &[String]) -> Result<Option<ResumeToken>> {
        // The end of the name is the slot's.
        let is_ours = partition.splitn(3, '-').nth(2) == Some(self.0.slot.as_str());
        if is_ours { anew::token(&self.0, token, tables).map(Some) } else { Ok(None) }
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::start(&self.0, partition, from, window, &Arc::default())?))
    }
}

/// A slot as one run has it: its partition is known, and it hears what is durable.
#[derive(Debug)]
struct Bound {
    source: PostgresReplication,
    partition: String,
    saved: Arc<Saved>,
}

impl Source for Bound {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn place(&self) -> String {
        self.source.place()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: self.partition.clone(), bytes: None }])
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::start(&self.source.0, partition, from, window, &self.saved)?))
    }

    fn saved(&self, _partition: &Partition, token: &ResumeToken) {
        self.saved.tell(token);
    }

    /// One that is read anew may be read elsewhere.
    fn may_be_missing(&self, _name: &str, token: &ResumeToken) -> bool {
        token::read(&token.detail).is_some_and(|place| place.is_anew())
    }
}

#[cfg(test)]
mod tests;
