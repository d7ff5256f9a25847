//! Reads a slot on and on: sets up, catches up, follows, and begins again where a connection was lost. Runs on a thread of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::postgres::{Connection, failed};
use highwater_operators::{Error, ErrorKind, Operation, Result};
use tokio_postgres::types::PgLsn;

use super::Description;
use super::catalog::Catalog;
use super::chunk::{Before, Event, Place as Spot};
use super::confirm::{Mark, Saved};
use super::log::{Happened, Heard, Log};
use super::lsn::Lsn;
use super::outbox::Outbox;
use super::pgoutput::{Described, Message};
use super::relation::Relation;
use super::rounds::{self, Rounds};
use super::session;
use super::setup::{self, Found};
use super::snapshot::Progress;
use super::token::Place;
use crate::OnReject;
use crate::ahead::{AWAY, Way};

/// The slot is moved by SQL this often, while it is not followed: each time the server reads the log between.
const ADVANCE_EVERY: Duration = Duration::from_secs(2);

/// Reads a slot.
pub(super) struct Stream {
    pub description: Arc<Description>,
    partition: String,
    pub outbox: Outbox,
    pub log: Log,
    catalog: Catalog,
    /// The tables that are wanted, if others are published too.
    pub wanted: Option<HashSet<u32>>,
    pub rounds: Rounds,
    /// The slot was moved to here, and when that was tried last.
    confirmed: Lsn,
    advanced: Instant,
    /// A catch-up was slower than following would be: not tried again before this.
    pub follows_until: Instant,
}

/// What is known before anything is connected.
pub(super) struct Begin {
    pub description: Arc<Description>,
    pub partition: String,
    /// Where a checkpoint continues, and the order of its token.
    pub from: Option<(u64, Place)>,
    /// Tells what is durable; must not be gone before who hears it.
    pub saved: Arc<Saved>,
}

/// Attempts to look at the server before a run begins.
const LOOKS: u32 = 5;

/// Looks at the server on a connection of its own. One that is lost on the way is made again, some times.
pub(super) async fn look(description: &Description, begun: Option<&Place>) -> Result<Found> {
    let look = async || {
        let connection = session::open(description.url()?, "replication").await?;
        let found = setup::look(&connection, description).await?;
        if let Some(place) = begun {
            setup::must_continue(&found, place, description)?;
        }
        Ok(found)
    };
    let mut failed = 0;
    loop {
        match look().await {
            Err(error) if Error::kind(&error) == ErrorKind::Retry && failed < LOOKS => failed += 1,
            looked => return looked,
        }
        tokio::time::sleep(AWAY.wait(failed)).await;
    }
}

impl Begin {
    /// Reads until something is wrong that time does not mend, or nobody takes what is read. A database that is away is waited for.
    pub(super) async fn run(self, way: Way) -> Result {
        let (mut failed, mut way) = (0, Some(way));
        let mut stream: Option<Stream> = None;
        loop {
            let Err(error) = Box::pin(self.session(&mut stream, &mut way, &mut failed)).await else { return Ok(()) };
            if let Some(stream) = &mut stream {
                stream.outbox.doing().idle(false);
                // What was read before is read, whatever happened then.
                stream.hand_over().await?;
            }
            if error.kind() != ErrorKind::Retry {
                return Err(Error::stop(error.to_string()));
            }
            failed += 1;
            if failed == 1 {
                tracing::warn!(partition = %self.partition, "{error}; tried again until it comes back");
            }
            tokio::time::sleep(AWAY.wait(failed)).await;
        }
    }

    /// What goes on until a connection is lost.
    async fn session(&self, stream: &mut Option<Stream>, way: &mut Option<Way>, failed: &mut u32) -> Result {
        let side = Arc::new(session::open(self.description.url()?, "replication").await?);
        let found = self.set_up(&side, stream.as_ref().map(|stream| stream.outbox.place())).await?;
        let stream = match stream {
            Some(stream) => {
                stream.log.begin_anew();
                stream
            }
            None => {
                let Some(way) = way.take() else { return Err(Error::stop("a stream begins twice")) };
                let flushed = session::flushed(&side).await?;
                stream.insert(self.begin(way, &found, flushed))
            }
        };
        stream.adopt(&found).await?;
        stream.hand_over().await?;
        if std::mem::take(failed) > 0 {
            tracing::warn!(partition = %self.partition, "the database is back");
        }
        stream.tend(&side).await?;
        loop {
            if self.description.catches_up.is_some() && stream.follows_until <= Instant::now() {
                stream.catch_up(&side).await?;
            }
            stream.follow(&side).await?;
        }
    }

