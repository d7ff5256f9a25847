//! The side of an action that runs on a worker: order per key, permits, epochs, room.
//!
//! A change holds its key, a permit and its epoch until its outcome is *durably noted*, not until the answer is there.
//! Given back at the answer, a crash between answer and note would repeat a change after a later one of its key, and more
//! changes than there are permits.

mod aside;
mod command;
mod held;
mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use slab::Slab;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Stream, StreamVec};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

pub(crate) use self::command::announce;
pub use self::command::{Command, CommandKind, Obeyed};
use crate::action::again::{Examiner, Reloaded};
use crate::action::call::{Delivery, Earlier, Scope};
use crate::action::driver::{Answer, Called, Driver, Job};
use crate::action::gate::{Gate, Verdict};
use crate::action::handover::Handover;
use crate::action::keys::Keys;
use crate::action::spec::{ActionSpec, Kind};
use crate::action::spill::{Spill, Waiting};
use crate::action::stats::ActionStats;
use crate::action::waits::Waits;
use crate::batches::ForEachEpoch;
use crate::books::{Books, Line};
use crate::change::Change;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::report::Report;
use crate::checkpoint::store::{Cause, ChangeHash, Note, Outcome, Parked, ParkedId};
use crate::epoch::unix_ms;
use crate::filter::Filters;
use crate::offload::{Post, Wake, mailbox};
use crate::position::Epoch;
use crate::process::{Process, owns};

/// The lines of one action in the books.
#[derive(Clone, Debug)]
pub(crate) struct ActionLines {
    filtered: Line,
    delivered: Line,
    parked: Line,
}

impl ActionLines {
    pub(crate) fn new(books: &Books, action: &str) -> Self {
        let line = |what| books.line(&format!("{what} {action}"));
        ActionLines { filtered: line("filtered"), delivered: line("delivered"), parked: line("parked") }
    }

    pub(crate) fn ids(&self) -> [u16; 3] {
        [self.filtered.id, self.delivered.id, self.parked.id]
    }

    /// Counts live and reports, in one.
    pub(crate) fn count(&self, give: &mut dyn FnMut(Report), delivered: u64, filtered: u64, parked: u64) {
        for (line, n) in [(&self.delivered, delivered), (&self.filtered, filtered), (&self.parked, parked)] {
            line.add(n);
            if n > 0 {
                give(Report::Count { line: line.id, n });
            }
        }
    }
}

/// What one action shares among the workers of a process.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub permits: Arc<Semaphore>,
    /// Changes this action may hold of the window on one worker; what exceeds it is set aside. `None`: it has the window.
    pub share: Option<usize>,
    /// Whether ids are unique before this action, because a dedup stands upstream.
    pub unique_ids: bool,
    /// The filters before this action.
    pub filters: Filters,
}

struct Task {
    change: Change,
    epoch: Epoch,
    key: u64,
    /// The parked record it was taken up from, or that was made of it while it was called.
    resolves: Option<ParkedId>,
    /// What is known of it from that record, if it was taken up.
    earlier: Option<Arc<Earlier>>,
    /// There is one from the moment the change is handed over.
    handover: Option<Handover>,
    /// Whether it was set aside while it was called: its record is durable, or on its way.
    is_aside: bool,
    /// What the call came to, while the record is on its way.
    called: Option<Box<Called>>,
}

impl Task {
    fn new(change: Change, epoch: Epoch) -> Self {
        let key = change.key_hash();
        Task { change, epoch, key, resolves: None, earlier: None, handover: None, is_aside: false, called: None }
    }

    fn hash(&self, process: &Process) -> ChangeHash {
        self.earlier.as_ref().map_or_else(|| process.hasher.hash(&self.change), |earlier| earlier.hash)
    }
}

struct Open {
    capability: Capability<Epoch>,
    pending: usize,
    delivered: u64,
    filtered: u64,
    parked: u64,
    met: Vec<Report>,
}

/// What comes to the operator from other threads.
enum Mail {
    Answers(Vec<Answer>),
    Stored(Epoch, Vec<Waiting>),
    /// The record of a change that is being called is durable.
    StoredCalled(usize, ParkedId),
    Taken(Vec<Waiting>, Vec<Parked>),
    Command(Command),
    Reloaded(Reloaded),
    /// A record that was set aside for this action, a hook, is durable.
    Announced(Waiting),
    /// A command is carried out, durably: another one may come.
    Obeyed(ParkedId),
}

