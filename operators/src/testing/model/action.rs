//! Fan-out: each key has a lane per action, in which changes are tried one at a time and in order.
//!
//! A lane is a queue of changes in hand, then a line of parked records. Two rules keep it in order over any crash. What
//! arrives while anything stands in the line goes behind it. And a record is requested only when all that stood before it
//! in its lane has an outcome, durable or requested earlier: so a record that a later run finds never has to let an
//! unfinished earlier change of its key pass.

use std::collections::VecDeque;

use rand::Rng;

use super::run::Work;
use super::store::{Cause, Command, Entry, Note, Outcome, Record};
use super::world::{Change, Kind, Place};
use super::{Mutation, Simulation};

/// Changes of one key for one action, on one worker.
#[derive(Default)]
pub(super) struct Lane {
    queue: VecDeque<Work>,
    /// The queue is over the action's share: it is parked as soon as nothing before it is being tried.
    spills: bool,
    flight: Option<Flight>,
    pub(super) line: Vec<Waiting>,
    /// Its task is gone, and its capabilities with it: to the frontier this looks like "done".
    dead: bool,
}

/// A parked record in its line.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    id: u64,
    change: Change,
    place: Place,
    cause: Cause,
    durable: bool,
    /// A person gave it up; the store does not know yet.
    leaving: bool,
}

impl Waiting {
    pub(super) fn new(record: &Record, durable: bool) -> Self {
        let Record { id, change, place, cause, .. } = *record;
        Waiting { id, change, place, cause, durable, leaving: false }
    }
}

/// A change that is being tried, until its outcome is durable.
struct Flight {
    work: Work,
    record: Option<u64>,
    tries: u32,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Trying,
    /// At the receiver; the answer is on its way.
    Arrived,
    /// The outcome is known and waits to be durable.
    Settled,
}

/// A request to the store, and what is given back when it is durable.
pub(super) struct Pending {
    entry: Entry,
    lane: usize,
    /// The epoch that it holds.
    releases: Option<u64>,
    /// Whether the lane's flight ends with it.
    frees: bool,
}

impl Lane {
    /// Whether the attempt under way may still reach the receiver.
    pub(super) fn is_trying(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.stage == Stage::Trying)
    }

    /// Whether what arrives must go behind parked records.
    fn is_blocked(&self, hold: bool) -> bool {
        self.line.iter().any(|waiting| hold || waiting.cause != Cause::Failed)
    }
}

/// What a lane may try next.
pub(super) enum Next {
    Queued,
    Record(usize),
}

impl Simulation {
    pub(super) fn lane_of(&self, worker: usize, action: usize, key: usize) -> usize {
        (worker * self.world.actions.len() + action) * self.world.keys + key
    }

    fn owner(&self, lane: usize) -> (usize, usize) {
        let hand = lane / self.world.keys;
        (hand, hand % self.world.actions.len())
    }

    /// A change that dedup passed comes to an action.
    pub(super) fn hand_out(&mut self, worker: usize, action: usize, work: Work) {
        let plan = &self.world.actions[action];
        let (hold, share) = (plan.hold, plan.share);
        if plan.filters(&work.change) {
            self.run.line(work.epoch, action).filtered += 1;
            return;
        }
        if let Some(noted) = self.run.ledger.get_mut(&(action, work.change.id, work.place)) {
            noted.met = Some(work.epoch);
            match noted.outcome {
                Outcome::Delivered => self.run.line(work.epoch, action).delivered += 1,
                Outcome::Parked => self.run.line(work.epoch, action).parked += 1,
            }
            return;
        }
        self.run.working.hold(work.epoch);
        let hand = worker * self.world.actions.len() + action;
        if plan.kind == Kind::File {
            self.run.sinks[hand].waiting.entry(work.epoch).or_default().push(work.change);
            return;
        }
        let lane = self.lane_of(worker, action, work.change.key);
        if self.run.lanes[lane].dead {
            self.run.working.release(work.epoch);
        } else if self.run.lanes[lane].is_blocked(hold) {
            let cause = if hold { Cause::Held } else { Cause::Overflow };
            self.park(lane, work, cause, false);
        } else if self.run.in_hand[hand] >= share && self.broken(Mutation::SpillAhead) {
            self.park(lane, work, Cause::Overflow, false);
        } else {
            self.run.lanes[lane].spills |= self.run.in_hand[hand] >= share;
            self.run.in_hand[hand] += 1;
            self.run.lanes[lane].queue.push_back(work);
            self.spill(lane);
        }
    }

