//! What a person, or a schedule, asks of a parked change, done by the worker that owns its key.

use super::Desk;
use crate::action::again::Again;
use crate::action::parking::failed_again;
use crate::action::spill::Waiting;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Parked, ParkedId, Resolution, Resolved};
use crate::offload::Post;
use crate::parked::edited;
use crate::process::{Process, shard};

use super::Mail;

/// What is asked to be done with a parked change. The worker that owns its key does it.
pub struct Command {
    /// The record, as it was read. Who read it posts the command from the keeper's thread: so a record that is gone by then is
    /// never acted on ([`Keeper::page_of_parked`](crate::checkpoint::keeper::Keeper::page_of_parked)).
    pub parked: Parked,
    /// What is to be done.
    pub kind: CommandKind,
    /// Called once it is done, or will not be: a retry once the change is in hand, the others once they are durable.
    pub done: Box<dyn FnOnce(Obeyed) + Send>,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obeyed {
    /// It is done; of a retry: the change is on its way to the action.
    Done,
    /// There is nothing to do: the record is taken up by itself, in its turn.
    ComesBack,
    /// The record is being tried, or another command on it carried out.
    UnderWay,
    /// It cannot be done, for this reason.
    Refused(String),
}

/// Where the commands for the keys of one worker go, for one action.
struct Receiver(Post<Command>);

/// Where the records go that were set aside for a hook.
struct Announcements(Post<Waiting>);

impl Command {
    /// Commands for the keys of `worker` go to this post from now on.
    pub(crate) fn receive(process: &Process, action: &str, worker: usize, post: Post<Command>) {
        process.shared.get_or_make(&format!("{action}/{worker}"), || Receiver(post));
    }

    /// Sends a command to the worker that owns the change's key. `false` if this pipeline has no such action.
    pub fn send(self, process: &Process) -> bool {
        let worker = worker_of(process, self.parked.change.key_hash());
        let receiver = process.shared.get::<Receiver>(&format!("{}/{worker}", self.parked.action));
        receiver.is_some_and(|receiver| receiver.0.send(self))
    }
}

fn worker_of(process: &Process, key_hash: u64) -> usize {
    shard(key_hash) as usize % process.cluster.place().peers()
}

/// Records for a hook and the keys of `worker` go to this post from now on.
pub(super) fn receive_announcements(process: &Process, action: &str, worker: usize, post: Post<Waiting>) {
    process.shared.get_or_make(&format!("{action}/{worker}"), || Announcements(post));
}

/// A record that was set aside for a hook is durable: its worker takes it up.
pub(crate) fn announce(process: &Process, hook: &str, waiting: Waiting) {
    let worker = worker_of(process, waiting.key);
    // Before whoever parked the change gives its room back: a source that finds neither may end.
    process.add_backlog(1);
    let receiver = process.shared.get::<Announcements>(&format!("{hook}/{worker}"));
    if !receiver.is_some_and(|receiver| receiver.0.send(waiting)) {
        process.settle_backlog(1);
    }
}

/// The kinds of commands on a parked change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Try once more.
    Retry,
    /// Give it up.
    Drop,
    /// Give it this row after, a JSON object, in place of the one it has.
    Edit(String),
}

impl Desk {
    pub(super) fn obey(&mut self, command: Command) {
        let Command { parked, kind, done } = command;
        let id = parked.id;
        let comes_back = parked.cause.comes_back();
        if kind == CommandKind::Retry && comes_back {
            return done(Obeyed::ComesBack);
        }
        // At the desk, on its way there, or asked for before: what comes of that decides.
        let is_task = || self.tasks.iter().any(|(_, task)| task.resolves == Some(id));
        let is_at_desk = comes_back && (self.taking.contains(&id) || is_task());
        if is_at_desk || !self.in_hand.insert(id) {
            return done(Obeyed::UnderWay);
        }
        self.process.in_hand();
        match kind {
            CommandKind::Retry => {
                self.process.add_backlog(1);
                let again = self.examiner.examine(parked, &self.gate);
                self.try_again(again);
                done(Obeyed::Done);
            }
            CommandKind::Drop => {
                self.process.add_backlog(1);
                self.give_up(parked, !comes_back, || done(Obeyed::Done));
            }
            CommandKind::Edit(row) => match edited(&parked, &row) {
                Err(why) => {
                    self.out_of_hand(id);
                    done(Obeyed::Refused(why));
                }
                Ok(parked) => self.replace(parked, || done(Obeyed::Done)),
            },
        }
    }

    pub(super) fn try_again(&mut self, again: Again) {
        match again {
            Again::Ready(parked) => self.enter_parked(parked),
            Again::Asked => {}
            Again::Filtered(parked) => self.give_up(parked, true, || {}),
            Again::Failed(parked, failure) => {
                let parked = failed_again(&self.process, &self.spec, parked, failure);
                let process = self.process.clone();
                self.replace(parked, move || process.settle_backlog(1));
            }
        }
    }

    /// The command on a record is carried out, or the record is settled.
    pub(super) fn out_of_hand(&mut self, id: ParkedId) {
        if self.in_hand.remove(&id) && !self.in_line.remove(&id) {
            self.process.out_of_hand();
        }
    }

    /// A record that a command had in hand goes behind a held key: it is taken up by itself from there, and no command is
    /// under way for it. Another one must still not act on it.
    pub(super) fn back_in_line(&mut self, id: ParkedId) {
        if self.in_hand.contains(&id) && self.in_line.insert(id) {
            self.process.out_of_hand();
        }
    }

    /// A record that was set aside for this action, a hook, joins the line.
    pub(super) fn announced(&mut self, waiting: Waiting) {
        self.spill.leads(waiting.key);
        if !self.spill.stored(waiting) {
            self.process.settle_backlog(1);
        }
    }

    /// Writes a record anew. It stays in hand until that is durable, so that nobody acts on what it was.
    fn replace(&mut self, parked: Parked, done: impl FnOnce() + Send + 'static) {
        let (post, id) = (self.post.clone(), parked.id);
        self.process.keeper.commit(Drafts { parked: vec![parked], ..Drafts::default() }, move |_| {
            post.send(Mail::Obeyed(id));
            done();
        });
    }

    /// Ends a parked record without delivery. If its key is held because of it, what waits behind it may go.
    fn give_up(&mut self, parked: Parked, releases: bool, done: impl FnOnce() + Send + 'static) {
        let (key, id) = (parked.change.key_hash(), parked.id);
        let resolved = Resolved { id, action: parked.action, resolution: Resolution::Dropped };
        let drafts = Drafts { resolved: vec![resolved], ..Drafts::default() };
        let (process, post) = (self.process.clone(), self.post.clone());
        self.process.keeper.commit(drafts, move |_| {
            post.send(Mail::Obeyed(id));
            done();
            process.settle_backlog(1);
        });
        if releases {
            self.process.add_backlog(self.spill.release(key));
        }
    }
}
