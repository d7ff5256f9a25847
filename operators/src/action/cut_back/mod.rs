//! Files as an action: written past the mark, cut back to it on resume, so that nothing in them is ever doubled or lost.
//!
//! A worker encodes changes into one buffer per epoch. When the frontier has passed an epoch, its buffer goes to the
//! writing thread, in the order of epochs; so at the end of each epoch the file's length stands for exactly the changes
//! below that epoch. A save takes, for its frontier, the length at that epoch's end, after a sync. Length and outcomes are
//! one value, and no outcome of such an action needs a note. Saved apart (a length here, a list of outcomes there), a crash
//! between the two loses or doubles lines.

mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashSet;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Stream, StreamVec};

use crate::action::again::{Again, Examiner, Reloaded};
use crate::action::gate::{Gate, Verdict};
use crate::action::operator::{ActionLines, Command, CommandKind, Obeyed};
use crate::action::parking::{Announced, Failure, Parking, failed_again};
use crate::action::spec::{ActionSpec, Kind};
use crate::action::stats::ActionStats;
use crate::batches::ForEachEpoch;
use crate::change::Change;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::report::Report;
use crate::checkpoint::store::{Cause, CutBackFile, Note, Outcome, Parked, ParkedId, Resolution, Resolved};
use crate::error::Result;
use crate::filter::Filters;
use crate::guard::panic::guarded;
use crate::metrics::ACTION_DURATION;
use crate::offload::{Post, Wake, mailbox};
use crate::parked::edited;
use crate::position::Epoch;
use crate::process::Process;
use crate::why::Hold;

pub use self::writer::SinkWriter;

/// A sink that writes files which are cut back on resume.
///
/// # Guarantee
/// After any crash, each change is in the files exactly once.
pub trait CutBackSink: Send + Sync + 'static {
    /// Before a run starts: cuts every file that the checkpoint names to its length and removes what earlier runs wrote
    /// besides. Cut files are never written again. `generation` is the number of the run that starts.
    fn cut_back(&self, files: &[CutBackFile], generation: u64) -> Result;

    /// A new output of this generation for one worker. Nothing is created before the first bytes come.
    fn open(&self, generation: u64, worker: usize) -> Result<Box<dyn CutBackOutput>>;

    /// Appends what is to be written for a change. Runs on the worker: it must not block.
    fn encode(&self, change: &Change, to: &mut Vec<u8>) -> Result;

    /// Where its files are, for people.
    fn place(&self) -> String;
}

/// One file of a [`CutBackSink`].
pub trait CutBackOutput: Send {
    /// The file's path, as the checkpoint is to name it.
    fn path(&self) -> String;

    /// Appends bytes, creating the file if there is none.
    fn append(&mut self, bytes: &[u8]) -> Result;

    /// A second handle that makes everything appended so far durable. Asked for after the first append.
    fn syncer(&mut self) -> Result<Syncer>;
}

/// Makes what was appended durable.
pub type Syncer = Box<dyn Fn() -> Result + Send + Sync>;

/// What comes to the operator from other threads.
enum Mail {
    /// Parked records of an epoch are durable.
    Stored(Epoch, usize),
    Command(Command),
    Reloaded(Reloaded),
    /// A record was replaced, durably.
    Edited(ParkedId),
}

/// What one epoch has brought so far.
struct Open {
    capability: Capability<Epoch>,
    bytes: Vec<u8>,
    changes: u64,
    delivered: u64,
    filtered: u64,
    parked: u64,
    /// Parked records on their way to the store: the epoch stays open until they are durable.
    pending: usize,
    /// What ended here: notes of earlier runs that were met, parked records that were settled.
    ended: Vec<Report>,
    handed_over: bool,
}

