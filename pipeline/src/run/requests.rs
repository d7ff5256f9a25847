//! Passes requests that people left in the checkpoint store on to the workers that own the keys.

use std::sync::Arc;

use highwater_operators::action::operator::{Command, CommandKind};
use highwater_operators::checkpoint::keeper::Drafts;
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{Cause, Resolution, Resolved};
use highwater_operators::process::Process;

use crate::run::open::Opened;

/// Whether somebody has asked for something. Until it is passed on the sources must stay open: a run that has nothing to read
/// would end before.
pub(super) fn are_pending(opened: &Opened) -> bool {
    opened.letters.pending().is_ok_and(|requests| !requests.is_empty())
}

/// Looks for requests and passes them on. The request to drop is removed once the record is gone; the request to retry, once
/// the worker has taken the change in hand: a crash before the outcome leaves it parked, to be asked for again.
pub(super) fn pass_on(process: &Arc<Process>, opened: &Opened) {
    let Ok(requests) = opened.letters.pending() else { return };
    for (asked, request) in requests {
        let (id, kind) = match request {
            Request::Retry { id } => (id, CommandKind::Retry),
            Request::Drop { id } => (id, CommandKind::Drop),
        };
        let busy = process.clone();
        // Counted as backlog until its worker has taken it in hand: the sources stay open for it.
        process.add_backlog(1);
        let (settled, letters) = (process.clone(), opened.letters.clone());
        process.keeper.read_parked(vec![id], move |found| {
            let done = move || {
                drop(letters.remove(&asked));
                settled.settle_backlog(1);
            };
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
                    if !(Command { parked, kind, done: Box::new(done) }).send(&busy) {
                        busy.settle_backlog(1);
                    }
                }
            }
        });
    }
}
