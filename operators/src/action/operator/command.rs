//! What a person asks of a parked change, done by the worker that owns its key.

use super::Desk;
use crate::action::again::Again;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, Parked, Resolution, Resolved};

/// What a person asks to be done with a parked change. The worker that owns its key does it.
pub struct Command {
    /// The record.
    pub parked: Parked,
    /// What is to be done.
    pub kind: CommandKind,
    /// Called once it is done, or found to be done already.
    pub done: Box<dyn FnOnce() + Send>,
}

/// The kinds of commands on a parked change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Try once more.
    Retry,
    /// Give it up.
    Drop,
}

impl Desk {
    pub(super) fn obey(&mut self, command: Command) {
        let Command { parked, kind, done } = command;
        let comes_back = matches!(parked.cause, Cause::Overflow | Cause::Held);
        if (kind == CommandKind::Retry && comes_back) || !self.in_hand.insert(parked.id) {
            // It is taken up again by itself, in its turn; or the same was asked before.
            return done();
        }
        self.process.add_backlog(1);
        match kind {
            CommandKind::Retry => {
                let again = self.examiner.examine(parked, &self.gate);
                self.try_again(again);
                done();
            }
            CommandKind::Drop => self.give_up(parked, !comes_back, done),
        }
    }

    pub(super) fn try_again(&mut self, again: Again) {
        match again {
            Again::Ready(parked) => self.enter_parked(parked),
            Again::Asked => {}
            Again::Filtered(parked) => self.give_up(parked, true, Box::new(|| {})),
            Again::Failed(id) => {
                self.in_hand.remove(&id);
                self.process.settle_backlog(1);
            }
        }
    }

    /// Ends a parked record without delivery. If its key is held because of it, what waits behind it may go.
    fn give_up(&mut self, parked: Parked, releases: bool, done: Box<dyn FnOnce() + Send>) {
        let key = parked.change.key_hash();
        let resolved = Resolved { id: parked.id, action: parked.action, resolution: Resolution::Dropped };
        let drafts = Drafts { resolved: vec![resolved], ..Drafts::default() };
        let process = self.process.clone();
        self.process.keeper.commit(drafts, move |_| {
            done();
            process.settle_backlog(1);
        });
        if releases {
            self.process.add_backlog(self.spill.release(key));
        }
    }
}
