//! Setting aside what an action has no room or no time for, and taking it up again.
//!
//! The order of a key is kept by one rule: a record is asked for only when everything before it in its key has an outcome, or
//! a record asked for earlier. So a change that is being called goes aside itself before those that wait behind it. From then
//! on its call settles the record, and whoever claims the call first, the driver with an answer or the desk with a record,
//! decides which of the two it is.

use super::{Desk, Mail, Task};
use crate::action::driver::{Answer, Called};
use crate::action::handover::Handover;
use crate::action::parking::{Announced, Failure, Parking};
use crate::action::spill::Waiting;
use crate::action::transactional::Receipt;
use crate::change::Change;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, ChangeHash, Note, Outcome, Parked, ParkedId, Resolution, Resolved};
use crate::position::Epoch;

/// Records taken up together at most.
const TAKEN_UP_MAX: usize = 256;

impl Desk {
    /// Whether the action holds its share of the window, and it is the action that is slow. What has its answer and waits for
    /// the store does not count; and where changes wait for that more than for the calls, those behind them do as well: the store
    /// would only be asked for more if something were set aside. What waits too long goes aside by its age.
    pub(super) fn is_full(&self) -> bool {
        let Some(share) = self.bounds.share.filter(|share| self.is_slow && self.tasks.len() >= *share) else { return false };
        self.tasks.len().saturating_sub(self.waits.noting() + self.records) >= share
    }

    /// An action that turns out to be slow when it holds more than its share already gives back what exceeds it, what is not
    /// called first. Nobody else would: with the window full, nothing arrives.
    pub(super) fn spill_excess(&mut self) {
        if !self.is_full() {
            return;
        }
        let holds = self.tasks.iter().filter(|(slot, _)| !self.is_record(*slot));
        let mut keys: Vec<(bool, u64)> = holds.map(|(_, task)| (task.handover.is_some(), task.key)).collect();
        keys.sort_by_key(|(is_called, _)| *is_called);
        for (_, key) in keys {
            if !self.is_full() {
                return;
            }
            self.make_room(key);
        }
    }

    /// Whether a change of this key is at the desk that has no outcome, and no record on its way.
    pub(super) fn is_unsettled(&self, key: u64) -> bool {
        self.keys.on_their_way(key).any(|slot| !self.is_record(slot))
    }

    fn is_record(&self, slot: usize) -> bool {
        let task = &self.tasks[slot];
        task.resolves.is_some() || task.is_aside
    }

    /// When there is no room, the changes of a key go aside together, as far as they may. If they kept their places, later
    /// changes of their keys would have to wait here too, until they fill the window for all actions.
    pub(super) fn make_room(&mut self, key: u64) {
        let Some(first) = self.keys.first(key) else { return };
        if self.tasks[first].handover.is_none() && !self.is_record(first) {
            self.ready.retain(|slot| *slot != first);
            self.spill_task(first);
            self.spill_waiting(key);
            self.ready.extend(self.keys.leave(key, first));
        } else if self.set_all_called_aside(key) {
            self.spill_waiting(key);
        }
    }

    /// Sets everything of a key aside that is being called, in order. `false` if an answer has come first.
    fn set_all_called_aside(&mut self, key: u64) -> bool {
        let called: Vec<usize> = self.keys.on_their_way(key).collect();
        called.into_iter().all(|slot| self.set_called_aside(slot))
    }

    /// Sets a change aside that is being called. `false` if its answer has come first and its note is on its way.
    fn set_called_aside(&mut self, slot: usize) -> bool {
        if self.is_record(slot) {
            return true;
        }
        let task = &mut self.tasks[slot];
        if !task.handover.as_ref().is_some_and(Handover::claim) {
            return false;
        }
        task.is_aside = true;
        self.records += 1;
        let hash = task.hash(&self.process);
        let note = Note {
            action: self.number,
            change: hash,
            position: task.change.position(),
            epoch: task.epoch,
            outcome: Outcome::Parked,
        };
        let parking = Parking { change: &task.change, hash, attempts: 0, earlier: None };
        let record = parking.record(&self.process, &self.spec, Failure::new(Cause::Overflow, ""));
        let drafts = Drafts { notes: vec![note], parked: vec![record], ..Drafts::default() };
        let post = self.post.clone();
        self.process.keeper.commit(drafts, move |ids| {
            post.send(Mail::StoredCalled(slot, ids[0]));
        });
        true
    }

    /// The record of a change that is being called is durable: the change lets go of its epoch and its room.
    pub(super) fn stored_called(&mut self, slot: usize, id: ParkedId) {
        let task = &mut self.tasks[slot];
        task.resolves = Some(id);
        let (epoch, called) = (task.epoch, task.called.take());
        let open = self.open.get_mut(&epoch).expect("an epoch with records on their way is open");
        open.pending -= 1;
        open.parked += 1;
        self.live(0, 0, 1);
        self.process.taken_up();
        // Before the room is given back: a source that finds neither may end.
        self.process.add_backlog(1);
        self.process.in_flight.give_back(1);
        if let Some(called) = called {
            self.called(called);
        }
    }

