//! What every session with the server is like: the same text for the same value on each of them, and no limit that ends it half-way.

use std::time::Duration;

use highwater_operators::guard::backoff::Backoff;
use highwater_operators::postgres::{Connection, Url, failed};
use highwater_operators::{Error, Result};
use tokio::runtime::Runtime;
use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

use super::lsn::Lsn;

/// A runtime for one thread: whoever reads a slot needs no more.
pub(super) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::stop("cannot start a runtime").because(error))
}

/// A database that is away is tried again after waits up to this.
pub(super) const AWAY: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(1) };

/// How values are written as text. With no search path names are written with their schema.
pub(super) const PINNED: [(&str, &str); 7] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("search_path", ""),
    ("xmloption", "content"),
];

/// The same for a session by SQL, which reads as long as it takes.
pub(super) const UNLIMITED: &str = "set statement_timeout = 0; set lock_timeout = 0; set row_security = off; set jit = off; \
     set default_transaction_isolation = 'read committed'; \
     select set_config(name, '0', false) from pg_settings \
     where name in ('idle_session_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')";

/// In a session in which rows come: where the database's encoding does not say what its text is, it is sent as it is. Converted, one row that is no
/// UTF-8 would end the session, over and over; as it is, it is found here and set aside.
pub(super) const AS_IT_IS: &str =
    "select set_config('client_encoding', 'SQL_ASCII', false) where current_setting('server_encoding') = 'SQL_ASCII'";

/// Opens a session with the database.
pub(super) async fn open(url: &Url, purpose: &str) -> Result<Connection> {
    let connection = Connection::open(url, purpose).await?;
    let pins: Vec<String> = PINNED.iter().map(|(name, value)| format!("set {name} = '{value}'; ")).collect();
    let set_up = format!("{}{UNLIMITED}", pins.concat());
    connection.batch_execute(&set_up).await.map_err(|error| failed("setting up the session", error))?;
    Ok(connection)
}

/// How far the server's log is, durably.
pub(super) async fn flushed(connection: &Connection) -> Result<Lsn> {
    let row = ask_one(connection, "looking how far the log is", "select pg_current_wal_flush_lsn()", &[]).await?;
    Ok(Lsn(row.get::<_, PgLsn>(0).into()))
}

/// Asks, saying what for if it fails.
pub(super) async fn ask(connection: &Connection, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
    connection.query(sql, parameters).await.map_err(|error| failed(what, error))
}

/// The only row of an answer.
pub(super) async fn ask_one(connection: &Connection, what: &str, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
    let rows = ask(connection, what, sql, parameters).await?;
    rows.into_iter().next().ok_or_else(|| Error::retry(format!("{what}: the server's answer has no row")))
}
