//! Dedup with the seen-set in memory: its state moves with the mark.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use super::Dedup;
use super::settled::Settled;
use crate::batches::ForEachEpoch;
use crate::change::Change;
use crate::checkpoint::report::{Oldest, Report};
use crate::checkpoint::store::ChangeHash;
use crate::dedup::seen::{ENTRY, Seen, SeenSet, decode, encode};
use crate::dedup::stats::DedupStats;
use crate::hash::ChangeHasher;
use crate::position::Epoch;
use crate::process::{Process, owns, shard};

/// The operator.
pub(super) fn build<'s>(
    stream: StreamVec<'s, Epoch, Change>,
    process: &Arc<Process>,
    name: &str,
    dedup: &Dedup,
    fan: u64,
) -> (StreamVec<'s, Epoch, Change>, Stream<'s, Epoch, Vec<Report>>) {
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(format!("Dedup {name}"), scope);
    let mut input = builder.new_input(stream, Pipeline);
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

/// Changes whose lines and places are brought into the cache together.
const TOGETHER: usize = 256;

struct Memory {
    seen: SeenSet,
    /// Those of the batch in hand.
    hashes: Vec<ChangeHash>,
    settled: Settled,
}

impl Memory {
    fn restore(process: &Process, name: &str, dedup: &Dedup, index: usize, peers: usize) -> Self {
        let window_ms = dedup.window_ms();
        let mut seen = SeenSet::new(window_ms, dedup.entries.div_ceil(peers));
        for (save, segment) in process.heritage.state().iter().filter(|(_, segment)| segment.operator == name) {
            for (shard, hash, position, time_ms) in decode(&segment.bytes) {
                if owns(u64::from(shard) << 56, index, peers) {
                    seen.see(hash, position, time_ms, Oldest::Save(*save));
                }
            }
        }
        seen.evict(0);
        Memory { seen, hashes: Vec::new(), settled: Settled::restore(process, window_ms) }
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
        let has_passed = match self.settled.judge(hash, position, change.time_ms()) {
            Some(Seen::Duplicate) => return false,
            judged => judged.is_some(),
        };
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
}
