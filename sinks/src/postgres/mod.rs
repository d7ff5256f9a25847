//! A table in Postgres as an action: each change is in it exactly once, whatever was killed, frozen or cut off meanwhile.
//!
//! A transaction takes a share of the row that holds the generation (`bookkeeping`), records the outcomes of a batch, and only
//! then applies the rows (`write`). What a change becomes in a row says the `mapping`; its values are handed over as text, and the
//! server casts them to the types that its catalog tells (`catalog`). Of a key that
//! changes several times in one batch the table sees what leaves a trace (`fold`).

mod begin;
mod bookkeeping;
mod catalog;
mod fold;
mod mapping;
mod sheet;
pub mod statement;
mod values;
mod write;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::action::BoxFuture;
use highwater_operators::action::transactional::{Forget, Recorded, RunOf, Transaction, TransactionalSink};
use highwater_operators::postgres::{Pool, PoolConfig, PooledClient, Table, Url};
use highwater_operators::{Error, Result};
use tokio::sync::RwLock;

use self::bookkeeping::Bookkeeping;
use self::catalog::Layout;
pub use self::mapping::Source;

/// A table in Postgres that changes are applied to.
///
/// ```
/// use highwater_operators::action::action;
/// use highwater_sinks::PostgresTable;
///
/// // One row per key, as it stands: inserted, updated and deleted.
/// action("orders", PostgresTable::upsert("postgres://shop@localhost/shop", "public.orders").key(["id"]));
///
/// // One row per change, with things of the change's own.
/// let history = PostgresTable::append("postgres://shop@localhost/shop", "history").columns([
///     ("order_id", "id"),
///     ("city", "address.city"),
///     ("what", "@operation"),
///     ("changed_at", "@time"),
/// ]);
/// action("history", history);
/// ```
///
/// # Guarantee
/// Each change is applied exactly once; changes of one key in source order. A change whose row the table refuses (a value that does not
/// fit, a constraint) is parked with the server's words, and the others go through. While the database is away nothing is parked
/// for it: the transaction is tried again until it is known what became of it.
///
/// # Rights
/// `insert`, `update`, `delete` and `select` on the table as far as it needs them, and `create` on the schema of its bookkeeping
/// until `highwater_fence` and `highwater_outcomes` are there.
#[derive(Clone)]
pub struct PostgresTable {
    description: Description,
    /// Opened with the first use.
    open: Arc<OnceLock<Result<Open, String>>>,
}

/// What was asked for.
#[derive(Clone)]
struct Description {
    url: String,
    table: String,
    mode: Mode,
    key: Vec<String>,
    columns: Option<Vec<(String, String)>>,
    deletes: Deletes,
    empties: bool,
    bookkeeping: Option<String>,
    patience: Duration,
    pool: PoolConfig,
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The row of its key is as the change says.
    Upsert,
    /// A row of its own.
    Append,
}

/// What a delete does to the row of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deletes {
    /// The row goes.
    Remove,
    /// The row stays and says so in this column.
    Mark(String),
    /// The row stays.
    Ignore,
}

/// What is opened of it.
struct Open {
    pool: Pool,
    table: Table,
    bookkeeping: Bookkeeping,
    /// Made of the catalog, and made anew when the server says that the table is another.
    layout: RwLock<Option<Arc<Layout>>>,
    /// Tells this run's raising of the generation from another's with the same number.
    raised_by: i64,
}

impl PostgresTable {
    /// The row of a change's key is as the change says: inserted if there is none, else updated in the columns that the change has;
    /// a delete removes it. Needs [`key`](Self::key).
    pub fn upsert(url: impl Into<String>, table: impl Into<String>) -> Self {
        PostgresTable::new(url.into(), table.into(), Mode::Upsert)
    }

    /// Each change is a row of its own, deletes too.
    pub fn append(url: impl Into<String>, table: impl Into<String>) -> Self {
        PostgresTable::new(url.into(), table.into(), Mode::Append)
    }

