//! Asking operators what they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::HolderKind;
use crate::offload::Wake;
use crate::position::Epoch;

/// All operators of a process that can hold an epoch.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The number of the last question.
    asked: AtomicU64,
    desks: Mutex<Vec<Entry>>,
    told: Condvar,
    /// One question at a time.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    desk: Desk,
    wake: Wake,
    /// The number of the question that was answered last, with its answer.
    answer: (u64, Option<Box<Hold>>),
}

/// An operator on a worker.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub operator: &'static str,
    pub name: String,
    pub worker: usize,
}

/// What came of a question.
pub(super) enum Told {
    Holds(Box<Hold>),
    Nothing,
    /// There was no answer in time.
    Silent,
}

/// The oldest thing an operator holds.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The epoch that is held open.
    pub epoch: Epoch,
    /// What it waits for.
    pub kind: HolderKind,
    /// Since when, in Unix milliseconds.
    pub since: u64,
    /// Why the last attempt failed, where it is known.
    pub trouble: Option<String>,
    /// Key and id of the change, if it is one change.
    pub change: Option<(String, String)>,
    /// Which attempt is made or was made last, and how many there are at most.
    pub attempt: Option<(u32, u32)>,
    /// When the next attempt is made, in Unix milliseconds.
    pub next_try: Option<u64>,
    /// Under which condition the action takes changes, if it has one.
    pub condition: Option<String>,
}

impl Hold {
    /// A hold of no change in particular.
    pub fn new(epoch: Epoch, kind: HolderKind) -> Self {
        Hold { epoch, kind, since: epoch, trouble: None, change: None, attempt: None, next_try: None, condition: None }
    }
}

/// An operator's side: it looks whether it was asked, each time it runs.
#[derive(Debug)]
pub struct Probe {
    shared: Arc<Shared>,
    number: usize,
    answered: u64,
}

impl Probes {
    /// An operator that can hold epochs, and how it is woken.
    pub(crate) fn register(&self, operator: &'static str, name: &str, worker: usize, wake: &Wake) -> Probe {
        let mut desks = self.0.desks.lock();
        let desk = Desk { operator, name: name.to_owned(), worker };
        desks.push(Entry { desk, wake: wake.clone(), answer: (0, None) });
        Probe { shared: self.0.clone(), number: desks.len() - 1, answered: 0 }
    }

    /// Asks all, and waits up to `patience` for the answers.
    pub(super) fn ask(&self, patience: Duration) -> Vec<(Desk, Told)> {
        let _turn = self.0.turn.lock();
        let asked = self.0.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut desks = self.0.desks.lock();
        desks.iter().for_each(|entry| entry.wake.wake());
        let until = Instant::now() + patience;
        while desks.iter().any(|entry| entry.answer.0 != asked) {
            if self.0.told.wait_until(&mut desks, until).timed_out() {
                break;
            }
        }
        let told = desks.iter_mut().map(|entry| match &mut entry.answer {
            (number, _) if *number != asked => (entry.desk.clone(), Told::Silent),
            (_, hold) => (entry.desk.clone(), hold.take().map_or(Told::Nothing, Told::Holds)),
        });
        told.collect()
    }

    /// Forgets the operators, whose wakes keep their worker's parts alive.
    pub(crate) fn close(&self) {
        self.0.desks.lock().clear();
        self.0.told.notify_all();
    }
}

impl Probe {
    /// Answers if there is a question. Costs one load if there is none.
    pub(crate) fn answer(&mut self, hold: impl FnOnce() -> Option<Hold>) {
        let asked = self.shared.asked.load(Ordering::Acquire);
        if asked == self.answered {
            return;
        }
        self.answered = asked;
        let hold = hold().map(Box::new);
        if let Some(entry) = self.shared.desks.lock().get_mut(self.number) {
            entry.answer = (asked, hold);
        }
        self.shared.told.notify_all();
    }
}

impl Drop for Probe {
    /// An operator that has ended holds nothing, and must not be waited for.
    fn drop(&mut self) {
        if let Some(entry) = self.shared.desks.lock().get_mut(self.number) {
            entry.answer = (u64::MAX, None);
        }
    }
}
