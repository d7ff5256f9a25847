//! Why the mark stands where it stands: who holds the oldest epoch, what for, and since when.
//!
//! Nothing is written down on the hot path. Whoever wants to know asks ([`Process::why`]); every operator that can hold an
//! epoch is woken, looks at what it holds, and answers with its oldest. An operator that does not answer in time is told of
//! too: its worker is busy inside a closure that blocks.

mod answer;
mod probe;

use std::time::Duration;

pub use self::answer::{Held, HolderKind, Paused, SourceState, State, Why};
use self::probe::Told;
pub use self::probe::{Hold, Probe, Probes};
use crate::action::stats::ActionStats;
use crate::epoch::unix_ms;
use crate::ingest::stats::{ReaderState, ReaderStats};
use crate::pace::Saving;
use crate::position::Epoch;
use crate::process::Process;

impl Process {
    /// Says what holds the mark in this process. Waits up to `patience` for the operators' answers; never call it on a worker.
    pub(crate) fn why_here(&self, patience: Duration) -> Why {
        let told = self.probes.ask(patience);
        let readers = self.figures.all::<ReaderStats>();
        let mut paused = Vec::new();
        let mut sources = Vec::new();
        for (_, reader) in &readers {
            let (state, since) = reader.state();
            if state == ReaderState::Paused {
                paused.push(Paused::new(reader, since, &self.in_flight));
            }
            sources.push(SourceState::new(reader, state, since));
        }
        let held_by = self.holder(told);
        let frontier = self.pace.frontier();
        let state = match (&held_by, self.halt.is_halted(), self.is_stopping()) {
            (_, true, _) => State::Ending,
            (_, _, true) => State::Draining,
            (Some(_), ..) => State::Held,
            (None, ..) if self.in_flight.units() > 0 => State::Running,
            (None, ..) => State::Idle,
        };
        let moved = self.pace.moved_ms();
        let since = if moved == 0 { unix_ms() } else { moved };
        Why { pipeline: self.limits.pipeline.clone(), state, frontier, since, held_by, paused, sources }
    }

    fn holder(&self, told: Vec<(probe::Desk, Told)>) -> Option<Held> {
        let mut held: Option<Held> = None;
        let mut silent = None;
        for (desk, told) in told {
            match told {
                Told::Nothing => {}
                Told::Silent => silent = silent.or(Some(desk)),
                Told::Holds(hold) => {
                    let mut other = Held::new(desk, *hold);
                    if other.kind == HolderKind::Retry
                        && let Some(stats) = other.action.as_ref().and_then(|action| self.figures.get::<ActionStats>(action))
                    {
                        other.trouble = other.trouble.or_else(|| stats.trouble.lock().clone());
                    }
                    if held.as_ref().is_none_or(|held| other.rank() < held.rank()) {
                        held = Some(other);
                    }
                }
            }
        }
        // All is done, and not saved: the save holds the mark, if it takes long.
        let saving = self.pace.saving().filter(|(_, since)| is_long_ago(*since));
        // A closure that blocks a worker hides what else is held there; it is older than anything that could be told.
        if held.is_none()
            && let Some(desk) = silent
        {
            return Some(Held::of_silent(desk, self.pace.moved_ms()));
        }
        held.or_else(|| {
            let (saving, since) = saving?;
            let kind = if saving == Saving::Files { HolderKind::Files } else { HolderKind::Store };
            Some(Held::of_save(kind, since))
        })
    }
}

impl Hold {
    /// A change that has its outcome: held by the store, if that is slow, or only on its way through it.
    pub(crate) fn of_noted(epoch: Epoch, process: &Process) -> Self {
        match process.keeper.busy_since().filter(|since| is_long_ago(*since)) {
            Some(since) => Hold { since, ..Hold::new(epoch, HolderKind::Store) },
            None => Hold::new(epoch, HolderKind::Note),
        }
    }
}

fn is_long_ago(since: u64) -> bool {
    unix_ms().saturating_sub(since) >= STUCK_MS
}

/// A save or a group of notes that takes longer than this is worth telling of.
const STUCK_MS: u64 = 200;
