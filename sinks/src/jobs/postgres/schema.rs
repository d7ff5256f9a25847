//! The table: made and looked at by the store itself.

use highwater_operators::postgres::failed;
use highwater_operators::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The version of the table that this program reads and writes; it stands in the table's comment.
const VERSION: u32 = 1;

const STEPS: &str = include_str!("schema.sql");

/// Under this lock the table is made.
const LOCK: i64 = 0x4857_4a4f_4253;

/// Makes the table in the first schema of the connection's search path. If it is there, this asks one question and needs no right to create.
pub(super) async fn make(client: &mut Client) -> Result {
    let what = "making the table of jobs";
    let wrong = |error| failed(what, error);
    if version(client).await?.is_some() {
        return Ok(());
    }
    let transaction = client.transaction().await.map_err(wrong)?;
    transaction.execute("select pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(wrong)?;
    if version(transaction.client()).await?.is_some() {
        return Ok(());
    }
    let named = format!("{STEPS}\ncomment on table highwater_jobs is 'highwater jobs, version {VERSION}';");
    transaction.batch_execute(&named).await.map_err(|error| match error.code() {
        Some(&SqlState::INVALID_SCHEMA_NAME) => Error::stop(
            "no schema of the search_path exists in the database; create it, or name another with ?options=-csearch_path%3DNAME",
        ),
        _ => failed(what, error),
    })?;
    transaction.commit().await.map_err(wrong)
}

/// The version of the table, if there is one.
async fn version(client: &Client) -> Result<Option<u32>> {
    // Not by to_regclass: a session that has just waited for the lock would answer from what it knew before.
    let asked = "select obj_description(oid, 'pg_class') from pg_class where relname = 'highwater_jobs' and relnamespace in \
                 (select oid from pg_namespace where nspname = any (current_schemas(false)))";
    let row = client.query_opt(asked, &[]).await.map_err(|error| failed("looking for the table of jobs", error))?;
    let Some(row) = row else { return Ok(None) };
    let comment: Option<String> = row.get(0);
    let version = comment.as_deref().and_then(|comment| comment.strip_prefix("highwater jobs, version ")?.parse().ok());
    match version {
        Some(VERSION) => Ok(Some(VERSION)),
        Some(other) => Err(Error::stop(format!(
            "the table of jobs, highwater_jobs, is of version {other}, and this program knows version {VERSION}: run the program that made it, \
             or keep jobs in another schema, with ?options=-csearch_path%3DNAME in the URL"
        ))),
        None => Err(Error::stop(
            "there is a table highwater_jobs that is not of our making (its comment says no version): keep jobs in a schema of their own, with \
             ?options=-csearch_path%3DNAME in the URL",
        )),
    }
}
