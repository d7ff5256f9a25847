//! Ingest: a source becomes a stream. Here epochs are made, reading is paced, and every batch is bound to its resume token.
//!
//! Each worker has a thread that reads the partitions dealt to it and hands whole batches over. The operator stamps a
//! batch with the current epoch, emits it, and reports the batch's resume token under the same epoch: when the frontier
//! has passed the epoch at the checkpoint, everything before that token is done.

pub(crate) mod discovery;
mod reader;
pub mod source;
pub mod stats;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::TryRecvError;
use hashbrown::HashSet;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};

use crate::books::{Books, Line};
use crate::change::Change;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::report::Report;
use crate::checkpoint::store::{Cause, Parked};
use crate::ingest::stats::ReaderStats;
use crate::offload::{Wake, mailbox};
use crate::position::{Epoch, Position};
use crate::process::Process;
use crate::why::Hold;
pub use source::{Batch, OrderOf, Partition, Read, Reader, Rejected, Source};

/// By epoch, how many rejected lines are on their way to the store.
type Parking = BTreeMap<Epoch, (Capability<Epoch>, usize)>;

/// Batches emitted before the operators behind have their turn. Few: what was just read is then still in the cache when it
/// is looked at, and the frontier follows closely.
const BATCHES_PER_TURN: usize = 4;

/// The lines of a source in the books.
#[derive(Clone, Debug)]
pub struct SourceLines {
    /// Everything that was read, rejected lines included.
    pub read: Line,
    /// What was read and is no change.
    pub rejected: Line,
}

impl SourceLines {
    /// The lines of the source of this name.
    pub fn new(books: &Books, source: &str) -> Self {
        SourceLines { read: books.line(&format!("read {source}")), rejected: books.line(&format!("rejected {source}")) }
    }
}

