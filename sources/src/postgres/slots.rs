//! The replication slots of a server: how far each is behind, what it keeps the server from forgetting, and when that will be too much.

use std::time::{Duration, Instant};

use highwater_operators::postgres::{Connection, Url, failed};
use highwater_operators::{Error, Result};
use serde::Serialize;
use tokio_postgres::Client;

/// All slots of a server at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slots {
    /// Bytes of log that the server writes in a second, by two looks; none if nobody measured.
    pub wal_bytes_per_second: Option<f64>,
    /// `max_slot_wal_keep_size` in bytes: what a slot may keep before it is lost. None: it may fill the disk.
    pub keep_at_most_bytes: Option<i64>,
    /// The slots, by name.
    pub slots: Vec<Slot>,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slot {
    /// Its name.
    pub slot: String,
    /// What decodes the log for it; none for a physical one.
    pub plugin: Option<String>,
    /// The database whose changes it tells; none for a physical one.
    pub database: Option<String>,
    /// Whether it goes with the session that made it: a copy by which somebody catches up.
    pub temporary: bool,
    /// The server's process that reads from it.
    pub active_pid: Option<i32>,
    /// Who that is, as it calls itself.
    pub application: Option<String>,
    /// Up to here everything was confirmed.
    pub confirmed: Option<String>,
    /// Bytes of log behind that.
    pub lag_bytes: Option<i64>,
    /// Bytes of log that the server keeps for it.
    pub retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`, as the server says it.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before the slot may be lost; none if nothing limits what is kept.
    pub safe_wal_size: Option<i64>,
    /// Minutes until that, or until the disk is full, if the log goes on to grow as it does now and the slot is not moved.
    pub minutes_until_full: Option<f64>,
    /// The pipeline that reads from it, where its checkpoints are known.
    pub pipeline: Option<String>,
    /// Its partition's name in a checkpoint store.
    #[serde(skip)]
    pub partition: String,
}

const SERVER: &str = "select (select system_identifier::text from pg_control_system()), \
     (select case when setting::bigint >= 0 then setting::bigint * 1048576 end from pg_settings where name = 'max_slot_wal_keep_size')";

/// Where the log ends: on a standby, where it was replayed to.
const END: &str = "(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end)";

impl Slots {
    /// Looks at the slots of this server. The growth of its log is measured for so long; not at all if that is zero. `free` says how many bytes the
    /// server's disk has left, which SQL does not tell.
    ///
    /// # Errors
    /// The server cannot be reached or asked; it is older than Postgres 13.
    pub fn look(url: &Url, measure: Duration, free: Option<u64>) -> Result<Slots> {
        block_on(async {
            let connection = Connection::open(url, "slots").await?;
            let wrong = |error| failed(&format!("looking at the slots of {url}"), error);
            let growth = if measure.is_zero() { None } else { Some(growth(&connection, measure).await.map_err(wrong)?) };
            let mut slots = slots(&connection, growth).await.map_err(wrong)?;
            for slot in &mut slots.slots {
                slot.expect_full(slots.wal_bytes_per_second, free);
            }
            slots.belong_to(&pipelines(&connection).await.map_err(wrong)?);
            Ok(slots)
        })
    }

    /// Says which slots belong to which pipelines, by the partitions of these: pairs of a partition's name and a pipeline's.
    pub fn belong_to(&mut self, partitions: &[(String, String)]) {
        for slot in self.slots.iter_mut().filter(|slot| slot.pipeline.is_none()) {
            slot.pipeline = partitions.iter().find(|(name, _)| *name == slot.partition).map(|(_, pipeline)| pipeline.clone());
        }
    }
}

/// The partitions of all pipelines that keep their checkpoints in this database, for [`Slots::belong_to`].
///
/// # Errors
/// The database cannot be reached or asked.
pub fn partitions_at(url: &Url) -> Result<Vec<(String, String)>> {
    block_on(async {
        let connection = Connection::open(url, "slots").await?;
        pipelines(&connection).await.map_err(|error| failed(&format!("looking for checkpoints at {url}"), error))
    })
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::stop("cannot start a runtime").because(error))?.block_on(work)
}

impl Slot {
    fn expect_full(&mut self, growth: Option<f64>, free: Option<u64>) {
        let room = match (self.safe_wal_size, free) {
            (Some(safe), Some(free)) => Some((safe.max(0) as u64).min(free)),
            (Some(safe), None) => Some(safe.max(0) as u64),
            (None, free) => free,
        };
        let is_lost = self.wal_status.as_deref() == Some("lost");
        self.minutes_until_full = match (room, growth) {
            _ if is_lost => None,
            // Nothing is written: never.
            (Some(room), Some(growth)) if growth > 0.0 => Some(room as f64 / growth / 60.0),
            _ => None,
        };
    }
}

async fn growth(client: &Client, measure: Duration) -> Result<f64, tokio_postgres::Error> {
    let end = async || -> Result<(i64, Instant), tokio_postgres::Error> {
        let row = client.query_one(&format!("select pg_wal_lsn_diff({END}, '0/0')::bigint"), &[]).await?;
        Ok((row.get(0), Instant::now()))
    };
    let (before, began) = end().await?;
    tokio::time::sleep(measure).await;
    let (after, ended) = end().await?;
    Ok((after - before).max(0) as f64 / (ended - began).as_secs_f64().max(0.001))
}

async fn slots(client: &Client, growth: Option<f64>) -> Result<Slots, tokio_postgres::Error> {
    let row = client.query_one(SERVER, &[]).await?;
    let (system, keep_at_most_bytes): (String, Option<i64>) = (row.get(0), row.get(1));
    let sql = format!(
        "select s.slot_name::text, s.plugin::text, s.database::text, s.temporary, s.active_pid, a.application_name, \
           s.confirmed_flush_lsn::text, pg_wal_lsn_diff(w.position, s.confirmed_flush_lsn)::bigint, \
           pg_wal_lsn_diff(w.position, s.restart_lsn)::bigint, s.wal_status, s.safe_wal_size, s.datoid \
         from pg_replication_slots s left join pg_stat_activity a on a.pid = s.active_pid, (select {END}) w(position) order by 1"
    );
    let slot = |row: &tokio_postgres::Row| {
        let slot: String = row.get(0);
        let database: Option<u32> = row.get(11);
        Slot {
            partition: format!("{system}-{}-{slot}", database.unwrap_or_default()),
            slot,
            plugin: row.get(1),
            database: row.get(2),
            temporary: row.get(3),
            active_pid: row.get(4),
            application: row.get(5),
            confirmed: row.get(6),
            lag_bytes: row.get(7),
            retained_bytes: row.get(8),
            wal_status: row.get(9),
            safe_wal_size: row.get(10),
            minutes_until_full: None,
            pipeline: None,
        }
    };
    let slots = client.query(&sql, &[]).await?.iter().map(slot).collect();
    Ok(Slots { wal_bytes_per_second: growth, keep_at_most_bytes, slots })
}

/// The pipelines that keep checkpoints in this database: their partitions, and their names.
async fn pipelines(client: &Client) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let may = "select coalesce((select has_table_privilege(to_regclass('observer_partitions'), 'select')), false)";
    if !client.query_one(may, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = client.query("select name, listener_id from observer_partitions", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(wal_status: &str, safe_wal_size: Option<i64>) -> Slot {
        Slot {
            slot: "s".into(),
            plugin: None,
            database: None,
            temporary: false,
            active_pid: None,
            application: None,
            confirmed: None,
            lag_bytes: None,
            retained_bytes: None,
            wal_status: Some(wal_status.into()),
            safe_wal_size,
            minutes_until_full: None,
            pipeline: None,
            partition: String::new(),
        }
    }

    #[test]
    fn the_nearer_limit_counts_and_nothing_is_never() {
        for (status, safe, growth, free, minutes) in [
            ("reserved", Some(60_000), Some(100.0), None, Some(10.0)),
            ("extended", Some(60_000), Some(100.0), Some(6_000), Some(1.0)),
            ("reserved", None, Some(100.0), Some(6_000), Some(1.0)),
            ("unreserved", Some(-5), Some(100.0), None, Some(0.0)),
            ("reserved", Some(60_000), Some(0.0), None, None),
            ("reserved", None, Some(100.0), None, None),
            ("reserved", Some(60_000), None, None, None),
            ("lost", Some(60_000), Some(100.0), None, None),
        ] {
            let mut slot = slot(status, safe);
            slot.expect_full(growth, free);
            assert_eq!(slot.minutes_until_full, minutes, "{status} {safe:?} {growth:?} {free:?}");
        }
    }
}