/// Writes a stream of changes to the files of an action.
pub(crate) fn write<'s>(
    stream: StreamVec<'s, Epoch, Change>,
    process: &Arc<Process>,
    spec: &Arc<ActionSpec>,
    lines: ActionLines,
    filters: Filters,
) -> Stream<'s, Epoch, Vec<Report>> {
    let Kind::CutBack(sink) = &spec.kind else { unreachable!("only called for cut-back sinks") };
    let (process, spec, sink, scope) = (process.clone(), spec.clone(), sink.clone(), stream.scope());
    let name = format!("Action {}", spec.name);
    stream.unary_frontier::<CapacityContainerBuilder<Vec<Report>>, _, _, _>(Pipeline, &name, move |capability, info| {
        let wake = Wake::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let (post, inbox) = mailbox::<Mail>(&wake);
        Command::receive(&process, &spec.name, scope.index(), post.map(Mail::Command));
        let examiner = Examiner { process: process.clone(), filters, post: post.map(Mail::Reloaded) };
        let mut in_hand: HashSet<ParkedId> = HashSet::new();
        // Follows the frontier, and so holds nothing back: a parked change that is written after all needs an epoch to be
        // written under, whatever comes from the source.
        let mut standing = Some(capability);
        let output = match sink.open(process.generation, scope.index()) {
            Ok(output) => {
                Some(process.sink_writer.open(&spec.name, output, process.metrics.histogram(&ACTION_DURATION, &spec.name)))
            }
            Err(error) => {
                process.halt.fail(error);
                None
            }
        };
        let mut gate = Gate::new(&process, &spec);
        let mut open: BTreeMap<Epoch, Open> = BTreeMap::new();
        let mut probe = process.probes.register("action", &spec.name, scope.index(), &wake);
        let stats = process.figures.get_or_make(&spec.name, ActionStats::default);
        let number = process.heritage.actions.get(&spec.name).copied().unwrap_or_default();
        move |(input, frontier), out| {
            wake.ran();
            if process.halt.is_halted() {
                standing = None;
                return;
            }
            input.for_each_epoch(|capability, batches| {
                let Some(capability) = capability.retain_least(out.output_index()) else { return };
                let epoch = *capability.time();
                let slot = open.entry(epoch).or_insert_with(|| Open::new(capability));
                let (mut drafts, mut announced, mut parked) = (Drafts::default(), Announced::default(), 0);
                for batch in batches {
                    slot.changes += batch.len() as u64;
                    gate.judge(batch, |change, verdict| {
                        let verdict = match verdict {
                            Verdict::Deliver => encode(&*sink, &change, &mut slot.bytes, &process, &spec),
                            other => other,
                        };
                        match verdict {
                            Verdict::Deliver => slot.delivered += 1,
                            Verdict::Filtered => slot.filtered += 1,
                            Verdict::Met(hash, _) => {
                                slot.parked += 1;
                                slot.ended.push(Report::Met { action: number, change: hash, position: change.position() });
                            }
                            Verdict::Park(hash, cause, error) => {
                                drafts.notes.push(Note {
                                    action: number,
                                    change: hash,
                                    position: change.position(),
                                    epoch,
                                    outcome: Outcome::Parked,
                                });
                                let parking = Parking { change: &change, hash, attempts: 1, earlier: None };
                                let record = parking.record(&process, &spec, Failure::new(cause, error));
                                announced.add(&spec, &mut drafts, record, None);
                                parked += 1;
                            }
                        }
                    });
                }
                if parked > 0 {
                    slot.parked += parked as u64;
                    slot.pending += parked;
                    let (post, own, spec) = (post.clone(), process.clone(), spec.clone());
                    process.keeper.commit(drafts, move |ids| {
                        announced.pass_on(&own, &spec, &ids);
                        post.send(Mail::Stored(epoch, parked));
                    });
                }
            });
            for mail in inbox.drain() {
                let again = match mail {
                    Mail::Stored(epoch, parked) => {
                        open.get_mut(&epoch).expect("an epoch with parked changes pending is open").pending -= parked;
                        continue;
                    }
                    Mail::Edited(id) => {
                        if in_hand.remove(&id) {
                            process.out_of_hand();
                        }
                        continue;
                    }
                    Mail::Reloaded(reloaded) => examiner.reloaded(reloaded, &gate),
                    Mail::Command(Command { parked, done, .. }) if in_hand.contains(&parked.id) => {
                        done(Obeyed::UnderWay);
                        continue;
                    }
                    Mail::Command(Command { parked, kind: CommandKind::Edit(row), done }) => {
                        match edited(&parked, &row) {
                            Err(why) => done(Obeyed::Refused(why)),
                            Ok(record) => {
                                in_hand.insert(record.id);
                                process.in_hand();
                                let (post, id) = (post.clone(), record.id);
                                let drafts = Drafts { parked: vec![record], ..Drafts::default() };
                                process.keeper.commit(drafts, move |_| {
                                    post.send(Mail::Edited(id));
                                    done(Obeyed::Done);
                                });
                            }
                        }
                        continue;
                    }
                    Mail::Command(Command { parked, kind, done }) => {
                        in_hand.insert(parked.id);
                        process.add_backlog(1);
                        process.in_hand();
                        done(Obeyed::Done);
                        match kind {
                            CommandKind::Drop => Again::Filtered(parked),
                            _ => examiner.examine(parked, &gate),
                        }
                    }
                };
                // The end of a record goes into the checkpoint together with the length that holds its line.
                let (parked, resolution) = match again {
                    Again::Asked => continue,
                    Again::Failed(parked, failure) => {
                        replace(&process, &spec, &post, parked, failure);
                        continue;
                    }
                    Again::Ready(parked) => (parked, Resolution::Delivered),
                    Again::Filtered(parked) => (parked, Resolution::Dropped),
                };
                let Some(capability) = standing.as_ref() else { continue };
                let slot = open.entry(*capability.time()).or_insert_with(|| Open::new(capability.clone()));
                if resolution == Resolution::Delivered
                    && let Verdict::Park(_, cause, error) = encode(&*sink, &parked.change, &mut slot.bytes, &process, &spec)
                {
                    replace(&process, &spec, &post, parked, Failure::new(cause, error));
                    continue;
                }
                // What ends stays among those in hand until the checkpoint has it, so that nobody ends it twice.
                slot.ended.push(Report::Ended(Resolved { id: parked.id, action: parked.action, resolution }));
                process.out_of_hand();
                process.settle_backlog(1);
            }
            match (frontier.frontier().first(), &mut standing) {
                (Some(epoch), Some(standing)) if epoch > standing.time() => standing.downgrade(epoch),
                (None, _) => standing = None,
                _ => {}
            }
            // Hand over what the frontier has closed, in the order of epochs; then let go of what is settled too.
            for (epoch, slot) in open.range_mut(..) {
                if frontier.less_equal(epoch) {
                    break;
                }
                if !std::mem::replace(&mut slot.handed_over, true) {
                    if let Some(output) = output.filter(|_| !slot.bytes.is_empty()) {
                        process.sink_writer.append(output, std::mem::take(&mut slot.bytes), *epoch, slot.changes);
                    } else {
                        process.in_flight.give_back(slot.changes);
                    }
                }
            }
            // Lines wait for the frontier, so only parked changes on their way to the store can hold it up.
            probe.answer(|| {
                let held = open.iter().find(|(_, slot)| slot.handed_over && slot.pending > 0);
                held.map(|(epoch, _)| Hold::of_noted(*epoch, &process))
            });
            open.retain(|_, slot| {
                if !slot.handed_over || slot.pending > 0 {
                    return true;
                }
                let mut session = out.session(&slot.capability);
                stats.called.fetch_add(slot.delivered, Ordering::Relaxed);
                lines.count(&mut |report| session.give(report), slot.delivered, slot.filtered, slot.parked);
                session.give_iterator(slot.ended.drain(..));
                false
            });
        }
    })
}

