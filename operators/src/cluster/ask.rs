//! Questions of the leader, and the answers of the members.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use super::message::Answer;

/// Questions that are open.
#[derive(Default)]
pub(super) struct Asks {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Vec<(usize, Answer)>>>,
    told: Condvar,
}

impl Asks {
    /// A new question's number.
    pub(super) fn open(&self) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, Vec::new());
        number
    }

    /// A member has answered.
    pub(super) fn answered(&self, from: usize, number: u64, answer: Answer) {
        if let Some(answers) = self.open.lock().get_mut(&number) {
            answers.push((from, answer));
            self.told.notify_all();
        }
    }

    /// Waits until so many have answered, the patience is over, or `over` says that nobody will.
    pub(super) fn wait(&self, number: u64, members: usize, patience: Duration, over: impl Fn() -> bool) -> Vec<(usize, Answer)> {
        let until = Instant::now() + patience;
        let mut open = self.open.lock();
        while open.get(&number).is_some_and(|answers| answers.len() < members) && Instant::now() < until && !over() {
            self.told.wait_until(&mut open, until.min(Instant::now() + Duration::from_millis(50)));
        }
        open.remove(&number).unwrap_or_default()
    }
}
