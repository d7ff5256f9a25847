//! Writing a group: in one round trip, or with its bulk by binary COPY in a transaction.

use std::pin::pin;

use tokio_postgres::Row;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::group::{Draft, GROUP, NOTES, ParkedRow, StateRow};
use super::link::Of;
use super::open::end_blockers;
use super::text::number;
use crate::error::{Error, Result};
use crate::postgres::{PooledClient, failed};

/// From so many bytes on, parked changes and state are copied. Below it, the one round trip of a single statement counts for
/// more than what the server saves in reading it.
pub(super) const COPY_FROM: usize = 2 << 20;

const WHAT: &str = "writing to the checkpoint store";

/// Who writes: the row of the fence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub process: i32,
    pub generation: i64,
}

impl Writer {
    /// Writes a group under its number. Once it is written, writing it again does nothing and succeeds.
    ///
    /// # Errors
    /// Of kind stop if the run was replaced: then nothing was written.
    pub(super) async fn write(self, of: &Of, draft: &Draft<'_>, group: i64, is_again: bool) -> Result {
        let client = of.link.client().await?;
        if !is_again {
            return self.write_on(client, of, draft, group).await;
        }
        // The attempt before may still hold the fence, on a connection whose end the server has not noticed.
        let backend = client.query_one("select pg_backend_pid()", &[]).await.map_err(|error| failed(WHAT, error))?.get(0);
        tokio::select! {
            written = Box::pin(self.write_on(client, of, draft, group)) => written,
            () = Box::pin(end_blockers(of, backend)) => unreachable!("it goes on until it is dropped"),
        }
    }

    async fn write_on(self, mut client: PooledClient, of: &Of, draft: &Draft<'_>, group: i64) -> Result {
        let passed = if draft.is_notes_alone() {
            self.notes(of, &client, draft, group).await?
        } else if draft.bulk() < COPY_FROM {
            let statement = client.prepare_cached(GROUP).await.map_err(|error| failed(WHAT, error))?;
            self.group(of, &client, &statement, draft, group, &draft.parked, &draft.state).await?
        } else {
            Box::pin(self.copied(of, &mut client, draft, group)).await?
        };
        if passed { Ok(()) } else { self.look(of, &client, group).await }
    }

    async fn notes(self, of: &Of, client: &PooledClient, draft: &Draft<'_>, group: i64) -> Result<bool> {
        let statement = client.prepare_cached(NOTES).await.map_err(|error| failed(WHAT, error))?;
        let (kinds, epochs, notes) = columns(draft);
        let values: [&(dyn ToSql + Sync); 8] =
            [&&*of.pipeline, &self.process, &self.generation, &group, &draft.last_parked, &kinds, &epochs, &notes];
        let rows = client.query(&statement, &values).await.map_err(|error| failed(WHAT, error))?;
        Ok(!rows.is_empty())
    }

