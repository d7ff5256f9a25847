//! What is near: changes as they are committed, by `START_REPLICATION`. The slot moves to what is durable, and never further.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use highwater_operators::postgres::Connection;
use highwater_operators::{Error, Result};

use super::follower::{Arrived, Follower};
use super::lsn::Lsn;
use super::session;
use super::setup;
use super::stream::Stream;

/// How often the server is asked how far its log is, while nothing comes.
const PULSE: Duration = Duration::from_millis(250);
/// The rest of a transaction comes at once: so long it is waited for.
const REST_OF_TRANSACTION: Duration = Duration::from_millis(5);

/// What is remembered while following.
struct Following {
    /// Whether anything has arrived since the server was asked last, and when that was.
    read: bool,
    asked: Instant,
    /// When something was read last, or the log was moved on.
    beat: Instant,
    /// Since when it is far behind.
    behind: Option<Instant>,
    /// How far the log was when that was asked last.
    flushed: Lsn,
    /// When it was told last how far a log was read that has nothing for us.
    told: Instant,
}

impl Stream {
    /// Follows until it falls far behind.
    pub(super) async fn follow(&mut self, side: &Connection) -> Result {
        // The server would read again from where the slot is.
        self.advance(side, true).await?;
        let mut follower = self.start(side).await?;
        self.outbox.passes("hand_over.started")?;
        self.log.begin_anew();
        let mut saved = self.outbox.hear_saved();
        let now = Instant::now();
        let mut state = Following { read: false, asked: now, beat: now, behind: None, flushed: Lsn(u64::MAX), told: now };
        loop {
            // All that is here already, without waiting.
            while let Some(arrived) = follower.take()? {
                self.arrive(side, arrived).await?;
                state.read = true;
            }
            if let Some(filled) = tokio::task::unconstrained(follower.fill()).now_or_never() {
                filled?;
                if state.asked.elapsed() < PULSE {
                    continue;
                }
            } else if self.log.is_in_transaction() && self.outbox.has_changes() {
                // Its rest comes at once, nearly always.
                if let Ok(filled) = tokio::time::timeout(REST_OF_TRANSACTION, follower.fill()).await {
                    filled?;
                    continue;
                }
            }
            if self.outbox.has_changes() {
                self.hand_over().await?;
            }
            let wait = PULSE.saturating_sub(state.asked.elapsed());
            tokio::select! {
                biased;
                changed = saved.changed() => {
                    changed.map_err(|_| Error::stop("nobody takes what is read any more"))?;
                    let end = saved.borrow_and_update().end;
                    follower.confirm(end);
                    self.was_confirmed(end);
                    self.outbox.passes("slot.confirmed")?;
                }
                filled = follower.fill(), if !wait.is_zero() => filled?,
                () = tokio::time::sleep(wait) => {
                    if self.pulse(side, &mut state).await? {
                        tracing::info!(partition = self.partition(), "far behind: what is there is read in batches");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes the slot, which nobody else may hold.
    async fn start(&mut self, side: &Connection) -> Result<Follower> {
        let end = self.log.end();
        self.must_be_behind(side, end).await?;
        // What is told to the server first must not be less than it knows: it would move the slot back.
        let from = self.outbox.saved().end.max(self.confirmed());
        let started = Follower::start(&self.description, &self.outbox.place().identity, end, from).await;
        let follower = match started {
            Ok(follower) => follower,
            Err(error) => {
                let held = setup::holder(side, &self.description.slot).await?;
                let Some(holder) = held else { return Err(error) };
                let slot = &self.description.slot;
                return Err(Error::retry(format!(
                    "the slot {slot} is held by {holder}: if that is an earlier run of this pipeline, it lets go of it when it ends; else stop it, or give \
                     each reader a slot of its own"
                )));
            }
        };
        // Now that it is ours it cannot be moved by others; before, it could.
        self.must_be_behind(side, end).await?;
        tracing::debug!(partition = self.partition(), "following from {end}");
        Ok(follower)
    }

    /// Refuses a slot that was moved ahead: the server would begin there, without a word.
    async fn must_be_behind(&mut self, side: &Connection, end: Lsn) -> Result {
        let found = setup::look(side, &self.description).await?;
        setup::must_be_behind(&found, end, &self.description)?;
        self.was_confirmed(found.confirmed());
        Ok(())
    }

    async fn arrive(&mut self, side: &Connection, arrived: Arrived<'_>) -> Result {
        match arrived {
            Arrived::Message { lsn, text } => self.hear_text(side, lsn, text).await,
            // Told with the next pulse: there may be many of these.
            Arrived::Alive { end } => {
                self.stand_at(end).await?;
                self.log.reach(end);
                Ok(())
            }
            Arrived::Nothing => Ok(()),
        }
    }

    /// Once in a while: tells how far an idle log was read, moves it on, and looks how far behind this is. `true`: too far.
    async fn pulse(&mut self, side: &Connection, state: &mut Following) -> Result<bool> {
        state.asked = Instant::now();
        // Each token is a save, which may be written to this very log: what others write is told once in a while.
        if self.outbox.must_tell(&self.log) || state.told.elapsed() >= self.description.heartbeat {
            state.told = Instant::now();
            self.hand_over().await?;
        }
        self.tend(side).await?;
        let flushed = session::flushed(side).await?;
        let end = self.log.end();
        // What is still to be read is no rest.
        let reads = self.rounds.progress.as_ref().is_some_and(|progress| !progress.is_over());
        // Others may write without end: all that was there when it was asked last is enough.
        let is_idle = end >= state.flushed.min(flushed) && !self.log.is_in_transaction() && !reads;
        state.flushed = flushed;
        self.outbox.doing().idle(is_idle);
        if std::mem::take(&mut state.read) && self.log.end() == flushed {
            state.beat = Instant::now();
        }
        if !is_idle && state.beat.elapsed() >= self.description.heartbeat {
            state.beat = Instant::now();
            super::heartbeat::emit(side).await?;
        }
        let behind = flushed.0.saturating_sub(end.0);
        // Where what was read is not taken, it is not the reading that is slow.
        let may_catch_up = self.outbox.has_room() && self.follows_until <= state.asked;
        match self.description.catches_up {
            Some((bytes, after)) if behind > bytes && may_catch_up => {
                Ok(state.behind.get_or_insert(state.asked).elapsed() >= after)
            }
            _ => {
                state.behind = None;
                Ok(false)
            }
        }
    }
}
