//! Moves an idle slot on: a message in the log, of no table and no transaction. When it comes back all before it was read.

use highwater_operators::Result;
use highwater_operators::postgres::Connection;

use super::log::HEARTBEAT_PREFIX;
use super::session::ask_one;

/// Writes the message.
pub(super) async fn emit(connection: &Connection) -> Result {
    let sql = "select pg_logical_emit_message(false, $1, '')";
    ask_one(connection, "moving the idle slot on", sql, &[&HEARTBEAT_PREFIX]).await.map(drop)
}
