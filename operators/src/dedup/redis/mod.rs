//! Dedup with the seen-set in Redis: asked in batches, in order, while the changes wait and hold their epochs open.
//!
//! The worker's side is here. It never waits: it hands each batch's hashes over and passes the batch on when the answer is there. Answers come in
//! the order of questions, so that a worker's changes keep theirs.

mod desk;
mod entry;
mod written;

use std::collections::VecDeque;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use self::desk::{Ask, Desk};
use self::entry::Item;
use super::Dedup;
use super::seen::{Seen, decode};
use super::settled::Settled;
use super::stats::SeenStats;
use crate::batches::ForEachEpoch;
use crate::change::Change;
use crate::checkpoint::report::{Oldest, Report};
use crate::offload::{Wake, mailbox};
use crate::position::Epoch;
use crate::process::{Process, owns};
use crate::redis::Url;
use crate::why::{Hold, HolderKind};

/// Ids handed over at once when a seen-set moves from the checkpoint to Redis.
const TOGETHER: usize = 1_000;

/// The operator.
pub(super) fn build<'s>(
    stream: StreamVec<'s, Epoch, Change>,
    process: &Arc<Process>,
    name: &str,
    dedup: &Dedup,
    url: &Url,
    fan: u64,
) -> (StreamVec<'s, Epoch, Change>, Stream<'s, Epoch, Vec<Report>>) {
    let scope = stream.scope();
    let worker = scope.index();
    let mut builder = OperatorBuilder::new(format!("Dedup {name}"), scope);
    let wake = Wake::new(scope.worker().sync_activator_for(builder.operator_info().address.to_vec()));
    let mut input = builder.new_input(stream, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Never);
    let (passed_out, passed) = builder.new_output::<Vec<Change>>();
    let (reports_out, reports) = builder.new_output::<Vec<Report>>();
    let mut passed_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(passed_out);
    let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
    let (post, inbox) = mailbox(&wake);
    let stats = process.figures.get_or_make(name, SeenStats::default);
    let was_here = process.heritage.state().iter().any(|(_, segment)| segment.operator == in_redis(name));
    let desk = Desk::new(process, name, worker, dedup, url, post, stats.clone(), was_here);
    let (asks, questions) = unbounded_channel();
    process.runtime.spawn(desk.run(questions));
    let mut side = Side {
        settled: Settled::restore(process, dedup.window_ms()),
        asks,
        pending: VecDeque::new(),
        from_memory: from_memory(process, name, worker, scope.peers()),
    };
    let duplicates = process.books.line(&format!("duplicate {name}"));
    let mut probe = process.probes.register("dedup", name, worker, &wake);
    let (process, name) = (process.clone(), name.to_owned());
    builder.build(move |mut capabilities| {
        let mut at_start = capabilities.pop();
        drop(capabilities);
        move |_frontiers| {
            wake.ran();
            let mut passed_handle = passed_out.activate();
            let mut reports_handle = reports_out.activate();
            if let Some(capability) = at_start.take() {
                side.begin(capability);
            }
            input.for_each_epoch(|capability, batches| {
                let Some(epoch) = capability.least().copied() else { return };
                let (Some(passed), Some(reports)) = (capability.retain_least(0), capability.retain_least(1)) else { return };
                for batch in batches {
                    side.ask(std::mem::take(batch), epoch, (&passed, &reports), &process);
                }
            });
            for answer in inbox.drain() {
                match side.pending.pop_front() {
                    Some(Pending::Batch { mut batch, passed, reports, mut dropped }) => {
                        let before = batch.len();
                        let mut passes = answer.into_iter();
                        batch.retain(|_| passes.next().unwrap_or(true));
                        dropped += (before - batch.len()) as u64;
                        if !batch.is_empty() {
                            passed_handle.session(&passed).give_container(&mut batch);
                        }
                        if dropped > 0 {
                            duplicates.add(dropped);
                            reports_handle.session(&reports).give(Report::Count { line: duplicates.id, n: dropped });
                            process.in_flight.give_back(dropped * fan);
                        }
                        process.halt.passes("dedup.passed");
                    }
                    Some(Pending::Start(capability)) => {
                        // What the checkpoint held stands in Redis now, and the checkpoint remembers that Redis was told.
                        let mut session = reports_handle.session(&capability);
                        let oldest = Oldest::Epoch(*capability.time());
                        session.give(Report::State { operator: in_redis(&name), worker, bytes: vec![1], oldest });
                        let oldest = Oldest::Empty;
                        session.give(Report::State { operator: name.clone(), worker, bytes: Vec::new(), oldest });
                    }
                    Some(Pending::Told) | None => {}
                }
            }
            probe.answer(|| side.oldest(&stats));
        }
    });
    (passed, reports)
}

