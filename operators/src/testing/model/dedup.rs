//! Dedup: the seen-set maps an id to the position where it was first seen (rule 5).
//!
//! An id used again outside its window is another change, and stands beside the earlier one: sources are read at different
//! pace, so that copies of either may still come.

use rand::Rng;

use super::run::Work;
use super::world::{Change, Place};
use super::{Mutation, Simulation};

/// Where an id was first seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) place: Place,
    pub(super) change: Change,
    /// The epoch in which this run met it: nothing at or above the saved frontier may be evicted.
    pub(super) epoch: u64,
}

/// What changed in the seen-set in an epoch, as an absolute value.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    pub(super) epoch: u64,
    pub(super) entry: (usize, Place),
    pub(super) seen: Option<Seen>,
}

impl Simulation {
    /// Fills the seen-sets of a new run: from the checkpoint, from what is parked, and from what the ledger noted above the
    /// mark, which will be read again and has to recognise itself before a copy takes its place.
    pub(super) fn restore_seen(&mut self) {
        let mut restored: Vec<Seen> = self.store.checkpoint.seen.values().map(|seen| Seen { epoch: 0, ..*seen }).collect();
        if !self.broken(Mutation::LedgerNotSeen) {
            restored.extend(self.store.parked.iter().map(|record| Seen { place: record.place, change: record.change, epoch: 0 }));
            let notes = self.store.notes.iter();
            restored.extend(notes.map(|note| Seen { place: note.place, change: note.change, epoch: u64::MAX }));
        }
        for seen in restored {
            let worker = self.worker_of(seen.change);
            self.remember(worker, seen);
        }
    }

    fn remember(&mut self, worker: usize, seen: Seen) {
        let one_slot = self.broken(Mutation::OneSlotPerId);
        let known = self.run.seen[worker].entry(seen.change.id).or_default();
        known.retain(|other| other.place != seen.place && !one_slot);
        known.push(seen);
    }

    /// One change arrives at the worker of its key, is recognised or passed, and handed to every action.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        let start = self.rng.random_range(0..self.run.channels.len());
        let channels = self.run.channels.len();
        let filled = (0..channels).map(|step| (start + step) % channels).find(|channel| !self.run.channels[*channel].is_empty());
        let Some(channel) = filled else { return Ok(()) };
        let Some(work) = self.run.channels[channel].pop_front() else { return Ok(()) };
        let worker = channel % self.run.workers;
        let duplicate = self.is_duplicate(worker, &work)?;
        for action in 0..self.world.actions.len() {
            if duplicate {
                self.run.line(work.epoch, action).duplicate += 1;
            } else {
                self.hand_out(worker, action, work);
            }
        }
        self.run.arriving.release(work.epoch);
        Ok(())
    }

    fn is_duplicate(&mut self, worker: usize, work: &Work) -> Result<bool, String> {
        let Work { change, place, epoch } = *work;
        self.run.times[worker].push((epoch, change.time));
        // The window is measured at the question, in the changes' own time, so that the answer does not depend on when
        // an entry happens to be evicted.
        let near = |seen: &&Seen| (seen.change.time - change.time).abs() <= self.world.window;
        let known = self.run.seen[worker].get(&change.id).map_or(&[][..], Vec::as_slice);
        let itself = known.iter().any(|seen| seen.place == place);
        let other = known.iter().find(near).filter(|_| !itself || self.broken(Mutation::SeenSoDrop));
        if let Some(first) = other.map(|seen| seen.change) {
            self.report.duplicates += 1;
            self.promises.dropped(&change, &first)?;
            return Ok(true);
        }
        self.report.recognised += u64::from(itself);
        self.promises.passed(&self.world, &change, itself);
        let seen = Seen { place, change, epoch };
        self.remember(worker, seen);
        self.run.deltas.push(Delta { epoch, entry: (change.id, place), seen: Some(seen) });
        if self.broken(Mutation::EvictAhead) {
            self.run.horizon[worker] = self.run.horizon[worker].max(change.time);
            self.evict(worker, u64::MAX);
        }
        Ok(false)
    }

    /// After a save: what is below the mark and older than the window, by the own time of what is below the mark, may go.
    /// Were it measured by what is above the mark, a replay would find less than the first run had.
    pub(super) fn evict_below(&mut self, frontier: u64) {
        for worker in 0..self.run.workers {
            let below = self.run.times[worker].iter().filter(|(epoch, _)| *epoch < frontier).map(|(_, time)| *time);
            self.run.horizon[worker] = below.fold(self.run.horizon[worker], i64::max);
            self.run.times[worker].retain(|(epoch, _)| *epoch >= frontier);
            self.evict(worker, frontier);
        }
    }

    fn evict(&mut self, worker: usize, frontier: u64) {
        let (horizon, window, deltas) = (self.run.horizon[worker], self.world.window, &mut self.run.deltas);
        self.run.seen[worker].retain(|id, known| {
            known.retain(|seen| {
                let goes = seen.epoch < frontier && seen.change.time + window < horizon;
                if goes {
                    deltas.push(Delta { epoch: 0, entry: (*id, seen.place), seen: None });
                }
                !goes
            });
            !known.is_empty()
        });
    }
}
