//! A connection of one's own, for reads that wait at the server.

use std::time::Duration;

use redis::{Cmd, FromRedisValue};

use super::line::Line;
use super::url::Url;
use crate::Result;

/// A connection that belongs to one user, for commands that wait at the server: `XREAD BLOCK`, `BLMOVE`. On one that is shared they would keep all
/// others waiting.
///
/// A server that answers is never waited for longer than was asked for, and one that does not is noticed: the wait is given to each call, and when
/// that and the URL's `response_timeout` have passed, the connection is closed and the call fails with an error of kind *retry*. So a wait says too how
/// soon a frozen server is noticed: some seconds are right, for ever (`BLOCK 0`) is not.
///
/// After an error of kind *retry* the next call opens another connection.
#[derive(Debug)]
pub struct BlockingConnection {
    url: Url,
    purpose: String,
    line: Option<Line>,
    opened: u64,
}

impl BlockingConnection {
    /// Opens one. The server shows it as `CLIENT_NAME:PURPOSE` (in `CLIENT LIST`).
    ///
    /// # Errors
    /// As [`Connection::open`](super::Connection::open).
    pub async fn open(url: &Url, purpose: &str) -> Result<BlockingConnection> {
        let mut connection = BlockingConnection { url: url.clone(), purpose: purpose.to_owned(), line: None, opened: 0 };
        connection.line().await?;
        Ok(connection)
    }

    /// Sends a command that waits at the server for up to `wait`; its answer.
    ///
    /// Dropped half-way, the command may still be carried out: what it would have taken from a list is gone then. Reads of streams take nothing.
    ///
    /// # Errors
    /// As [`failed`](super::failed) has it.
    pub async fn query<T: FromRedisValue>(&mut self, what: &str, command: &Cmd, wait: Duration) -> Result<T> {
        let limit = wait.saturating_add(self.url.response_timeout());
        self.line().await?.query_within(what, command, limit).await
    }

    /// The connection as it is now, for commands that do not wait; opened if there is none. Its number tells whether it is another one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn line(&mut self) -> Result<Line> {
        if let Some(line) = self.line.as_ref().filter(|line| line.is_open()) {
            return Ok(line.clone());
        }
        self.line = None;
        let line = Line::open(&self.url, &self.purpose, self.opened + 1).await?;
        self.opened += 1;
        self.line = Some(line.clone());
        Ok(line)
    }
}
