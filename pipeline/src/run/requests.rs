//! Passes requests that people left in the data directory on to the workers that own the keys.

use std::sync::Arc;

use highwater_operators::action::operator::{Command, CommandKind};
use highwater_operators::checkpoint::requests::{Request, pending_requests, remove_request};
use highwater_operators::checkpoint::store::{Cause, Resolution, Resolved};
use highwater_operators::checkpoint::keeper::Drafts;
use highwater_operators::process::Process;

use crate::run::open::Opened;

/// Looks for requests and passes them on. A request is removed once it is carried out, so a crash carries it out again: a
/// retry of what is parked no more, and a drop of it, do nothing.
pub(super) fn pass_on(process: &Arc<Process>, opened: &Opened) {
    let Ok(requests) = pending_requests(&opened.directory) else { return };
    for (path, request) in requests {
        let (id, kind) = match request {
            Request::Retry { id } => (id, CommandKind::Retry),
            Request::Drop { id } => (id, CommandKind::Drop),
        };
        let busy = process.clone();
        // Counted as backlog until it has reached its worker: the sources stay open for it.
        process.add_backlog(1);
        let settled = process.clone();
        process.keeper.read_parked(vec![id], move |found| {
            let done = move || drop(remove_request(&path));
            match found.into_iter().next() {
                None => done(),
                Some(parked) if parked.cause == Cause::Rejected => match kind {
                    // What is no change cannot be tried again.
                    CommandKind::Retry => done(),
                    CommandKind::Drop => {
                        let resolved = Resolved { id, action: parked.action, resolution: Resolution::Dropped };
                        busy.keeper.commit(Drafts { resolved: vec![resolved], ..Drafts::default() }, move |_| done());
                    }
                },
                Some(parked) => {
                    let (action, key) = (parked.action.clone(), parked.change.key_hash());
                    busy.command(&action, key, Command { parked, kind, done: Box::new(done) });
                }
            }
            settled.settle_backlog(1);
        });
    }
}
