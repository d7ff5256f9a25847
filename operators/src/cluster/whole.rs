//! Figures of the whole pipeline, as the leader tells them. A member tells its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::message::{Answer, Beat, Counts, Question};
use crate::books::Sums;
use crate::checkpoint::store::CutBackFile;
use crate::error::{Error, Result};
use crate::ingest::stats::{ReaderState, ReaderStats};
use crate::lookup::CacheStats;
use crate::position::Epoch;
use crate::process::Process;
use crate::why::{State, Why};

/// How long members are waited for that are asked for figures; those of a moment ago will do.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long files may take to be synced elsewhere.
const SYNCED: Duration = Duration::from_secs(600);

/// What a run has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Changes read.
    pub changes_read: u64,
    /// Changes read again that an earlier run had read.
    pub replayed: u64,
    /// Microseconds until the first change came that had not been read before; 0 for none yet.
    pub first_new_us: u64,
    /// Lookups answered by a cache, and by the origin.
    pub lookups: (u64, u64),
    /// Units of the window that are taken.
    pub units: u64,
}

impl Beat {
    pub(super) fn of(process: &Process) -> Self {
        Beat {
            changes_read: process.stats.changes_read.load(Ordering::Relaxed),
            bytes_read: process.stats.bytes_read.load(Ordering::Relaxed),
            units: process.in_flight.units(),
            rests: process.rests(),
        }
    }
}

impl Counts {
    /// What this process has counted since it began.
    pub(crate) fn of(process: &Process) -> Self {
        let before = |action: &str| process.resolved_before.get(action).copied().unwrap_or_default();
        let since = |(action, (delivered, dropped)): (String, (u64, u64))| {
            let (delivered_before, dropped_before) = before(&action);
            (action, (delivered - delivered_before, dropped - dropped_before))
        };
        let lookups = process.figures.all::<CacheStats>();
        Counts {
            lines: process.books.since_start(),
            resolved: process.keeper.resolved().into_iter().map(since).collect(),
            changes_read: process.stats.changes_read.load(Ordering::Relaxed),
            replayed: process.stats.replayed.load(Ordering::Relaxed),
            first_new_us: process.stats.first_new_us.load(Ordering::Relaxed),
            units: process.in_flight.units(),
            lookups: (
                lookups.iter().map(|(_, stats)| stats.counts().hits).sum(),
                lookups.iter().map(|(_, stats)| stats.counts().misses).sum(),
            ),
        }
    }
}

fn add(to: &mut BTreeMap<String, u64>, counts: &[Counts]) {
    for (line, n) in counts.iter().flat_map(|counts| &counts.lines) {
        *to.entry(line.clone()).or_default() += n;
    }
}

impl Process {
    /// The counts of the other processes: fresh ones if they answer, else the last known. None on a member.
    fn counts_of_others(&self) -> Vec<Counts> {
        let place = self.cluster.place();
        if !place.has_others() || !place.leads() {
            return Vec::new();
        }
        let shared = &self.cluster.0;
        if !shared.counts.lock().iter().skip(1).all(|(_, last)| *last) {
            for (from, answer) in self.cluster.ask(|| Question::Counts).wait(PATIENCE) {
                if let (Answer::Counts(counts), Some((known, false))) = (answer, shared.counts.lock().get_mut(from)) {
                    *known = *counts;
                }
            }
        }
        shared.counts.lock().iter().skip(1).map(|(counts, _)| counts.clone()).collect()
    }

    /// The live sums of every action, of all processes on the leader.
    pub fn sums(&self) -> BTreeMap<String, Sums> {
        if !self.cluster.place().has_others() {
            return self.books.sums();
        }
        // Outcomes of everybody before what anybody has read: so nothing seems to have an outcome that was not read.
        let mut outcomes = self.books.live();
        add(&mut outcomes, &self.counts_of_others());
        let mut read = BTreeMap::new();
        add(&mut read, &self.counts_of_others());
        for (line, n) in self.books.live() {
            *read.entry(line).or_default() += n;
        }
        self.books.sums_of(&outcomes, &read)
    }

    /// The live counts by line, of all processes on the leader.
    pub fn live(&self) -> BTreeMap<String, u64> {
        let mut live = self.books.live();
        add(&mut live, &self.counts_of_others());
        live
    }

    /// By action, how many parked records were delivered after all and how many dropped, of all processes on the leader.
    pub fn resolved(&self) -> BTreeMap<String, (u64, u64)> {
        let mut resolved = self.keeper.resolved();
        for (action, (delivered, dropped)) in self.counts_of_others().iter().flat_map(|counts| &counts.resolved) {
            let sum = resolved.entry(action.clone()).or_default();
            *sum = (sum.0 + delivered, sum.1 + dropped);
        }
        resolved
    }