/// Reads the partitions of a source that are dealt to this worker. `fan` is the number of actions a change can reach. As long as
/// the source may still get partitions, every worker keeps its capability: a new one may become its own.
///
/// # Guarantee
/// A change is emitted under an epoch that stays open, here, until every rejected line read with it is parked durably.
pub fn ingest<'s>(
    scope: Scope<'s, Epoch>,
    process: &Arc<Process>,
    name: &str,
    source: Arc<dyn Source>,
    partitions: &[Partition],
    fan: u64,
) -> (StreamVec<'s, Epoch, Change>, Stream<'s, Epoch, Vec<Report>>) {
    let mut builder = OperatorBuilder::new(format!("Source {name}"), scope);
    let (changes_out, changes) = builder.new_output::<Vec<Change>>();
    let (reports_out, reports) = builder.new_output::<Vec<Report>>();
    let mut changes_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(changes_out);
    let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
    let info = builder.operator_info();
    let wake = Wake::new(scope.worker().sync_activator_for(info.address.to_vec()));
    let again = scope.activator_for(info.address);
    let lines = SourceLines::new(&process.books, name);
    let mine: Vec<Partition> =
        partitions.iter().filter(|partition| process.cluster.place().reader_of(partition.id) == scope.index()).cloned().collect();
    let (process, index) = (process.clone(), scope.index());
    let source_name = name.to_owned();
    builder.build(move |mut capabilities| {
        let reports_capability = capabilities.pop();
        let mut held = capabilities.pop().zip(reports_capability);
        let stats = process.figures.get_or_make(&format!("{source_name}/{index}"), || ReaderStats::new(&source_name, index));
        let mut probe = process.probes.register("source", &source_name, index, &wake);
        let new = discovery::new_partitions(&process, &source_name, &source, index);
        let batches = reader::start(&process, source, mine, new, wake.clone(), fan, stats);
        process.clock.register(wake.clone());
        let (parked_post, parked_inbox) = mailbox::<(Epoch, usize)>(&wake);
        let mut parking = Parking::new();
        let parked_heads = process.heritage.parked();
        let rejected_heads = parked_heads.iter().filter(|head| head.cause == Cause::Rejected);
        let mut parked_before: HashSet<Position> = rejected_heads.map(|head| head.position).collect();
        drop(parked_heads);
        let keeper = process.keeper.clone();
        // Parks rejected lines. Their epoch is held until they are durable.
        let mut park = move |rejected: Vec<Rejected>, epoch, capability: &Capability<Epoch>, parking: &mut Parking| {
            // What is read again after a crash may stand parked already.
            let new = rejected.into_iter().filter(|rejected| !parked_before.remove(&rejected.position));
            let parked: Vec<Parked> = new.map(|rejected| rejected.into_parked(&source_name)).collect();
            let (records, post) = (parked.len(), parked_post.clone());
            if records > 0 {
                parking.entry(epoch).or_insert_with(|| (capability.clone(), 0)).1 += records;
                keeper.commit(Drafts { parked, ..Drafts::default() }, move |_| {
                    post.send((epoch, records));
                });
            }
        };
        let mut ended = false;
        // Whether the current epoch has data, and so must be left as soon as the clock allows.
        let mut used = false;
        move |_frontiers| {
            wake.ran();
            if process.halt.is_halted() {
                held = None;
                parking.clear();
                return;
            }
            for (epoch, records) in parked_inbox.drain() {
                let (_, left) = parking.get_mut(&epoch).expect("an epoch with rejected lines on their way is held");
                *left -= records;
                if *left == 0 {
                    parking.remove(&epoch);
                }
            }
            // Rejected lines on their way to the store are all that holds an epoch here.
            probe.answer(|| parking.keys().next().map(|epoch| Hold::of_noted(*epoch, &process)));
            let Some((for_changes, for_reports)) = held.as_mut() else { return };
            let mut changes_handle = changes_out.activate();
            let mut reports_handle = reports_out.activate();
            let mut epoch = *for_changes.time();
            let mut left_used = false;
            for turn in 0.. {
                if turn == BATCHES_PER_TURN {
                    again.activate();
                    break;
                }
                let now = process.clock.mint();
                if now > epoch {
                    left_used |= std::mem::take(&mut used);
                    for_changes.downgrade(&now);
                    for_reports.downgrade(&now);
                    epoch = now;
                }
                let batch = match batches.try_recv() {
                    Ok(batch) => batch,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        ended = true;
                        break;
                    }
                };
                used = true;
                let Batch { mut changes, rejected, token, partition, bytes, caught_up } = batch;
                let n = (changes.len() + rejected.len()) as u64;
                lines.read.add(n);
                process.stats.changes_read.fetch_add(n, Ordering::Relaxed);
                process.stats.bytes_read.fetch_add(bytes, Ordering::Relaxed);
                let mut reports = reports_handle.session(&*for_reports);
                reports.give(Report::Read { partition, token });
                reports.give(Report::Count { line: lines.read.id, n });
                if caught_up {
                    reports.give(Report::CaughtUp { partition });
                }
                if !rejected.is_empty() {
                    let records = rejected.len();
                    reports.give(Report::Count { line: lines.rejected.id, n: records as u64 });
                    lines.rejected.add(records as u64);
                    process.in_flight.give_back(records as u64 * fan);
                    park(rejected, epoch, for_reports, &mut parking);
                }
                if !changes.is_empty() {
                    changes_handle.session(&*for_changes).give_container(&mut changes);
                }
                if process.halt.passes("ingest.emitted") {
                    return;
                }
            }
            if left_used {
                // The others are woken so that they leave the epoch too; otherwise it would stay open until they had data.
                process.clock.wake_all();
                process.cluster.left(epoch);
            }
            if used {
                // The epoch is left one clock step later, however quiet the source is by then.
                again.activate_after(Duration::from_millis(1));
            }
            if ended && process.may_end() {
                held = None;
            } else if ended {
                // What is under way may yet be set aside for lack of room, and is then taken up again by this run.
                again.activate_after(Duration::from_millis(5));
            }
        }
    });
    (changes, reports)
}
