//! Reading what the last run left.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, pin_mut};
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::ledger::{Ledger, decode};
use super::link::Of;
use super::save::{COLUMNS, Floor, SaveRow, SavedRow};
use super::text::{bigint, escape, number, unescape};
use crate::checkpoint::record::decode_record;
use crate::checkpoint::store::{Cause, Note, Parked, ParkedHead, ParkedId, StateSegment};
use crate::error::{Error, Result};
use crate::parked::{Filter, Page};
use crate::position::{Epoch, PartitionId};
use crate::postgres::failed;

const WHAT: &str = "reading from the checkpoint store";

/// The row that holds the mark.
pub(super) struct Pipeline {
    pub generation: u64,
    pub processes: u64,
    pub state_id: u128,
    pub next_parked: u64,
    pub started_at_ms: u64,
    pub saved: Option<SavedRow>,
}

/// The row of a pipeline, if there is one; `lock` is how it is locked.
pub(super) async fn pipeline(client: &impl GenericClient, name: &str, lock: &str) -> Result<Option<Pipeline>> {
    let text = format!(
        "select generation, processes, state_id, next_parked, (extract(epoch from started_at) * 1000)::bigint, {COLUMNS} \
         from observer_checkpoints where listener_id = $1 {lock}"
    );
    let row = client.query_opt(&text, &[&name]).await.map_err(|error| failed(WHAT, error))?;
    let Some(row) = row else { return Ok(None) };
    let state_id: [u8; 16] = row
        .get::<_, &[u8]>(2)
        .try_into()
        .map_err(|_| Error::stop("the state_id in observer_checkpoints has not 16 bytes: it was changed by hand"))?;
    Ok(Some(Pipeline {
        generation: number(row.get(0)),
        processes: row.get::<_, i32>(1).max(1) as u64,
        state_id: u128::from_be_bytes(state_id),
        next_parked: number(row.get(3)).max(1),
        started_at_ms: number(row.get(4)),
        saved: SaveRow::read(&row, 5)?,
    }))
}

pub(super) const PARTITIONS: &str = "select partition, name from observer_partitions where listener_id = $1";

pub(super) async fn partitions(client: &impl GenericClient, name: &str) -> Result<BTreeMap<PartitionId, String>> {
    let rows = client.query(PARTITIONS, &[&name]).await.map_err(|error| failed(WHAT, error))?;
    Ok(rows.iter().map(|row| (number(row.get(0)) as PartitionId, unescape(row.get(1)))).collect())
}

pub(super) const ACTIONS: &str = "select number, name from observer_actions where listener_id = $1";

pub(super) async fn actions(client: &impl GenericClient, name: &str) -> Result<BTreeMap<String, u16>> {
    let rows = client.query(ACTIONS, &[&name]).await.map_err(|error| failed(WHAT, error))?;
    Ok(rows.iter().map(|row| (unescape(row.get(1)), row.get::<_, i32>(0) as u16)).collect())
}

pub(super) const RESOLVED: &str = "select action, sum(delivered)::bigint, sum(dropped)::bigint from observer_resolved \
                                   where listener_id = $1 group by action";

pub(super) async fn resolved(client: &impl GenericClient, name: &str) -> Result<BTreeMap<String, (u64, u64)>> {
    let rows = client.query(RESOLVED, &[&name]).await.map_err(|error| failed(WHAT, error))?;
    Ok(rows.iter().map(|row| (unescape(row.get(0)), (number(row.get(1)), number(row.get(2))))).collect())
}

pub(super) const HEADS: &str = "select head, octet_length(record) from observer_parked where listener_id = $1 order by id";

pub(super) async fn heads(client: &impl GenericClient, name: &str) -> Result<Vec<ParkedHead>> {
    let rows = client.query_raw(HEADS, [name]).await.map_err(|error| failed(WHAT, error))?;
    pin_mut!(rows);
    let mut heads = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.map_err(|error| failed(WHAT, error))?;
        let head: ParkedHead = decode(row.get(0))?;
        heads.push(ParkedHead { bytes: row.get::<_, i32>(1) as u64, ..head });
    }
    Ok(heads)
}

/// One by one, as a group finds them (`group.rs` says why).
pub(super) const RECORDS: &str = "select place.* from unnest($2::bigint[]) as asked (id) cross join lateral ( \
                                  select id, record from observer_parked where listener_id = $1 and id = asked.id offset 0) as place";

