//! One run of the pipeline: all that a crash takes away, how it begins, and how changes come in.

use std::collections::{BTreeMap, HashMap, VecDeque};

use rand::Rng;

use super::action::{Lane, Pending, Waiting};
use super::dedup::{Delta, Seen};
use super::file::Sink;
use super::save::{Line, Save};
use super::store::{Outcome, Record};
use super::world::{Change, Place, Token};
use super::{Mutation, Simulation};

/// Capabilities: how many of them hold each epoch open.
#[derive(Default)]
pub(super) struct Open(BTreeMap<u64, usize>);

impl Open {
    pub(super) fn hold(&mut self, epoch: u64) {
        *self.0.entry(epoch).or_default() += 1;
    }

    pub(super) fn release(&mut self, epoch: u64) {
        let left = self.0.get_mut(&epoch).expect("an epoch is released once per hold");
        *left -= 1;
        if *left == 0 {
            self.0.remove(&epoch);
        }
    }

    pub(super) fn least(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn count(&self) -> usize {
        self.0.values().sum()
    }
}

/// A change on its way through the pipeline: `place` is its position as the protocol sees it.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) change: Change,
    pub(super) place: Place,
    pub(super) epoch: u64,
}

/// The reader of one partition.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) token: Token,
    /// The epoch that it may still mint.
    pub(super) holds: u64,
    pub(super) ended: bool,
    /// Which token was reached in which epoch, above the last save.
    pub(super) reached: Vec<(u64, Token)>,
    polls: usize,
}

/// An outcome noted by an earlier run, and the epoch in which this run met its change again.
pub(super) struct Noted {
    pub(super) outcome: Outcome,
    pub(super) met: Option<u64>,
}

/// Everything volatile.
#[derive(Default)]
pub(super) struct Run {
    pub(super) workers: usize,
    pub(super) clock: u64,
    pub(super) minted: u64,
    pub(super) readers: Vec<Reader>,
    /// From worker to worker, first in, first out; between channels any order.
    pub(super) channels: Vec<VecDeque<Work>>,
    /// Epochs held open by what is on its way to the actions.
    pub(super) arriving: Open,
    /// Epochs held open by what the actions have in hand, through the durable note.
    pub(super) working: Open,
    pub(super) seen: Vec<HashMap<usize, Vec<Seen>>>,
    /// By worker: own times met, by epoch, above the saved mark.
    pub(super) times: Vec<Vec<(u64, i64)>>,
    /// By worker: the newest own time below the saved mark.
    pub(super) horizon: Vec<i64>,
    pub(super) deltas: Vec<Delta>,
    pub(super) ledger: HashMap<(usize, usize, Place), Noted>,
    pub(super) lanes: Vec<Lane>,
    /// Lanes with an attempt under way.
    pub(super) flights: Vec<usize>,
    /// Permits taken, by action.
    pub(super) permits: Vec<usize>,
    /// Changes in hand, by worker and action.
    pub(super) in_hand: Vec<usize>,
    pub(super) next_record: u64,
    /// Notes on their way to the store, in order.
    pub(super) group: VecDeque<Pending>,
    pub(super) sinks: Vec<Sink>,
    /// Lines of the books above the saved mark, by epoch and action.
    pub(super) books: BTreeMap<u64, Vec<Line>>,
    pub(super) totals: Vec<Line>,
    pub(super) saving: Option<Save>,
    /// The frontier of the last save that was acknowledged.
    pub(super) saved: u64,
    /// Parked records that a broken run has not loaded yet.
    pub(super) late: Vec<Record>,
}

impl Run {
    /// The least epoch of which something may still come to an action.
    pub(super) fn input_frontier(&self) -> u64 {
        let readers = self.readers.iter().filter(|reader| !reader.ended).map(|reader| reader.holds).min();
        [readers, self.arriving.least()].into_iter().flatten().min().unwrap_or(self.minted + 1)
    }

    /// The least epoch that is open anywhere.
    pub(super) fn frontier(&self) -> u64 {
        self.working.least().map_or(self.input_frontier(), |epoch| epoch.min(self.input_frontier()))
    }

    /// A line of the books; counted where it happens, while the epoch is held.
    pub(super) fn line(&mut self, epoch: u64, action: usize) -> &mut Line {
        let actions = self.permits.len();
        &mut self.books.entry(epoch).or_insert_with(|| vec![Line::default(); actions])[action]
    }
}

