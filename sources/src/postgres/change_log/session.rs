//! A connection to the log's database, and what is asked on it.

use std::collections::BTreeSet;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::TryStreamExt;
use highwater_operators::postgres::{Connection, failed, quote};
use highwater_operators::{Error, ErrorKind, Result};
use tokio_postgres::types::ToSql;
use tokio_postgres::{CopyOutStream, Row, Statement};

use super::Description;
use super::gaps::{Blocker, Range};
use super::inspect::{Log, inspect};
use super::statements::{SESSION, Statements};
use crate::ahead::AWAY;
use crate::postgres::AS_IT_IS;

/// Attempts to look at the log before a run begins.
const LOOKS: u32 = 5;

/// Looks at the log on a connection of its own. A connection that is lost on the way is made again, some times.
pub(super) async fn look(description: &Description) -> Result<Log> {
    let look = async || {
        let connection = Connection::open(description.url()?, "change log").await?;
        inspect(&connection, description).await
    };
    let mut failed = 0;
    loop {
        match look().await {
            Err(error) if error.kind() == ErrorKind::Retry && failed < LOOKS => failed += 1,
            looked => return looked,
        }
        tokio::time::sleep(AWAY.wait(failed)).await;
    }
}

/// A connection that is ready to read the log.
pub(super) struct Session {
    pub connection: Connection,
    pub log: Log,
    statements: Statements,
}

/// What the guard has seen.
pub(super) struct Guard {
    /// The table behind the log's name.
    pub table: Option<u32>,
    /// What the sequence is, if the log has one.
    pub sequence: Option<Drawn>,
}

/// A sequence and how far it was drawn.
#[derive(Clone, Copy)]
pub(super) struct Drawn {
    pub cache: i64,
    /// Whether it still counts up by one.
    pub is_plain: bool,
    /// The highest id it can have given.
    pub last: i64,
}

impl Session {
    /// Connects, looks at the log anew, and prepares what is asked.
    pub(super) async fn open(description: &Description) -> Result<Session> {
        let connection = Connection::open(description.url()?, "change log").await?;
        let log = inspect(&connection, description).await?;
        let mut set_up = format!("{SESSION}; {AS_IT_IS}");
        if let Some(channel) = &description.notify {
            set_up = format!("{set_up}; listen {}", quote(channel));
        }
        connection.batch_execute(&set_up).await.map_err(|error| failed("setting up the session", error))?;
        let statements = Statements::prepare(&connection, &log).await?;
        Ok(Session { connection, log, statements })
    }

    /// Q1: a page above `after`.
    pub(super) async fn page(&self, after: i64, rows: u32) -> Result<Copied> {
        let (after, rows) = (after.to_string(), rows.to_string());
        let Statements { set_page, page, .. } = &self.statements;
        // Sent together, done one after the other: one way there and back.
        let parameters: [&(dyn ToSql + Sync); 2] = [&after, &rows];
        let (set, copied) = tokio::join!(biased; self.connection.query(set_page, &parameters), self.connection.copy_out(page));
        Copied::of(set, copied)
    }

    /// Q3: the rows in these ranges.
    pub(super) async fn gaps(&self, ranges: &[Range], rows: u32) -> Result<Copied> {
        let list = |end: fn(&Range) -> i64| {
            let ends: Vec<String> = ranges.iter().map(|range| end(range).to_string()).collect();
            format!("{{{}}}", ends.join(","))
        };
        let (from, to, rows) = (list(|range| range.0), list(|range| range.1), rows.to_string());
        let Statements { set_gaps, gaps, .. } = &self.statements;
        let parameters: [&(dyn ToSql + Sync); 3] = [&from, &to, &rows];
        let (set, copied) = tokio::join!(biased; self.connection.query(set_gaps, &parameters), self.connection.copy_out(gaps));
        Copied::of(set, copied)
    }

    /// The log and its sequence as they are now.
    pub(super) async fn guard(&self) -> Result<Guard> {
        let rows = self.ask(&self.statements.guard, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::stop(format!("the sequence of {} has no row", self.log.name)))?;
        let sequence = self.log.sequence.as_ref().map(|_| {
            let (cache, increment, cycles): (Option<i64>, Option<i64>, Option<bool>) = (row.get(1), row.get(2), row.get(3));
            let (last, was_drawn): (i64, bool) = (row.get(4), row.get(5));
            let is_plain = increment.is_some_and(|increment| increment >= 1) && cycles == Some(false);
            Drawn { cache: cache.unwrap_or(1), is_plain, last: if was_drawn { last } else { last.saturating_sub(1) } }
        });
        Ok(Guard { table: row.get(0), sequence })
    }

    /// Q2b and Q2: who may still write the log.
    pub(super) async fn holders(&self, with_backends: bool) -> Result<BTreeSet<Blocker>> {
        let sequence = self.log.sequence.as_ref().map_or(0, |sequence| sequence.oid);
        let backends = async { if with_backends { self.ask(&self.statements.backends, &[]).await } else { Ok(Vec::new()) } };
        // Sent in this order, and so done in this order.
        let log: [&(dyn ToSql + Sync); 2] = [&self.log.identity.table, &sequence];
        let (backends, holders) = tokio::join!(biased; backends, self.ask(&self.statements.holders, &log));
        let mut there: BTreeSet<Blocker> = backends?.iter().map(|row| Blocker::Backend(row.get(0))).collect();
        for row in &holders? {
            let name: Box<str> = row.get::<_, &str>(0).into();
            there.insert(if row.get(1) { Blocker::Prepared(name) } else { Blocker::Transaction(name) });
        }
        Ok(there)
    }

    async fn ask(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.connection.query(statement, parameters).await.map_err(|error| failed(&format!("reading {}", self.log.name), error))
    }
}

/// Rows that come.
pub(super) struct Copied {
    rows: Pin<Box<CopyOutStream>>,
    /// Whether the next message is the first, which has a header.
    pub is_first: bool,
}

impl Copied {
    fn of(set: Result<Vec<Row>, tokio_postgres::Error>, copied: Result<CopyOutStream, tokio_postgres::Error>) -> Result<Copied> {
        let cannot = |error| failed("reading the change log", error);
        set.map_err(cannot)?;
        Ok(Copied { rows: Box::pin(copied.map_err(cannot)?), is_first: true })
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        self.rows.try_next().await.map_err(|error| failed("reading the change log", error))
    }
}
