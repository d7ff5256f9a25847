//! A group as one statement: the fence, and everything written only if the fence was passed.
//!
//! `observer_processes` has a row for each process of the run that may write. The statement raises `group_number` from the
//! number before to its own, where the generation is still this run's; every other part of it selects from what that returned.
//! So a run that was replaced writes nothing, a group that was written already is not written again, and a new run, which
//! removes those rows, waits for a statement that is under way.
//!
//! Parked records are found one by one (`lateral`, which `offset 0` keeps from being made a join). Plans are kept for long, and made by figures
//! of minutes ago: as a join with a table that was empty then, one was kept that read all records of the pipeline for each group.

use hashbrown::HashSet;

use super::ledger::{Chunk, NoteKey, encode, key};
use super::save::{Floor, SaveRow};
use super::text::{bigint, escape};
use crate::checkpoint::record::encode_record;
use crate::checkpoint::store::{Group, Parked, Resolution, Save};
use crate::error::Result;

/// Bytes of state in one row at most.
const PIECE: usize = 1 << 20;

/// What passes the fence; the rest selects from it. A server that is told not to wait for the disk is told to, for this
/// transaction.
macro_rules! fence {
    () => {
        "with fence as (
            update observer_processes set group_number = $4::bigint, last_parked = greatest(last_parked, $5::bigint)
            where listener_id = $1 and process = $2 and generation = $3 and group_number = $4::bigint - 1
            returning set_config('synchronous_commit', case current_setting('synchronous_commit')
                when 'off' then 'on' else current_setting('synchronous_commit') end, true)
        ), ledger as (
            insert into observer_ledger (listener_id, generation, process, sequence, kind, last_epoch, notes)
            select $1, $3, $2, $4, chunk.kind, chunk.last_epoch, chunk.notes
            from fence, unnest($6::smallint[], $7::bigint[], $8::bytea[]) as chunk (kind, last_epoch, notes)
        )"
    };
}

/// The statement of a group that holds notes alone, as nearly all do.
pub(super) const NOTES: &str = concat!(fence!(), " select 1 from fence");

/// The statement of any group.
pub(super) const GROUP: &str = concat!(
    fence!(),
    ", partitions as (
        insert into observer_partitions (listener_id, partition, name)
        select $1, new.partition, new.name from fence, unnest($9::bigint[], $10::text[]) as new (partition, name)
        on conflict (listener_id, partition) do update set name = excluded.name
    ), actions as (
        insert into observer_actions (listener_id, number, name)
        select $1, new.number, new.name from fence, unnest($11::integer[], $12::text[]) as new (number, name)
    ), parked as (
        insert into observer_parked (listener_id, id, action, cause, error, attempts, parked_at, change_id, key, head, record)
        select $1, new.id, new.action, new.cause, new.error, new.attempts, to_timestamp(new.at_ms / 1000.0), new.change_id, new.key,
            new.head, new.record
        from fence, unnest($13::bigint[], $14::text[], $15::text[], $16::text[], $17::bigint[], $18::bigint[], $19::text[],
            $20::text[], $21::bytea[], $22::bytea[])
            as new (id, action, cause, error, attempts, at_ms, change_id, key, head, record)
        on conflict (listener_id, id) do update set action = excluded.action, cause = excluded.cause, error = excluded.error,
            attempts = excluded.attempts, parked_at = excluded.parked_at, change_id = excluded.change_id, key = excluded.key,
            head = excluded.head, record = excluded.record
    ), asked as (
        select asked.* from fence, unnest($23::bigint[], $24::text[], $25::boolean[], $26::boolean[])
            as asked (id, action, delivered, is_new)
    ), gone as (
        delete from observer_parked parked using asked cross join lateral (
            select ctid from observer_parked where listener_id = $1 and id = asked.id offset 0
        ) as place
        where parked.ctid = place.ctid
        returning asked.action, asked.delivered, asked.is_new
    ), resolved as (
        insert into observer_resolved as known (listener_id, process, action, delivered, dropped)
        select $1, $2, action, count(*) filter (where delivered), count(*) filter (where not delivered)
        from (select action, delivered from gone where not is_new
            union all select action, delivered from asked where is_new) as resolved
        group by action
        on conflict (listener_id, process, action) do update
            set delivered = known.delivered + excluded.delivered, dropped = known.dropped + excluded.dropped
    ), state as (
        insert into observer_state (listener_id, operator, save_number, sequence, piece, bytes)
        select $1, new.operator, $32::bigint, new.sequence, new.piece, new.bytes
        from fence, unnest($27::text[], $28::integer[], $29::integer[], $30::bytea[]) as new (operator, sequence, piece, bytes)
    ), save as (
        update observer_checkpoints set save_number = $32::bigint, epoch = $33::bigint, mark = $34::text::jsonb, books = $35::text::jsonb,
            files = $36::text::jsonb, state_from = $37::text::jsonb, state_floor = $38::text::jsonb, all_ended = $39::boolean,
            saved_generation = $3, saved_at = now(), updated_at = now()
        from fence where listener_id = $1 and generation = $3 and $31::boolean
    ) select 1 from fence"
);

/// A parked change as a row.
pub(super) struct ParkedRow {
    pub id: i64,
    pub action: String,
    pub cause: &'static str,
    pub error: String,
    pub attempts: i64,
    pub at_ms: i64,
    pub change_id: String,
    pub key: String,
    pub head: Vec<u8>,
    pub record: Vec<u8>,
}