impl Simulation {
    /// Takes everything volatile away, leaves the rest as a kill or a power cut would, and begins the next run.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        for lane in self.run.flights.clone() {
            // What the kernel already had may still arrive.
            if self.rng.random_bool(0.2) && self.run.lanes[lane].is_trying() {
                self.arrive_at_receiver(lane)?;
            }
        }
        self.promises.crashed(&self.world)?;
        self.files.tear(&mut self.rng);
        let saving = self.run.saving.take();
        if self.rng.random_bool(0.5) {
            self.straggler = saving.map(|save| (self.store.generation, save));
        }
        if self.broken(Mutation::ReplayCounted) {
            for lines in self.run.books.values() {
                self.store.checkpoint.books.iter_mut().zip(lines).for_each(|(total, line)| total.add(line));
            }
        }
        self.start();
        Ok(())
    }

    /// Begins a run: the generation is raised first, everything is restored before the first change is read.
    pub(super) fn start(&mut self) {
        self.store.generation += 1;
        let (cut, remove) = (!self.broken(Mutation::NoCutBack), !self.broken(Mutation::StrangersKept));
        self.files.resume(&self.store.checkpoint.files, cut, remove);
        let (workers, actions) = (self.rng.random_range(1..=4), self.world.actions.len());
        let saved = self.store.checkpoint.epoch;
        // The clock of the next run, perhaps of another machine, may stand behind.
        let clock = (self.run.clock + self.rng.random_range(0..40)).saturating_sub(20);
        let minted = if self.broken(Mutation::EpochFromClock) { clock } else { clock.max(saved + 1) };
        let readers = self.world.partitions.iter().zip(&self.store.checkpoint.mark).map(|(partition, mark)| {
            let token = mark.clone();
            Reader { ended: partition.is_read(&token), token, holds: minted, ..Reader::default() }
        });
        self.run = Run {
            workers,
            clock,
            minted,
            readers: readers.collect(),
            channels: vec![VecDeque::new(); workers * workers],
            seen: vec![HashMap::new(); workers],
            times: vec![Vec::new(); workers],
            horizon: vec![i64::MIN; workers],
            lanes: (0..workers * actions * self.world.keys).map(|_| Lane::default()).collect(),
            permits: vec![0; actions],
            in_hand: vec![0; workers * actions],
            next_record: self.store.next_record,
            sinks: (0..workers * actions).map(|_| Sink::default()).collect(),
            totals: self.store.checkpoint.books.clone(),
            saved: if self.broken(Mutation::EpochFromClock) { 0 } else { saved },
            ..Run::default()
        };
        for note in &self.store.notes {
            let key = (note.action, note.change.id, note.place);
            self.run.ledger.insert(key, Noted { outcome: note.outcome, met: None });
        }
        if self.broken(Mutation::HeldLoadedLate) {
            self.run.late = self.store.parked.clone();
        } else {
            self.load(self.store.parked.clone());
        }
        self.restore_seen();
    }

    fn load(&mut self, records: Vec<Record>) {
        for (index, record) in records.into_iter().enumerate() {
            let lane = self.lane_of(self.worker_of(record.change), record.action, record.change.key);
            let waiting = Waiting::new(&record, true);
            let line = &mut self.run.lanes[lane].line;
            line.insert(index.min(line.len()), waiting);
        }
    }

    /// A broken run loads its held set at some later time.
    pub(super) fn load_late(&mut self) {
        let late = std::mem::take(&mut self.run.late);
        self.load(late);
    }

    /// The worker where a change's key lives.
    pub(super) fn worker_of(&self, change: Change) -> usize {
        if self.broken(Mutation::RouteById) { change.id % self.run.workers } else { change.key % self.run.workers }
    }

    fn mint(&mut self) -> u64 {
        self.run.minted = self.run.minted.max(self.run.clock);
        self.run.minted
    }

    /// Reads a batch of one partition and sends its changes to the workers of their keys.
    pub(super) fn read(&mut self) {
        let run = &mut self.run;
        let index = self.rng.random_range(0..run.readers.len());
        // One batch is always admitted, however small the limit is.
        if run.readers[index].ended || run.arriving.count() + run.working.count() >= self.world.in_flight {
            return;
        }
        let size = self.rng.random_range(1..=5);
        let batch = self.world.partitions[index].read(&mut run.readers[index].token, size);
        if batch.is_empty() {
            return;
        }
        let epoch = self.mint();
        let poll_is_place = self.broken(Mutation::PositionOfPoll);
        for (nth, change) in batch.into_iter().enumerate() {
            let place = if poll_is_place { (index, self.run.readers[index].polls * 8 + nth) } else { change.place };
            self.report.replays += u64::from(self.promises.read(change));
            self.run.arriving.hold(epoch);
            let to = self.worker_of(change);
            let from = index % self.run.workers;
            self.run.channels[from * self.run.workers + to].push_back(Work { change, place, epoch });
            (0..self.world.actions.len()).for_each(|action| self.run.line(epoch, action).read += 1);
        }
        let reader = &mut self.run.readers[index];
        reader.polls += 1;
        reader.holds = epoch;
        reader.reached.push((epoch, reader.token.clone()));
        reader.ended = self.world.partitions[index].is_read(&reader.token);
    }

    /// An idle reader moves on to the present, so that it does not hold the others back.
    pub(super) fn advance(&mut self) {
        let index = self.rng.random_range(0..self.run.readers.len());
        if !self.run.readers[index].ended {
            self.run.readers[index].holds = self.mint();
        }
    }
}
