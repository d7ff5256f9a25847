//! One connection as it is now: it does not come back when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisFuture, Value};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::failure::{failed, is_away};
use super::open::open;
use super::url::Url;
use crate::Result;

/// One connection as it is now, shared by whoever has a clone. Commands of all of them go out together, in the order in which they are sent.
///
/// It does not come back when it is lost: [`Connection::line`](super::Connection::line) gives the next one then, with another number. Whoever has to
/// do something first on every connection, look whether the server still is what it was, compares numbers.
#[derive(Clone)]
pub struct Line {
    shared: Arc<Shared>,
    multiplexed: MultiplexedConnection,
}

struct Shared {
    number: u64,
    limit: Duration,
    given_up: AtomicBool,
    task: JoinHandle<()>,
}

impl Line {
    /// Opens the one of this number.
    pub(super) async fn open(url: &Url, purpose: &str, number: u64) -> Result<Line> {
        let (multiplexed, task) = open(url, purpose).await?;
        let shared = Shared { number, limit: url.response_timeout(), given_up: AtomicBool::new(false), task };
        Ok(Line { shared: Arc::new(shared), multiplexed })
    }

    /// Which connection of its [`Connection`](super::Connection) it is, from 1.
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// Sends one command; its answer. `what` says what is being done, for the error.
    ///
    /// # Errors
    /// As [`failed`] has it. After one of kind *retry* it is not known whether the command was carried out.
    pub async fn query<T: FromRedisValue>(&self, what: &str, command: &Cmd) -> Result<T> {
        self.query_within(what, command, self.shared.limit).await
    }

    pub(super) async fn query_within<T: FromRedisValue>(&self, what: &str, command: &Cmd, limit: Duration) -> Result<T> {
        let mut multiplexed = self.multiplexed.clone();
        let answer = self.within(limit, multiplexed.req_packed_command(command)).await;
        self.answer(what, answer.map_err(|error| failed(what, &error))?)
    }

    /// Sends the commands of a pipeline at once; the answers in order, each of which may be a refusal (`Value::ServerError`, that
    /// [`answer`](Self::answer) turns into an error). Those that are to be ignored are among them.
    ///
    /// # Errors
    /// Of kind *retry* if not all answers came: it is not known then which commands were carried out.
    pub async fn pipeline(&self, what: &str, commands: &Pipeline) -> Result<Vec<Value>> {
        let mut multiplexed = self.multiplexed.clone();
        let sent = multiplexed.req_packed_commands(commands, 0, commands.len());
        self.within(self.shared.limit, sent).await.map_err(|error| failed(what, &error))
    }

    /// One answer of a [`pipeline`](Self::pipeline).
    ///
    /// # Errors
    /// As [`failed`] has it.
    pub fn answer<T: FromRedisValue>(&self, what: &str, value: Value) -> Result<T> {
        let answer = value.extract_error().and_then(|value| Ok(T::from_redis_value(value)?));
        answer.map_err(|error| {
            // One that came as an answer: a replica's refusal of a write.
            self.judge(&error);
            failed(what, &error)
        })
    }

    /// Closes it: whoever still waits on it gets an error of kind *retry*, and the next call another connection.
    pub fn give_up(&self) {
        self.shared.given_up.store(true, Ordering::Release);
        self.shared.task.abort();
    }

    /// Whether it may still get answers.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.given_up.load(Ordering::Acquire) && !self.shared.task.is_finished()
    }

    async fn within<T>(&self, limit: Duration, asked: RedisFuture<'_, T>) -> Result<T, RedisError> {
        let answer = match timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        };
        if let Err(error) = &answer {
            self.judge(error);
        }
        answer
    }

    fn judge(&self, error: &RedisError) {
        if is_away(error) {
            self.give_up();
        }
    }
}

/// So that scripts and the driver's own calls can use it. They have the same limit for answers.
impl ConnectionLike for Line {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut multiplexed = self.multiplexed.clone();
            self.within(self.shared.limit, multiplexed.req_packed_command(command)).await
        })
    }

    fn req_packed_commands<'a>(&'a mut self, commands: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut multiplexed = self.multiplexed.clone();
            self.within(self.shared.limit, multiplexed.req_packed_commands(commands, offset, count)).await
        })
    }

    fn get_db(&self) -> i64 {
        self.multiplexed.get_db()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.shared.number)
    }
}