impl Open {
    fn new(capability: Capability<Epoch>) -> Self {
        Open {
            capability,
            bytes: Vec::new(),
            changes: 0,
            delivered: 0,
            filtered: 0,
            parked: 0,
            pending: 0,
            ended: Vec::new(),
            handed_over: false,
        }
    }
}

/// A parked change has failed again: its record says so, and another command may come once that is durable.
fn replace(process: &Arc<Process>, spec: &ActionSpec, post: &Post<Mail>, parked: Parked, failure: Failure) {
    let parked = failed_again(process, spec, parked, failure);
    let (post, own, id) = (post.clone(), process.clone(), parked.id);
    process.keeper.commit(Drafts { parked: vec![parked], ..Drafts::default() }, move |_| {
        post.send(Mail::Edited(id));
        own.settle_backlog(1);
    });
}

/// Encodes one change. What cannot be encoded leaves no trace in the buffer and is parked.
fn encode(sink: &dyn CutBackSink, change: &Change, to: &mut Vec<u8>, process: &Process, spec: &ActionSpec) -> Verdict {
    let length = to.len();
    let (cause, error) = match guarded(|| sink.encode(change, to)) {
        Ok(Ok(())) => return Verdict::Deliver,
        Ok(Err(error)) => (Cause::Failed, error.to_string()),
        Err(panic) => (Cause::Panicked, panic),
    };
    to.truncate(length);
    Verdict::Park(process.hasher.hash(change), cause, format!("{}: {error}", spec.name))
}
