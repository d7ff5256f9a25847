//! Letters: what people left in the checkpoint store for the run that is there, or the next one.
//!
//! A letter is removed once it is done: of a single record, when the drop or the edit is durable, or the retry in hand; of many
//! records, when all of them have their outcome. A crash before that finds it again. What was tried since a letter was left is not
//! tried again by it, so that a crash in the middle of a long one makes nothing be tried twice but what was being called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::action::operator::{CommandKind, Obeyed};
use highwater_operators::checkpoint::place::Letters;
use highwater_operators::checkpoint::requests::{Request, RequestId};
use highwater_operators::checkpoint::store::ParkedId;
use highwater_operators::process::Process;
use parking_lot::Mutex;

use super::work::{self, Became};

/// After what time a letter is passed on again that met its record while something else was done with it.
const AGAIN: Duration = Duration::from_millis(50);

/// How long other processes are waited for to do what was left to them. What they have not done by then they do as any other letter.
const FOR_OTHERS: Duration = Duration::from_secs(10);

/// The letters of a run, and how far each has been worked through.
pub(super) struct Post {
    process: Arc<Process>,
    letters: Arc<dyn Letters>,
    /// Letters about many records, in the order in which they were left, with the number up to which each is done.
    long: BTreeMap<RequestId, (Request, ParkedId)>,
    /// Long letters of which everything was passed on, and not everything has its outcome yet.
    finishing: BTreeSet<RequestId>,
    /// Since when nothing of them is left to do here.
    own_done_at: Option<Instant>,
    /// Letters about single records that were passed on.
    passed_on: BTreeSet<RequestId>,
    /// Of these, those that met their record while something else was done with it: to be passed on again.
    again: Arc<Mutex<Vec<(RequestId, Request)>>>,
    again_at: Instant,
    /// Whether the sources are kept open for what was there when the run began.
    keeps_open: bool,
}

impl Post {
    pub(super) fn open(process: &Arc<Process>, letters: &Arc<dyn Letters>) -> Self {
        // Before the workers start: one that has nothing to read would be done at once.
        let keeps_open = letters.pending().is_ok_and(|pending| !pending.is_empty());
        process.add_backlog(keeps_open.into());
        let (process, letters) = (process.clone(), letters.clone());
        Post {
            process,
            letters,
            long: BTreeMap::new(),
            finishing: BTreeSet::new(),
            own_done_at: None,
            passed_on: BTreeSet::new(),
            again: Arc::default(),
            again_at: Instant::now(),
            keeps_open,
        }
    }

    pub(super) fn letters(&self) -> &Arc<dyn Letters> {
        &self.letters
    }

    /// Whether everything that was asked for is done.
    pub(super) fn is_done(&self) -> bool {
        self.long.is_empty() && self.finishing.is_empty() && self.letters.pending().is_ok_and(|pending| pending.is_empty())
    }

    /// Looks for new letters, and passes those about single records on.
    pub(super) fn look(&mut self) {
        let Ok(pending) = self.letters.pending() else { return };
        self.passed_on.retain(|asked| pending.iter().any(|(there, _)| there == asked));
        for (asked, request) in pending {
            match request {
                // One process goes through all records, and leaves what others own to them.
                Request::RetryAll { .. } | Request::DropAll { .. } if !self.process.cluster.place().leads() => {}
                _ if self.passed_on.contains(&asked) || self.finishing.contains(&asked) => {}
                Request::RetryAll { .. } | Request::DropAll { .. } => {
                    self.long.entry(asked).or_insert((request, 0));
                }
                _ => {
                    // Counted as backlog until its worker has taken it in hand: the sources stay open for it.
                    self.process.add_backlog(1);
                    self.passed_on.insert(asked.clone());
                    self.pass_on(asked, request);
                }
            }
        }
        self.settle();
    }

