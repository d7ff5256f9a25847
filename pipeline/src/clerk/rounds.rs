//! What the clerk looks after by itself: schedules, the bound, the age of the oldest record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use highwater_operators::Error;
use highwater_operators::action::operator::CommandKind;
use highwater_operators::checkpoint::store::{Cause, ParkedId};
use highwater_operators::parked::{Filter, Page};
use highwater_operators::process::Process;

use super::letters::Post;
use super::work;
use crate::plan::Plan;
use crate::settings::ParkedFull;

/// Records of earlier runs that are read at once to know when they are due.
const READ: usize = 1000;
/// Records that are retried by schedule at once.
const PAGE: usize = 256;
/// Retries by schedule under way at once, about.
const IN_HAND_MAX: usize = 512;
/// For how long it must have been full, with nothing left to do about it, before a run ends that is to end then.
const FULL_FOR: Duration = Duration::from_secs(2);

pub(super) struct Rounds {
    process: Arc<Process>,
    full: ParkedFull,
    /// Since when as much stands parked as may be.
    full_since: Option<Instant>,
    /// Actions with a schedule whose records of earlier runs have not all been looked at: which, and up to where.
    unread: Vec<(String, ParkedId)>,
    reading: Option<Receiver<Page>>,
}

impl Rounds {
    pub(super) fn new(process: &Arc<Process>, plan: &Plan, full: ParkedFull) -> Self {
        let scheduled = plan.actions_and_hooks().filter(|(_, spec)| spec.retries_parked());
        let unread = scheduled.map(|(name, _)| (name.to_owned(), 0)).collect();
        Rounds { process: process.clone(), full, full_since: None, unread, reading: None }
    }

    /// Once a second.
    pub(super) fn look(&mut self, post: &Post) {
        self.look_at_bound(post);
        self.look_at_oldest();
    }

    fn look_at_bound(&mut self, post: &Post) {
        let process = &self.process;
        process.look_at_shelves();
        let shelves = process.keeper.shelves();
        let Some(complaint) = shelves.complaint() else {
            if self.full_since.take().is_some() {
                crate::log::announce(format_args!("there is room for parked changes again: sources read on"));
            }
            return;
        };
        let since = *self.full_since.get_or_insert_with(|| {
            crate::log::warn(format_args!("{complaint}"));
            Instant::now()
        });
        let is_idle = post.is_done() && process.commands_in_hand() == 0 && !process.has_backlog();
        if self.full == ParkedFull::Stop && shelves.is_full_here() && is_idle && since.elapsed() > FULL_FOR {
            process.halt.fail(Error::stop(format!("{complaint} (parked_full = stop)")));
        }
    }

    /// When the oldest record of each action was parked is known once somebody has looked.
    fn look_at_oldest(&self) {
        let shelves = self.process.keeper.shelves().clone();
        let new = shelves.by_action().into_values().filter(|shelf| shelf.oldest_at_ms.is_none());
        let ids: Vec<ParkedId> = new.filter_map(|shelf| shelf.oldest).collect();
        if !ids.is_empty() {
            self.process.keeper.read_parked(ids, move |found| found.iter().for_each(|parked| shelves.set_oldest(parked)));
        }
    }

    /// How long until something is due.
    pub(super) fn until_due(&self) -> Duration {
        if self.reading.is_some() {
            return Duration::from_millis(2);
        }
        let due = self.process.keeper.shelves().next_due();
        due.map_or(Duration::MAX, |due| Duration::from_millis(due.saturating_sub(self.process.clock.unix_ms())))
            .max(Duration::from_millis(5))
    }

    /// Does a slice of what is due. Says whether there was more to do.
    pub(super) fn work(&mut self) -> bool {
        if self.process.is_stopping() {
            return false;
        }
        let is_reading = self.read_on();
        if self.process.commands_in_hand() >= IN_HAND_MAX {
            return false;
        }
        let ids = self.process.keeper.shelves().take_due(self.process.clock.unix_ms(), PAGE);
        if ids.is_empty() {
            return is_reading;
        }
        let process = self.process.clone();
        self.process.keeper.page_of_parked(Filter::of(ids), 0, PAGE, move |page| {
            for parked in page.records {
                // What was replaced meanwhile has a time of its own.
                let is_due = parked.history.next_try_ms <= process.clock.unix_ms() && parked.history.next_try_ms > 0;
                if is_due && matches!(parked.cause, Cause::Failed | Cause::Lookup) {
                    work::command(&process, parked, &CommandKind::Retry, |_| {});
                }
            }
        });
        true
    }

    /// Reads on in what earlier runs left, to know when it is to be tried. Says whether there is more.
    fn read_on(&mut self) -> bool {
        let Some((action, after)) = self.unread.last_mut() else { return false };
        if let Some(reading) = &self.reading {
            let Ok(page) = reading.try_recv() else { return false };
            self.reading = None;
            self.process.keeper.shelves().schedule(&page.records);
            match page.next {
                Some(next) => *after = next,
                None => {
                    self.unread.pop();
                    return !self.unread.is_empty();
                }
            }
        }
        let filter = Filter { action: Some(action.clone()), ..Filter::default() };
        let (tell, told) = bounded(1);
        self.process.keeper.page_of_parked(filter, *after, READ, move |page| drop(tell.send(page)));
        self.reading = Some(told);
        false
    }
}
