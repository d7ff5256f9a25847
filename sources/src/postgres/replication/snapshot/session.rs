//! Sessions in which rows are read: how values are written must not depend on the server's settings, and nothing may end one that only waits.

use highwater_operators::Result;
use highwater_operators::postgres::{Connection, Url, failed};

/// Settings by name and value; those that the server does not know are left out.
///
/// * How values are written: the same in every session, and in the stream.
/// * Names are written with their schema, also in what the catalog shows.
/// * Nobody ends a session that waits until somebody takes what it has read. A server of version 14 or later looks itself whether we are
///   still there, so that a long wait in the midst of a command ends with us.
/// * Rows are to come in the order of the key at once, not when all of them have been sorted.
/// * A policy that would hide rows is an error.
const SETTINGS: &str = "select set_config(s.name, s.value, false) from (values \
     ('datestyle', 'ISO, MDY'), ('intervalstyle', 'postgres'), ('timezone', 'UTC'), ('extra_float_digits', '3'), ('bytea_output', 'hex'), \
     ('search_path', ''), ('statement_timeout', '0'), ('lock_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), \
     ('idle_session_timeout', '0'), ('transaction_timeout', '0'), ('client_connection_check_interval', '1s'), \
     ('enable_sort', 'off'), ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('jit', 'off'), ('max_parallel_workers_per_gather', '0'), \
     ('row_security', 'off'), ('default_transaction_deferrable', 'off')) s(name, value) \
     where exists (select from pg_catalog.pg_settings known where known.name = s.name)";

/// Opens one.
pub(super) async fn open(url: &Url, purpose: &str) -> Result<Connection> {
    let connection = Connection::open(url, purpose).await?;
    connection.batch_execute(SETTINGS).await.map_err(|error| failed("setting up a session to read rows", error))?;
    Ok(connection)
}

/// The settings as one statement, for sessions that are opened otherwise.
pub(super) fn settings() -> &'static str {
    SETTINGS
}