    fn new(url: String, table: String, mode: Mode) -> Self {
        let (key, columns, deletes, bookkeeping) = (Vec::new(), None, Deletes::Remove, None);
        let pool = PoolConfig { min_connections: 1, max_connections: 8, ..PoolConfig::default() };
        let patience = Duration::from_secs(5);
        let description = Description { url, table, mode, key, columns, deletes, empties: false, bookkeeping, patience, pool };
        PostgresTable { description, open: Arc::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Arc::default();
        self
    }

    /// The columns of the key, which a unique index must have. Changes that meet in one row must have one key in the source too: only
    /// so is there an order among them.
    pub fn key<C: Into<String>>(self, columns: impl IntoIterator<Item = C>) -> Self {
        self.with(|description| description.key = columns.into_iter().map(Into::into).collect())
    }

    /// What each column is filled with: a field of the row (`status`), a path into it (`address.city`), or something of the change's own:
    /// `@id`, `@key`, `@table`, `@operation`, `@time` (of the commit), `@found.LOOKUP.FIELD`. Default: every column of the table whose
    /// name is a field of the row.
    pub fn columns<C: Into<String>, S: Into<String>>(self, columns: impl IntoIterator<Item = (C, S)>) -> Self {
        let columns = columns.into_iter().map(|(column, source)| (column.into(), source.into())).collect();
        self.with(|description| description.columns = Some(columns))
    }

    /// A delete leaves the row and fills this column: a time with the delete's commit time, a boolean with true. When the key comes
    /// back the column is cleared.
    pub fn soft_delete(self, column: impl Into<String>) -> Self {
        self.with(|description| description.deletes = Deletes::Mark(column.into()))
    }

    /// A delete leaves the row as it is.
    pub fn ignore_deletes(self) -> Self {
        self.with(|description| description.deletes = Deletes::Ignore)
    }

    /// Of a table that rows are appended to: when the source's is truncated, its rows go too. (An upsert does so by itself.)
    pub fn empty_with_source(self) -> Self {
        self.with(|description| description.empties = true)
    }

    /// The schema of `highwater_fence` and `highwater_outcomes`. Default: that of the table. It must be in the table's database.
    pub fn bookkeeping_in(self, schema: impl Into<String>) -> Self {
        self.with(|description| description.bookkeeping = Some(schema.into()))
    }

    /// How long a new run waits for the transactions of an earlier one before it ends their connections. Default: 5 s.
    pub fn fence_patience(self, patience: Duration) -> Self {
        self.with(|description| description.patience = patience)
    }

    /// The pool its connections come from. Default: 1 to 8 connections.
    pub fn pool(self, pool: PoolConfig) -> Self {
        self.with(|description| description.pool = pool)
    }

    fn open(&self) -> Result<&Open> {
        let opened = self.open.get_or_init(|| Open::new(&self.description).map_err(|error| error.to_string()));
        opened.as_ref().map_err(|error| Error::stop(error.clone()))
    }
}

impl Open {
    fn new(description: &Description) -> Result<Self> {
        let table = Table::parse(&description.table)?;
        if description.mode == Mode::Upsert && description.key.is_empty() {
            return Err(Error::stop(format!("table {table}: an upsert needs `.key([..])`, the columns that tell rows apart")));
        }
        if description.mode == Mode::Append && description.deletes != Deletes::Remove {
            return Err(Error::stop(format!(
                "table {table}: what is appended is never deleted; leave out what is said of deletes"
            )));
        }
        let url = Url::parse(&description.url)?;
        let pool = Pool::new(&url, description.pool, &format!("sink {}", table.name))?;
        let schema = description.bookkeeping.clone().or_else(|| table.schema.clone());
        let bookkeeping = Bookkeeping::new(schema);
        let raised_by = RandomState::new().build_hasher().finish() as i64;
        Ok(Open { pool, table, bookkeeping, layout: RwLock::new(None), raised_by })
    }

    /// The table as the catalog has it, read once, and whether it was read now.
    async fn layout(&self, client: &PooledClient, description: &Description) -> Result<(Arc<Layout>, bool)> {
        if let Some(layout) = &*self.layout.read().await {
            return Ok((layout.clone(), false));
        }
        let mut layout = self.layout.write().await;
        if let Some(layout) = &*layout {
            return Ok((layout.clone(), false));
        }
        let read = Arc::new(Layout::read(client, &self.table, description).await?);
        *layout = Some(read.clone());
        Ok((read, true))
    }
}

impl TransactionalSink for PostgresTable {
    fn place(&self) -> String {
        let at = Url::parse(&self.description.url).map_or_else(|_| "a database".to_owned(), |url| url.to_string());
        format!("table {} at {at}", self.description.table)
    }

    fn begin<'a>(&'a self, run: &'a RunOf) -> BoxFuture<'a, Result<Vec<Recorded>>> {
        Box::pin(async move { begin::begin(self.open()?, &self.description, run).await })
    }

    fn apply<'a>(&'a self, transaction: Transaction<'a>) -> BoxFuture<'a> {
        Box::pin(async move { write::apply(self.open()?, &self.description, transaction).await })
    }

    fn forget<'a>(&'a self, run: &'a RunOf, which: Forget) -> BoxFuture<'a> {
        Box::pin(async move {
            let open = self.open()?;
            let client = open.pool.get().await?;
            open.bookkeeping.forget(&client, run, which).await
        })
    }
}

impl std::fmt::Debug for PostgresTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresTable({})", self.place())
    }
}