    /// Does a slice of the first long letter. Says whether there was one.
    pub(super) fn work(&mut self) -> bool {
        if self.process.is_stopping() {
            // The rest is for the next run.
            self.settle();
            self.process.settle_backlog(self.again.lock().drain(..).count());
            return false;
        }
        self.pass_on_again();
        self.finish();
        let Some(mut entry) = self.long.first_entry() else { return false };
        let (request, after) = entry.get_mut();
        let kind = if matches!(request, Request::DropAll { .. }) { CommandKind::Drop } else { CommandKind::Retry };
        match work::slice(&self.process, &self.letters, &request.filter(), *after, &kind) {
            Ok(answer) => match answer.next {
                _ if answer.ended > 0 => {
                    // Some of it is for the next run, which finds the letter as it is.
                    let (asked, _) = entry.remove_entry();
                    self.passed_on.insert(asked);
                    self.settle();
                }
                Some(next) => *after = next,
                None => {
                    let (asked, _) = entry.remove_entry();
                    self.finishing.insert(asked);
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a request for parked changes waits");
                return false;
            }
        }
        true
    }

    /// Removes long letters once everything they asked for has its outcome, in this process and, as far as is seen, in others.
    fn finish(&mut self) {
        if self.finishing.is_empty() || self.process.commands_in_hand() > 0 {
            return;
        }
        let since = *self.own_done_at.get_or_insert_with(Instant::now);
        let are_done = |pending: Vec<(RequestId, Request)>| pending.iter().all(|(asked, _)| self.finishing.contains(asked));
        let have_others_done = !self.process.cluster.place().has_others() || self.letters.pending().is_ok_and(are_done);
        if have_others_done || since.elapsed() > FOR_OTHERS {
            self.own_done_at = None;
            std::mem::take(&mut self.finishing).iter().for_each(|asked| tell_trouble(self.letters.remove(asked)));
            self.settle();
        }
    }

    fn pass_on_again(&mut self) {
        if self.again_at.elapsed() < AGAIN {
            return;
        }
        self.again_at = Instant::now();
        let again = std::mem::take(&mut *self.again.lock());
        again.into_iter().for_each(|(asked, request)| self.pass_on(asked, request));
    }

    /// What was there when the run began is in hand: the sources need no longer be kept open for it.
    fn settle(&mut self) {
        let is_done = self.long.is_empty() && self.finishing.is_empty();
        if self.keeps_open && (is_done || self.process.is_stopping()) {
            self.keeps_open = false;
            self.process.settle_backlog(1);
        }
    }

    /// Passes on what is asked of one record, if this process owns its key.
    fn pass_on(&mut self, asked: RequestId, request: Request) {
        let kind = match &request {
            Request::Drop { .. } => CommandKind::Drop,
            Request::Edit { row, .. } => CommandKind::Edit(row.clone()),
            _ => CommandKind::Retry,
        };
        let (process, letters, leads) = (self.process.clone(), self.letters.clone(), self.process.cluster.place().leads());
        let again = self.again.clone();
        let filter = request.filter();
        self.process.keeper.page_of_parked(filter, 0, 1, move |page| {
            let settled = process.clone();
            let done = move |became| {
                let is_ours = match &became {
                    // The letter stays: for the process that owns the key, or for the next run.
                    Became::Elsewhere(_) | Became::Ended => false,
                    Became::Rejected => leads,
                    Became::Obeyed(Obeyed::UnderWay) => return again.lock().push((asked, request)),
                    Became::Obeyed(obeyed) => {
                        tell_refusal(obeyed);
                        true
                    }
                };
                if is_ours {
                    tell_trouble(letters.remove(&asked));
                }
                settled.settle_backlog(1);
            };
            match page.records.into_iter().next() {
                Some(parked) => work::command(&process, parked, &kind, done),
                None => done(Became::Obeyed(Obeyed::Done)),
            }
        });
    }
}

fn tell_refusal(obeyed: &Obeyed) {
    if let Obeyed::Refused(why) = obeyed {
        tracing::warn!(%why, "a request for a parked change is refused");
    }
}

fn tell_trouble(removed: highwater_operators::Result) {
    if let Err(error) = removed {
        tracing::warn!(%error, "a request that is done could not be removed");
    }
}
