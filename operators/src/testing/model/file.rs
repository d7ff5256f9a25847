//! Cut-back file sinks: content is appended per epoch, and on resume cut back to what the checkpoint knows (rule 8).

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;

use super::store::{Entry, Note, Outcome};
use super::world::{Change, Kind};
use super::{Mutation, Simulation};

/// Action, generation, worker.
pub(super) type FileName = (usize, u32, usize);

/// Bytes are changes here.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) content: Vec<Change>,
    /// How much of it survives a power cut.
    synced: usize,
}

/// The disk.
#[derive(Debug, Default)]
pub(super) struct Files(pub(super) BTreeMap<FileName, File>);

impl Files {
    /// A power cut: what was not synced may be gone.
    pub(super) fn tear(&mut self, rng: &mut SmallRng) {
        for file in self.0.values_mut() {
            file.content.truncate(rng.random_range(file.synced..=file.content.len()));
        }
    }

    /// A new run cuts every file of the checkpoint, whoever wrote it, and removes every other. It writes to new ones.
    pub(super) fn resume(&mut self, known: &[(FileName, usize)], cut: bool, remove: bool) {
        for (name, length) in known.iter().filter(|_| cut) {
            self.0.entry(*name).or_default().content.truncate(*length);
        }
        self.0.retain(|name, _| !remove || known.iter().any(|(known, _)| known == name));
        self.0.values_mut().for_each(|file| file.synced = file.content.len());
    }
}

/// One worker's side of a file sink.
#[derive(Default)]
pub(super) struct Sink {
    /// What came in, by epoch; it waits until its epoch is closed at the input.
    pub(super) waiting: BTreeMap<u64, Vec<Change>>,
    /// The length of the file after each epoch that it holds.
    boundaries: Vec<(u64, usize)>,
}

impl Simulation {
    /// Appends the next closed epoch to a file.
    pub(super) fn append(&mut self) {
        let index = self.rng.random_range(0..self.run.sinks.len());
        let (worker, action) = (index / self.world.actions.len(), index % self.world.actions.len());
        let closed = self.run.input_frontier();
        let sink = &mut self.run.sinks[index];
        let Some(next) = sink.waiting.first_entry().filter(|next| *next.key() < closed) else { return };
        let (epoch, changes) = next.remove_entry();
        let file = self.files.0.entry((action, self.store.generation, worker)).or_default();
        file.content.extend(&changes);
        sink.boundaries.push((epoch, file.content.len()));
        for change in changes {
            self.run.line(epoch, action).delivered += 1;
            self.run.working.release(epoch);
            if self.broken(Mutation::SinkNoted) {
                let (run, place) = (self.store.generation, change.place);
                let note = Note { run, action, change, place, epoch, outcome: Outcome::Delivered };
                self.request(Entry::Note(note), 0, None, false);
            }
        }
    }

    /// The lengths that belong to a frontier, synced; those of earlier runs as the checkpoint has them.
    pub(super) fn lengths(&mut self, frontier: u64) -> Vec<(FileName, usize)> {
        let generation = self.store.generation;
        let mut lengths: Vec<_> = self.store.checkpoint.files.clone();
        lengths.retain(|((_, run, _), _)| *run != generation);
        for (index, sink) in self.run.sinks.iter().enumerate() {
            let (worker, action) = (index / self.world.actions.len(), index % self.world.actions.len());
            let name = (action, generation, worker);
            if self.world.actions[action].kind != Kind::File {
                continue;
            }
            if let Some(file) = self.files.0.get_mut(&name) {
                if self.mutation != Some(Mutation::SinkUnsynced) {
                    file.synced = file.content.len();
                }
                let below = sink.boundaries.iter().rev().find(|(epoch, _)| *epoch < frontier);
                lengths.push((name, below.map_or(0, |(_, length)| *length)));
            }
        }
        lengths
    }

    /// What a broken run takes for the lengths: as long as the files are now.
    pub(super) fn lengths_now(&self, lengths: &mut [(FileName, usize)]) {
        for (name, length) in lengths.iter_mut().filter(|((_, run, _), _)| *run == self.store.generation) {
            *length = self.files.0.get(name).map_or(0, |file| file.content.len());
        }
    }
}
