//! Where the stream and the rows that were there before meet: the stream goes on to the point of a round and stands still there while its pages are
//! handed over.
//!
//! The point is made known after it was set, so the stream must not pass it meanwhile: it stands still too while a snapshot is taken. At the beginning, when
//! nothing else is to be read, that may take as long as it likes. Later it is given up after a while and tried again, each time with twice the
//! patience: whoever waits for changes of other tables does not wait for the longest transaction of the server.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use highwater_operators::postgres::Connection;
use highwater_operators::{Operation, Result};

use super::Description;
use super::chunk::{Before, Event, Place as Spot};
use super::heartbeat;
use super::log::Happened;
use super::lsn::Lsn;
use super::snapshot::{self, Options, Progress, Round};
use super::stream::{Stream, broken};
use super::token::{Parts, TableProgress};

/// How long the stream of tables that were read waits for a snapshot of others, at first.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two rounds, and between two looks for tables that were added, the stream goes on for so long at least.
const BETWEEN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_secs(5);

// Places where a test lets the process crash.
pub(super) const PLANNED: &str = "snapshot.planned";
const EXPORTED: &str = "snapshot.exported";
const REACHED: &str = "snapshot.reached";
const PAGE: &str = "snapshot.page";
const ROUND_OVER: &str = "snapshot.round_over";

/// What of the tables is still to be read, and the snapshot that it is read from.
pub(super) struct Rounds {
    pub progress: Progress,
    options: Options,
    /// Tables whose rows are wanted.
    wanted: HashSet<u32>,
    /// A snapshot whose point the stream has not reached.
    round: Option<Round>,
    /// Nobody was told of any row: it is the first run, and no page was handed over.
    is_fresh: bool,
    patience: Duration,
    /// When a round is begun next, and when it is looked next whether there are more tables.
    next: Instant,
    look: Instant,
}

impl Rounds {
    pub(super) fn new(description: &Description, tables: &[TableProgress], is_fresh: bool) -> Result<Self> {
        let url = description.url()?.clone();
        let options = Options {
            url: url.clone(),
            publication: description.publication().to_owned(),
            connections: description.snapshot_connections as usize,
            page_rows: description.snapshot_page,
        };
        let now = Instant::now();
        let progress = Progress::new(&url, tables);
        let wanted = HashSet::new();
        Ok(Rounds { progress, options, wanted, round: None, is_fresh, patience: PATIENCE, next: now, look: now + LOOK_EVERY })
    }

    /// These tables are published. Those that nobody knows yet get their ranges, or none if their rows are not wanted; says whether there are any.
    pub(super) async fn plan(&mut self, tables: &[(u32, bool)]) -> Result<bool> {
        self.wanted = tables.iter().filter(|(_, is_wanted)| *is_wanted).map(|(oid, _)| *oid).collect();
        self.progress.keep(|oid| tables.iter().any(|(other, _)| *other == oid));
        let new: Vec<(u32, bool)> = tables.iter().filter(|(oid, _)| !self.progress.knows(*oid)).copied().collect();
        let wanted: Vec<u32> = new.iter().filter(|(_, is_wanted)| *is_wanted).map(|(oid, _)| *oid).collect();
        for (oid, _) in new.iter().filter(|(_, is_wanted)| !*is_wanted) {
            self.progress.advance(TableProgress { oid: *oid, parts: Parts::Done });
        }
        if !wanted.is_empty() {
            for table in snapshot::plan(&self.options, &wanted).await? {
                self.progress.advance(table);
            }
        }
        Ok(!new.is_empty())
    }

    /// Whether it is time to look for more tables.
    pub(super) fn looks_again(&mut self) -> bool {
        let is_time = Instant::now() >= self.look;
        if is_time {
            self.look = Instant::now() + LOOK_EVERY;
        }
        is_time
    }

    /// Whether there is something to read that no round was begun for.
    fn is_due(&self) -> bool {
        self.round.is_none() && !self.progress.is_over() && Instant::now() >= self.next
    }

    /// What of a row's changes is handed over: not what a page will tell.
    ///
    /// A row that is there under a new key, and of which the stream does not tell all, is read again, from a later snapshot.
    pub(super) async fn sift(&mut self, happened: &Happened<'_>) -> Result<Kept> {
        let first = self.keeps(&happened.first).await?;
        let Some(second) = &happened.second else { return Ok(Kept { first, ..Kept::default() }) };
        let is_kept = self.keeps(second).await?;
        if is_kept
            && happened.refused.is_some()
            && self.wanted.contains(&second.relation.oid)
            && let Some(key) = key(second)
        {
            self.progress.read_again(second.relation, &key).await?;
            return Ok(Kept { first, second: false, is_again: true });
        }
        Ok(Kept { first, second: is_kept, is_again: false })
    }

