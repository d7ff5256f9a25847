//! Rounds of a snapshot beside the stream: when one begins, where the stream stands still for its pages, and what of the stream is left out until a
//! row was read.

use std::time::Duration;

use highwater_operators::postgres::{Connection, Table};
use highwater_operators::{Error, ErrorKind, Operation, Result, epoch};
use tokio::time::Instant;

use super::chunk::{Before, Event, Place as Spot};
use super::log::Happened;
use super::lsn::Lsn;
use super::session::ask_one;
use super::setup::{self, Found, Published};
use super::snapshot::{self, BESIDE, Options, Progress, Round};
use super::stream::{Stream, broken};
use super::token::{Parts, TableProgress};
use super::{Description, Snapshot, Wanted};

/// The stream stands still until a snapshot has its point. While it runs beside others not for longer than this: it goes on, and that is tried
/// again after a while.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether other tables are published.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Transactions that have written and are open for longer than a moment: a snapshot waits for them.
const OLD_TRANSACTIONS: &str = "select (select count(*) from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid() \
     and xact_start < clock_timestamp() - interval '1 s') + (select count(*) from pg_prepared_xacts)";

/// Rounds of a snapshot.
pub(super) struct Rounds {
    options: Option<Options>,
    pub progress: Option<Progress>,
    round: Option<Round>,
    /// Not before this.
    next: Instant,
    looked: Instant,
}

impl Rounds {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Rounds { options: None, progress: None, round: None, next: now, looked: now }
    }

    /// The point at which the stream stands still.
    pub(super) fn point(&self) -> Option<Lsn> {
        self.round.as_ref().map(|round| round.point)
    }

    fn knows(&self, table: u32) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.knows(table))
    }

    fn tables(&self) -> Vec<TableProgress> {
        self.progress.as_ref().map(Progress::tables).unwrap_or_default()
    }
}

impl Stream {
    /// Takes over what was found: which tables there are, and how far each was read. Whatever was under way was lost with its connections.
    pub(super) async fn adopt(&mut self, found: &Found) -> Result {
        self.was_confirmed(found.confirmed());
        let url = self.description.url()?;
        let connections = self.description.snapshot_connections as usize;
        let publication = self.description.publication().to_owned();
        self.rounds.options = Some(Options {
            url: url.clone(),
            publication,
            connections,
            page_rows: self.description.snapshot_page,
            first: self.description.kept.get().cloned().unwrap_or_default(),
        });
        self.rounds.round = None;
        let Some(published) = &found.published else { return Ok(()) };
        let is_named = matches!(self.description.wanted, Wanted::Tables(_));
        let mut known = self.outbox.place().tables.clone();
        // What is not named any more is read anew if it ever is again.
        known.retain(|table| !is_named || published.has(table.oid));
        self.rounds.progress = Some(Progress::new(url, &known));
        self.add_tables(published, true).await?;
        self.outbox.set_place(found.identity, self.rounds.tables());
        Ok(())
    }

    /// Plans how tables are read that were not known. Those that come while it runs do not end it.
    async fn add_tables(&mut self, published: &Published, is_start: bool) -> Result {
        if matches!(self.description.wanted, Wanted::Tables(_)) {
            self.wanted = Some(published.tables.iter().map(|table| table.oid).collect());
        }
        let Rounds { options: Some(options), progress: Some(progress), .. } = &mut self.rounds else { return Ok(()) };
        for table in &published.tables {
            let oid = table.oid;
            if progress.knows(oid) {
                continue;
            }
            let done = TableProgress { oid, parts: Parts::Done };
            let planned = match self.description.reads(&table.name)? {
                false => vec![done],
                true => match Box::pin(snapshot::plan(options, &[oid])).await {
                    Err(error) if error.kind() == ErrorKind::Stop && !is_start => {
                        tracing::warn!(table = %table.name, "{error}; of this table only changes are read");
                        vec![done]
                    }
                    planned => planned?,
                },
            };
            planned.into_iter().for_each(|table| progress.advance(table));
        }
        Ok(())
    }

    /// A table is told of that was not known: it was added while this runs.
    pub(super) async fn meet(&mut self, side: &Connection, table: u32) -> Result {
        if self.rounds.knows(table) {
            return Ok(());
        }
        self.look_again(side).await
    }

    /// Looks which tables are published now, and refuses if that leaves any out.
    async fn look_again(&mut self, side: &Connection) -> Result {
        let found = setup::look(side, &self.description).await?;
        setup::must_publish(side, &found, self.outbox.place(), &self.description).await?;
        if let Some(published) = &found.published {
            self.add_tables(published, false).await?;
            self.outbox.set_tables(self.rounds.tables());
        }
        Ok(())
    }

