//! The tables: made and brought up to date by the store itself.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Error, Result};
use crate::postgres::failed;

/// Each brings the tables from the version before to its own, the first from nothing.
const STEPS: &[&str] = &[include_str!("schema.sql")];

/// The version this program reads and writes.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// Under this lock, with the number of the schema, tables are made or changed.
const LOCK: i32 = 0x4857_4350;

/// Makes or migrates the tables in the first schema of the connection's search path. If they are as they should be, this asks
/// one question and needs no right to create.
pub(super) async fn make(client: &mut Client) -> Result {
    let found = version(client).await?;
    if found == Some(VERSION) {
        return Ok(());
    }
    let what = "making the tables of the checkpoint store";
    let transaction = client.transaction().await.map_err(|error| failed(what, error))?;
    let schema = transaction
        .query_one(
            "select current_schema(), pg_advisory_xact_lock($1, coalesce(current_schema()::regnamespace::oid::integer, 0))",
            &[&LOCK],
        )
        .await
        .map_err(|error| failed(what, error))?;
    let Some(schema) = schema.get::<_, Option<&str>>(0) else {
        return Err(Error::stop(
            "no schema of the search_path exists in the database; create it, or name another with ?options=-csearch_path%3DNAME",
        ));
    };
    // Another process may have been at it meanwhile.
    let found = version(&transaction).await?.unwrap_or(0);
    if found == 0 {
        transaction
            .batch_execute(
                "create table observer_schema (version integer primary key, made_at timestamptz not null default now())",
            )
            .await
            .map_err(|error| failed(what, error))?;
    }
    for (step, to) in STEPS.iter().zip(1..).filter(|(_, to)| *to > found) {
        transaction.batch_execute(step).await.map_err(|error| match error.code() {
            Some(&SqlState::DUPLICATE_TABLE) => Error::stop(format!(
                "the schema \"{schema}\" has a table of a name that the checkpoint store needs, and not of its making ({}); give \
                 the store a schema of its own: create schema highwater, and add ?options=-csearch_path%3Dhighwater to the URL",
                error.as_db_error().map(|said| said.message().to_owned()).unwrap_or_default()
            )),
            _ => failed(what, error),
        })?;
        transaction
            .execute("insert into observer_schema (version) values ($1)", &[&to])
            .await
            .map_err(|error| failed(what, error))?;
    }
    transaction.commit().await.map_err(|error| failed(what, error))
}

/// The version of the tables, if there are any.
///
/// # Errors
/// It is newer than this program.
pub(super) async fn version(client: &impl tokio_postgres::GenericClient) -> Result<Option<i32>> {
    let what = "asking for the version of the checkpoint store's tables";
    // Not by to_regclass: a session that has just waited for the lock would answer from what it knew before.
    let there = client
        .query_one(
            "select exists (select from pg_class where relname = 'observer_schema' and relnamespace in \
             (select oid from pg_namespace where nspname = any (current_schemas(false))))",
            &[],
        )
        .await
        .map_err(|error| failed(what, error))?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_one("select max(version) from observer_schema", &[]).await.map_err(|error| failed(what, error))?;
    match row.get::<_, Option<i32>>(0) {
        Some(newer) if newer > VERSION => Err(Error::stop(format!(
            "the tables of the checkpoint store are of version {newer}, and this program knows versions up to {VERSION}: they were \
             made by a newer program; run that one, or keep checkpoints elsewhere"
        ))),
        found => Ok(found),
    }
}
