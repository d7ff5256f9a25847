//! What takes work to make is made once for all who ask within a moment.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So long an answer is fresh.
const MOMENT: Duration = Duration::from_millis(200);

/// An answer, as long as it is fresh. So however many ask, and however often, the workers are asked five times a second at most.
pub(super) struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Fresh<T> {
    pub(super) fn new() -> Self {
        Fresh(Mutex::new(None))
    }

    /// The answer, made if there is no fresh one. Who asks meanwhile waits for it.
    pub(super) fn get(&self, make: impl FnOnce() -> T) -> T {
        let mut kept = self.0.lock();
        match &*kept {
            Some((at, answer)) if at.elapsed() < MOMENT => answer.clone(),
            _ => {
                let answer = make();
                *kept = Some((Instant::now(), answer.clone()));
                answer
            }
        }
    }
}
