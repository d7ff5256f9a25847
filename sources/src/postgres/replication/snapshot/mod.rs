//! Rows that were there before: read beside the stream, so that none is missing and none is older than it should be.
//!
//! A table is read in *rounds*. Each takes a snapshot that holds exactly what was committed before a point of the log (`round.rs`). The stream goes on to
//! that very point and stands still there, while pages of rows are handed over (`pages.rs`); then it goes on. What is remembered between
//! rounds, and after a crash, is nothing but which ranges of keys were read (`progress.rs`), and that stands in the token of every page.
//!
//! So a change is one of two kinds. Of a row whose key was read: it is handed over, for it is younger than the row. Of one that was not read: it is left out,
//! for the row will come, as of a later point, with all that was changed until then. Only deletes are always handed over, as
//! [`leaves_out`](Progress::leaves_out) explains.
//!
//! A row that is read again, after a crash, in another round, is another change than before: it may be another row by now. So the point of the round is part
//! of its id and of its position; taken for the same, it would be skipped as already delivered, and what has happened to it since would be
//! lost. The price: what a run had read of a round when it crashed is not read again as what it was. What became of those rows is counted (delivered,
//! parked), and that they were read is not.

mod copied;
mod key;
mod pages;
mod plan;
mod progress;
mod ranges;
mod round;
mod session;
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::postgres::{Connection, Url, failed, quote_text};
use highwater_operators::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::key::TableKey;
use self::pages::{AHEAD_KB, Ahead, Job, Piece, Work};
pub(super) use self::progress::Progress;
use self::round::Exported;
use self::table::Published;
use super::lsn::Lsn;
use super::relation::{OWN_TYPES, Relation, Types};
use super::rows::Values;
use super::token::{Parts, TableProgress};
use crate::postgres::AS_IT_IS;

/// Pages of tables that are added to a running pipeline are read for so long at a time; then the stream goes on.
pub(super) const BESIDE: Duration = Duration::from_secs(2);
/// How long a reader waits for a table's lock. Whoever waits for a lock that excludes us (a truncation, an alteration) lets nobody pass, and waits for those
/// of us that have theirs: then all let go, and another snapshot is taken.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '2s'";
/// Pieces that may wait to be taken; their bytes are bounded beside.
const PIECES: usize = 64;

/// How rows are read.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub url: Url,
    pub publication: String,
    /// Connections that read side by side.
    pub connections: usize,
    /// Rows of a page at most.
    pub page_rows: u32,
    /// Tables that are read whole before any other.
    pub first: BTreeSet<String>,
}

/// Tables none of whose rows were read yet.
pub(super) async fn plan(options: &Options, tables: &[u32]) -> Result<Vec<TableProgress>> {
    let connection = session::open(&options.url, "snapshot (ranges)").await?;
    let mut planned = Vec::with_capacity(tables.len());
    for &oid in tables {
        let parts = match TableKey::of(&connection, oid).await? {
            Some(key) => plan::plan(&connection, oid, &key, options.page_rows).await?,
            None => {
                let name = connection.query_one("select $1::oid::regclass::text", &[&oid]).await;
                let name: String = name.map_err(|error| failed("looking at a table that is to be read", error))?.get(0);
                return Err(table::without_key(&name));
            }
        };
        planned.push(TableProgress { oid, parts });
    }
    Ok(planned)
}

/// A snapshot, and the pages that are read of it.
pub(super) struct Round {
    /// Its point: all transactions that commit before it are in the snapshot, and no others.
    pub point: Lsn,
    /// Tables that are not published any more.
    gone: Vec<u32>,
    pieces: mpsc::Receiver<Result<Piece>>,
    // Last, and with their connections: what is read must not be rewritten before all of it was.
    _readers: JoinSet<Connection>,
}

/// Rows of a table, to be handed over at the round's point.
pub(super) struct Page(Kind);

enum Kind {
    Rows(Piece),
    /// The table is not published any more: nothing more is read of it.
    Gone(u32),
}

impl Page {
    /// The table as it is published.
    pub(super) fn relation(&self) -> Option<&Relation> {
        match &self.0 {
            Kind::Rows(piece) => Some(&piece.table.relation),
            Kind::Gone(_) => None,
        }
    }

