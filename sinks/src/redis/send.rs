//! Sends a batch in one pipeline past the guard, and says what each answer means.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::action::{Delivery, Surroundings};
use highwater_operators::clock::Clock;
use highwater_operators::guard::{Failure, Guard};
use highwater_operators::redis::Connection;
use highwater_operators::{Error, ErrorKind, Result};
use redis::{Script, Value, pipe};

use super::Reach;
use super::command::{FULL, Request, SCRIPT};

/// When to look again for a server that is away or takes nothing, and for a list that is full.
const AWAY: Duration = Duration::from_secs(1);
const FULL_WAIT: Duration = Duration::from_millis(250);

/// What a process has open for an action.
pub(super) struct Open {
    connection: Connection,
    guard: Arc<Guard>,
    clock: Clock,
    /// The script's hash.
    script: String,
}

/// What sends; opened by the first worker.
#[derive(Clone, Default)]
pub(super) struct Sender(Arc<OnceLock<Result<Open, String>>>);

impl Sender {
    pub fn opened(&self, reach: &Reach, around: &Surroundings) -> &Result<Open, String> {
        self.0.get_or_init(|| {
            let url = reach.url.clone()?;
            let mut config = reach.guard;
            config.concurrency.max = config.concurrency.max.min(around.max_parallelism);
            let guard = Guard::new(format!("{} ({url})", around.action), config, around.clock.clone());
            let script = Script::new(SCRIPT).get_hash().to_owned();
            Ok(Open { connection: Connection::new(&url, &around.action), guard, clock: around.clock.clone(), script })
        })
    }

    /// Sends what `make` makes of each change; `judge` says what an answer means.
    pub async fn send(
        &self,
        reach: &Reach,
        what: &str,
        batch: &[Delivery],
        make: impl Fn(&Delivery) -> Result<Request, String>,
        judge: impl Fn(i64) -> Result,
    ) -> Vec<Result> {
        let alone =
            || Surroundings { action: what.to_owned(), max_parallelism: 100, clock: Clock::default(), allow_private: true };
        let open = match self.0.get().unwrap_or_else(|| self.opened(reach, &alone())) {
            Ok(open) => open,
            Err(why) => return same(batch, &Error::stop(why.clone())),
        };
        let mut answers = Vec::with_capacity(batch.len());
        for part in batch.chunks(reach.batch_max) {
            let made: Vec<_> = part.iter().map(&make).collect();
            let sent = open.send(what, part, made.iter().flatten().collect()).await;
            let mut sent = match sent {
                Ok(sent) => sent.into_iter(),
                Err(error) => {
                    answers.extend(made.into_iter().map(|made| match made {
                        Ok(_) => Err(error.in_words()),
                        Err(why) => Err(Error::park(format!("{what}: {why}"))),
                    }));
                    continue;
                }
            };
            answers.extend(made.into_iter().map(|made| match made {
                Ok(_) => open.answer(what, sent.next().unwrap_or(Value::Nil)).and_then(&judge),
                Err(why) => Err(Error::park(format!("{what}: {why}"))),
            }));
        }
        answers
    }
}

impl Open {
    async fn send(&self, what: &str, part: &[Delivery], requests: Vec<&Request>) -> Result<Vec<Value>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let entry = self.guard.enter(part.iter().any(|delivery| delivery.attempt() > 1)).await?;
        let line = match self.connection.line().await {
            Ok(line) => line,
            Err(error) => {
                entry.failed(Failure::Connection, &error.to_string());
                // Nothing was asked: that the server is away says nothing of a change.
                return Err(if error.kind() == ErrorKind::Retry { Error::not_asked(error.to_string(), AWAY) } else { error });
            }
        };
        // Which the server may have forgotten.
        let scripted = requests.iter().any(|request| request.bounds.is_some());
        let mut commands = pipe();
        if scripted {
            commands.cmd("SCRIPT").arg("LOAD").arg(SCRIPT);
        }
        for request in requests {
            commands.add_command(request.command(&self.script));
        }
        let limit = entry.timeout();
        match self.clock.timeout(limit, line.pipeline(what, &commands)).await {
            Ok(Ok(mut answers)) => {
                entry.succeeded();
                if scripted {
                    line.answer::<Value>(what, answers.remove(0))?;
                }
                Ok(answers)
            }
            Ok(Err(error)) => {
                entry.failed(Failure::Connection, &error.to_string());
                Err(error)
            }
            Err(_) => {
                // What comes late on it would be taken for another's answer by nobody, but it is slow or frozen.
                line.give_up();
                let why = format!("no answer within {limit:.1?}");
                entry.failed(Failure::Timeout, &why);
                Err(Error::retry(format!("{what}: {why}")))
            }
        }
    }

    /// The number that an answer is; an id counts as 1.
    fn answer(&self, what: &str, value: Value) -> Result<i64> {
        let answer = value.extract_error().map_err(|error| highwater_operators::redis::failed(what, &error));
        match answer {
            Ok(Value::Int(number)) => Ok(number),
            Ok(Value::Nil) => Err(Error::retry(format!("{what}: there was no answer"))),
            Ok(_) => Ok(1),
            // It was not carried out, and not because of this change: the server is full, a replica, or reads its data.
            Err(error) if error.kind() == ErrorKind::Retry => Err(Error::not_asked(error.to_string(), AWAY)),
            Err(error) => Err(error),
        }
    }
}

/// What the script's answer means.
pub(super) fn scripted(what: &str, answer: i64) -> Result {
    if answer == FULL {
        return Err(Error::not_asked(format!("{what} is full"), FULL_WAIT));
    }
    Ok(())
}

fn same(batch: &[Delivery], error: &Error) -> Vec<Result> {
    batch.iter().map(|_| Err(error.in_words())).collect()
}
