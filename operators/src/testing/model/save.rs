//! The mark: the frontier as resume tokens, proved by the books, saved with all that belongs to it (rules 13 and 14).

use super::dedup::Delta;
use super::run::Reader;
use super::store::Checkpoint;
use super::world::Place;
use super::{Mutation, Simulation};
use rand::Rng;

/// One line of the books: what became of changes, for one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) read: u64,
    pub(super) duplicate: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) parked: u64,
}

impl Line {
    pub(super) fn balances(&self) -> bool {
        self.read == self.duplicate + self.filtered + self.delivered + self.parked
    }

    pub(super) fn add(&mut self, other: &Line) {
        self.read += other.read;
        self.duplicate += other.duplicate;
        self.filtered += other.filtered;
        self.delivered += other.delivered;
        self.parked += other.parked;
    }
}

/// A save on its way to the store.
#[derive(Clone, Debug)]
pub(super) struct Save {
    /// All of it absolute, but for the seen-set, which comes as deltas.
    pub(super) checkpoint: Checkpoint,
    pub(super) deltas: Vec<Delta>,
    /// Notes of earlier runs whose changes this run has met again, below the mark.
    pub(super) met: Vec<(usize, usize, Place)>,
}

impl Simulation {
    /// Begins a save of the newest frontier, if none is under way: everything that belongs to it is taken at this instant.
    pub(super) fn begin_save(&mut self) -> Result<(), String> {
        let epoch = self.run.frontier();
        if self.run.saving.is_some() || epoch <= self.run.saved {
            return Ok(());
        }
        let below = self.run.books.range(..epoch);
        if !below.clone().all(|(_, lines)| lines.iter().all(Line::balances)) && !self.broken(Mutation::BooksUnchecked) {
            // A capability was dropped without an outcome. It stops, and says so; the next run finds all as it was.
            self.report.stops += 1;
            return self.crash();
        }
        let mut books = self.run.totals.clone();
        below.for_each(|(_, lines)| books.iter_mut().zip(lines).for_each(|(total, line)| total.add(line)));
        let highest = self.broken(Mutation::HighestAsMark);
        let marks = self.run.readers.iter().zip(&self.store.checkpoint.mark);
        let mark = marks.map(|(reader, saved)| {
            let mut token = reader.below(epoch).unwrap_or(saved).clone();
            if highest {
                token.gaps.clear();
            }
            token
        });
        let mark = mark.collect();
        let (deltas, later) = std::mem::take(&mut self.run.deltas).into_iter().partition(|delta| delta.epoch < epoch);
        self.run.deltas = later;
        let met = self.run.ledger.iter().filter(|(_, noted)| noted.met.is_some_and(|met| met < epoch));
        let met = met.map(|(note, _)| *note).collect();
        let files = self.lengths(epoch);
        let checkpoint = Checkpoint { epoch, mark, books, files, ..Checkpoint::default() };
        self.run.saving = Some(Save { checkpoint, deltas, met });
        Ok(())
    }

    /// The save reaches the store, or fails, or succeeds without our hearing of it.
    pub(super) fn finish_save(&mut self) -> Result<(), String> {
        let Some(mut save) = self.run.saving.take() else { return Ok(()) };
        if self.broken(Mutation::LengthAtCommit) {
            self.lengths_now(&mut save.checkpoint.files);
        }
        let luck = self.rng.random_range(0..100);
        if luck >= 15 {
            self.save(self.store.generation, &save)?;
        }
        if luck < 20 {
            // Resent with the next save: values are absolute, so a second time does no harm.
            if !self.broken(Mutation::DeltasForgotten) {
                self.run.deltas.splice(0..0, save.deltas);
            }
            return Ok(());
        }
        let epoch = save.checkpoint.epoch;
        self.run.saved = epoch;
        self.run.totals = save.checkpoint.books;
        self.run.books.retain(|open, _| *open >= epoch);
        for reader in &mut self.run.readers {
            // The last token below stays: it is the mark until the next is reached.
            let below = reader.reached.iter().filter(|(reached, _)| *reached < epoch).count();
            reader.reached.drain(..below.saturating_sub(1));
        }
        self.evict_below(epoch);
        Ok(())
    }

    /// A save of a killed run reaches the store at last. The generation tells that it has been replaced.
    pub(super) fn straggle(&mut self) -> Result<(), String> {
        let Some((run, save)) = self.straggler.take() else { return Ok(()) };
        if run == self.store.generation || self.broken(Mutation::NoFence) {
            return self.save(run, &save);
        }
        self.report.refused += 1;
        Ok(())
    }

    fn save(&mut self, run: u32, save: &Save) -> Result<(), String> {
        self.promises.mark_never_falls(&self.store.checkpoint, &save.checkpoint)?;
        self.store.save(run, save, self.broken(Mutation::OldNotesByEpoch));
        self.report.saves += 1;
        self.promises.mark_is_proved(&self.world, &self.store, &self.files)
    }
}

impl Reader {
    /// The last token reached below an epoch.
    fn below(&self, epoch: u64) -> Option<&super::world::Token> {
        self.reached.iter().rev().find(|(reached, _)| *reached < epoch).map(|(_, token)| token)
    }
}
