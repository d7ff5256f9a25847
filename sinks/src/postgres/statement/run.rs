//! How a batch of runs goes through, and what an error means.

use std::time::Duration;

use futures_util::future::join_all;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::clock::Clock;
use highwater_operators::postgres::{PooledClient, failed, is_away};
use highwater_operators::{Error, ErrorKind, Result};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::parameters::Sent;
use super::{Description, PostgresStatement};

/// When to look again for a database that is away.
const AWAY: Duration = Duration::from_secs(1);

/// What Postgres says of a statement in a transaction that has failed already.
const IN_FAILED: &str = "25P02";

/// Bytes that a payload must stay below.
const PAYLOAD: usize = 8_000;

/// What a run is given.
type Parameters = Vec<Sent>;

impl BatchAction for PostgresStatement {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let alone = || Surroundings {
                action: "statement".to_owned(),
                max_parallelism: 100,
                clock: Clock::default(),
                allow_private: true,
            };
            let pool = match self.open.get().unwrap_or_else(|| self.opened(&alone())) {
                Ok(pool) => pool,
                Err(error) => return same(batch, &Error::stop(error.clone())),
            };
            let description = &self.description;
            let client = match pool.get().await {
                Ok(client) => client,
                // Nothing was asked: that the database is away says nothing of a change.
                Err(error) if error.kind() == ErrorKind::Retry => {
                    return same(batch, &Error::not_asked(error.to_string(), AWAY));
                }
                Err(error) => return same(batch, &error),
            };
            let statement = match description.prepare(&client).await {
                Ok(statement) => statement,
                Err(error) => return same(batch, &error),
            };
            let filled: Vec<_> = batch.iter().map(|delivery| description.fill(delivery, &statement)).collect();
            let mut ran = description.run(client, &statement, filled.iter().flatten().collect()).await.into_iter();
            let of = |filled: Result<Parameters>| match filled {
                Ok(_) => ran.next().unwrap_or_else(|| Err(Error::retry("it was not run"))),
                Err(error) => Err(error),
            };
            filled.into_iter().map(of).collect()
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description.place())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description.check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        let _ = self.opened(around);
    }

    fn batch_max(&self) -> Option<usize> {
        Some(self.description.batch_max)
    }
}

impl Description {
    async fn prepare(&self, client: &PooledClient) -> Result<Statement> {
        let statement = client.prepare_cached(&self.sql).await.map_err(|error| self.judged(error))?;
        let (wants, has) = (statement.params().len(), self.parameters.len());
        if wants != has {
            return Err(Error::stop(format!(
                "{}: it has {wants} parameters and is given {has}: say by .parameters([..]) what each of them is",
                self.place()
            )));
        }
        Ok(statement)
    }

    fn fill(&self, delivery: &Delivery, statement: &Statement) -> Result<Parameters> {
        let each = self.parameters.iter().zip(statement.params()).zip(1..);
        let filled: Result<Parameters> = each
            .map(|((parameter, of), n)| {
                parameter.fill(delivery, of).map_err(|why| Error::park(format!("{}: ${n}: {why}", self.place())))
            })
            .collect();
        let filled = filled?;
        if self.channel.is_some()
            && let Some(Sent(Some(payload))) = filled.last()
            && payload.len() >= PAYLOAD
        {
            return Err(Error::park(format!(
                "{}: the payload has {} bytes, and a notification takes fewer than {PAYLOAD}: send less of the change, such as its key",
                self.place(),
                payload.len()
            )));
        }
        Ok(filled)
    }

    /// Runs it once for each, all sent before the first answer is waited for. A batch whose transaction fails is run again one by one.
    async fn run(&self, mut client: PooledClient, statement: &Statement, all: Vec<&Parameters>) -> Vec<Result> {
        if self.together && all.len() > 1 {
            match together(&mut client, statement, &all).await {
                Ok(()) => return all.iter().map(|_| Ok(())).collect(),
                Err(error) if is_away(&error) => {
                    let error = self.judged(error);
                    return all.iter().map(|_| Err(error.in_words())).collect();
                }
                // One is the cause; who, they tell alone.
                Err(_) => {}
            }
        }
        let each = join_all(all.iter().map(|parameters| execute(&client, statement, parameters))).await;
        if each.iter().filter_map(|ran| ran.as_ref().err()).any(is_of_schema) {
            // What was prepared may be of a table as it was.
            client.statement_cache.clear();
        }
        each.into_iter().map(|ran| ran.map_err(|error| self.judged(error))).collect()
    }

    /// Our error for one of the database's: by what was said of its SQLSTATE, else by the table that all parts use.
    fn judged(&self, error: tokio_postgres::Error) -> Error {
        let code = error.code().map(|code| code.code().to_owned());
        let begins =
            |codes: &[String]| codes.iter().any(|begin| code.as_ref().is_some_and(|code| code.starts_with(begin.as_str())));
        let (retry, park) = (begins(&self.retry), begins(&self.park));
        let error = failed(&self.place(), error);
        match (retry, park) {
            (true, _) => Error::retry(error.to_string()),
            (_, true) => Error::park(error.to_string()),
            _ => error,
        }
    }
}

async fn execute(client: &tokio_postgres::Client, statement: &Statement, parameters: &Parameters) -> Ran {
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|sent| sent as _).collect();
    client.execute(statement, &parameters).await.map(drop)
}

type Ran = Result<(), tokio_postgres::Error>;

/// All in one transaction.
async fn together(client: &mut PooledClient, statement: &Statement, all: &[&Parameters]) -> Ran {
    let within = client.build_transaction().start().await?;
    let ran = join_all(all.iter().map(|parameters| execute(within.client(), statement, parameters))).await;
    // The first that failed, not those that failed because of it.
    let cause = ran.into_iter().filter_map(Result::err).find(|error| error.code().is_none_or(|code| code.code() != IN_FAILED));
    match cause {
        None => within.commit().await,
        Some(error) => {
            within.rollback().await?;
            Err(error)
        }
    }
}

fn is_of_schema(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("0A") || code.code().starts_with("42"))
}

fn same(batch: &[Delivery], error: &Error) -> Vec<Result> {
    batch.iter().map(|_| Err(error.in_words())).collect()
}