    /// Parks the queue of a lane that is over its share, unless something before it is still being tried.
    fn spill(&mut self, lane: usize) {
        let flying = self.run.lanes[lane].flight.as_ref().is_some_and(|flight| flight.stage != Stage::Settled);
        if self.run.lanes[lane].spills && !flying {
            self.park_queue(lane, Cause::Overflow);
        }
    }

    fn park_queue(&mut self, lane: usize, cause: Cause) {
        let (hand, _) = self.owner(lane);
        self.run.lanes[lane].spills = false;
        for work in std::mem::take(&mut self.run.lanes[lane].queue) {
            self.run.in_hand[hand] -= 1;
            self.park(lane, work, cause, false);
        }
    }

    fn park(&mut self, lane: usize, work: Work, cause: Cause, frees: bool) {
        let (_, action) = self.owner(lane);
        let Work { change, place, epoch } = work;
        let record = Record { id: self.run.next_record, action, change, place, cause };
        self.run.next_record += 1;
        self.run.lanes[lane].line.push(Waiting::new(&record, false));
        let note = Note { run: self.store.generation, action, change, place, epoch, outcome: Outcome::Parked };
        let early = self.broken(Mutation::ParkedEpochEarly);
        if early {
            self.run.line(epoch, action).parked += 1;
            self.run.working.release(epoch);
        }
        self.request(Entry::Park(record, note), lane, (!early).then_some(epoch), frees);
    }

    pub(super) fn request(&mut self, entry: Entry, lane: usize, releases: Option<u64>, frees: bool) {
        self.run.group.push_back(Pending { entry, lane, releases, frees });
    }

    /// What a lane may try next: its queue, else the record whose turn it is, else what a person wants tried again.
    pub(super) fn next_work(&self, lane: usize) -> Option<Next> {
        let (_, action) = self.owner(lane);
        let lane = &self.run.lanes[lane];
        if lane.flight.is_some() || lane.dead {
            return None;
        }
        if !lane.queue.is_empty() {
            return Some(Next::Queued);
        }
        let hold = self.world.actions[action].hold;
        let ready = |waiting: &Waiting| {
            let asked = waiting.cause != Cause::Failed || self.store.requested(waiting.id, Command::Retry);
            waiting.durable && !waiting.leaving && asked
        };
        let turn = lane.line.iter().position(|waiting| hold || waiting.cause != Cause::Failed);
        let turn = turn.filter(|index| ready(&lane.line[*index]));
        let asked = || lane.line.iter().position(|waiting| waiting.cause == Cause::Failed && ready(waiting));
        turn.or_else(|| if hold { None } else { asked() }).map(Next::Record)
    }

    /// Begins an attempt in some lane that is free, if the action has a permit.
    pub(super) fn start_attempt(&mut self) {
        let lanes = self.run.lanes.len();
        let start = self.rng.random_range(0..lanes);
        for lane in (0..lanes).map(|step| (start + step) % lanes) {
            let (_, action) = self.owner(lane);
            let free = self.run.permits[action] < self.world.actions[action].max_parallelism;
            let Some(next) = self.next_work(lane).filter(|_| free) else { continue };
            let found = &mut self.run.lanes[lane];
            let (work, record) = match next {
                Next::Queued => (found.queue.pop_front(), None),
                Next::Record(index) => {
                    let Waiting { id, change, place, .. } = found.line[index];
                    (Some(Work { change, place, epoch: 0 }), Some(id))
                }
            };
            found.flight = work.map(|work| Flight { work, record, tries: 0, stage: Stage::Trying });
            self.run.flights.push(lane);
            self.run.permits[action] += 1;
            return;
        }
    }

