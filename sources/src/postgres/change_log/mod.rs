//! A table that is a change log: every row tells of a change somewhere else. Rows that commit late are never skipped.
//!
//! ```no_run
//! use highwater_sources::PostgresChangeLog;
//! // The columns object_type, object_id, modification_type and object_data, and the primary key.
//! let log = PostgresChangeLog::table("postgres://reader@db.example/shop", "tb_entity_change_log").notify("tb_entity_change_log");
//! // Any other table, by its columns.
//! let events = PostgresChangeLog::table("postgres://reader@db.example/shop", "sales.events")
//!     .id("seq").object_type("entity").object_id("entity_id").modification("kind").data("payload").time("happened_at");
//! ```
//!
//! **How it is read.** In pages by the primary key; an id that was passed over stays open until locks say that nobody is left who could
//! still write it (`gaps.rs` says why that is enough, `statements.rs` in which statements). Nothing is written to the
//! database, no column has to be added, and nothing goes by time.
//!
//! **Order** is that of reading: by id, and what commits late when it is there. Two transactions that changed one object after another have
//! ids in that order, as long as each writes the log after it has locked the object.
//!
//! `docs/change-log.md` says what is refused and why, which rights are needed, and what it costs.

mod gaps;
mod init;
mod inspect;
mod reader;
mod rows;
mod session;
mod statements;
mod tail;
mod token;

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::change::Operation;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::{Known, PartitionName};
use highwater_operators::ingest::{Partition, Reader, Source};
use highwater_operators::postgres::{Table, Url};
use highwater_operators::{Error, ErrorKind, Result, ResumeToken};

pub use self::init::Init;
use self::inspect::Log;
use crate::OnReject;
use crate::ahead::apart;

/// Rows of a page, unless [`page`](PostgresChangeLog::page) says otherwise.
const PAGE: u32 = 4096;

/// The longest wait between two looks at a log in which nothing happens: where somebody notifies, and where nobody does.
const IDLE_NOTIFIED: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_millis(100);

/// A change log in Postgres. See the [module](self) for what it guarantees.
#[derive(Clone, Debug)]
pub struct PostgresChangeLog(Arc<Description>);

/// What was said of the log.
#[derive(Clone, Debug)]
struct Description {
    url: Result<Url, String>,
    table: Result<Table, String>,
    columns: Columns,
    words: Vec<(String, Operation)>,
    sequence: Option<String>,
    notify: Option<String>,
    page: u32,
    gap_hold: Duration,
    gaps_max: usize,
    idle: Option<Duration>,
    on_reject: OnReject,
    after_failover: Option<u32>,
}

/// The names of the columns.
#[derive(Clone, Debug)]
struct Columns {
    id: Option<String>,
    object_type: String,
    object_id: String,
    modification: String,
    data: String,
    before: Option<String>,
    time: Option<String>,
    change_id: Option<String>,
}

impl PostgresChangeLog {
    /// The log in this table (`name` or `schema.name`) of this database. Nothing is opened yet; a URL or a name that cannot be read is told at start.
    ///
    /// Unless said otherwise the id is the primary key, the other columns are `object_type`, `object_id`, `modification_type` and
    /// `object_data`, and the time is `created_at` where there is such a column.
    pub fn table(url: impl AsRef<str>, table: &str) -> Self {
        Self::of(Url::parse(url.as_ref()).map_err(|error| error.to_string()), table)
    }

    /// The same, of a URL that was read already.
    pub fn at(url: &Url, table: &str) -> Self {
        Self::of(Ok(url.clone()), table)
    }

    fn of(url: Result<Url, String>, table: &str) -> Self {
        PostgresChangeLog(Arc::new(Description {
            url,
            table: Table::parse(table).map_err(|error| error.to_string()),
            columns: Columns {
                id: None,
                object_type: "object_type".to_owned(),
                object_id: "object_id".to_owned(),
                modification: "modification_type".to_owned(),
                data: "object_data".to_owned(),
                before: None,
                time: None,
                change_id: None,
            },
            words: Vec::new(),
            sequence: None,
            notify: None,
            page: PAGE,
            gap_hold: Duration::ZERO,
            gaps_max: 100_000,
            idle: None,
            on_reject: OnReject::default(),
            after_failover: None,
        }))
    }

    /// The column of ids: `bigint`, `integer` or `smallint`, unique, drawn from a sequence.
    pub fn id(self, column: &str) -> Self {
        self.with(|description| description.columns.id = Some(column.to_owned()))
    }

    /// The column that becomes the change's table. NULL is no name.
    pub fn object_type(self, column: &str) -> Self {
        self.with(|description| column.clone_into(&mut description.columns.object_type))
    }

    /// The column that becomes the change's key, of any type that can be written as text. Where it is NULL, the id is the key.
    pub fn object_id(self, column: &str) -> Self {
        self.with(|description| column.clone_into(&mut description.columns.object_id))
    }

    /// The column that says what happened. What its words mean is said by [`operations`](Self::operations).
    pub fn modification(self, column: &str) -> Self {
        self.with(|description| column.clone_into(&mut description.columns.modification))
    }

    /// The column that holds the row: `jsonb`, `json` or text, an object or NULL. It is the row after the change, of a delete the row before.
    pub fn data(self, column: &str) -> Self {
        self.with(|description| column.clone_into(&mut description.columns.data))
    }

    /// The column that holds the row before the change, if there is one.
    pub fn before(self, column: &str) -> Self {
        self.with(|description| description.columns.before = Some(column.to_owned()))
    }