/// Delivers a stream of changes to an action that is called.
pub(crate) fn deliver<'s>(
    stream: StreamVec<'s, Epoch, Change>,
    process: &Arc<Process>,
    spec: &Arc<ActionSpec>,
    lines: ActionLines,
    bounds: Bounds,
) -> Stream<'s, Epoch, Vec<Report>> {
    let (process, spec, scope) = (process.clone(), spec.clone(), stream.scope());
    let name = format!("Action {}", spec.name);
    stream.unary::<CapacityContainerBuilder<Vec<Report>>, _, _, _>(Pipeline, &name, move |_capability, info| {
        let wake = Wake::new(scope.worker().sync_activator_for(info.address.to_vec()));
        let again = scope.activator_for(info.address);
        let (post, inbox) = mailbox::<Mail>(&wake);
        let mut desk = Desk::new(&process, &spec, lines, bounds, post, scope.index());
        let mut probe = process.probes.register("action", &spec.name, scope.index(), &wake);
        let mut checked = unix_ms();
        move |input, out| {
            wake.ran();
            if process.halt.is_halted() {
                return;
            }
            desk.is_slow = desk.waits.are_for_calls();
            input.for_each_epoch(|capability, batches| {
                let Some(capability) = capability.retain_least(out.output_index()) else { return };
                desk.arrive(capability, batches);
            });
            for mail in inbox.drain() {
                desk.open_mail(mail);
            }
            let now = process.clock.unix_ms();
            if now.saturating_sub(checked) >= 100 {
                checked = now;
                desk.spill_overdue();
            }
            desk.spill_excess();
            desk.dispatch();
            desk.take_up();
            desk.close_epochs(|capability, reports| out.session(capability).give_iterator(reports));
            probe.answer(|| desk.oldest());
            if !desk.tasks.is_empty() {
                again.activate_after(process.clock.look_again(desk.patience()));
            }
        }
    })
}

/// One action's desk on one worker.
struct Desk {
    process: Arc<Process>,
    spec: Arc<ActionSpec>,
    number: u16,
    lines: ActionLines,
    bounds: Bounds,
    post: Post<Mail>,
    jobs: UnboundedSender<Vec<Job>>,
    stats: Arc<ActionStats>,
    waits: Waits,
    /// Whether the action is slow: its changes wait for its calls more than for the store. Looked at once a run.
    is_slow: bool,
    /// Handovers that nobody uses.
    spare: Vec<Handover>,
    gate: Gate,
    tasks: Slab<Task>,
    keys: Keys,
    ready: VecDeque<usize>,
    running: usize,
    /// Transactions under way.
    transactions: usize,
    open: BTreeMap<Epoch, Open>,
    spill: Spill,
    taking_up: bool,
    /// Records that are being read to be taken up.
    taking: HashSet<ParkedId>,
    /// Tasks whose change is a parked record, or becomes one: they are not what the window is for.
    records: usize,
    examiner: Examiner,
    /// Parked records that a person's command is being carried out on, so that a second command does nothing.
    in_hand: HashSet<ParkedId>,
    /// Of these, records that went behind a held key, from where they are taken up by themselves.
    in_line: HashSet<ParkedId>,
}

impl Desk {
    fn new(
        process: &Arc<Process>,
        spec: &Arc<ActionSpec>,
        lines: ActionLines,
        bounds: Bounds,
        post: Post<Mail>,
        index: usize,
    ) -> Self {
        let number = process.heritage.actions.get(&spec.name).copied().unwrap_or_default();
        let workers = process.cluster.place().peers();
        let mut spill = Spill::default();
        let heads = process.heritage.parked();
        let mine = heads.iter().filter(|head| head.action == spec.name && owns(head.key_hash, index, workers));
        process.add_backlog(spill.restore(mine, spec.hold));
        let command = post.clone();
        Command::receive(process, &spec.name, index, command.map(Mail::Command));
        command::receive_announcements(process, &spec.name, index, command.map(Mail::Announced));
        let examiner = Examiner { process: process.clone(), filters: bounds.filters.clone(), post: post.map(Mail::Reloaded) };
        let driver = Driver::new(process, spec, number, &bounds.permits, post.map(Mail::Answers));
        Desk {
            gate: Gate::new(process, spec),
            stats: driver.stats.clone(),
            waits: driver.waits.clone(),
            is_slow: false,
            spare: Vec::new(),
            process: process.clone(),
            spec: spec.clone(),
            number,
            lines,
            bounds,
            jobs: driver.start(),
            post,
            tasks: Slab::new(),
            keys: Keys::default(),
            ready: VecDeque::new(),
            running: 0,
            transactions: 0,
            open: BTreeMap::new(),
            spill,
            taking_up: false,
            taking: HashSet::new(),
            records: 0,
            examiner,
            in_hand: HashSet::new(),
            in_line: HashSet::new(),
        }
    }