    /// One step of one attempt: it fails, or reaches the receiver, or its answer comes.
    pub(super) fn progress(&mut self) -> Result<(), String> {
        if self.run.flights.is_empty() {
            return Ok(());
        }
        let lane = self.run.flights[self.rng.random_range(0..self.run.flights.len())];
        let (_, action) = self.owner(lane);
        let plan = &self.world.actions[action];
        let (attempts, failing, slow) = (plan.attempts, plan.failing, plan.slow);
        if self.rng.random_range(0..100) < slow {
            return Ok(());
        }
        let Some(flight) = self.run.lanes[lane].flight.as_mut() else { return Ok(()) };
        match flight.stage {
            Stage::Trying if self.rng.random_range(0..100) < failing => {
                flight.tries += 1;
                let gives_up = flight.tries >= attempts;
                if self.rng.random_bool(0.1) {
                    // It had arrived, only the answer was lost. The repeat that follows carries the same key.
                    self.arrive_at_receiver(lane)?;
                    self.promises.answer_lost(action, &self.run_work(lane));
                }
                if gives_up {
                    self.give_up(lane);
                }
            }
            Stage::Trying => {
                self.arrive_at_receiver(lane)?;
                self.set_stage(lane, Stage::Arrived);
            }
            Stage::Arrived => self.answered(lane),
            Stage::Settled => {}
        }
        Ok(())
    }

    fn run_work(&self, lane: usize) -> Change {
        self.run.lanes[lane].flight.as_ref().expect("only a lane in flight is asked").work.change
    }

    fn set_stage(&mut self, lane: usize, stage: Stage) {
        self.run.lanes[lane].flight.iter_mut().for_each(|flight| flight.stage = stage);
    }

    pub(super) fn arrive_at_receiver(&mut self, lane: usize) -> Result<(), String> {
        let (_, action) = self.owner(lane);
        self.promises.delivered(&self.world, action, &self.run_work(lane))
    }

    /// The receiver has said yes. Key, permit and epoch stay taken until that is durable.
    fn answered(&mut self, lane: usize) {
        let (_, action) = self.owner(lane);
        let Some(Flight { work: Work { change, place, epoch }, record, .. }) = self.run.lanes[lane].flight else { return };
        let early = self.broken(Mutation::KeyAtAnswer);
        self.set_stage(lane, Stage::Settled);
        match record {
            Some(id) => self.request(Entry::Resolved { id, dropped: false }, lane, None, true),
            None if self.world.actions[action].kind == Kind::Repeatable => {
                self.run.line(epoch, action).delivered += 1;
                self.run.working.release(epoch);
                self.free(lane);
            }
            None => {
                let run = self.store.generation;
                let note = Note { run, action, change, place, epoch, outcome: Outcome::Delivered };
                let open = !self.broken(Mutation::EpochAtAnswer);
                if !open {
                    self.run.line(epoch, action).delivered += 1;
                    self.run.working.release(epoch);
                }
                self.request(Entry::Note(note), lane, open.then_some(epoch), !early);
                if early {
                    self.free(lane);
                }
            }
        }
        self.spill(lane);
    }

    fn give_up(&mut self, lane: usize) {
        let (_, action) = self.owner(lane);
        let Some(Flight { work, record, .. }) = self.run.lanes[lane].flight else { return };
        self.set_stage(lane, Stage::Settled);
        match record {
            Some(id) => self.request(Entry::Failed { id }, lane, None, true),
            None => self.park(lane, work, Cause::Failed, true),
        }
        if self.world.actions[action].hold {
            self.park_queue(lane, Cause::Held);
        }
        self.spill(lane);
    }

    fn free(&mut self, lane: usize) {
        let (hand, action) = self.owner(lane);
        if let Some(flight) = self.run.lanes[lane].flight.take() {
            self.run.flights.retain(|flying| *flying != lane);
            self.run.permits[action] -= 1;
            self.run.in_hand[hand] -= usize::from(flight.record.is_none());
        }
    }

