//! Rows of Postgres as the origin of lookups: the keys of a batch are asked for in one statement, prepared once per connection.

use std::error::Error as StdError;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, BytesMut};
use hashbrown::HashMap;
use highwater_operators::action::BoxFuture;
use highwater_operators::lookup::Loader;
use highwater_operators::postgres::{Connection, Pool, PoolConfig, PooledClient, Table, Url, failed, quote};
use highwater_operators::row::Fields;
use highwater_operators::{Error, ErrorKind, Result};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use crate::ahead::apart;

/// Rows of a table, or of a query, in Postgres, found by one column.
///
/// ```no_run
/// # use highwater_operators::lookup::{Cache, Lookup};
/// # use highwater_sources::postgres::rows::PostgresRows;
/// # use std::time::Duration;
/// let customers = PostgresRows::table("postgres://reader@db.example/shop", "public.customers").key("id");
/// let lookup = Lookup::by("customer_id").from(customers).cache(Cache::entries(100_000).ttl(Duration::from_secs(300)));
/// let totals = PostgresRows::query(
///     "postgres://reader@db.example/shop",
///     "select customer_id, sum(amount) as total from orders where customer_id = any($1) group by customer_id",
/// );
/// ```
///
/// Values come as the text that Postgres writes. A key that cannot be one (letters, where the column has numbers) finds nothing. A database that is away is asked
/// again, as often as the lookup's `attempts` say.
#[derive(Clone)]
pub struct PostgresRows {
    url: Result<Url, String>,
    from: From,
    key: Option<String>,
    pool: PoolConfig,
    opened: Arc<OnceLock<Opened>>,
}

#[derive(Clone)]
enum From {
    Table(Result<Table, String>),
    Query(String),
}

/// What is known once the database was looked at.
struct Opened {
    pool: Pool,
    sql: String,
    /// Of the columns beside the key, which comes first and again as itself.
    names: Arc<[Box<str>]>,
}

impl PostgresRows {
    /// Rows of a table or view. The key is the primary key's only column, unless [`key`](Self::key) names another.
    pub fn table(url: impl AsRef<str>, table: &str) -> Self {
        Self::of(url, From::Table(Table::parse(table).map_err(|error| error.to_string())))
    }

    /// Rows that a query gives for the keys in `$1`, a list: `.. where id = any($1)`. The key is its first column, unless [`key`](Self::key) names another.
    pub fn query(url: impl AsRef<str>, query: impl Into<String>) -> Self {
        Self::of(url, From::Query(query.into()))
    }

    fn of(url: impl AsRef<str>, from: From) -> Self {
        let url = Url::parse(url.as_ref()).map_err(|error| error.to_string());
        // Several batches are loaded side by side, not many.
        let pool = PoolConfig { min_connections: 1, max_connections: 8, ..PoolConfig::default() };
        PostgresRows { url, from, key: None, pool, opened: Arc::default() }
    }

    /// The column that finds a row.
    #[must_use]
    pub fn key(self, column: &str) -> Self {
        PostgresRows { key: Some(column.to_owned()), ..self }
    }

    /// Bounds of its connections. Default: 1 kept ready, 8 at most.
    #[must_use]
    pub fn pool(self, pool: PoolConfig) -> Self {
        PostgresRows { pool, ..self }
    }

    /// Looks at the database: which columns there are, and whether the key finds one row.
    async fn look(&self) -> Result<Opened> {
        let url = self.url.clone().map_err(Error::stop)?;
        let connection = Connection::open(&url, "lookup").await?;
        let cannot = |error| failed(&format!("looking at {}", self.place()), error);
        let (query, key) = match &self.from {
            From::Query(query) => (query.trim().trim_end_matches(';').to_owned(), self.key.clone()),
            From::Table(table) => {
                let table = table.clone().map_err(Error::stop)?;
                let key = self.key_of(&connection, &table).await?;
                (format!("select * from {table} where {} = any($1)", quote(&key)), Some(key))
            }
        };
        let statement = connection.prepare(&query).await.map_err(cannot)?;
        if statement.params().len() != 1 {
            return Err(Error::stop(format!(
                "{}: the query has {} parameters; it takes one, $1, the list of keys: .. where id = any($1)",
                self.place(),
                statement.params().len()
            )));
        }
        let names: Vec<&str> = statement.columns().iter().map(|column| column.name()).collect();
        let key = match key {
            None => names.first().map(|name| (*name).to_owned()).unwrap_or_default(),
            Some(key) => key,
        };
        if !names.contains(&key.as_str()) {
            return Err(Error::stop(format!("{} has no column \"{key}\"; its columns are: {}", self.place(), names.join(", "))));
        }
        let columns: Vec<String> = names.iter().map(|name| format!("{}::text", quote(name))).collect();
        let sql = format!("select {}::text, {} from ({query}) as found", quote(&key), columns.join(", "));
        let names = names.into_iter().map(Box::from).collect();
        connection.prepare(&sql).await.map_err(cannot)?;
        Ok(Opened { pool: Pool::new(&url, self.pool, "lookup")?, sql, names })
    }