    /// Refuses what cannot be continued, and makes what is missing.
    async fn set_up(&self, side: &Connection, place: Option<&Place>) -> Result<Found> {
        let description = &*self.description;
        let place = place.or(self.from.as_ref().map(|(_, place)| place));
        let found = setup::look(side, description).await?;
        if found.partition(description) != self.partition {
            return Err(Error::stop(format!(
                "the slot is of another log than when the run began (now {}, then {}): another server or database has the place of the old one",
                found.partition(description),
                self.partition
            )));
        }
        if let Some(place) = place {
            setup::must_continue(&found, place, description)?;
        }
        let found = setup::make(side, description, place.is_some_and(|place| !place.is_anew())).await?;
        if let Some(place) = place {
            setup::must_publish(side, &found, place, description).await?;
        }
        Ok(found)
    }

    fn begin(&self, way: Way, found: &Found, flushed: Lsn) -> Stream {
        let is_told = self.from.as_ref().is_some_and(|(_, place)| !place.is_anew());
        let (order, place) = match self.from.clone() {
            Some((order, place)) if place.is_anew() => (order, place.begun_anew(found)),
            Some(begun) => begun,
            None => {
                let end = found.confirmed();
                let publication = found.published.as_ref().map_or(0, |published| published.definition);
                (0, Place { identity: found.identity, publication, end, within: None, snapshot: 1, tables: Vec::new() })
            }
        };
        let long_ago = Instant::now();
        Stream {
            description: self.description.clone(),
            partition: self.partition.clone(),
            log: Log::from(place.end, place.within),
            outbox: Outbox::new(way, self.saved.hear(), place, order, is_told, flushed),
            catalog: Catalog::default(),
            wanted: None,
            rounds: Rounds::new(),
            confirmed: Lsn(0),
            advanced: long_ago,
            follows_until: long_ago,
        }
    }
}