    #[allow(clippy::too_many_arguments)] // the statement's own parts
    async fn group(
        self,
        of: &Of,
        client: &tokio_postgres::Client,
        statement: &tokio_postgres::Statement,
        draft: &Draft<'_>,
        group: i64,
        parked: &[ParkedRow],
        state: &[StateRow<'_>],
    ) -> Result<bool> {
        let (kinds, epochs, notes) = columns(draft);
        macro_rules! column {
            ($rows:expr, $row:ident => $field:expr) => {
                $rows.iter().map(|$row| $field).collect::<Vec<_>>()
            };
        }
        let parked_ids = column!(parked, row => row.id);
        let parked_actions = column!(parked, row => row.action.as_str());
        let causes = column!(parked, row => row.cause);
        let errors = column!(parked, row => row.error.as_str());
        let attempts = column!(parked, row => row.attempts);
        let at_ms = column!(parked, row => row.at_ms);
        let change_ids = column!(parked, row => row.change_id.as_str());
        let keys = column!(parked, row => row.key.as_str());
        let heads = column!(parked, row => row.head.as_slice());
        let records = column!(parked, row => row.record.as_slice());
        let ended_ids = column!(draft.ended, row => row.id);
        let ended_actions = column!(draft.ended, row => row.action.as_str());
        let delivered = column!(draft.ended, row => row.delivered);
        let is_new = column!(draft.ended, row => row.is_new);
        let operators = column!(state, row => row.operator.as_str());
        let sequences = column!(state, row => row.sequence);
        let pieces = column!(state, row => row.piece);
        let bytes = column!(state, row => row.bytes);
        let (partitions, actions) = (&draft.partitions, &draft.actions);
        let save = draft.save.as_ref();
        let (is_save, ended) = (save.is_some(), save.is_some_and(|save| save.ended));
        let (save_number, epoch) = save.map_or((0, 0), |save| (save.number, save.epoch));
        let text = |text: fn(&super::save::SaveRow) -> &str| save.map_or("{}", text);
        let (mark, books) = (text(|save| &save.mark), text(|save| &save.books));
        let (files, from) = (text(|save| &save.files), text(|save| &save.state_from));
        let floor = text(|save| &save.state_floor);
        #[rustfmt::skip]
        let values: [&(dyn ToSql + Sync); 39] = [
            &&*of.pipeline, &self.process, &self.generation, &group, &draft.last_parked, &kinds, &epochs, &notes,
            &partitions.0, &partitions.1, &actions.0, &actions.1,
            &parked_ids, &parked_actions, &causes, &errors, &attempts, &at_ms, &change_ids, &keys, &heads, &records,
            &ended_ids, &ended_actions, &delivered, &is_new,
            &operators, &sequences, &pieces, &bytes,
            &is_save, &save_number, &epoch, &mark, &books, &files, &from, &floor, &ended,
        ];
        let rows: Vec<Row> = client.query(statement, &values).await.map_err(|error| failed(WHAT, error))?;
        Ok(!rows.is_empty())
    }

    /// The same in a transaction, with parked changes and state copied. The fence comes first, and holds until the end.
    async fn copied(self, of: &Of, client: &mut PooledClient, draft: &Draft<'_>, group: i64) -> Result<bool> {
        let wrong = |error| failed(WHAT, error);
        let statement = client.prepare_cached(GROUP).await.map_err(wrong)?;
        let transaction = tokio_postgres::Client::transaction(client).await.map_err(wrong)?;
        if !self.group(of, transaction.client(), &statement, draft, group, &[], &[]).await? {
            return Ok(false);
        }
        if !draft.parked.is_empty() {
            let ids: Vec<i64> = draft.parked.iter().map(|row| row.id).collect();
            let gone = "delete from observer_parked parked using unnest($2::bigint[]) as asked (id) cross join lateral ( \
                            select ctid from observer_parked where listener_id = $1 and id = asked.id offset 0 \
                        ) as place where parked.ctid = place.ctid";
            transaction.execute(gone, &[&&*of.pipeline, &ids]).await.map_err(wrong)?;
            let into = "copy observer_parked (listener_id, id, action, cause, error, attempts, parked_at, change_id, key, head, \
                        record) from stdin binary";
            const TYPES: [Type; 11] = [
                Type::TEXT,
                Type::INT8,
                Type::TEXT,
                Type::TEXT,
                Type::TEXT,
                Type::INT8,
                Type::TIMESTAMPTZ,
                Type::TEXT,
                Type::TEXT,
                Type::BYTEA,
                Type::BYTEA,
            ];
            let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(into).await.map_err(wrong)?, &TYPES));
            for row in &draft.parked {
                let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(number(row.at_ms));
                #[rustfmt::skip]
                let values: [&(dyn ToSql + Sync); 11] = [
                    &&*of.pipeline, &row.id, &row.action, &row.cause, &row.error, &row.attempts, &at, &row.change_id, &row.key,
                    &row.head, &row.record,
                ];
                writer.as_mut().write(&values).await.map_err(wrong)?;
            }
            writer.finish().await.map_err(wrong)?;
        }
        if let Some(save) = draft.save.as_ref().filter(|_| !draft.state.is_empty()) {
            let into = "copy observer_state (listener_id, operator, save_number, sequence, piece, bytes) from stdin binary";
            const TYPES: [Type; 6] = [Type::TEXT, Type::TEXT, Type::INT8, Type::INT4, Type::INT4, Type::BYTEA];
            let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(into).await.map_err(wrong)?, &TYPES));
            for row in &draft.state {
                let values: [&(dyn ToSql + Sync); 6] =
                    [&&*of.pipeline, &row.operator, &save.number, &row.sequence, &row.piece, &row.bytes];
                writer.as_mut().write(&values).await.map_err(wrong)?;
            }
            writer.finish().await.map_err(wrong)?;
        }
        transaction.commit().await.map_err(wrong)?;
        Ok(true)
    }

    /// Why the fence was not passed: the group is written already, or the run was replaced.
    async fn look(self, of: &Of, client: &PooledClient, group: i64) -> Result {
        let row = client
            .query_opt(
                "select process.generation, process.group_number, pipeline.generation from observer_checkpoints pipeline \
                 left join observer_processes process on process.listener_id = pipeline.listener_id and process.process = $2 \
                 where pipeline.listener_id = $1",
                &[&&*of.pipeline, &self.process],
            )
            .await
            .map_err(|error| failed(WHAT, error))?;
        let Some(row) = row else {
            return Err(Error::stop(format!("the rows of {} were removed from the checkpoint store while it ran", of.pipeline)));
        };
        if row.get::<_, Option<i64>>(0) == Some(self.generation) && row.get::<_, Option<i64>>(1) == Some(group) {
            return Ok(());
        }
        Err(replaced(&of.pipeline, number(self.generation), number(row.get(2))))
    }
}

/// What a run is told that was replaced.
pub(super) fn replaced(pipeline: &str, generation: u64, newer: u64) -> Error {
    Error::stop(format!(
        "run {generation} of {pipeline} was replaced by run {newer}, which another process began on the same checkpoint store; this one \
         writes nothing more, and ends"
    ))
}

fn columns<'a>(draft: &'a Draft<'_>) -> (Vec<i16>, Vec<i64>, Vec<&'a [u8]>) {
    let kinds = draft.chunks.iter().map(|chunk| chunk.kind as i16).collect();
    let epochs = draft.chunks.iter().map(|chunk| super::text::bigint(chunk.last_epoch)).collect();
    (kinds, epochs, draft.chunks.iter().map(|chunk| chunk.bytes.as_slice()).collect())
}