    /// Changes have come under an epoch.
    fn arrive(&mut self, capability: Capability<Epoch>, batches: &mut [Vec<Change>]) {
        let epoch = *capability.time();
        let slot = self.open.entry(epoch).or_insert_with(|| Open::new(capability));
        let mut arrived = Vec::new();
        let is_transactional = self.spec.transactional_sink().is_some();
        let mut noted_anew = Vec::new();
        let (mut filtered, mut delivered, mut parked) = (0, 0, 0);
        for batch in batches {
            self.gate.judge(batch, |change, verdict| match verdict {
                Verdict::Deliver => arrived.push((change, None)),
                Verdict::Filtered => filtered += 1,
                Verdict::Met(hash, outcome) => {
                    match outcome {
                        Outcome::Delivered => delivered += 1,
                        Outcome::Parked => parked += 1,
                    }
                    slot.met.push(Report::Met { action: self.number, change: hash, position: change.position() });
                    if is_transactional {
                        // It may be a note that was taken over from the target, which ends with no mark of this run: noted anew,
                        // it ends as any other.
                        let position = change.position();
                        noted_anew.push(Note { action: self.number, change: hash, position, epoch, outcome });
                    }
                }
                Verdict::Park(hash, cause, error) => arrived.push((change, Some(Box::new((hash, cause, error))))),
            });
        }
        if !noted_anew.is_empty() {
            self.process.keeper.commit(Drafts { notes: noted_anew, ..Drafts::default() }, |_| {});
        }
        slot.filtered += filtered;
        slot.delivered += delivered;
        slot.parked += parked;
        slot.pending += arrived.len();
        self.live(delivered, filtered, parked);
        self.process.in_flight.give_back(filtered + delivered + parked);
        let mut aside = Vec::new();
        for (change, parks) in arrived {
            let key = change.key_hash();
            if let Some((hash, cause, error)) = parks.map(|parks| *parks) {
                // In its turn, for only what comes after it is held behind it.
                if self.spec.hold {
                    self.spill.hold(key);
                }
                aside.push((change, hash, cause, error, false));
                continue;
            }
            if self.is_full() {
                self.make_room(key);
            }
            // Never set aside while an earlier change of the key has no outcome and none on its way: after a crash the record
            // would stand before it. Such a change waits, and goes aside when its turn comes (`answered`).
            let full = self.is_full() && !self.is_unsettled(key);
            match self.spill.follows(key).or(full.then_some(Cause::Overflow)) {
                None => self.enter(Task::new(change, epoch)),
                Some(cause) => {
                    self.spill.leads(key);
                    let hash = self.process.hasher.hash(&change);
                    aside.push((change, hash, cause, String::new(), true));
                }
            }
        }
        self.set_aside(epoch, aside);
    }

    fn enter(&mut self, task: Task) {
        let key = task.key;
        let slot = self.tasks.insert(task);
        if self.keys.enter(key, slot) {
            self.ready.push_back(slot);
        }
    }