    /// The column that holds the time of the change: `timestamptz`, `timestamp` (taken as UTC), or `bigint` (Unix milliseconds).
    pub fn time(self, column: &str) -> Self {
        self.with(|description| description.columns.time = Some(column.to_owned()))
    }

    /// The column that becomes the change's id, where a change is to be known by something else than its row's id: two rows with one such id and one
    /// key are duplicates of each other.
    pub fn change_id(self, column: &str) -> Self {
        self.with(|description| description.columns.change_id = Some(column.to_owned()))
    }

    /// What the words in the column of modifications mean, in place of the usual spellings (`INSERT`, `insert`, `I`, `created` …).
    /// A row with another word is rejected.
    pub fn operations<'w>(self, words: impl IntoIterator<Item = (&'w str, Operation)>) -> Self {
        let words = words.into_iter().map(|(word, operation)| (word.to_owned(), operation)).collect();
        self.with(|description| description.words = words)
    }

    /// The sequence that ids are drawn from, where the column's default does not say: a trigger draws them.
    pub fn sequence(self, name: &str) -> Self {
        self.with(|description| description.sequence = Some(name.to_owned()))
    }

    /// Listens to this channel, on which a trigger notifies when rows are written (`highwater init change-log --notify` makes one): then an
    /// idle log is looked at once a second, and a new row is seen at once. A notification that goes missing costs that second, nothing else.
    pub fn notify(self, channel: &str) -> Self {
        self.with(|description| description.notify = Some(channel.to_owned()))
    }

    /// Rows of a page at most (4,096; at least 1). A page is smaller where rows are large.
    pub fn page(self, rows: u32) -> Self {
        self.with(|description| description.page = rows.max(1))
    }

    /// The longest wait between two looks at a log in which nothing happens: 100 ms, and 1 s with [`notify`](Self::notify).
    pub fn look_every(self, time: Duration) -> Self {
        self.with(|description| description.idle = Some(time.max(Duration::from_millis(1))))
    }

    /// Reads a table although ids are made elsewhere than in its sequence (by clients, by another server): a gap stays open for this long, beside
    /// what locks say.
    ///
    /// # Limit
    /// This is the one rule by time, and promises less: **a row that becomes visible later than this after a row of a larger id
    /// is never read.** Choose it longer than the longest transaction, and watch the clocks of whoever makes ids.
    pub fn gap_hold(self, time: Duration) -> Self {
        self.with(|description| description.gap_hold = time)
    }

    /// Open gaps at most (100,000). Beyond it reading pauses until older transactions have ended; a message says which.
    pub fn gaps_max(self, ranges: usize) -> Self {
        self.with(|description| description.gaps_max = ranges.max(1))
    }

    /// What becomes of a row that is no change. Default: it is parked, and reading goes on.
    pub fn on_reject(self, what: OnReject) -> Self {
        self.with(|description| description.on_reject = what)
    }

    /// Continues on this timeline of the server, after a fail-over to it. Say so only if the new primary has every transaction that the old one
    /// had confirmed (it was a synchronous standby): of others rows may be gone that were read, and their ids come again.
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

    /// Looks at the log as it is now, on a thread of its own: whoever calls may be in a runtime already.
    fn look(self: &Arc<Self>) -> Result<Log> {
        let description = self.clone();
        apart("change-log", move || async move { session::look(&description).await })
    }
}

impl Source for PostgresChangeLog {
    fn kind(&self) -> &'static str {
        "change-log"
    }

    fn place(&self) -> String {
        match (&self.0.url, &self.0.table) {
            (Ok(url), Ok(table)) => format!("{table} in {url}"),
            (Err(problem), _) | (_, Err(problem)) => problem.clone(),
        }
    }

    fn gives_rows_before(&self) -> bool {
        self.0.columns.before.is_some()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: self.0.look()?.identity.partition(), bytes: None }])
    }

    /// Holds what earlier runs have read against the log as it is. Where the database is away and the log is known, the run begins, and waits for it.
    fn bind(&self, known: &[Known]) -> Result<Option<Arc<dyn Source>>> {
        let bound = |partition: String| Some(Arc::new(Bound { log: self.clone(), partition }) as Arc<dyn Source>);
        let begun = || known.iter().find(|known| known.token.is_some());
        match self.0.look() {
            Ok(log) => {
                if let Some(place) = begun().and_then(|known| token::read(&known.token.as_ref()?.detail)) {
                    log.must_be(&place.identity, self.0.after_failover)?;
                }
                Ok(bound(log.identity.partition()))
            }
            Err(error) => match begun() {
                Some(known) if error.kind() == ErrorKind::Retry => {
                    tracing::warn!("{error}; the run begins, and waits for it");
                    Ok(bound(known.name.clone()))
                }
                _ => Err(Error::stop(error.to_string())),
            },
        }
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::start(&self.0, partition, from, window)?))
    }
}

/// A log as one run has it: its partition is known.
#[derive(Debug)]
struct Bound {
    log: PostgresChangeLog,
    partition: String,
}

impl Source for Bound {
    fn kind(&self) -> &'static str {
        self.log.kind()
    }

    fn place(&self) -> String {
        self.log.place()
    }

    fn gives_rows_before(&self) -> bool {
        self.log.gives_rows_before()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: self.partition.clone(), bytes: None }])
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        self.log.open(partition, from, window)
    }
}

#[cfg(test)]
mod tests;