    /// What this run has counted, in all processes on the leader.
    pub fn totals(&self) -> Totals {
        let own = Counts::of(self);
        self.counts_of_others().iter().chain([&own]).fold(Totals::default(), |all, counts| Totals {
            changes_read: all.changes_read + counts.changes_read,
            replayed: all.replayed + counts.replayed,
            first_new_us: match (all.first_new_us, counts.first_new_us) {
                (0, us) | (us, 0) => us,
                (one, other) => one.min(other),
            },
            units: all.units + counts.units,
            lookups: (all.lookups.0 + counts.lookups.0, all.lookups.1 + counts.lookups.1),
        })
    }

    /// Changes and bytes read, in all processes as far as the leader has heard: a beat may be half a second old.
    pub fn read_about(&self) -> (u64, u64) {
        let own = Beat::of(self);
        let beats = self.cluster.0.beats.lock();
        let sum = |what: fn(&Beat) -> u64| beats.iter().map(what).sum::<u64>();
        (own.changes_read + sum(|beat| beat.changes_read), own.bytes_read + sum(|beat| beat.bytes_read))
    }

    /// Whether every source of this process was asked and has nothing. One that is away may have much.
    fn rests(&self) -> bool {
        let readers = self.figures.all::<ReaderStats>();
        let rests = |reader: &ReaderStats| matches!(reader.state().0, ReaderState::Waiting | ReaderState::Ended);
        !readers.is_empty() && readers.iter().all(|(_, reader)| rests(reader))
    }

    /// Whether every source of all processes was asked and has nothing, as far as was heard.
    pub fn all_rest(&self) -> bool {
        let beats = self.cluster.0.beats.lock();
        self.rests() && self.cluster.place().others().all(|process| beats[process].rests)
    }

    /// Units of the window that are taken, in all processes as far as was heard.
    pub fn units_about(&self) -> u64 {
        self.in_flight.units() + self.cluster.0.beats.lock().iter().map(|beat| beat.units).sum::<u64>()
    }

    /// All files with the lengths that stand for the epochs below `frontier`, synced to disk, of all processes.
    pub(crate) fn files_at(&self, frontier: Epoch) -> Result<Vec<CutBackFile>> {
        let elsewhere = (self.cluster.place().has_others() && self.sink_writer.has_outputs())
            .then(|| self.cluster.ask(|| Question::Files(frontier)));
        let mut files = self.sink_writer.files_at(frontier)?;
        for (process, answer) in elsewhere.map(|asked| asked.wait_all(SYNCED)).transpose()?.into_iter().flatten() {
            match answer {
                Answer::Files(Ok(theirs)) => files.extend(theirs),
                Answer::Files(Err(sentence)) => return Err(Error::stop(format!("process {process}: {sentence}"))),
                _ => return Err(Error::stop(format!("process {process} has answered something else than it was asked"))),
            }
        }
        Ok(files)
    }

    /// Says what holds the mark, in all processes on the leader. Waits up to `patience` for the operators' answers, and a little
    /// longer for processes; never call it on a worker.
    pub fn why(&self, patience: Duration) -> Why {
        let place = self.cluster.place();
        if !place.has_others() || !place.leads() {
            return self.why_here(patience);
        }
        let asked = self.cluster.ask(|| Question::Why(patience.as_millis() as u64));
        let mut why = self.why_here(patience);
        for (_, answer) in asked.wait(patience + PATIENCE) {
            if let Answer::Why(theirs) = answer {
                why.take_in(*theirs);
            }
        }
        why
    }

    /// Makes a new partition known to all processes, and gives it to the one whose worker reads it, if that is another one.
    pub(crate) fn deal(self: &Arc<Self>, source: &str, id: u32, name: &str) -> Result<()> {
        let place = self.cluster.place();
        let done = |answers: Vec<(usize, Answer)>| {
            answers.into_iter().try_for_each(|(process, answer)| match answer {
                Answer::Done(Err(sentence)) => Err(Error::stop(format!("process {process}: {sentence}"))),
                _ => Ok(()),
            })
        };
        done(self.cluster.ask(|| Question::Know { source: source.to_owned(), id }).wait_all(SYNCED)?)?;
        let owner = place.process_of(place.reader_of(id));
        if owner != place.process {
            let read = Question::Read { source: source.to_owned(), id, name: name.to_owned() };
            done(self.cluster.ask_one(owner, read).wait_all(SYNCED)?)?;
        }
        Ok(())
    }
}

impl Why {
    /// What another process holds is part of it.
    fn take_in(&mut self, other: Why) {
        if let Some(held) = other.held_by
            && self.held_by.as_ref().is_none_or(|own| held.rank() < own.rank())
        {
            self.held_by = Some(held);
        }
        self.paused.extend(other.paused);
        self.sources.extend(other.sources);
        self.state = match (self.state, other.state) {
            (State::Idle | State::Running, _) if self.held_by.is_some() => State::Held,
            (State::Idle, State::Running) => State::Running,
            (state, _) => state,
        };
    }
}