    /// Makes some of what was requested durable, in one step and in the order of the requests.
    pub(super) fn commit_notes(&mut self) -> Result<(), String> {
        if self.run.group.is_empty() {
            return Ok(());
        }
        for _ in 0..self.rng.random_range(1..=self.run.group.len()) {
            let Some(Pending { entry, lane, releases, frees }) = self.run.group.pop_front() else { break };
            self.promises.durable(&self.world, &self.store, &entry);
            let gone = if let Entry::Resolved { id, .. } = entry { self.store.record(id).copied() } else { None };
            self.store.write(&entry);
            let (_, action) = self.owner(lane);
            let line = &mut self.run.lanes[lane].line;
            let mut parked = false;
            match entry {
                Entry::Note(_) => {}
                Entry::Park(record, _) => {
                    parked = true;
                    self.report.parked += 1;
                    line.iter_mut().filter(|waiting| waiting.id == record.id).for_each(|waiting| waiting.durable = true);
                }
                Entry::Failed { id } => {
                    line.iter_mut().filter(|waiting| waiting.id == id).for_each(|waiting| waiting.cause = Cause::Failed);
                }
                Entry::Resolved { id, .. } => {
                    self.report.resolved += 1;
                    line.retain(|waiting| waiting.id != id);
                    if self.broken(Mutation::NoteGoneAtResolve) {
                        self.forget_resolved(gone);
                    }
                }
            }
            if let Some(epoch) = releases {
                let books = self.run.line(epoch, action);
                *(if parked { &mut books.parked } else { &mut books.delivered }) += 1;
                self.run.working.release(epoch);
            }
            if frees {
                self.free(lane);
            }
        }
        Ok(())
    }

    /// What a broken run does with the note of a record that is no more.
    fn forget_resolved(&mut self, record: Option<Record>) {
        let Some(Record { action, place, .. }) = record else { return };
        self.store.notes.retain(|note| note.action != action || note.place != place);
    }

    /// A person looks at the parked changes and wants one tried again, or dropped. That leaves a request, no more.
    pub(super) fn command(&mut self) {
        if self.store.parked.is_empty() {
            return;
        }
        let record = self.store.parked[self.rng.random_range(0..self.store.parked.len())];
        let command = if self.rng.random_bool(0.7) { Command::Retry } else { Command::Drop };
        let taken = self.store.requests.iter().any(|(id, _)| *id == record.id);
        if !taken && (command == Command::Drop || record.cause == Cause::Failed) {
            self.store.requests.push((record.id, command));
        }
    }

    /// The worker of the key drops what a person gave up, unless it is being tried at this moment.
    pub(super) fn obey(&mut self) {
        let Some((id, _)) = self.store.requests.iter().find(|(_, command)| *command == Command::Drop).copied() else { return };
        let found = self.run.lanes.iter().position(|lane| lane.line.iter().any(|waiting| waiting.id == id && waiting.durable));
        let Some(lane) = found else { return };
        if self.run.lanes[lane].flight.as_ref().is_some_and(|flight| flight.record == Some(id)) {
            return;
        }
        let Some(waiting) = self.run.lanes[lane].line.iter_mut().find(|waiting| waiting.id == id) else { return };
        if !std::mem::replace(&mut waiting.leaving, true) {
            self.request(Entry::Resolved { id, dropped: true }, lane, None, false);
        }
    }

    /// A task dies with all that its lane had in hand, and no outcome is noted. Only the books can tell.
    pub(super) fn vanish(&mut self) {
        let fresh = |lane: &usize| {
            let flight = self.run.lanes[*lane].flight.as_ref();
            flight.is_some_and(|flight| flight.record.is_none() && flight.tries == 0 && flight.stage == Stage::Trying)
        };
        let Some(lane) = self.run.flights.iter().copied().find(fresh) else { return };
        let (hand, _) = self.owner(lane);
        let queue = std::mem::take(&mut self.run.lanes[lane].queue);
        self.run.in_hand[hand] -= queue.len();
        let tried = self.run.lanes[lane].flight.as_ref().map(|flight| flight.work);
        queue.into_iter().chain(tried).for_each(|work| self.run.working.release(work.epoch));
        self.free(lane);
        self.run.lanes[lane].dead = true;
    }
}