/// Under which name the checkpoint remembers that the ids of a dedup are in Redis.
fn in_redis(name: &str) -> String {
    format!("{name} in Redis")
}

/// What the checkpoint holds of a dedup that was in memory so far.
fn from_memory(process: &Process, name: &str, worker: usize, peers: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for (_, segment) in process.heritage.state().iter().filter(|(_, segment)| segment.operator == name) {
        let ours = decode(&segment.bytes).filter(|(shard, ..)| owns(u64::from(*shard) << 56, worker, peers));
        items.extend(ours.map(|(_, hash, position, time_ms)| Item { hash, position, time_ms, has_passed: true }));
    }
    items
}

/// What a worker has asked and not yet heard, and what it knows itself.
struct Side {
    settled: Settled,
    asks: UnboundedSender<Ask>,
    pending: VecDeque<Pending>,
    from_memory: Vec<Item>,
}

enum Pending {
    /// Changes that wait for their answer.
    Batch { batch: Vec<Change>, passed: Capability<Epoch>, reports: Capability<Epoch>, dropped: u64 },
    /// Ids from the checkpoint; more follow.
    Told,
    /// The last of them.
    Start(Capability<Epoch>),
}

impl Side {
    /// Hands over what the checkpoint holds, before the first change.
    fn begin(&mut self, capability: Capability<Epoch>) {
        let items = std::mem::take(&mut self.from_memory);
        let epoch = *capability.time();
        for items in items.chunks(TOGETHER) {
            self.pending.push_back(Pending::Told);
            let _ = self.asks.send(Ask { epoch, items: items.to_vec() });
        }
        self.pending.push_back(Pending::Start(capability));
        let _ = self.asks.send(Ask { epoch, items: Vec::new() });
    }

    /// Asks about a batch. What earlier runs say is a duplicate is dropped without asking.
    fn ask(
        &mut self,
        mut batch: Vec<Change>,
        epoch: Epoch,
        (passed, reports): (&Capability<Epoch>, &Capability<Epoch>),
        process: &Process,
    ) {
        let before = batch.len();
        let mut items = Vec::with_capacity(before);
        batch.retain(|change| {
            let (hash, position, time_ms) = (process.hasher.hash(change), change.position(), change.time_ms());
            let judged = self.settled.judge(hash, position, time_ms);
            if judged == Some(Seen::Duplicate) {
                return false;
            }
            items.push(Item { hash, position, time_ms, has_passed: judged.is_some() });
            true
        });
        let dropped = (before - batch.len()) as u64;
        self.pending.push_back(Pending::Batch { batch, passed: passed.clone(), reports: reports.clone(), dropped });
        // Nobody to ask: the process ends.
        let _ = self.asks.send(Ask { epoch, items });
    }

    /// The change that holds the oldest epoch here.
    fn oldest(&self, stats: &SeenStats) -> Option<Hold> {
        let pending = self.pending.iter().find_map(|pending| match pending {
            Pending::Batch { batch, passed, .. } => Some((batch.first(), *passed.time())),
            Pending::Told => None,
            Pending::Start(capability) => Some((None, *capability.time())),
        });
        let (change, epoch) = pending?;
        let mut hold = Hold::new(epoch, HolderKind::Dedup);
        hold.change = change.map(|change| (change.key().to_owned(), change.id().to_owned()));
        if let Some((since, trouble)) = stats.away() {
            (hold.since, hold.trouble) = (since, Some(trouble));
        }
        Some(hold)
    }
}