    /// Begins the next round if there is anything to read. Until it has its point the stream stands still, for it must not pass it.
    pub(super) async fn tend(&mut self, side: &Connection) -> Result {
        if self.rounds.looked.elapsed() > LOOK_EVERY {
            self.rounds.looked = Instant::now();
            self.look_again(side).await?;
        }
        let Some(progress) = &self.rounds.progress else { return Ok(()) };
        if progress.is_over() || self.rounds.round.is_some() || Instant::now() < self.rounds.next {
            return Ok(());
        }
        let tables = progress.tables();
        // Nothing was read yet: there is nobody to keep waiting.
        let is_first = tables.iter().all(|table| table.parts != Parts::Done);
        let Some(options) = self.rounds.options.clone() else { return Ok(()) };
        self.outbox.passes("snapshot.planned")?;
        if is_first {
            self.rounds.round = Some(Box::pin(Round::begin(&options, &tables, None)).await?);
        } else {
            self.rounds.next = Instant::now() + AGAIN;
            if ask_one(side, "looking for old transactions", OLD_TRANSACTIONS, &[]).await?.get::<_, i64>(0) > 0 {
                tracing::info!(
                    partition = self.partition(),
                    "tables that were added wait to be read until open transactions have ended"
                );
                return Ok(());
            }
            match tokio::time::timeout(PATIENCE, Box::pin(Round::begin(&options, &tables, Some(BESIDE)))).await {
                Ok(begun) => self.rounds.round = Some(begun?),
                Err(_) => return Ok(()),
            }
            self.rounds.next = Instant::now();
        }
        self.outbox.passes("snapshot.exported")?;
        Ok(())
    }

    /// The log has nothing more before this place. If that is the round's point or beyond, its pages are handed over here.
    pub(super) async fn stand_at(&mut self, place: Lsn) -> Result {
        match self.rounds.point() {
            Some(point) if place >= point && !self.log.is_in_transaction() => Box::pin(self.hand_over_pages(point)).await,
            _ => Ok(()),
        }
    }

    async fn hand_over_pages(&mut self, point: Lsn) -> Result {
        self.log.reach(point);
        self.hand_over().await?;
        self.outbox.passes("snapshot.reached")?;
        let Some(mut round) = self.rounds.round.take() else { return Ok(()) };
        let time_ms = i64::try_from(epoch::unix_ms()).unwrap_or_default();
        while let Some(page) = round.next().await? {
            if let Some(relation) = page.relation() {
                for row in page.rows() {
                    let (operation, place, before) = (Operation::Read, Spot::Snapshot(point), Before::Nothing);
                    let event = Event { relation, operation, place, time_ms, key: Some(row), before, after: Some(row) };
                    self.outbox.chunk().push(&event).map_err(|why| broken(point, &why))?;
                }
            }
            self.check_rejected()?;
            if let Some(progress) = &mut self.rounds.progress {
                progress.take(&page);
            }
            self.outbox.set_tables(self.rounds.tables());
            self.hand_over().await?;
            self.outbox.passes("snapshot.page")?;
        }
        drop(round);
        self.outbox.passes("snapshot.round_over")?;
        if self.rounds.progress.as_ref().is_some_and(Progress::is_over) {
            tracing::info!(partition = self.partition(), "all rows that were there are read");
        }
        Ok(())
    }
}

/// What of something that happened to a row is handed over: of one that was not read yet only its deletion; the row comes with its page.
///
/// # Errors
/// It cannot be asked whether it was read.
pub(super) async fn leave_out<'a>(progress: &mut Progress, happened: &Happened<'a>) -> Result<[Option<Event<'a>>; 2]> {
    let mut kept = [Some(happened.first), happened.second];
    for slot in &mut kept {
        let Some(event) = slot else { continue };
        let key = key_of(event)?;
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        if progress.leaves_out(event.operation, event.relation, &key).await? {
            *slot = None;
        }
    }
    Ok(kept)
}

/// The row under its new key was not sent whole: it is read again.
///
/// # Errors
/// It cannot be, for the table has no primary key.
pub(super) async fn read_again(progress: &mut Progress, event: &Event<'_>) -> Result {
    let key = key_of(event)?;
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    progress.read_again(event.relation, &key).await
}

fn key_of(event: &Event<'_>) -> Result<Vec<String>> {
    let lacks = || Error::stop(format!("a row of {} has no value in a column of its key", event.relation.table));
    let row = event.key.ok_or_else(lacks)?;
    let text = |at: &usize| String::from_utf8(row.get(*at)?.to_vec()).ok();
    event.relation.key.iter().map(text).collect::<Option<_>>().ok_or_else(lacks)
}

impl Description {
    /// Whether the rows are wanted that are there.
    fn reads(&self, table: &Table) -> Result<bool> {
        if self.snapshot == Snapshot::Never {
            return Ok(false);
        }
        Ok(!self.is_without_snapshot(table)?)
    }

    /// Whether it was said of this table that only its changes are read.
    pub(super) fn is_without_snapshot(&self, table: &Table) -> Result<bool> {
        for without in &self.without_snapshot {
            let without = without.as_ref().map_err(Error::stop)?;
            let schema = without.schema.as_deref().unwrap_or("public");
            if without.name == table.name && Some(schema) == table.schema.as_deref() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
