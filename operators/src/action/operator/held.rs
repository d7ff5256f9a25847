//! What an action holds the mark with, told to whoever asks.

use super::{Desk, Task};
use crate::action::handover::{Handover, Step};
use crate::why::{Hold, HolderKind};

impl Desk {
    /// The change that holds the oldest epoch here: of those that do, the one that is waited for, not one that waits.
    pub(super) fn oldest(&self) -> Option<Hold> {
        let (epoch, _) = self.open.iter().find(|(_, open)| open.pending > 0)?;
        let holds = self.tasks.iter().filter(|(_, task)| task.epoch == *epoch && !task.is_aside);
        let hold = |(_, task): (usize, &Task)| {
            let mut hold = Hold::new(*epoch, HolderKind::Turn);
            match task.handover.as_ref().map(Handover::step) {
                None | Some(Step::Queued) => {}
                Some(Step::Noted) => hold = Hold::of_noted(*epoch, &self.process),
                Some(Step::Called { attempt, since }) => {
                    (hold.kind, hold.since) = (HolderKind::Call, since);
                    hold.attempt = Some((attempt, self.spec.attempts));
                }
                Some(Step::Retrying { attempt, next_try }) => {
                    (hold.kind, hold.next_try) = (HolderKind::Retry, Some(next_try));
                    hold.attempt = Some((attempt, self.spec.attempts));
                }
            }
            if self.spec.transactional_sink().is_some() {
                // There is no last attempt while the target is away.
                hold.attempt = None;
                hold.trouble = self.stats.trouble.lock().clone();
            }
            hold.condition = self.spec.condition().map(|condition| condition.name().to_owned());
            hold.change = Some((task.change.key().to_owned(), task.change.id().to_owned()));
            hold
        };
        // None of its changes is here any more: their records are on their way to the store.
        holds.map(hold).min_by_key(|hold| (hold.kind, hold.since)).or_else(|| Some(Hold::of_noted(*epoch, &self.process)))
    }
}
