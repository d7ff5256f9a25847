//! The two tables that the sink keeps in the target's database: who may write, and what was written.
//!
//! `highwater_fence` has a row for each action of a pipeline with the number of the run that may write. Every transaction takes a share
//! of it (`for share`); a new run takes the whole, so it waits for the transactions under way, and those that begin later find its
//! number. `highwater_outcomes` has a row for each transaction since the last mark, with the outcomes of its changes.

use highwater_operators::action::transactional::{Forget, Recorded, RunOf};
use highwater_operators::postgres::{failed, quote, quote_text};
use highwater_operators::{Error, Result};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};

/// The names of the two tables, as SQL takes them.
#[derive(Clone, Debug)]
pub(super) struct Bookkeeping {
    schema: Option<String>,
    pub fence: String,
    pub outcomes: String,
    stand: String,
}

/// How it stands with a transaction, while its share of the generation is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its outcomes were recorded just now: what it writes is to be written.
    Recorded,
    /// They were there: it was committed before.
    Committed,
}

impl Bookkeeping {
    pub(super) fn new(schema: Option<String>) -> Self {
        let lead = schema.as_deref().map(|schema| format!("{}.", quote(schema))).unwrap_or_default();
        let (fence, outcomes) = (format!("{lead}highwater_fence"), format!("{lead}highwater_outcomes"));
        let stand = format!(
            "with fence as materialized (
               select generation, checkpoint from {fence} where pipeline = $1 and action = $2 for share),
             recorded as (
               insert into {outcomes} (pipeline, action, generation, process, number, outcomes)
               select $1, $2, $3, $4, $5, $6 from fence where generation = $3 and checkpoint = $7
               on conflict do nothing returning 1)
             select generation, checkpoint, exists (select from recorded) from fence"
        );
        Bookkeeping { schema, fence, outcomes, stand }
    }

    /// Makes the tables, if they are not there.
    pub(super) async fn make(&self, client: &Client) -> Result {
        let (fence, outcomes) = (quote_text(&self.fence), quote_text(&self.outcomes));
        let there = format!("select to_regclass({fence}) is not null and to_regclass({outcomes}) is not null");
        let missing = |error| failed(&format!("looking for {}", self.fence), error);
        if client.query_one(&there, &[]).await.map_err(missing)?.get::<_, bool>(0) {
            return Ok(());
        }
        let schema = self.schema.as_deref().map(quote);
        let mut make_schema = None;
        if let Some(schema) = &schema {
            let there = format!("select to_regnamespace({}) is not null", quote_text(schema));
            let is_there: bool = client.query_one(&there, &[]).await.map_err(missing)?.get(0);
            make_schema = (!is_there).then(|| format!("create schema if not exists {schema};"));
        }
        let (fence, outcomes) = (&self.fence, &self.outcomes);
        let make = format!(
            "{}
             create table if not exists {fence} (
               pipeline text not null, action text not null, checkpoint text not null, generation bigint not null,
               raised_by bigint not null, raised_at timestamptz not null default now(), primary key (pipeline, action));
             create table if not exists {outcomes} (
               pipeline text not null, action text not null, generation bigint not null, process integer not null,
               number bigint not null, outcomes bytea not null, primary key (pipeline, action, generation, process, number));
             alter table {outcomes} alter column outcomes set storage external;
             comment on table {fence} is 'Highwater: which run of a pipeline may write for an action';
             comment on table {outcomes} is 'Highwater: what was written above the last checkpoint; a row for each transaction';",
            make_schema.unwrap_or_default()
        );
        for attempt in 0.. {
            match client.batch_execute(&make).await {
                // Two that make one table at once: one of them fails, and finds it there.
                Err(error)
                    if attempt < 3
                        && error.code().is_some_and(|code| matches!(code.code(), "23505" | "42P07" | "42710" | "42P06")) => {}
                Err(error) => {
                    let user = client.query_one("select current_user::text, current_database()::text", &[]).await.ok();
                    let (user, database): (String, String) = user.map_or_else(Default::default, |row| (row.get(0), row.get(1)));
                    let schema = schema.unwrap_or_else(|| "public".to_owned());
                    return Err(failed(
                        &format!(
                            "making {fence} and {outcomes} (user {user} needs: grant usage, create on schema {schema} to {user}; or, \
                             for a new schema, grant create on database {database} to {user})"
                        ),
                        error,
                    ));
                }
                Ok(()) => break,
            }
        }
        Ok(())
    }

    /// Takes a share of the generation and records the outcomes of a transaction. Waits for another try of the same transaction.
    pub(super) async fn stand(&self, open: &Transaction<'_>, run: &RunOf, number: u64, outcomes: &[u8]) -> Result<Standing> {
        let (generation, process, number, checkpoint) =
            (run.generation as i64, run.process as i32, number as i64, checkpoint(run));
        let rows = open
            .query_typed(
                &self.stand,
                &[
                    (&run.pipeline, Type::TEXT),
                    (&run.action, Type::TEXT),
                    (&generation, Type::INT8),
                    (&process, Type::INT4),
                    (&number, Type::INT8),
                    (&outcomes, Type::BYTEA),
                    (&checkpoint, Type::TEXT),
                ],
            )
            .await
            .map_err(|error| failed(&format!("recording outcomes in {}", self.outcomes), error))?;
        let Some(row) = rows.first() else {
            return Err(Error::stop(format!(
                "{} has no row of pipeline \"{}\", action \"{}\" any more: it was removed while this run writes; start again",
                self.fence, run.pipeline, run.action
            )));
        };
        self.check(row, run)?;
        Ok(if row.get(2) { Standing::Recorded } else { Standing::Committed })
    }

    /// Whether a row of the fence lets this run write.
    pub(super) fn check(&self, row: &Row, run: &RunOf) -> Result {
        let (generation, other): (i64, String) = (row.get(0), row.get(1));
        if other != checkpoint(run) {
            return Err(Error::stop(format!(
                "{fence} says that pipeline \"{pipeline}\", action \"{action}\" is continued from another checkpoint than this run has: \
                 give back the old checkpoint (data directory or store), or give this pipeline another name; or, if the old one is gone \
                 for good and the table is to be filled anew, empty the table and: delete from {outcomes} where pipeline = '{pipeline}' \
                 and action = '{action}'; delete from {fence} where pipeline = '{pipeline}' and action = '{action}'",
                fence = self.fence,
                outcomes = self.outcomes,
                pipeline = run.pipeline,
                action = run.action,
            )));
        }
        if generation != run.generation as i64 {
            return Err(Error::stop(format!(
                "this run (number {}) was replaced: run {generation} of pipeline \"{}\" writes for it now; nothing is written by this \
                 one any more",
                run.generation, run.pipeline
            )));
        }
        Ok(())
    }

    /// Everything that is recorded for an action.
    pub(super) async fn recorded(&self, client: &Client, run: &RunOf) -> Result<Vec<Recorded>> {
        let all = format!(
            "select outcomes from {} where pipeline = $1 and action = $2 order by generation, process, number",
            self.outcomes
        );
        let rows = client.query_typed(&all, &[(&run.pipeline, Type::TEXT), (&run.action, Type::TEXT)]).await;
        let rows = rows.map_err(|error| failed(&format!("reading {}", self.outcomes), error))?;
        Ok(rows.iter().map(|row| Recorded { outcomes: row.get(0) }).collect())
    }

    /// Drops outcomes.
    pub(super) async fn forget(&self, client: &Client, run: &RunOf, which: Forget) -> Result {
        let generation = run.generation as i64;
        let of_action = format!("delete from {} where pipeline = $1 and action = $2 and", self.outcomes);
        let (pipeline, action, generation) =
            ((&run.pipeline as _, Type::TEXT), (&run.action as _, Type::TEXT), (&generation as _, Type::INT8));
        let forgotten = match which {
            Forget::EarlierRuns => {
                client.execute_typed(&format!("{of_action} generation < $3"), &[pipeline, action, generation]).await
            }
            Forget::Transactions(numbers) => {
                let numbers: Vec<i64> = numbers.into_iter().map(|number| number as i64).collect();
                let process = run.process as i32;
                let these = [pipeline, action, generation, (&process as _, Type::INT4), (&numbers as _, Type::INT8_ARRAY)];
                client.execute_typed(&format!("{of_action} generation = $3 and process = $4 and number = any ($5)"), &these).await
            }
        };
        forgotten.map(drop).map_err(|error| failed(&format!("dropping outcomes from {}", self.outcomes), error))
    }
}

/// The number of a checkpoint as the fence has it.
pub(super) fn checkpoint(run: &RunOf) -> String {
    format!("{:032x}", run.state_id)
}
