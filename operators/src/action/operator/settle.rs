//! Taking answers: a change that is settled gives back its key, its permit, its room, and its share of the epoch.

use std::sync::atomic::Ordering;

use super::{Desk, Task};
use crate::action::driver::Answer;
use crate::action::handover::Handover;
use crate::position::Epoch;

impl Desk {
    pub(super) fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Retrying(slot) => {
                if let Some(task) = self.tasks.get_mut(slot) {
                    task.change = task.change.detached();
                }
            }
            Answer::Called(called) => self.called(Box::new(called)),
            Answer::Parked(slot) => {
                self.waits.settled(1);
                self.settled(slot, false);
            }
            Answer::Delivered(slots) => {
                self.waits.settled(slots.len());
                self.delivered(slots);
            }
            Answer::Ended => self.transactions -= 1,
        }
    }

    /// Changes were delivered. What is plain, and nearly all is, is counted together.
    fn delivered(&mut self, slots: Vec<usize>) {
        let full = self.is_full();
        let (mut plain, mut last_epoch, mut of_epoch) = (0, 0, 0);
        for slot in slots {
            if full || self.tasks[slot].resolves.is_some() {
                self.settled(slot, true);
                continue;
            }
            let task = self.remove(slot);
            plain += 1;
            if task.epoch != last_epoch {
                self.close_delivered(last_epoch, std::mem::take(&mut of_epoch));
                last_epoch = task.epoch;
            }
            of_epoch += 1;
            self.ready.extend(self.keys.leave(task.key, slot));
        }
        self.close_delivered(last_epoch, of_epoch);
        if plain > 0 {
            self.stats.running.fetch_sub(plain as i64, Ordering::Relaxed);
            self.live(plain, 0, 0);
            self.process.in_flight.give_back(plain);
        }
    }

    fn close_delivered(&mut self, epoch: Epoch, changes: u64) {
        if changes > 0 {
            let open = self.open.get_mut(&epoch).expect("an epoch with changes pending is open");
            open.pending -= changes as usize;
            open.delivered += changes;
        }
    }

    /// Takes a change that was handed over out of the desk.
    fn remove(&mut self, slot: usize) -> Task {
        let mut task = self.tasks.remove(slot);
        self.running -= 1;
        self.spare.extend(task.handover.take().and_then(Handover::reuse));
        task
    }

    fn settled(&mut self, slot: usize, delivered: bool) {
        let task = self.remove(slot);
        self.stats.running.fetch_sub(1, Ordering::Relaxed);
        match task.resolves {
            None => {
                let open = self.open.get_mut(&task.epoch).expect("an epoch with changes pending is open");
                open.pending -= 1;
                if delivered {
                    open.delivered += 1;
                } else {
                    open.parked += 1;
                }
                self.live(delivered.into(), 0, (!delivered).into());
                self.process.in_flight.give_back(1);
            }
            Some(id) => {
                self.out_of_hand(id);
                if delivered {
                    self.process.add_backlog(self.spill.release(task.key));
                }
                self.process.settle_backlog(1);
                self.records -= 1;
                self.process.put_down();
            }
        }
        if !delivered && self.spec.hold {
            self.spill.hold(task.key);
            self.move_behind_held(task.key);
        }
        if self.is_full() && !self.keys.is_together(task.key) {
            // All before them in their key is durable now, so what waits behind this change may go aside, in order.
            self.spill_waiting(task.key);
        }
        self.ready.extend(self.keys.leave(task.key, slot));
    }
}
