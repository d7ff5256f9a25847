//! Dedup: drops copies of a change, and never the change itself.
//!
//! The seen-set remembers, for each id, the position at which it was *first* seen. The same id elsewhere is a duplicate. The
//! same id at the same position is the change itself, read again after a crash, and passes. A set that remembered only
//! "seen" would drop every change that is read again before it was done: a crash would become a loss.

mod places;
mod ring;
pub mod seen;
pub mod stats;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batches::ForEachEpoch;
use crate::change::Change;
use crate::checkpoint::report::{Oldest, Report};
use crate::checkpoint::store::{Cause, ChangeHash};
use crate::dedup::seen::{ENTRY, Seen, SeenSet, decode, encode};
use crate::dedup::stats::DedupStats;
use crate::hash::ChangeHasher;
use crate::position::{Epoch, Position};
use crate::process::{Process, owns, shard};

/// How long, and how many, ids are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    window: Option<Duration>,
    entries: usize,
}

impl Dedup {
    /// Remembers ids for this long, in the changes' own time, and at most ten million of them.
    pub fn within(window: Duration) -> Self {
        Dedup { window: Some(window), entries: 10_000_000 }
    }

    /// Remembers the latest so many ids, however old.
    pub fn latest(entries: usize) -> Self {
        Dedup { window: None, entries }
    }

    /// Remembers at most so many ids, over all workers. Each takes about 65 bytes. Default of `within`: 10,000,000.
    pub fn at_most(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// Remembers ids for this long; `None`: however old they are.
    pub fn with_window(mut self, window: Option<Duration>) -> Self {
        self.window = window;
        self
    }

    /// How long, and how many, ids are remembered.
    pub fn bounds(&self) -> (Option<Duration>, usize) {
        (self.window, self.entries)
    }
}

impl std::fmt::Display for Dedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.window {
            Some(window) => write!(f, "within {window:?}, at most {} ids", self.entries),
            None => write!(f, "the latest {} ids", self.entries),
        }
    }
}

