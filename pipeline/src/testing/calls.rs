//! The calls of actions under test: what becomes of the next ones, and what became of those before.

use std::collections::{HashMap, VecDeque};

use highwater_operators::action::Delivery;
use highwater_operators::testing::watch::{Fate, Watch};
use highwater_operators::{Error, Result};
use parking_lot::Mutex;

/// A call that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The change's id.
    pub id: String,
    /// The change's key.
    pub key: String,
    /// Which attempt it was in its run, counted from 1.
    pub attempt: u32,
    /// The key by which a receiver knows a repeat.
    pub idempotency_key: String,
    /// What it came to.
    pub answer: Answer,
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It succeeded.
    Done,
    /// It failed, with this error.
    Failed(String),
}

#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    plans: HashMap<String, VecDeque<Planned>>,
    made: HashMap<String, Vec<Call>>,
    answered: usize,
    hanging: u64,
}

#[derive(Debug)]
enum Planned {
    Fail(Error),
    Hang,
}

impl Calls {
    pub(super) fn fail(&self, action: &str, times: usize, error: &Error) {
        self.plan(action, times, || Planned::Fail(error.in_words()));
    }

    pub(super) fn hang(&self, action: &str, times: usize) {
        self.plan(action, times, || Planned::Hang);
    }

    fn plan(&self, action: &str, times: usize, planned: impl FnMut() -> Planned) {
        self.0.lock().plans.entry(action.to_owned()).or_default().extend(std::iter::repeat_with(planned).take(times));
    }

    pub(super) fn of(&self, action: &str) -> Vec<Call> {
        self.0.lock().made.get(action).cloned().unwrap_or_default()
    }

    pub(super) fn answered(&self) -> usize {
        self.0.lock().answered
    }

    /// Calls that are never answered, made so far.
    pub(super) fn hanging(&self) -> u64 {
        self.0.lock().hanging
    }
}

impl Watch for Calls {
    fn before(&self, action: &str, _: &Delivery) -> Fate {
        let mut state = self.0.lock();
        match state.plans.get_mut(action).and_then(VecDeque::pop_front) {
            None => Fate::Goes,
            Some(Planned::Fail(error)) => Fate::Fails(error),
            Some(Planned::Hang) => {
                state.hanging += 1;
                Fate::Hangs
            }
        }
    }

    fn after(&self, action: &str, delivery: &Delivery, answer: &Result) {
        let call = Call {
            id: delivery.id().to_owned(),
            key: delivery.key().to_owned(),
            attempt: delivery.attempt(),
            idempotency_key: delivery.idempotency_key(),
            answer: match answer {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error.to_string()),
            },
        };
        let mut state = self.0.lock();
        state.answered += 1;
        state.made.entry(action.to_owned()).or_default().push(call);
    }
}
