//! The connection that many share, and that comes back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, Pipeline, RedisFuture, Value};
use tokio::time::Instant;

use super::line::Line;
use super::url::Url;
use crate::guard::backoff::Backoff;
use crate::{Error, Result};

/// The waits between attempts to connect.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1) };

/// A connection that is shared: its clones are the same. What all of them send goes out together, without waiting for each other's answers.
///
/// It opens with the first call, and again with the first call after it was lost: a call while the server is away waits for the attempt under way
/// and fails with its error, of kind *retry*. Attempts are spread by full jitter, up to a second apart. A server that gives no answer within the URL's
/// `response_timeout` counts as lost, and so does one that says it is a replica: another is looked for behind the same name.
///
/// A call that failed is not sent again by itself: who asked knows whether it may be carried out twice.
///
/// ```no_run
/// use highwater_operators::redis::{Connection, Url};
/// # async fn example() -> highwater_operators::Result {
/// let redis = Connection::new(&Url::parse("redis://localhost:6379/0")?, "example");
/// let mut pipeline = redis::pipe();
/// pipeline.cmd("SET").arg("a").arg(1).cmd("GET").arg("a");
/// let answers = redis.pipeline("trying a pipeline", &pipeline).await?;
/// # let _ = answers; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    url: Url,
    purpose: String,
    line: Mutex<Option<Line>>,
    opening: tokio::sync::Mutex<Opening>,
}

#[derive(Default)]
struct Opening {
    /// Connections opened so far.
    opened: u64,
    /// Attempts that failed since the last one that did not.
    failed: u32,
    /// All attempts, and what the last one that failed said: whoever waited for it is answered by it.
    attempts: u64,
    error: Option<Error>,
    not_before: Option<Instant>,
}

impl Connection {
    /// One that opens with its first call. The server shows it as `CLIENT_NAME:PURPOSE` (in `CLIENT LIST`).
    pub fn new(url: &Url, purpose: &str) -> Connection {
        Connection(Arc::new(Shared {
            url: url.clone(),
            purpose: purpose.to_owned(),
            line: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }))
    }

    /// Opens one at once.
    ///
    /// # Errors
    /// Of kind *retry* if the server is away or does not answer within the URL's `connect_timeout`; of kind *stop* if it refuses for good (wrong
    /// password, a certificate that is not its own).
    pub async fn open(url: &Url, purpose: &str) -> Result<Connection> {
        let connection = Self::new(url, purpose);
        connection.line().await?;
        Ok(connection)
    }

    /// Where it leads.
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// The connection as it is now, opened if there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn line(&self) -> Result<Line> {
        if let Some(line) = self.opened() {
            return Ok(line);
        }
        let came = self.0.opening.try_lock().map(|opening| opening.attempts).ok();
        let mut opening = self.0.opening.lock().await;
        if let Some(line) = self.opened() {
            return Ok(line);
        }
        // Somebody has tried while this waited, and failed: that answer will do.
        if came.is_none_or(|came| came != opening.attempts)
            && let Some(error) = &opening.error
        {
            return Err(error.in_words());
        }
        if let Some(not_before) = opening.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        opening.attempts += 1;
        match Line::open(&self.0.url, &self.0.purpose, opening.opened + 1).await {
            Ok(line) => {
                opening.opened += 1;
                if opening.opened > 1 {
                    tracing::info!(server = %self.0.url, purpose = self.0.purpose, "connected again");
                }
                (opening.failed, opening.error, opening.not_before) = (0, None, None);
                *self.0.line.lock() = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                opening.failed = opening.failed.saturating_add(1);
                opening.not_before = Some(Instant::now() + BACKOFF.wait(opening.failed));
                opening.error = Some(error.in_words());
                Err(error)
            }
        }
    }

    /// Sends one command; its answer. `what` says what is being done, for the error.
    ///
    /// # Errors
    /// As [`Line::query`].
    pub async fn query<T: FromRedisValue>(&self, what: &str, command: &Cmd) -> Result<T> {
        self.line().await?.query(what, command).await
    }

    /// Sends the commands of a pipeline at once; all their answers, in order.
    ///
    /// # Errors
    /// As [`Line::pipeline`].
    pub async fn pipeline(&self, what: &str, commands: &Pipeline) -> Result<Vec<Value>> {
        self.line().await?.pipeline(what, commands).await
    }

    fn opened(&self) -> Option<Line> {
        self.0.line.lock().clone().filter(Line::is_open)
    }
}

/// So that scripts and the driver's own calls can use it.
impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let mut line = self.line().await.map_err(in_its_words)?;
            line.req_packed_command(command).await
        })
    }

    fn req_packed_commands<'a>(&'a mut self, commands: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let mut line = self.line().await.map_err(in_its_words)?;
            line.req_packed_commands(commands, offset, count).await
        })
    }

    fn get_db(&self) -> i64 {
        i64::from(self.0.url.db())
    }
}

/// One of our errors as the driver's, whose kind says whether it may pass.
#[expect(clippy::needless_pass_by_value, reason = "it is used up")]
fn in_its_words(error: Error) -> redis::RedisError {
    let kind = match error.kind() {
        crate::ErrorKind::Retry => redis::ErrorKind::Io,
        _ => redis::ErrorKind::Client,
    };
    (kind, "not connected", error.to_string()).into()
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.0.url)
    }
}
