//! A session that speaks the replication protocol, which the driver does not: commands and their answers, then a stream in both directions.
//!
//! TLS, passwords and limits are those of every other connection to the same URL.

mod dial;
mod frame;
mod login;

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use self::dial::Line;
use self::frame::{Frame, Frames};
use super::url::Url;
use crate::{Error, Result};

/// A session of a walsender. It ends when this is dropped.
pub struct Walsender {
    line: Box<dyn Line>,
    frames: Frames,
    patience: Duration,
}

/// What the server sends.
pub struct Incoming {
    line: ReadHalf<Box<dyn Line>>,
    frames: Frames,
}

/// What is sent to the server.
pub struct Outgoing {
    line: WriteHalf<Box<dyn Line>>,
    frame: BytesMut,
}

impl Walsender {
    /// Opens one for a database, at the first host of the URL that lets it. The server shows it as `highwater PURPOSE`.
    ///
    /// # Errors
    /// Of kind *retry* if the server is away or does not answer within the URL's `connect_timeout`; of kind *stop* if it refuses for good.
    pub async fn open(url: &Url, purpose: &str) -> Result<Walsender> {
        let mut last = None;
        for (host, port) in url.hosts() {
            let patience = url.connect_timeout();
            match timeout(patience, Box::pin(Self::open_at(url, host, *port, purpose))).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    last = Some(Error::retry(format!(
                        "connecting to {url}: no answer within {patience:?}; look whether the server runs and the network lets it be reached"
                    )));
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::stop(format!("{url} has no host"))))
    }

    async fn open_at(url: &Url, host: &str, port: u16, purpose: &str) -> Result<Walsender> {
        let line = dial::dial(url, host, port).await?;
        let mut opened = Walsender { line, frames: Frames::default(), patience: url.connect_timeout() };
        let application = url.application(purpose);
        let mut parameters = vec![
            ("user", url.user()),
            ("database", url.database()),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", &application),
        ];
        if let Some(options) = url.options() {
            parameters.push(("options", options));
        }
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)?;
        opened.send(&out).await?;
        login::login(&mut opened, url).await?;
        Ok(opened)
    }

    /// Runs a command or SQL, and waits for its answer however long it takes: the rows of it, as texts.
    ///
    /// # Errors
    /// What the server says, with the kind that its code has.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.send(&out).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let frame = self.next().await?;
            match frame.kind {
                b'D' => rows.push(frame::row(frame.body).ok_or_else(|| strange("a row that is cut off"))?),
                b'E' => refused = Some(frame::refusal(frame.body, "a command of replication")),
                b'Z' => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Gives a command by which both sides begin to stream.
    ///
    /// # Errors
    /// What the server says, with the kind that its code has; or that it does not answer within the URL's `connect_timeout`.
    pub async fn stream(mut self, command: &str) -> Result<(Incoming, Outgoing)> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        self.send(&out).await?;
        let patience = self.patience;
        let begun = timeout(patience, async {
            loop {
                let frame = self.next().await?;
                match frame.kind {
                    b'W' => return Ok(()),
                    b'E' => return Err(frame::refusal(frame.body, "a command of replication")),
                    b'Z' => return Err(strange("no stream")),
                    _ => {}
                }
            }
        });
        begun.await.map_err(|_| Error::retry(format!("the server does not begin to stream within {patience:?}")))??;
        let (read, write) = tokio::io::split(self.line);
        Ok((Incoming { line: read, frames: self.frames }, Outgoing { line: write, frame: BytesMut::new() }))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result {
        self.line.write_all(bytes).await.map_err(|error| lost(&error))?;
        self.line.flush().await.map_err(|error| lost(&error))
    }

    /// The next message.
    async fn next(&mut self) -> Result<Frame<'_>> {
        while !self.frames.has_one()? {
            let read = self.line.read_buf(self.frames.room()).await.map_err(|error| lost(&error))?;
            if read == 0 {
                return Err(Error::retry("the server has closed the connection"));
            }
        }
        self.frames.take()?.ok_or_else(|| strange("a message that is not there"))
    }
}

impl Incoming {
    /// Waits until [`take`](Self::take) has something. Nothing is lost if this is dropped half-way.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn fill(&mut self) -> Result {
        while !self.frames.has_one()? {
            let read = self.line.read_buf(self.frames.room()).await.map_err(|error| lost(&error))?;
            if read == 0 {
                return Err(Error::retry("the server has closed the connection"));
            }
        }
        Ok(())
    }

    /// The next piece of the stream, if all of it is here.
    ///
    /// # Errors
    /// What the server says instead, or that it ends the stream.
    pub fn take(&mut self) -> Result<Option<&[u8]>> {
        let Some(frame) = self.frames.take()? else { return Ok(None) };
        match frame.kind {
            b'd' => Ok(Some(frame.body)),
            b'E' => Err(frame::refusal(frame.body, "reading the stream")),
            b'c' => Err(Error::retry("the server has ended the stream")),
            // A notice, a setting that has changed: nothing of the stream.
            _ => Ok(Some(&[])),
        }
    }
}

impl Outgoing {
    /// Sends a piece of the stream.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn send(&mut self, piece: &[u8]) -> Result {
        self.frame.clear();
        self.frame.put_u8(b'd');
        self.frame.put_u32(u32::try_from(piece.len() + 4)?);
        self.frame.put_slice(piece);
        self.line.write_all(&self.frame).await.map_err(|error| lost(&error))?;
        self.line.flush().await.map_err(|error| lost(&error))
    }
}

fn lost(error: &std::io::Error) -> Error {
    Error::retry(format!("the connection to the server was lost: {error}"))
}

fn strange(what: &str) -> Error {
    Error::stop(format!(
        "the server answers with {what}: it does not speak the protocol of Postgres, or something between does not"
    ))
}

impl std::fmt::Debug for Walsender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Walsender")
    }
}

#[cfg(test)]
mod tests;