impl Stream {
    /// Takes a message of the log, and hands over what was read when it is enough.
    pub(super) async fn hear(&mut self, side: &Connection, lsn: Lsn, message: Message<'_>, text: &[u8]) -> Result {
        match message {
            Message::Begin { commit: place, .. } | Message::Emitted { in_transaction: false, lsn: place, .. }
                if self.rounds.point().is_some() =>
            {
                self.stand_at(place).await?;
            }
            _ => {}
        }
        let heard = self.log.take(lsn, message, text).map_err(|why| broken(lsn, &why))?;
        let taken = match heard {
            Heard::Nothing | Heard::End => return Ok(()),
            Heard::Row(happened) => {
                let oid = happened.first.relation.oid;
                if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&oid)) {
                    return Ok(());
                }
                match &mut self.rounds.progress {
                    Some(progress) if progress.holds(oid) || happened.refused.is_some() => {
                        Box::pin(take_held(progress, &happened, &mut self.outbox, lsn)).await
                    }
                    _ => happened.write(self.outbox.chunk()).map_err(|why| broken(lsn, &why)),
                }
            }
            Heard::Message { place, time_ms, prefix, content, in_transaction } => {
                let chunk = self.outbox.chunk();
                let pushed = chunk.push_message(place, time_ms, prefix, content, in_transaction);
                pushed.map_err(|why| broken(lsn, &why))
            }
            Heard::Table(described) => return Box::pin(self.know(side, described)).await,
            Heard::Truncate(tables, time_ms) => return Box::pin(self.truncate(lsn, tables, time_ms)).await,
        };
        if let Err(error) = taken.and_then(|()| self.check_rejected()) {
            // No token may say that it was handed over.
            self.log.take_back();
            return Err(error);
        }
        if self.outbox.is_full() {
            self.hand_over().await?;
        }
        Ok(())
    }

    /// Stops where something is no change, if that is wanted.
    pub(super) fn check_rejected(&mut self) -> Result {
        if self.description.on_reject == OnReject::Stop
            && let Some(rejected) = self.outbox.chunk().rejected.pop()
        {
            return Err(Error::stop(format!("what was read is no change: {}", rejected.why)));
        }
        Ok(())
    }

    /// The same of a message as it came.
    pub(super) async fn hear_text(&mut self, side: &Connection, lsn: Lsn, text: &[u8]) -> Result {
        let message = self.log.read(text).map_err(|why| broken(lsn, why))?;
        self.hear(side, lsn, message, text).await
    }

    async fn know(&mut self, side: &Connection, described: Described) -> Result {
        let is_altered = self.log.knows(described.oid);
        let oid = described.oid;
        let relation = self.catalog.relation(side, described, is_altered).await?;
        self.log.know(relation);
        self.meet(side, oid).await
    }

    /// A truncation goes alone: what was before it is durable when it is handed over, and it is before anything that follows. For it is of no key,
    /// and order is kept among the changes of a key.
    async fn truncate(&mut self, lsn: Lsn, tables: Vec<(Arc<Relation>, Spot)>, time_ms: i64) -> Result {
        // The token before it does not count it yet.
        self.outbox.hand_over_before(&self.log).await?;
        self.outbox.all_saved().await?;
        for (relation, place) in &tables {
            if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&relation.oid)) {
                continue;
            }
            let (operation, before) = (Operation::Truncate, Before::Nothing);
            let event = Event { relation, operation, place: *place, time_ms, key: None, before, after: None };
            self.outbox.chunk().push(&event).map_err(|why| broken(lsn, &why))?;
        }
        self.hand_over().await?;
        self.outbox.all_saved().await?;
        Ok(())
    }

    /// Hands over what was read.
    pub(super) async fn hand_over(&mut self) -> Result {
        Ok(self.outbox.hand_over(&self.log).await?)
    }

    /// Moves the slot to what is durable, if it is time. Only while nobody follows it.
    pub(super) async fn advance(&mut self, side: &Connection, now: bool) -> Result {
        let Mark { end, .. } = self.outbox.saved();
        if end <= self.confirmed || (!now && self.advanced.elapsed() < ADVANCE_EVERY) {
            return Ok(());
        }
        let slot = &self.description.slot;
        let to = PgLsn::from(end.0);
        let moved = side.query("select pg_replication_slot_advance($1, $2)", &[slot, &to]).await;
        self.advanced = Instant::now();
        match moved {
            Ok(_) => self.confirmed = end,
            // Somebody holds it; that is told when it is followed.
            Err(error) if error.code().is_some_and(|code| code.code() == "55006") => {}
            Err(error) => return Err(failed(&format!("moving the slot {slot} to {end}"), error)),
        }
        Ok(())
    }

    /// What the slot was moved to, as far as is known here.
    pub(super) fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// The slot is confirmed to here by whoever follows.
    pub(super) fn was_confirmed(&mut self, end: Lsn) {
        self.confirmed = self.confirmed.max(end);
    }

    pub(super) fn partition(&self) -> &str {
        &self.partition
    }
}

/// Takes what happened to a row of a table that is still being read, or a row that is not whole.
async fn take_held(progress: &mut Progress, happened: &Happened<'_>, outbox: &mut Outbox, lsn: Lsn) -> Result {
    let [first, second] = rounds::leave_out(progress, happened).await?;
    if let Some(first) = first {
        outbox.chunk().push(&first).map_err(|why| broken(lsn, &why))?;
    }
    let Some(second) = second else { return Ok(()) };
    let taken = match &happened.refused {
        None => outbox.chunk().push(&second),
        Some(why) => match rounds::read_again(progress, &second).await {
            Ok(()) => {
                outbox.set_tables(progress.tables());
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Retry => return Err(error),
            // Nobody can tell which row it is.
            Err(_) => outbox.chunk().refuse(&second, why),
        },
    };
    taken.map_err(|why| broken(lsn, &why))
}

pub(super) fn broken(lsn: Lsn, why: &str) -> Error {
    Error::stop(format!("reading the log at {lsn}: what the server sent is not what was expected: {why}"))
}