    /// The column of a table that finds a row. Two rows for one key would be a guess.
    async fn key_of(&self, connection: &Connection, table: &Table) -> Result<String> {
        const UNIQUE: &str = "select a.attname::text, i.indisprimary from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] \
             where i.indrelid = $1::text::regclass and i.indisunique and i.indisvalid and i.indnkeyatts = 1 and i.indpred is null and i.indexprs is null";
        let is_table = "select relkind in ('r', 'p', 'f') from pg_class where oid = $1::text::regclass";
        let cannot = |error| failed(&format!("looking at {}", self.place()), error);
        let name = table.to_string();
        let unique = connection.query(UNIQUE, &[&name]).await.map_err(cannot)?;
        let has_indexes: bool = connection.query_one(is_table, &[&name]).await.map_err(cannot)?.get(0);
        let find = |row: &&tokio_postgres::Row| match &self.key {
            Some(key) => row.get::<_, &str>(0) == key,
            None => row.get(1),
        };
        match (unique.iter().find(find), &self.key) {
            (Some(row), _) => Ok(row.get(0)),
            // Views have none; whoever names a column of one knows.
            (None, Some(key)) if !has_indexes => Ok(key.clone()),
            (None, Some(key)) => Err(Error::stop(format!(
                "{}: the column \"{key}\" has no unique index of its own, so several rows may have one key; add one, or say by a query which row counts",
                self.place()
            ))),
            (None, None) => Err(Error::stop(format!(
                "{} has no primary key of one column; say by .key(..) which column finds a row, or use a query",
                self.place()
            ))),
        }
    }

    async fn ask(&self, opened: &Opened, keys: &[String]) -> Result<Vec<Option<Fields>>> {
        let client = opened.pool.get().await?;
        let mut found: Found<'_> = keys.iter().map(|key| (key.as_str(), None)).collect();
        let wanted: Vec<&str> = found.keys().copied().collect();
        let mut ranges = vec![&wanted[..]];
        while let Some(keys) = ranges.pop() {
            match self.ask_at_once(&client, opened, keys, &mut found).await {
                Ok(()) => {}
                // A key that is none of the column's type: which one is found by halves.
                Err(Asked::BadKey) if keys.len() > 1 => {
                    let (first, second) = keys.split_at(keys.len() / 2);
                    ranges.extend([second, first]);
                }
                Err(Asked::BadKey) => {}
                Err(Asked::Failed(error)) => return Err(error),
            }
        }
        Ok(keys.iter().map(|key| found.get(key.as_str()).cloned().flatten()).collect())
    }

    async fn ask_at_once<'a>(
        &self,
        client: &PooledClient,
        opened: &Opened,
        keys: &[&'a str],
        found: &mut Found<'a>,
    ) -> Result<(), Asked> {
        let cannot = |error| Asked::Failed(failed(&format!("looking rows up in {}", self.place()), error));
        let statement = client.prepare_cached(&opened.sql).await.map_err(cannot)?;
        let rows =
            client.query(&statement, &[&Keys(keys)]).await.map_err(|error| match error.code().map(|code| code.code()) {
                // Not of its syntax, out of its range, not of its form.
                Some("22P02" | "22003" | "22007" | "22008" | "22021") => Asked::BadKey,
                _ => cannot(error),
            })?;
        let mut here: HashMap<&str, bool> = keys.iter().map(|key| (*key, false)).collect();
        for row in rows {
            let text = |at| row.try_get::<_, Option<&str>>(at).map_err(cannot);
            let Some(key) = text(0)? else { continue };
            let values = (1..row.len()).map(text).collect::<Result<Vec<Option<&str>>, Asked>>()?;
            let fields = Fields::named(opened.names.clone(), values);
            // A number that was asked for as `007` is another key than `7`.
            let Some((asked, is_there)) = here.get_key_value_mut(key) else { continue };
            found.insert(asked, Some(fields));
            if std::mem::replace(is_there, true) {
                return Err(Asked::Failed(Error::park(format!(
                    "{} gives several rows for the key \"{key}\"; let the query give one",
                    self.place()
                ))));
            }
        }
        Ok(())
    }
}

/// By key that is asked for, its row.
type Found<'a> = HashMap<&'a str, Option<Fields>>;

enum Asked {
    BadKey,
    Failed(Error),
}

impl Loader for PostgresRows {
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async move {
            let opened = self.opened.get().ok_or_else(|| Error::stop(format!("{} was not opened", self.place())))?;
            self.ask(opened, keys).await
        })
    }

    /// A database that is away is waited for some time.
    fn open(&self) -> Result {
        const LOOKS: u32 = 5;
        let rows = self.clone();
        let opened = apart("lookup", move || async move {
            let mut failed = 0;
            loop {
                match rows.look().await {
                    Err(error) if error.kind() == ErrorKind::Retry && failed < LOOKS => failed += 1,
                    Err(error) => return Err(Error::stop(error.to_string())),
                    opened => return opened,
                }
                tokio::time::sleep(crate::ahead::AWAY.wait(failed)).await;
            }
        })?;
        let _ = self.opened.set(opened);
        Ok(())
    }

    fn place(&self) -> String {
        let url = self.url.as_ref().map_or_else(Clone::clone, Url::to_string);
        match &self.from {
            From::Table(Ok(table)) => format!("table {table} in {url}"),
            From::Table(Err(problem)) => problem.clone(),
            From::Query(_) => format!("a query in {url}"),
        }
    }
}

impl std::fmt::Debug for PostgresRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresRows({})", self.place())
    }
}

/// Keys as a list of Postgres, of whatever type it is to be.
#[derive(Debug)]
struct Keys<'a>(&'a [&'a str]);

impl ToSql for Keys<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_u8(b'{');
        for (at, key) in self.0.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_u8(b'"');
            for byte in key.bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.put_u8(b'\\');
                }
                out.put_u8(byte);
            }
            out.put_u8(b'"');
        }
        out.put_u8(b'}');
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.to_sql(ty, out)
    }
}

#[cfg(test)]
mod tests;