/// A piece of state as a row.
pub(super) struct StateRow<'a> {
    pub operator: String,
    pub sequence: i32,
    pub piece: i32,
    pub bytes: &'a [u8],
}

/// A parked record that ends.
pub(super) struct EndedRow {
    pub id: i64,
    pub action: String,
    pub delivered: bool,
    /// It was set aside in this very group.
    pub is_new: bool,
}

/// A group, ready to be written as often as it takes.
pub(super) struct Draft<'a> {
    pub chunks: Vec<Chunk>,
    pub partitions: (Vec<i64>, Vec<String>),
    pub actions: (Vec<i32>, Vec<String>),
    pub parked: Vec<ParkedRow>,
    pub ended: Vec<EndedRow>,
    pub state: Vec<StateRow<'a>>,
    pub save: Option<SaveRow>,
    pub last_parked: i64,
    /// Outcomes of earlier runs that count no more once this is written.
    pub forgotten: Vec<NoteKey>,
}

impl<'a> Draft<'a> {
    /// `earlier` are the outcomes of earlier runs that still count.
    pub(super) fn of(group: &'a Group, floor: &Floor, earlier: &HashSet<NoteKey>) -> Result<Draft<'a>> {
        // No `..`: a field added to the contract must find its place in a table.
        let Group { partitions, notes, parked, resolved, save } = group;
        let forgotten = forgotten(group, earlier);
        let mut draft = Draft {
            chunks: Chunk::noted(notes)?.into_iter().chain(Chunk::forgotten(&forgotten)?).collect(),
            partitions: partitions.iter().map(|(number, name)| (i64::from(*number), escape(name).into_owned())).unzip(),
            actions: Default::default(),
            parked: Vec::new(),
            ended: Vec::new(),
            state: save.iter().flat_map(pieces).collect(),
            save: save.as_ref().map(|save| SaveRow::of(save, floor)).transpose()?,
            last_parked: parked.iter().map(|parked| bigint(parked.id)).max().unwrap_or(0),
            forgotten,
        };
        let mut seen = HashSet::new();
        for resolved in resolved.iter().filter(|resolved| seen.insert(resolved.id)) {
            draft.ended.push(EndedRow {
                id: bigint(resolved.id),
                action: escape(&resolved.action).into_owned(),
                delivered: resolved.resolution == Resolution::Delivered,
                is_new: parked.iter().any(|parked| parked.id == resolved.id),
            });
        }
        // Of two records of one id the later counts, and one that ends in the same group is never there.
        for parked in parked.iter().rev().filter(|parked| seen.insert(parked.id)) {
            draft.parked.push(ParkedRow::of(parked)?);
        }
        Ok(draft)
    }

    /// A name that gets a number.
    pub(super) fn action(number: u16, name: &str) -> Draft<'static> {
        Draft {
            chunks: Vec::new(),
            partitions: Default::default(),
            actions: (vec![i32::from(number)], vec![escape(name).into_owned()]),
            parked: Vec::new(),
            ended: Vec::new(),
            state: Vec::new(),
            save: None,
            last_parked: 0,
            forgotten: Vec::new(),
        }
    }

    pub(super) fn is_notes_alone(&self) -> bool {
        let others = self.partitions.0.len() + self.actions.0.len() + self.parked.len() + self.ended.len() + self.state.len();
        others == 0 && self.save.is_none()
    }

    /// Bytes that could as well be copied in bulk.
    pub(super) fn bulk(&self) -> usize {
        let parked: usize = self.parked.iter().map(|parked| parked.record.len() + parked.head.len()).sum();
        parked + self.state.iter().map(|state| state.bytes.len()).sum::<usize>()
    }
}

fn forgotten(group: &Group, earlier: &HashSet<NoteKey>) -> Vec<NoteKey> {
    if earlier.is_empty() {
        return Vec::new();
    }
    let noted_anew = group.notes.iter().map(key);
    let met = group.save.iter().flat_map(|save| save.forgotten.iter().copied());
    let mut seen = HashSet::new();
    noted_anew.chain(met).filter(|key| earlier.contains(key) && seen.insert(*key)).collect()
}

fn pieces(save: &Save) -> impl Iterator<Item = StateRow<'_>> {
    save.state.iter().zip(0..).flat_map(|(segment, sequence)| {
        // An empty segment is a row too: it was there, so it comes back.
        let pieces = if segment.bytes.is_empty() { vec![&[][..]] } else { segment.bytes.chunks(PIECE).collect() };
        let operator = escape(&segment.operator);
        pieces.into_iter().zip(0..).map(move |(bytes, piece)| StateRow {
            operator: operator.clone().into_owned(),
            sequence,
            piece,
            bytes,
        })
    })
}

impl ParkedRow {
    fn of(parked: &Parked) -> Result<ParkedRow> {
        Ok(ParkedRow {
            id: bigint(parked.id),
            action: escape(&parked.action).into_owned(),
            cause: parked.cause.word(),
            error: escape(&parked.error).into_owned(),
            attempts: parked.attempts.into(),
            at_ms: bigint(parked.parked_at_ms).min(LATEST_MS),
            change_id: escape(parked.change.id()).into_owned(),
            key: escape(parked.change.key()).into_owned(),
            head: encode(&parked.head())?,
            record: encode_record(parked, Vec::new())?,
        })
    }
}

/// The end of the year 9999: a clock that is wrong must not keep a change from being set aside.
const LATEST_MS: i64 = 253_402_300_799_000;