/// Dedup on a stream that is exchanged by key.
pub trait DedupExt<'s>: Sized {
    /// Lets each change pass once. `name` names its state in the checkpoint and its line in the books; `fan` is the number
    /// of actions a change can reach from here.
    ///
    /// Changes keep their time and their order.
    ///
    /// # Guarantee
    /// A change is dropped only if another change of its id, at another position, has passed within the window. After a crash, a
    /// change that had passed passes again.
    fn dedup(self, process: &Arc<Process>, name: &str, dedup: Dedup, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> DedupExt<'s> for StreamVec<'s, Epoch, Change> {
    fn dedup(self, process: &Arc<Process>, name: &str, dedup: Dedup, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>) {
        let scope = self.scope();
        let mut builder = OperatorBuilder::new(format!("Dedup {name}"), scope);
        let mut input = builder.new_input(self, Pipeline);
        // It acts on data alone: waking it for every step of the frontier would be work for nothing.
        builder.set_notify_for(0, FrontierInterest::Never);
        let (passed_out, passed) = builder.new_output::<Vec<Change>>();
        let (reports_out, reports) = builder.new_output::<Vec<Report>>();
        let mut passed_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(passed_out);
        let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
        let mut memory = Memory::restore(process, name, dedup, scope.index(), scope.peers());
        let duplicates = process.books.line(&format!("duplicate {name}"));
        let stats = process.figures.get_or_make(name, DedupStats::default);
        let mut held = memory.seen.len();
        stats.moved(0, held);
        let (process, worker, name) = (process.clone(), scope.index(), name.to_owned());
        builder.build(move |mut capabilities| {
            let mut at_start = capabilities.pop();
            drop(capabilities);
            move |_frontiers| {
                let mut passed_handle = passed_out.activate();
                let mut reports_handle = reports_out.activate();
                if let Some(capability) = at_start.take() {
                    // Also a worker whose keys never come says what it holds: until all have, no saved state may be forgotten.
                    let (operator, oldest) = (name.clone(), memory.seen.oldest());
                    reports_handle.session(&capability).give(Report::State { operator, worker, bytes: Vec::new(), oldest });
                }
                input.for_each_epoch(|capability, batches| {
                    let Some(epoch) = capability.least().copied() else { return };
                    let mut session = passed_handle.session(&capability);
                    let mut state = Vec::with_capacity(ENTRY * batches.iter().map(Vec::len).sum::<usize>());
                    let mut dropped = 0;
                    for batch in batches {
                        let before = batch.len();
                        memory.hash(batch, &process.hasher);
                        let mut at = 0;
                        batch.retain(|change| {
                            at += 1;
                            memory.passes(change, memory.hashes[at - 1], epoch, &mut state)
                        });
                        dropped += (before - batch.len()) as u64;
                        if !batch.is_empty() {
                            session.give_container(batch);
                        }
                    }
                    memory.seen.evict(process.saved_epoch());
                    stats.moved(held, memory.seen.len());
                    held = memory.seen.len();
                    let mut reports = reports_handle.session(&capability);
                    if dropped > 0 {
                        duplicates.add(dropped);
                        reports.give(Report::Count { line: duplicates.id, n: dropped });
                        process.in_flight.give_back(dropped * fan);
                    }
                    if !state.is_empty() {
                        let oldest = memory.seen.oldest();
                        reports.give(Report::State { operator: name.clone(), worker, bytes: state, oldest });
                    }
                    process.halt.passes("dedup.passed");
                });
            }
        });
        (passed, reports)
    }
}

/// Changes whose lines and places are brought into the cache together.
const TOGETHER: usize = 256;

struct Memory {
    seen: SeenSet,
    /// Those of the batch in hand.
    hashes: Vec<ChangeHash>,
    /// Where changes stand that have an outcome above the mark, or are parked. They have passed, and pass again when they
    /// are read again. One id may stand at several places, each outside the window of the others.
    settled: HashMap<ChangeHash, Vec<Settled>>,
    window_ms: Option<i64>,
}

/// A change that has passed.
#[derive(Clone, Copy)]
struct Settled {
    position: Position,
    /// Its time, where that is known: the ledger does not keep it.
    time_ms: Option<i64>,
}

impl Memory {
    fn restore(process: &Process, name: &str, dedup: Dedup, index: usize, peers: usize) -> Self {
        let window_ms = dedup.window.map(|window| window.as_millis().min(i64::MAX as u128) as i64);
        let mut seen = SeenSet::new(window_ms, dedup.entries.div_ceil(peers));
        for (save, segment) in process.heritage.state().iter().filter(|(_, segment)| segment.operator == name) {
            for (shard, hash, position, time_ms) in decode(&segment.bytes) {
                if owns(u64::from(shard) << 56, index, peers) {
                    seen.see(hash, position, time_ms, Oldest::Save(*save));
                }
            }
        }
        seen.evict(0);
        let parked = process.heritage.parked();
        let parked = parked.iter().filter(|head| head.cause != Cause::Rejected);
        let parked = parked.map(|head| (head.hash, Settled { position: head.position, time_ms: Some(head.time_ms) }));
        let noted = process.heritage.outcomes_by_change().map(|(hash, position)| (hash, Settled { position, time_ms: None }));
        let mut settled: HashMap<ChangeHash, Vec<Settled>> = HashMap::new();
        for (hash, place) in parked.chain(noted) {
            let places = settled.entry(hash).or_default();
            // Several actions may have noted it; its parked record, which comes first, knows its time.
            if places.iter().all(|known| known.position != place.position) {
                places.push(place);
            }
        }
        Memory { seen, hashes: Vec::new(), settled, window_ms }
    }

    /// Hashes a batch, ahead of judging it. Each change is a line in memory that another thread has read, and each hash a
    /// place in a table larger than the cache: taken one change at a time, that would be waited for twice per change.
    fn hash(&mut self, batch: &[Change], hasher: &ChangeHasher) {
        self.hashes.clear();
        for changes in batch.chunks(TOGETHER) {
            let touched = changes.iter().fold(0, |touched, change| touched ^ change.touch());
            std::hint::black_box(touched);
            let start = self.hashes.len();
            self.hashes.extend(changes.iter().map(|change| hasher.hash(change)));
            self.seen.look_ahead(&self.hashes[start..]);
        }
    }

    fn passes(&mut self, change: &Change, hash: ChangeHash, epoch: Epoch, state: &mut Vec<u8>) -> bool {
        let position = change.position();
        let mut has_passed = false;
        if !self.settled.is_empty() {
            match self.judge_settled(hash, position, change.time_ms()) {
                Some(Seen::Duplicate) => return false,
                judged => has_passed = judged.is_some(),
            }
        }
        match self.seen.see(hash, position, change.time_ms(), Oldest::Epoch(epoch)) {
            Seen::New => {
                encode(shard(change.key_hash()) as u8, hash, position, change.time_ms(), state);
                true
            }
            Seen::Again => true,
            // The set may hold more now than when the change passed: on other workers other ids are forgotten.
            Seen::Duplicate => has_passed,
        }
    }

    /// What the outcomes of earlier runs say of a change, if they say anything.
    ///
    /// Places in its own partition only tell whether it is itself: whatever stands before it there is read before it, as it
    /// was in the earlier run, so the seen-set decides as it did then. Another partition may be read later this time, and a
    /// copy there that has passed is the first.
    fn judge_settled(&mut self, hash: ChangeHash, position: Position, time_ms: i64) -> Option<Seen> {
        let places = self.settled.get_mut(&hash)?;
        if let Some(index) = places.iter().position(|place| place.position == position) {
            places.swap_remove(index);
            if places.is_empty() {
                self.settled.remove(&hash);
            }
            return Some(Seen::Again);
        }
        let within = |place: &Settled| match (self.window_ms, place.time_ms) {
            (Some(window), Some(time)) => time_ms.abs_diff(time) <= window as u64,
            _ => true,
        };
        let elsewhere = |place: &&Settled| place.position.partition != position.partition;
        places.iter().filter(elsewhere).any(within).then_some(Seen::Duplicate)
    }
}
