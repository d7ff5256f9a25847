//! The table that `--target` fills: a row for each change.

use highwater::operators::postgres::{Connection, Url, failed};
use highwater::prelude::*;

const TABLE: &str = "change_log_copy";

/// Makes it, if it is not there.
pub fn make(url: &str) -> Result {
    let url = Url::parse(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = Connection::open(&url, "example").await?;
        let sql = format!(
            "create table if not exists {TABLE} (change_id bigint, object_type text, object_id text, operation text, changed_at timestamptz)"
        );
        connection.batch_execute(&sql).await.map_err(|error| failed("making the copy's table", error))
    })
}

/// Fills it.
pub fn fill(url: &str) -> PostgresTable {
    PostgresTable::append(url, TABLE).columns([
        ("change_id", "@id"),
        ("object_type", "@table"),
        ("object_id", "@key"),
        ("operation", "@operation"),
        ("changed_at", "@time"),
    ])
}
