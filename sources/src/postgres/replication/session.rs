//! What every session with the server is like: the same text for the same value on each of them, and no limit that ends it half-way.

use highwater_operators::postgres::{Connection, Url, failed};
use highwater_operators::{Error, Result};
use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

use super::lsn::Lsn;

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