    /// The rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Values<'_>> {
        let piece = if let Kind::Rows(piece) = &self.0 { Some(piece) } else { None };
        piece.into_iter().flat_map(|piece| (0..piece.rows.count()).filter_map(|row| piece.rows.get(row)))
    }
}

impl Round {
    /// Takes a snapshot, and begins to read what is not read of these tables: all of it, or what can be read within the limit. Waits for every
    /// transaction that is open at the server; can be dropped meanwhile.
    pub(super) async fn begin(options: &Options, tables: &[TableProgress], limit: Option<Duration>) -> Result<Round> {
        let exported = Exported::make(&options.url).await?;
        let outside = session::open(&options.url, "snapshot (is it settled?)").await?;
        let mut readers = Vec::new();
        for number in 1..=options.connections.max(1) {
            let reader = session::open(&options.url, &format!("snapshot {number}")).await?;
            exported.begin(&reader).await?;
            reader.batch_execute(LOCK_TIMEOUT).await.map_err(|error| failed("setting up a session to read rows", error))?;
            readers.push(reader);
        }
        let Some(first) = readers.first() else { return Err(Error::stop("nobody reads")) };
        round::settle(first, &outside).await?;
        let mut found = Found::default();
        found.look(first, options, tables).await?;
        // Before anything is read: a reader that came to a table later might wait for somebody who waits for the first one.
        for reader in readers.iter().skip(1) {
            for published in &found.published {
                published.hold(reader).await?;
            }
        }
        let path = TableKey::search_path(found.published.iter().map(|table| &table.key));
        for reader in &readers {
            let set = format!("select set_config('search_path', {}, false); {AS_IT_IS}", quote_text(&path));
            reader.batch_execute(&set).await.map_err(|error| failed("setting up a session to read rows", error))?;
        }
        let (first, jobs): (Vec<Job>, Vec<Job>) =
            found.jobs.into_iter().partition(|job| options.first.contains(&job.table.relation.table));
        let work = Arc::new(Work {
            ahead: Ahead::of(first.len()),
            jobs: Mutex::new(first.into_iter().chain(jobs).collect()),
            page_rows: options.page_rows,
            until: limit.map(|limit| Instant::now() + limit),
            room: Arc::new(Semaphore::new(AHEAD_KB as usize)),
        });
        let (out, pieces) = mpsc::channel(PIECES);
        let mut tasks = JoinSet::new();
        for reader in readers {
            tasks.spawn(pages::read(reader, work.clone(), out.clone()));
        }
        let point = exported.point;
        Ok(Round { point, gone: found.gone, pieces, _readers: tasks })
    }

    /// The next rows; `None` when the round is over.
    pub(super) async fn next(&mut self) -> Result<Option<Page>> {
        if let Some(oid) = self.gone.pop() {
            return Ok(Some(Page(Kind::Gone(oid))));
        }
        Ok(self.pieces.recv().await.transpose()?.map(|piece| Page(Kind::Rows(piece))))
    }
}

/// What is to be read, as the catalog says within the snapshot.
#[derive(Default)]
struct Found {
    published: Vec<Arc<Published>>,
    jobs: Vec<Job>,
    gone: Vec<u32>,
}

impl Found {
    async fn look(&mut self, connection: &Connection, options: &Options, tables: &[TableProgress]) -> Result {
        let cannot = |error| failed("looking at the types of the database", error);
        let types = connection.query(OWN_TYPES, &[]).await.map_err(cannot)?;
        let types: Vec<(u32, u32, u32)> = types.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let types = Types::of(&types);
        for table in tables {
            let Parts::Ranges(ranges) = &table.parts else { continue };
            let Some(published) = Published::of(connection, table.oid, &options.publication, &types).await? else {
                tracing::warn!(
                    table = table.oid,
                    publication = options.publication,
                    "a table is not published any more: its rows are not read"
                );
                self.gone.push(table.oid);
                continue;
            };
            published.hold(connection).await?;
            let published = Arc::new(published);
            self.jobs.extend(ranges.iter().map(|range| Job { table: published.clone(), range: range.clone() }));
            self.published.push(published);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