    fn open_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Answers(answers) => answers.into_iter().for_each(|answer| self.answered(answer)),
            Mail::Stored(epoch, waiting) => {
                let slot = self.open.get_mut(&epoch).expect("an epoch with records on their way is open");
                slot.pending -= waiting.len();
                slot.parked += waiting.len() as u64;
                let all = waiting.len() as u64;
                self.live(0, 0, all);
                let in_line = waiting.into_iter().filter(|waiting| waiting.id != 0 && self.spill.stored(*waiting)).count();
                // Before the room is given back: a source that finds neither may end.
                self.process.add_backlog(in_line);
                self.process.in_flight.give_back(all);
            }
            Mail::StoredCalled(slot, id) => self.stored_called(slot, id),
            Mail::Taken(asked, found) => {
                self.taking_up = false;
                self.taking.clear();
                for waiting in &asked {
                    self.spill.entered(waiting.key);
                }
                self.process.settle_backlog(asked.len() - found.len());
                for parked in found {
                    let key = parked.change.key_hash();
                    let waiting = Waiting { id: parked.id, key };
                    match self.spill.follows(key) {
                        Some(Cause::Held) => {
                            self.spill.back(waiting);
                            self.process.settle_backlog(1);
                        }
                        _ => self.enter_parked(parked),
                    }
                }
            }
            Mail::Command(command) => self.obey(command),
            Mail::Reloaded(reloaded) => {
                let again = self.examiner.reloaded(reloaded, &self.gate);
                self.try_again(again);
            }
            Mail::Announced(waiting) => self.announced(waiting),
            Mail::Obeyed(id) => self.out_of_hand(id),
        }
    }

    fn enter_parked(&mut self, parked: Parked) {
        self.records += 1;
        self.process.taken_up();
        let (resolves, earlier) = (Some(parked.id), Some(Arc::new(Earlier::of(&parked))));
        self.enter(Task { resolves, earlier, ..Task::new(parked.change, 0) });
    }

    /// Hands over what may run now.
    fn dispatch(&mut self) {
        if self.spec.transactional_sink().is_some() {
            return self.dispatch_transactions();
        }
        let free = self.spec.max_parallelism.saturating_sub(self.running).min(self.ready.len());
        if free == 0 || self.process.halt.passes("action.dispatched") {
            return;
        }
        let slots = self.ready.drain(..free).collect();
        self.hand_over(slots);
    }

    /// Hands over whole transactions, as many as may be under way. What waits behind a change of its key goes with it, unless it
    /// would have to be held if that is parked.
    fn dispatch_transactions(&mut self) {
        let at_once = self.spec.max_parallelism.div_ceil(self.process.limits.workers);
        while self.transactions < at_once && !self.ready.is_empty() {
            if self.process.halt.passes("action.dispatched") {
                return;
            }
            let mut slots = Vec::with_capacity(self.spec.batch_max.min(self.tasks.len()));
            while slots.len() < self.spec.batch_max
                && let Some(slot) = self.ready.pop_front()
            {
                slots.push(slot);
                let key = self.tasks[slot].key;
                while !self.spec.hold
                    && slots.len() < self.spec.batch_max
                    && let Some(next) = self.keys.join(key)
                {
                    slots.push(next);
                }
            }
            self.transactions += 1;
            self.hand_over(slots);
        }
    }

    fn hand_over(&mut self, slots: Vec<usize>) {
        // One for these jobs, not one for ever: its count is then touched by one thread after the other, not by two at once.
        let scope = Arc::new(Scope {
            name: format!("{}/{}/", self.process.limits.pipeline, self.spec.name),
            hasher: self.process.hasher.clone(),
            unique_ids: self.bounds.unique_ids,
            known: None,
        });
        let (tasks, spare) = (&mut self.tasks, &mut self.spare);
        let jobs = slots.into_iter().map(|slot| {
            let task = &mut tasks[slot];
            let handover = spare.pop().unwrap_or_default();
            task.handover = Some(handover.clone());
            let (change, earlier) = (task.change.clone(), task.earlier.clone());
            let delivery = Delivery { change, scope: scope.clone(), earlier, attempt: 0 };
            Job { slot, delivery, epoch: task.epoch, resolves: task.resolves, handover, waits: false }
        });
        let jobs: Vec<Job> = jobs.collect();
        self.running += jobs.len();
        self.stats.running.fetch_add(jobs.len() as i64, Ordering::Relaxed);
        let _ = self.jobs.send(jobs);
    }

    /// How long the desk may rest when no mail comes: where the share is held, it may soon have turned out that the action is slow.
    fn patience(&self) -> Duration {
        let holds_share = self.bounds.share.is_some_and(|share| self.tasks.len() >= share);
        Duration::from_millis(if holds_share { 50 } else { 500 })
    }

    fn close_epochs(&mut self, mut send: impl FnMut(&Capability<Epoch>, std::vec::Drain<'_, Report>)) {
        let lines = &self.lines;
        let mut reports = Vec::new();
        self.open.retain(|_, open| {
            if open.pending > 0 {
                return true;
            }
            for (line, n) in [(&lines.delivered, open.delivered), (&lines.filtered, open.filtered), (&lines.parked, open.parked)]
            {
                if n > 0 {
                    reports.push(Report::Count { line: line.id, n });
                }
            }
            reports.append(&mut open.met);
            send(&open.capability, reports.drain(..));
            false
        });
    }

    fn live(&self, delivered: u64, filtered: u64, parked: u64) {
        self.lines.delivered.add(delivered);
        self.lines.filtered.add(filtered);
        self.lines.parked.add(parked);
    }
}

impl Drop for Desk {
    /// A command may have come between the moment at which its source ended, with nothing under way, and the end of this operator. The call goes on
    /// and notes what it comes to; but nobody here hears of it any more, and the other sources must not wait for that.
    fn drop(&mut self) {
        let records = self.tasks.iter().filter(|(_, task)| task.resolves.is_some()).count();
        (0..records).for_each(|_| self.process.put_down());
        self.process.settle_backlog(records);
        self.in_hand.difference(&self.in_line).for_each(|_| self.process.out_of_hand());
    }
}

impl Open {
    fn new(capability: Capability<Epoch>) -> Self {
        Open { capability, pending: 0, delivered: 0, filtered: 0, parked: 0, met: Vec::new() }
    }
}

/// Whether an action is called, rather than written to.
pub(crate) fn is_called(spec: &ActionSpec) -> bool {
    !matches!(spec.kind, Kind::CutBack(_))
}
