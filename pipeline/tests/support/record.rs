//! What arrives at the receiving end: every successful call of every action, in the order in which they succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use highwater::prelude::*;
use parking_lot::Mutex;

/// Partition and place of a change.
pub type Place = (u32, u64);

/// One successful call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub action: &'static str,
    /// Runs before this one.
    pub run: u32,
    pub place: Place,
    pub key: String,
    /// The idempotency key, where the action is told it.
    pub idempotency: Option<String>,
    /// What the lookup had attached.
    pub tier: Option<String>,
}

/// Everything that was done. Cheap to clone.
#[derive(Clone, Default)]
pub struct Record(Arc<Inner>);

#[derive(Default)]
struct Inner {
    effects: Mutex<Vec<Effect>>,
    /// Keys that a call is under way for: by run, because a crashed run does not tidy up.
    busy: Mutex<BTreeSet<(&'static str, u32, String)>>,
    wrong: Mutex<Vec<String>>,
    run: AtomicU32,
    calls: AtomicUsize,
}

impl Record {
    /// A new run begins.
    pub fn next_run(&self) {
        self.0.run.fetch_add(1, Ordering::SeqCst);
    }

    /// Everything done so far.
    pub fn effects(&self) -> Vec<Effect> {
        self.0.effects.lock().clone()
    }

    /// The effects of one action.
    pub fn of(&self, action: &str) -> Vec<Effect> {
        self.0.effects.lock().iter().filter(|effect| effect.action == action).cloned().collect()
    }

    /// How many calls were made, successful or not.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// What was seen that must never be: two calls of one key at once.
    pub fn wrong(&self) -> Vec<String> {
        self.0.wrong.lock().clone()
    }

    /// How often each change was delivered to an action.
    pub fn times(&self, action: &str) -> BTreeMap<Place, usize> {
        let mut times = BTreeMap::new();
        for effect in self.of(action) {
            *times.entry(effect.place).or_default() += 1;
        }
        times
    }

    /// A target has committed changes of a transaction, in this order.
    pub fn committed<'c>(&self, action: &'static str, changes: impl Iterator<Item = &'c Change>) {
        let run = self.0.run.load(Ordering::SeqCst);
        self.0.effects.lock().extend(changes.map(|change| {
            let position = change.position();
            Effect {
                action,
                run,
                place: (position.partition, position.at),
                key: change.key().to_owned(),
                idempotency: None,
                tier: change.found("customer").str("tier").map(|tier| tier.into_owned()),
            }
        }));
    }

    fn enter(&self, action: &'static str, change: &Change) -> Busy {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let run = self.0.run.load(Ordering::SeqCst);
        let entry = (action, run, change.key().to_owned());
        if !self.0.busy.lock().insert(entry.clone()) {
            self.0.wrong.lock().push(format!("{action}: two calls at once for key {}", change.key()));
        }
        Busy { record: self.clone(), entry }
    }

    /// Does what a call is to do for this change, and notes it if it succeeds.
    pub async fn act(&self, action: &'static str, change: &Change, attempt: Option<u32>, idempotency: Option<String>) -> Result {
        let busy = self.enter(action, change);
        // Other calls get their turn meanwhile, more or fewer of them by the change's place.
        for _ in 0..change.position().at % 4 {
            tokio::task::yield_now().await;
        }
        match change.row().str("fate").as_deref() {
            Some("flaky") if attempt.is_some_and(|attempt| attempt < 3) => return Err(Error::retry("not yet")),
            Some("poison") => return Err(Error::park("never")),
            Some("panic") => panic!("this change makes calls panic"),
            _ => {}
        }
        let position = change.position();
        self.0.effects.lock().push(Effect {
            action,
            run: busy.entry.1,
            place: (position.partition, position.at),
            key: change.key().to_owned(),
            idempotency,
            tier: change.found("customer").str("tier").map(|tier| tier.into_owned()),
        });
        Ok(())
    }
}

/// A call under way.
struct Busy {
    record: Record,
    entry: (&'static str, u32, String),
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.record.0.busy.lock().remove(&self.entry);
    }
}

/// An action that records, by the trait: it is told attempt and idempotency key.
pub struct Recorder {
    pub name: &'static str,
    pub record: Record,
}

impl Action for Recorder {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let key = delivery.idempotency_key();
            self.record.act(self.name, delivery.change(), Some(delivery.attempt()), Some(key)).await
        })
    }
}