    /// The answer of a call whose change was set aside meanwhile: it settles the record, once that has its number.
    pub(super) fn called(&mut self, called: Box<Called>) {
        let task = &mut self.tasks[called.slot];
        let Some(id) = task.resolves else {
            task.called = Some(called);
            return;
        };
        let Called { slot, outcome, attempt, permit, receipt } = *called;
        let delivered = outcome.is_ok();
        let (mut drafts, mut announced) = (Drafts::default(), Announced::default());
        match outcome {
            Ok(()) => drafts.resolved.push(Resolved { id, action: self.spec.name.clone(), resolution: Resolution::Delivered }),
            Err(failure) => {
                // It was set aside a moment ago, for lack of time; from now on it stands parked.
                let parking = Parking { change: &task.change, hash: task.hash(&self.process), attempts: attempt, earlier: None };
                let record = Parked { id, ..parking.record(&self.process, &self.spec, failure) };
                announced.add(&self.spec, &mut drafts, record, None);
            }
        }
        self.waits.answered(1);
        let post = self.post.clone();
        let (process, spec) = (self.process.clone(), self.spec.clone());
        self.process.keeper.commit(drafts, move |ids| {
            announced.pass_on(&process, &spec, &ids);
            post.send(Mail::Answers(vec![if delivered { Answer::Delivered(vec![slot]) } else { Answer::Parked(slot) }]));
            drop(permit);
            receipt.into_iter().for_each(Receipt::settled);
        });
    }

    /// Parks changes of an epoch; those marked `true` come back by themselves. The epoch stays open until they are durable.
    pub(super) fn set_aside(&mut self, epoch: Epoch, changes: Vec<(Change, ChangeHash, Cause, String, bool)>) {
        if changes.is_empty() {
            return;
        }
        let (mut drafts, mut announced) = (Drafts::default(), Announced::default());
        let mut keys = Vec::with_capacity(changes.len());
        for (change, hash, cause, error, returns) in changes {
            keys.push((change.key_hash(), returns));
            drafts.notes.push(Note {
                action: self.number,
                change: hash,
                position: change.position(),
                epoch,
                outcome: Outcome::Parked,
            });
            let parking = Parking { change: &change, hash, attempts: 0, earlier: None };
            let record = parking.record(&self.process, &self.spec, Failure::new(cause, error));
            announced.add(&self.spec, &mut drafts, record, None);
        }
        let (post, process, spec) = (self.post.clone(), self.process.clone(), self.spec.clone());
        self.process.keeper.commit(drafts, move |ids| {
            announced.pass_on(&process, &spec, &ids);
            let own = ids.into_iter().enumerate().filter(|(place, _)| !announced.is_for_hook(*place)).map(|(_, id)| id);
            let stored = own.zip(keys);
            // A record that does not come back is told with id 0.
            let waiting = stored.map(|(id, (key, returns))| Waiting { id: if returns { id } else { 0 }, key }).collect();
            let _ = post.send(Mail::Stored(epoch, waiting));
        });
    }

    /// Sets aside what waits behind the change that a key is busy with, which must be settled, or go first. Records that were
    /// taken up stay: they are durable, and in the line they would stand behind later ones of their key.
    pub(super) fn spill_waiting(&mut self, key: u64) {
        for slot in self.keys.take_waiting(key) {
            match self.tasks[slot].resolves {
                Some(_) => {
                    self.keys.enter(key, slot);
                }
                None => self.spill_task(slot),
            }
        }
    }

    fn spill_task(&mut self, slot: usize) {
        let task = self.tasks.remove(slot);
        let hash = task.hash(&self.process);
        let Task { change, epoch, key, .. } = task;
        self.spill.leads(key);
        self.set_aside(epoch, vec![(change, hash, Cause::Overflow, String::new(), true)]);
    }

    /// Everything that waits at the desk for a key that is now held goes aside behind it.
    pub(super) fn move_behind_held(&mut self, key: u64) {
        for slot in self.keys.take_waiting(key) {
            let task = self.tasks.remove(slot);
            match task.resolves {
                Some(id) => {
                    self.back_in_line(id);
                    self.spill.back(Waiting { id, key });
                    self.process.settle_backlog(1);
                    self.records -= 1;
                    self.process.put_down();
                }
                None => {
                    self.spill.leads(key);
                    let hash = task.hash(&self.process);
                    self.set_aside(task.epoch, vec![(task.change, hash, Cause::Held, String::new(), true)]);
                }
            }
        }
    }

    /// What has not been settled within the hold budget is set aside, so that the mark can move on: changes whose turn has not
    /// come, and changes whose call takes that long, each with all that waits behind it.
    pub(super) fn spill_overdue(&mut self) {
        let budget = self.spec.hold_budget.as_millis() as u64;
        let now = self.process.clock.mint();
        let is_overdue = |epoch: Epoch| now.saturating_sub(epoch) > budget;
        if !self.open.keys().next().is_some_and(|oldest| is_overdue(*oldest)) {
            return;
        }
        let overdue = self.tasks.iter().filter(|(_, task)| task.resolves.is_none() && is_overdue(task.epoch));
        let keys: Vec<u64> = overdue.map(|(_, task)| task.key).collect();
        keys.into_iter().for_each(|key| self.make_room(key));
    }

    /// Takes up what was set aside, unless the action has no room for it. What comes meanwhile for a key that is in the line goes
    /// aside as well, so the line must get shorter also while there is much to do.
    pub(super) fn take_up(&mut self) {
        let room = (self.bounds.share.unwrap_or(usize::MAX).min(4096) / 2).max(1);
        if self.taking_up || !self.spill.has_line() || self.records >= room || self.is_full() || self.process.is_stopping() {
            return;
        }
        self.taking_up = true;
        let waiting = self.spill.take(TAKEN_UP_MAX.min(room - self.records));
        let post = self.post.clone();
        let ids: Vec<ParkedId> = waiting.iter().map(|waiting| waiting.id).collect();
        self.taking.extend(&ids);
        self.process.keeper.read_parked(ids, move |found| {
            post.send(Mail::Taken(waiting, found));
        });
    }
}
