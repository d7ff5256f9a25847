//! What was read and is on its way to the reader: a chunk that fills, and its token when it is handed over.

use highwater_operators::{Error, Result};
use tokio::sync::watch;

use super::confirm::Mark;
use super::log::Log;
use super::lsn::Lsn;
use super::token::{self, Identity, Parts, Place, TableProgress};
use crate::ahead::{Chunk, Doing, Gone, Way};

/// What was read and is on its way.
pub(super) struct Outbox {
    way: Way,
    /// What is durable.
    saved: watch::Receiver<Mark>,
    place: Place,
    /// The tables' part of the token, written.
    tables: Vec<u8>,
    chunk: Option<Chunk>,
    /// Grows with every change and every token.
    order: u64,
    /// What the last token told.
    told: Option<(Lsn, Option<(Lsn, u64)>)>,
    /// How far the log was when this run began: earlier ones have read no further. `None`: that was passed, and was told.
    began: Option<Lsn>,
}

impl Outbox {
    /// Continues at this place. A place that no token has told yet is told as soon as anything is handed over.
    pub(super) fn new(way: Way, saved: watch::Receiver<Mark>, place: Place, order: u64, is_told: bool, began: Lsn) -> Self {
        let told = is_told.then_some((place.end, place.within));
        Outbox { tables: token::write_tables(&place.tables), way, saved, place, chunk: None, order, told, began: Some(began) }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn doing(&self) -> &Doing {
        &self.way.doing
    }

    /// What is durable.
    pub(super) fn saved(&self) -> Mark {
        *self.saved.borrow()
    }

    pub(super) fn hear_saved(&self) -> watch::Receiver<Mark> {
        self.saved.clone()
    }

    /// Passes a failpoint.
    ///
    /// # Errors
    /// The process has crashed here.
    pub(super) fn passes(&self, failpoint: &str) -> Result<(), Gone> {
        if self.way.window.passes(failpoint) { Err(Gone) } else { Ok(()) }
    }

    /// Whether the reader is ready to take more.
    pub(super) fn has_room(&self) -> bool {
        self.way.has_room()
    }

    /// The server and the tables as they are now.
    pub(super) fn set_place(&mut self, identity: Identity, tables: Vec<TableProgress>) {
        if identity != self.place.identity {
            (self.place.identity, self.told) = (identity, None);
        }
        self.set_tables(tables);
    }

    /// The tables as they are read now.
    pub(super) fn set_tables(&mut self, tables: Vec<TableProgress>) {
        if tables != self.place.tables {
            self.tables = token::write_tables(&tables);
            self.place.tables = tables;
            self.told = None;
        }
    }

    /// The chunk that fills.
    pub(super) fn chunk(&mut self) -> &mut Chunk {
        self.chunk.get_or_insert_with(|| self.way.chunk())
    }

    pub(super) fn is_full(&self) -> bool {
        self.chunk.as_ref().is_some_and(Chunk::is_full)
    }

    /// Whether there are changes that were not handed over.
    pub(super) fn has_changes(&self) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| chunk.rows() > 0)
    }

    /// Whether a token would tell something new.
    pub(super) fn has_news(&self, log: &Log) -> bool {
        self.has_changes() || self.told != Some((log.end(), log.within())) || self.has_caught_up(log.end())
    }

    /// Whether what is to be told concerns us: changes, the end of a transaction whose changes were handed over, a place that was never told, or that
    /// all was read again.
    pub(super) fn must_tell(&self, log: &Log) -> bool {
        self.has_changes() || self.told.is_none_or(|(_, within)| within.is_some()) || self.has_caught_up(log.end())
    }

    /// Whether all was read again that earlier runs had read, as far as it will be. Rows that were there come no more under a point that earlier runs
    /// have seen once the stream is beyond all of them, or no rows are left.
    fn has_caught_up(&self, end: Lsn) -> bool {
        let is_over = || self.place.tables.iter().all(|table| table.parts == Parts::Done);
        self.began.is_some_and(|began| end > began || (end == began && is_over()))
    }

    /// Hands over what was read, with the token that continues after it.
    ///
    /// # Errors
    /// Nobody takes it any more.
    pub(super) async fn hand_over(&mut self, log: &Log) -> Result<(), Gone> {
        if !self.has_news(log) {
            return Ok(());
        }
        self.hand_over_to(log.end(), log.within()).await
    }

    /// Hands over the changes that were taken, with the token of before the message that is being heard.
    ///
    /// # Errors
    /// As [`hand_over`](Self::hand_over).
    pub(super) async fn hand_over_before(&mut self, log: &Log) -> Result<(), Gone> {
        let within = log.within().and_then(|(commit, read)| Some((commit, read.checked_sub(1).filter(|read| *read > 0)?)));
        self.hand_over_to(log.end(), within).await
    }

    async fn hand_over_to(&mut self, end: Lsn, within: Option<(Lsn, u64)>) -> Result<(), Gone> {
        (self.place.end, self.place.within) = (end, within);
        let mut chunk = self.chunk.take().unwrap_or_else(|| Chunk::new(Vec::new()));
        self.order += chunk.rows() as u64 + 1;
        chunk.order = self.order;
        chunk.token = token::write(&self.place, &self.tables);
        chunk.caught_up = self.has_caught_up(end);
        if chunk.caught_up {
            self.began = None;
        }
        self.told = Some((self.place.end, self.place.within));
        self.way.hand_over(chunk).await
    }

    /// Waits until all that was handed over is durable.
    pub(super) async fn all_saved(&mut self) -> Result<(), Gone> {
        let order = self.order;
        self.saved.wait_for(|mark| mark.order >= order).await.map(drop).map_err(|_| Gone)
    }
}

impl From<Gone> for Error {
    fn from(_: Gone) -> Self {
        Error::stop("nobody takes what is read any more")
    }
}
