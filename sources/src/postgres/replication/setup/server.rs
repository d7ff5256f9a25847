//! The server: who it is, and whether it can do it.

use highwater_operators::postgres::Connection;
use highwater_operators::{Error, Result};

use super::super::session::ask_one;
use super::super::token::Identity;
use super::{Description, RESNAPSHOT};

const SERVER: &str = "select pg_is_in_recovery(), (select system_identifier from pg_control_system()), \
     (select oid from pg_database where datname = current_database()), \
     case when pg_is_in_recovery() then null else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end, \
     current_setting('server_version_num')::int4, current_setting('server_version'), current_setting('wal_level'), \
     (select rolreplication or rolsuper from pg_roles where rolname = current_user), current_user::text";

/// The oldest version whose plugin tells of messages.
const OLDEST: i32 = 140_000;

pub(super) async fn look(connection: &Connection, description: &Description) -> Result<Identity> {
    let row = ask_one(connection, "looking at the server", SERVER, &[]).await?;
    let url = description.url()?;
    let (version, shown): (i32, &str) = (row.get(4), row.get(5));
    if version < OLDEST {
        return Err(Error::stop(format!(
            "the server at {url} is of version {shown}; logical replication is read from version 14 on: upgrade it, or read a change log"
        )));
    }
    let level: &str = row.get(6);
    if level != "logical" {
        return Err(Error::stop(format!(
            "the server at {url} has wal_level = {level}, and must have logical: `alter system set wal_level = 'logical'`, then restart it"
        )));
    }
    let timeline: Option<&str> = row.get(3);
    let Some(timeline) = timeline.and_then(|hex| u32::from_str_radix(hex, 16).ok()) else {
        return Err(Error::stop(format!(
            "the server at {url} is a standby, where no slot can be moved: connect to the primary, or add `target_session_attrs=read-write` to \
             the URL"
        )));
    };
    if row.get::<_, Option<bool>>(7) != Some(true) {
        let user: &str = row.get(8);
        return Err(Error::stop(format!(
            "the user {user} may not read by replication; as superuser: `alter role {user} replication`"
        )));
    }
    Ok(Identity { system: row.get::<_, i64>(1) as u64, timeline, database: row.get(2) })
}

/// Refuses to continue what was begun on another server.
pub(super) fn must_be(is: &Identity, was: &Identity, description: &Description) -> Result {
    let slot = &description.slot;
    let what = if is.system != was.system {
        format!(
            "it was read on the server {}, and this is the server {}, whose data were made anew or restored",
            was.system, is.system
        )
    } else if is.database != was.database {
        format!(
            "it was read in the database with number {}, and this one has number {}: it is another one or was made anew",
            was.database, is.database
        )
    } else if is.timeline != was.timeline && description.after_failover != Some(is.timeline) {
        return Err(Error::stop(format!(
            "the checkpoint continues slot {slot} on timeline {}, and the server is on timeline {}: it was failed over or restored. If it has every \
             transaction that was confirmed before (a synchronous standby took over, and the slot with it), say .after_failover({}); else: \
             {RESNAPSHOT}",
            was.timeline, is.timeline, is.timeline
        )));
    } else {
        return Ok(());
    };
    Err(Error::stop(format!(
        "the checkpoint continues slot {slot} of another log: {what}; give the old one back, or: {RESNAPSHOT}"
    )))
}
