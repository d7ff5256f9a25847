//! What a person asks of a parked change, done by the worker that owns its key.

use super::Desk;
use crate::action::again::Again;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, Parked, Resolution, Resolved};
use crate::offload::Post;
use crate::process::{Process, shard};

/// What a person asks to be done with a parked change. The worker that owns its key does it.
pub struct Command {
    /// The record.
    pub parked: Parked,
    /// What is to be done.
    pub kind: CommandKind,
    /// Called once it is done, or found to be done already.
    pub done: Box<dyn FnOnce() + Send>,
}

/// Where the commands for the keys of one worker go, for one action.
struct Receiver(Post<Command>);

impl Command {
    /// Commands for the keys of `worker` go to this post from now on.
    pub(crate) fn receive(process: &Process, action: &str, worker: usize, post: Post<Command>) {
        process.shared.get_or_make(&format!("{action}/{worker}"), || Receiver(post));
    }

    /// Sends a command to the worker that owns the change's key. `false` if this pipeline has no such action.
    pub fn send(self, process: &Process) -> bool {
        let worker = shard(self.parked.change.key_hash()) as usize % process.cluster.place().peers();
        let receiver = process.shared.get::<Receiver>(&format!("{}/{worker}", self.parked.action));
        receiver.is_some_and(|receiver| receiver.0.send(self))
    }
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
        if self.tasks.iter().any(|(_, task)| task.resolves == Some(parked.id)) {
            // It is at the desk already; what comes of its call decides.
            self.in_hand.remove(&parked.id);
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