/// Parked changes, whole, in the order in which they were asked for.
pub(super) async fn records(of: &Of, ids: &[ParkedId]) -> Result<Vec<Parked>> {
    let client = of.link.client().await?;
    let statement = client.prepare_cached(RECORDS).await.map_err(|error| failed(WHAT, error))?;
    let wanted: Vec<i64> = ids.iter().filter_map(|id| i64::try_from(*id).ok()).collect();
    let rows = client.query(&statement, &[&&*of.pipeline, &wanted]).await.map_err(|error| failed(WHAT, error))?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let parked = record(row.get(0), row.get(1))?;
        found.insert(parked.id, parked);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

fn record(id: i64, bytes: &[u8]) -> Result<Parked> {
    decode_record(bytes).ok_or_else(|| Error::stop(format!("the parked record {id} in observer_parked is damaged")))
}

/// Records that a page looks at, at most, where it does not want them all: whoever asks is not alone.
const LOOKED_AT_MAX: usize = 1_000;

/// The next records, and of those that can be meant what they hold. What is asked here is less than what is meant: of text only
/// what the server compares as we do, and no times.
pub(super) const PAGE: &str = "select id, case when ($4::text is null or action = $4) and ($5::text is null or cause = $5) \
                               and ($6::text is null or key = $6) and ($7::text is null or strpos(lower(error), $7) > 0) \
                               then record end from observer_parked where listener_id = $1 and id > $2 order by id limit $3";

/// A page of parked changes.
pub(super) async fn page(of: &Of, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
    if !filter.ids.is_empty() {
        return named(of, filter, after, most).await;
    }
    let wrong = |error| failed(WHAT, error);
    let client = of.link.client().await?;
    let statement = client.prepare_cached(PAGE).await.map_err(wrong)?;
    let look_at = if filter.is_all() { most } else { most.max(LOOKED_AT_MAX) };
    let text = |text: &Option<String>| text.as_ref().map(|text| escape(text).into_owned());
    let error = filter.error.as_ref().filter(|text| text.is_ascii()).map(|text| escape(text).to_ascii_lowercase());
    let (action, key, cause) = (text(&filter.action), text(&filter.key), filter.cause.map(Cause::word));
    let values: [&(dyn ToSql + Sync); 7] = [&&*of.pipeline, &bigint(after), &(look_at as i64), &action, &cause, &key, &error];
    let rows = client.query(&statement, &values).await.map_err(wrong)?;
    let mut page = Page::default();
    let mut last = after;
    for row in &rows {
        if page.records.len() == most {
            page.next = Some(last);
            return Ok(page);
        }
        let id: i64 = row.get(0);
        last = number(id);
        if let Some(bytes) = row.get::<_, Option<&[u8]>>(1) {
            page.records.extend(Some(record(id, bytes)?).filter(|parked| filter.means(parked)));
        }
    }
    page.next = (rows.len() == look_at).then_some(last);
    Ok(page)
}

/// The same of records that are named by number.
async fn named(of: &Of, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
    let mut ids: Vec<ParkedId> = filter.ids.iter().copied().filter(|id| *id > after).collect();
    ids.sort_unstable();
    ids.dedup();
    let next = (ids.len() > most).then(|| ids[most - 1]);
    ids.truncate(most);
    let mut found = records(of, &ids).await?;
    found.retain(|parked| filter.means(parked));
    Ok(Page { records: found, next })
}

pub(super) const COUNT: &str = "select count(*) from observer_parked where listener_id = $1";

/// How many records are parked.
pub(super) async fn count(client: &impl GenericClient, name: &str) -> Result<u64> {
    Ok(number(client.query_one(COUNT, &[&name]).await.map_err(|error| failed(WHAT, error))?.get(0)))
}

pub(super) const LEDGER: &str =
    "select kind, notes from observer_ledger where listener_id = $1 order by generation, process, sequence, kind";

/// The outcomes that count. `saved` is the epoch of the last save, if the last run made it.
pub(super) async fn notes(client: &impl GenericClient, name: &str, saved: Option<Epoch>) -> Result<Vec<Note>> {
    let rows = client.query_raw(LEDGER, [name]).await.map_err(|error| failed(WHAT, error))?;
    pin_mut!(rows);
    let mut ledger = Ledger::default();
    while let Some(row) = rows.next().await {
        let row = row.map_err(|error| failed(WHAT, error))?;
        ledger.read(row.get(0), row.get(1))?;
    }
    Ok(ledger.alive(saved))
}

pub(super) const STATE: &str = "select operator, save_number, sequence, piece, bytes from observer_state where listener_id = $1 \
                                order by operator, save_number, sequence, piece";

/// The state that counts, in order of saves.
pub(super) async fn state(client: &impl GenericClient, name: &str, floor: &Floor) -> Result<Vec<(u64, StateSegment)>> {
    let rows = client.query_raw(STATE, [name]).await.map_err(|error| failed(WHAT, error))?;
    pin_mut!(rows);
    let mut segments: Vec<((u64, i32), String, BytesMut)> = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.map_err(|error| failed(WHAT, error))?;
        let operator = unescape(row.get(0));
        let place = (number(row.get(1)), row.get::<_, i32>(2));
        if floor.get(&operator).is_some_and(|floor| place.0 < *floor) {
            continue;
        }
        match segments.last_mut().filter(|_| row.get::<_, i32>(3) > 0) {
            Some((_, _, bytes)) => bytes.extend_from_slice(row.get(4)),
            None => segments.push((place, operator, BytesMut::from(row.get::<_, &[u8]>(4)))),
        }
    }
    segments.sort_by_key(|(place, ..)| *place);
    let segment =
        |((save, _), operator, bytes): (_, String, BytesMut)| (save, StateSegment { operator, bytes: Bytes::from(bytes) });
    Ok(segments.into_iter().map(segment).collect())
}