    async fn keeps(&mut self, event: &Event<'_>) -> Result<bool> {
        if !self.progress.holds(event.relation.oid) {
            return Ok(true);
        }
        let Some(key) = key(event) else { return Ok(true) };
        if event.operation == Operation::Delete {
            return Ok(!self.is_fresh || self.progress.is_read(event.relation, &key).await?);
        }
        Ok(!self.progress.leaves_out(event.operation, event.relation, &key).await?)
    }
}

/// What of a row's changes is handed over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    pub first: bool,
    pub second: bool,
    /// The row is wanted again: tokens say so from now on.
    pub is_again: bool,
}

/// The key of a change, if it is whole text.
fn key<'e>(event: &Event<'e>) -> Option<Vec<&'e str>> {
    let row = event.key?;
    let text = |at: &usize| std::str::from_utf8(row.get(*at)?).ok();
    event.relation.key.iter().map(text).collect::<Option<Vec<&str>>>().filter(|key| !key.is_empty())
}

impl Stream {
    /// Takes a snapshot, if there is something to be read. It is read from when the stream has reached its point.
    pub(super) async fn begin_round(&mut self, side: &Connection) -> Result {
        if !self.rounds.is_due() {
            return Ok(());
        }
        // Nobody waits for anything else.
        let is_alone = self.rounds.progress.reads_all();
        let limit = if is_alone { None } else { Some(snapshot::BESIDE) };
        let tables = self.rounds.progress.tables();
        let begun = Box::pin(Round::begin(&self.rounds.options, &tables, limit));
        let round = if is_alone {
            begun.await?
        } else {
            match tokio::time::timeout(self.rounds.patience, begun).await {
                Ok(round) => round?,
                Err(_) => {
                    tracing::info!(
                        partition = self.partition(),
                        "tables that were added wait for transactions that are open; the stream goes on meanwhile"
                    );
                    self.rounds.next = Instant::now() + self.rounds.patience;
                    self.rounds.patience *= 2;
                    return Ok(());
                }
            }
        };
        self.rounds.patience = PATIENCE;
        self.rounds.round = Some(round);
        self.outbox.passes(EXPORTED)?;
        // So that the log goes on beyond the point, also where nobody writes.
        heartbeat::emit(side).await
    }

    /// All that was committed before `to` was read, and nothing that was committed there or later.
    pub(super) async fn reach(&mut self, to: Lsn) -> Result {
        match &self.rounds.round {
            Some(round) if round.point <= to && !self.log.is_in_transaction() => Box::pin(self.read_pages()).await,
            _ => Ok(()),
        }
    }

    /// Hands over the pages of the round whose point was reached.
    async fn read_pages(&mut self) -> Result {
        let Some(mut round) = self.rounds.round.take() else { return Ok(()) };
        self.hand_over().await?;
        if self.rounds.is_fresh {
            // A run that finds no token knows by that that nobody was told of any row.
            self.outbox.all_saved().await?;
        }
        self.outbox.passes(REACHED)?;
        let began = Instant::now();
        let mut rows = 0;
        while let Some(page) = round.next().await? {
            self.rounds.is_fresh = false;
            rows += page.count();
            if let Some(relation) = page.relation() {
                let (operation, place, before) = (Operation::Read, Spot::Snapshot(round.point), Before::Nothing);
                for row in page.rows() {
                    let (key, after) = (Some(row), Some(row));
                    let event = Event { relation, operation, place, time_ms: round.time_ms, key, before, after };
                    self.outbox.chunk().push(&event).map_err(|why| broken(round.point, &why))?;
                }
            }
            self.rounds.progress.advance(page.progress.clone());
            self.outbox.set_tables(self.rounds.progress.tables());
            self.refuse_rejected()?;
            self.hand_over().await?;
            self.outbox.passes(PAGE)?;
        }
        self.rounds.next = Instant::now() + BETWEEN;
        let (took_ms, is_over) = (began.elapsed().as_millis() as u64, self.rounds.progress.is_over());
        tracing::info!(
            partition = self.partition(),
            rows,
            took_ms,
            is_over,
            "rows that were there were read, as of {}",
            round.point
        );
        self.outbox.passes(ROUND_OVER)
    }
}
