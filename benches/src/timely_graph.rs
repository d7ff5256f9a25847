//! The graph in plain timely: what a dataflow of this shape can do here at most, with nothing promised.
//!
//! Records of 48 bytes (id, key, a slice of a block of 250-byte bodies) go by key to a dedup of two generations of a hash set, to an LRU,
//! and to an operator that closes epochs. No parsing, no positions, no ledger, no save: what it forgets in a crash is gone.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashSet};
use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::{Operator, source};
use timely::dataflow::operators::{Capability, Probe};

use crate::in_memory::Shape;
use crate::measure::{Outcome, Stopwatch, Took};

/// Bytes of a body, and bodies in a block.
const BODY: usize = 250;
const BODIES: usize = 1_000;
/// Records of an epoch on each worker, and epochs that may be open.
const EPOCH: u64 = 1_000;
const EPOCHS_MAX: u64 = 256;

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    id: u64,
    key: u64,
    body: Bytes,
}

const _: () = assert!(std::mem::size_of::<Record>() == 48);

/// What came out of the graph.
#[derive(Clone, Copy, Debug, Default)]
pub struct Graphed {
    /// How long it took.
    pub took: Took,
    /// Records that passed the dedup.
    pub passed: u64,
    /// Lookups that found their key.
    pub hits: u64,
}

/// Runs so many records through the graph on so many workers.
///
/// # Errors
/// If a worker fails, or the records that were closed are not those that were sent.
pub fn run(records: u64, workers: usize, shape: Shape) -> Outcome<Graphed> {
    let inputs: Arc<Vec<Vec<(u64, u64)>>> =
        Arc::new((0..workers as u64).map(|worker| ids_and_keys(records / workers as u64, worker, shape)).collect());
    let [passed, hits, closed] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let (all_passed, all_hits, all_closed) = (passed.clone(), hits.clone(), closed.clone());
    let watch = Stopwatch::start();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let input = inputs.clone();
        let (passed, hits, closed) = (all_passed.clone(), all_hits.clone(), all_closed.clone());
        let (index, peers) = (worker.index(), worker.peers());
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            // Epochs below it are closed everywhere; the operator that closes them wakes the source.
            let open_from = Rc::new(Cell::new(0u64));
            let wake = Rc::new(Cell::new(None));
            let (seen_by_source, wake_of_source) = (open_from.clone(), wake.clone());
            let records = source::<u64, CapacityContainerBuilder<Vec<Record>>, _, _>(scope, "Source", move |capability, info| {
                let again = scope.activator_for(info.address.clone());
                wake_of_source.set(Some(scope.activator_for(info.address)));
                let mut capability = Some(capability);
                let (mut at, mut block) = (0, Bytes::new());
                move |output| {
                    let Some(held) = capability.as_mut() else { return };
                    let mine = &input[index];
                    if *held.time() >= seen_by_source.get() + EPOCHS_MAX {
                        return;
                    }
                    {
                        let mut session = output.session(&*held);
                        for (id, key) in mine[at..].iter().take(EPOCH as usize) {
                            if at % BODIES == 0 {
                                block = Bytes::from(vec![0; BODY * BODIES]);
                            }
                            let start = at % BODIES * BODY;
                            session.give(Record { id: *id, key: *key, body: block.slice(start..start + BODY) });
                            at += 1;
                        }
                    }
                    held.downgrade(&(held.time() + 1));
                    if at == mine.len() {
                        capability = None;
                    } else {
                        again.activate();
                    }
                }
            });
            let by_key = |record: &Record| record.key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let by_key =
                records.unary::<CapacityContainerBuilder<Vec<Record>>, _, _, _>(Exchange::new(by_key), "Dedup", |_, _| {
                    let mut generations = [HashSet::<u64>::new(), HashSet::new()];
                    let entries_max = shape.ids / 2 / peers;
                    move |input, output| {
                        input.for_each_stamp(|capability, batches| {
                            let mut session = output.session(&capability);
                            for batch in batches {
                                batch.retain(|record| {
                                    if generations[1].contains(&record.id) || !generations[0].insert(record.id) {
                                        return false;
                                    }
                                    if generations[0].len() == entries_max {
                                        generations.swap(0, 1);
                                        generations[0].clear();
                                    }
                                    true
                                });
                                session.give_container(batch);
                            }
                        });
                    }
                });
            let looked_up = by_key.unary::<CapacityContainerBuilder<Vec<(u64, u64)>>, _, _, _>(Pipeline, "Lookup", |_, _| {
                let entries_max = shape.cached / peers;
                let mut cache = Cache::<u64, u64, _, _, _>::with(
                    entries_max,
                    entries_max as u64,
                    UnitWeighter,
                    DefaultHashBuilder::default(),
                    DefaultLifecycle::default(),
                );
                move |input, output| {
                    input.for_each_stamp(|capability, batches| {
                        let (mut n, mut found, mut length) = (0, 0, 0);
                        for record in batches.flat_map(|batch| batch.drain(..)) {
                            match cache.get(&record.key) {
                                Some(value) => {
                                    found += 1;
                                    length += value;
                                }
                                None => cache.insert(record.key, record.id),
                            }
                            n += 1;
                            length += record.body.len() as u64;
                        }
                        hits.fetch_add(found, Ordering::Relaxed);
                        passed.fetch_add(n, Ordering::Relaxed);
                        output.session(&capability).give((n, std::hint::black_box(length)));
                    });
                }
            });
            let checkpoint = looked_up.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                Exchange::new(|_: &(u64, u64)| 0),
                "Checkpoint",
                move |_, _| {
                    let mut open: BTreeMap<u64, (Capability<u64>, u64)> = BTreeMap::new();
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            let Some(kept) = capability.retain_least(output.output_index()) else { return };
                            let slot = open.entry(*kept.time()).or_insert((kept, 0));
                            slot.1 += batches.flat_map(|batch| batch.drain(..)).map(|(n, _)| n).sum::<u64>();
                        });
                        while let Some(entry) = open.first_entry().filter(|entry| !frontier.less_equal(entry.key())) {
                            closed.fetch_add(entry.remove().1, Ordering::Relaxed);
                        }
                        if let Some(first) = frontier.frontier().first().filter(|first| **first > open_from.get()) {
                            open_from.set(*first);
                            if let Some(source) = wake.take() {
                                source.activate();
                                wake.set(Some(source));
                            }
                        }
                    }
                },
            );
            checkpoint.probe().0
        });
        while !probe.done() {
            worker.step_or_park(None);
        }
    })?;
    for worker in guards.join() {
        worker?;
    }
    let took = watch.took();
    let [passed, hits, closed] = [passed, hits, closed].map(|count| count.load(Ordering::Relaxed));
    if passed != closed || passed > records || passed < records / 2 {
        return Err(format!("of {records} records {passed} passed and {closed} were closed").into());
    }
    Ok(Graphed { took, passed, hits })
}

/// What a worker's source sends: made before the clock starts.
fn ids_and_keys(records: u64, worker: u64, shape: Shape) -> Vec<(u64, u64)> {
    let mut rng = SmallRng::seed_from_u64(worker);
    let mut made: Vec<(u64, u64)> = Vec::with_capacity(records as usize);
    for at in 0..records {
        let next = match shape.copy_of(at, &mut rng) {
            Some(earlier) => made[earlier as usize],
            // Multiplied by an odd number, so that ids are distinct and have no order.
            None => ((worker << 40 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15), shape.looked_up(&mut rng)),
        };
        made.push(next);
    }
    made
}
