//! The slot: what it is, and that it has not moved beyond what is durable here.

use highwater_operators::postgres::Connection;
use highwater_operators::{Error, Result};
use tokio_postgres::types::PgLsn;

use super::super::lsn::Lsn;
use super::super::session::{ask, ask_one};
use super::RESNAPSHOT;

/// A slot as the server has it.
#[derive(Clone, Debug)]
pub(in super::super) struct Slot {
    plugin: Option<String>,
    kind: String,
    database: Option<u32>,
    is_temporary: bool,
    /// From here on the server keeps its log.
    pub restart: Option<Lsn>,
    /// Up to here it was confirmed.
    pub confirmed: Lsn,
    wal_status: Option<String>,
    invalidated: Option<String>,
}

const SLOT: &str = "select plugin::text, slot_type, datoid, temporary, restart_lsn, confirmed_flush_lsn, wal_status, \
     to_jsonb(s) ->> 'invalidation_reason' from pg_replication_slots s where slot_name = $1";

pub(super) async fn look(connection: &Connection, name: &str) -> Result<Option<Slot>> {
    let rows = ask(connection, "looking at the slot", SLOT, &[&name]).await?;
    Ok(rows.first().map(|row| Slot {
        plugin: row.get(0),
        kind: row.get(1),
        database: row.get(2),
        is_temporary: row.get(3),
        restart: row.get::<_, Option<PgLsn>>(4).map(|lsn| Lsn(lsn.into())),
        confirmed: Lsn(row.get::<_, Option<PgLsn>>(5).map_or(0, u64::from)),
        wal_status: row.get(6),
        invalidated: row.get(7),
    }))
}

pub(super) fn check_name(name: &str) -> Result {
    let is_fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    match name.len() {
        1..=63 if name.bytes().all(is_fine) => Ok(()),
        _ => Err(Error::stop(format!("`{name}` is no name of a slot: it has 1 to 63 of a-z, 0-9 and _"))),
    }
}

pub(super) async fn make(connection: &Connection, name: &str) -> Result {
    let sql = "select pg_create_logical_replication_slot($1, 'pgoutput')";
    tracing::info!(slot = name, "the slot is made; that waits for the transactions that are open now");
    ask_one(connection, &format!("making the slot {name}"), sql, &[&name]).await.map(drop)
}

pub(super) fn is_missing(name: &str, end: Lsn) -> Error {
    Error::stop(format!(
        "the checkpoint continues the slot {name} at {end}, and there is no such slot: it was dropped, or the server was restored or failed over \
         without it; what was committed since may be gone from the log. {RESNAPSHOT}"
    ))
}

impl Slot {
    /// Refuses a slot of another kind.
    pub(super) fn check(&self, name: &str, database: u32) -> Result {
        let other = |what: String| {
            Err(Error::stop(format!(
                "the slot {name} {what}; name another slot, or drop this one if nobody needs it: it is then made as it must be"
            )))
        };
        if self.kind != "logical" {
            return other(format!("is {}, and must be logical", self.kind));
        }
        if self.plugin.as_deref() != Some("pgoutput") {
            return other(format!("has the plugin {}, and must have pgoutput", self.plugin.as_deref().unwrap_or("(none)")));
        }
        if self.database != Some(database) {
            return other(format!("is of the database number {}, and this one is number {database}", self.database.unwrap_or(0)));
        }
        if self.is_temporary {
            return other("is temporary and goes with its session".to_owned());
        }
        if self.wal_status.as_deref() == Some("lost") || self.restart.is_none() || self.invalidated.is_some() {
            let why =
                self.invalidated.as_deref().unwrap_or("wal_removed: it needed more log than max_slot_wal_keep_size lets it have");
            return Err(Error::stop(format!(
                "the slot {name} is lost ({why}): the server has removed log that it still needed. Drop it, then: {RESNAPSHOT}"
            )));
        }
        Ok(())
    }

    /// Refuses a slot that was moved beyond what is durable here.
    pub(super) fn must_be_behind(&self, name: &str, end: Lsn) -> Result {
        if self.confirmed <= end {
            return Ok(());
        }
        Err(Error::stop(format!(
            "the slot {name} was moved ahead: it is confirmed up to {}, and the checkpoint is at {end}. Somebody else has read or moved it, or it \
             was dropped and made anew; what was committed between is not sent any more. {RESNAPSHOT}",
            self.confirmed
        )))
    }
}

/// Who holds a slot, for people.
pub(in super::super) async fn holder(connection: &Connection, name: &str) -> Result<Option<String>> {
    let sql = "select s.active_pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a socket'), \
         coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'), '') \
         from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid where s.slot_name = $1 and s.active_pid is not null";
    let rows = ask(connection, "looking who holds the slot", sql, &[&name]).await?;
    Ok(rows.first().map(|row| {
        let (pid, application, from, since): (i32, &str, &str, &str) = (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("process {pid} (\"{application}\" from {from}, since {since} UTC)")
    }))
}
