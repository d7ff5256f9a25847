//! Job queues as figures, wherever they are kept: each queue that this process uses shows itself here by its name.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;

/// How a queue stands, and what this process has done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Jobs that wait to be taken: those that may be, those whose time has not come, those behind an earlier one of their key.
    pub depth: u64,
    /// How long the oldest job has waited that could be taken.
    pub age: Duration,
    /// Jobs that a worker holds.
    pub in_flight: u64,
    /// Jobs that stand parked.
    pub parked: u64,
    /// What this process has done.
    pub done: Done,
}

/// What a process has done with a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Jobs enqueued that were new.
    pub enqueued: u64,
    /// Jobs that were there already, or had been done.
    pub known: u64,
    /// Jobs taken.
    pub taken: u64,
    /// Jobs taken whose worker before had died, or lost them.
    pub returned: u64,
    /// Jobs finished.
    pub finished: u64,
    /// Attempts that failed and are repeated.
    pub retried: u64,
    /// Jobs parked.
    pub parked: u64,
    /// What came too late: its job had been given to another worker.
    pub refused: u64,
    /// Jobs let go of because their lease could not be renewed.
    pub lost: u64,
}

impl Done {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Done) -> Done {
        Done {
            enqueued: self.enqueued + other.enqueued,
            known: self.known + other.known,
            taken: self.taken + other.taken,
            returned: self.returned + other.returned,
            finished: self.finished + other.finished,
            retried: self.retried + other.retried,
            parked: self.parked + other.parked,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
        }
    }
}

/// What can say how it stands.
pub trait Shown: Send + Sync {
    /// How it stands now, as far as is known without asking.
    fn status(&self) -> QueueStatus;
}

static QUEUES: Mutex<Vec<(String, Weak<dyn Shown>)>> = Mutex::new(Vec::new());

/// Shows a queue for as long as it is there.
pub fn show(name: &str, queue: Weak<dyn Shown>) {
    let mut queues = QUEUES.lock();
    queues.retain(|(_, queue)| queue.strong_count() > 0);
    queues.push((name.to_owned(), queue));
}

/// All queues of the process by name. Two uses of one queue are one line: how it stands is the queue's, what was done is added together.
pub fn all() -> BTreeMap<String, QueueStatus> {
    // Asked outside the lock: a queue that is dropped here may show another one.
    let shown = QUEUES.lock().clone();
    let mut all: BTreeMap<String, QueueStatus> = BTreeMap::new();
    for (name, queue) in shown {
        if let Some(queue) = queue.upgrade() {
            let status = queue.status();
            let done = all.get(&name).map(|known| known.done).unwrap_or_default().and(status.done);
            all.insert(name, QueueStatus { done, ..status });
        }
    }
    all
}
