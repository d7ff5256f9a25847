//! How a death is noticed: by a connection that ends, by silence, by a worker that does not come back from a step.
//!
//! A process whose threads all stand still is silent, and the others notice. One whose worker hangs in a closure is not, and
//! notices by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::message::{Beat, Message};
use crate::error::{Error, Result};

/// Between two looks, and between two beats.
const LOOK: Duration = Duration::from_millis(100);
const BEAT: Duration = Duration::from_millis(500);

/// Starts the thread that says that this process lives, and judges who does not.
pub(super) fn start(shared: &Arc<Shared>) -> Result {
    let shared = shared.clone();
    let pulse = move || {
        let mut workers = vec![(0, Instant::now()); shared.place.workers];
        let (mut beaten, mut looked) = (None, Instant::now());
        while !shared.closed.load(Ordering::Acquire) {
            if beaten.is_none_or(|at: Instant| at.elapsed() >= BEAT) {
                beaten = Some(Instant::now());
                let beat = shared.process().map_or_else(Beat::default, |process| Beat::of(&process));
                shared.tell_all(|| Message::Beat(beat), None);
                // Epochs are told as they are left; this is for the case that nobody leaves any.
                shared.nudge_all();
            }
            // Who stood still itself has heard nobody, and must listen first.
            if looked.elapsed() < LOOK * 5 {
                shared.judge(&mut workers);
            } else {
                shared.listen_anew(&mut workers);
            }
            looked = Instant::now();
            std::thread::sleep(LOOK);
        }
    };
    let started = std::thread::Builder::new().name("pulse".into()).spawn(pulse);
    started.map(drop).map_err(|error| Error::stop("cannot start a thread for the pulse").because(error))
}

impl Shared {
    /// How long a process may be silent: it speaks twice a second, and may be late once or twice.
    fn silence(&self) -> Duration {
        (self.timeout * 3 / 4).max(BEAT * 3)
    }

    fn judge(&self, workers: &mut [(u64, Instant)]) {
        let now = self.now_ms();
        for link in self.links.get().into_iter().flatten() {
            let silent = now.saturating_sub(link.heard_ms.load(Ordering::Relaxed));
            if silent > self.silence().as_millis() as u64 {
                self.lost(link.peer, &format!("it has been silent for {:.1} s", silent as f64 / 1000.0));
            }
        }
        for (worker, (steps, (seen, since))) in self.steps.iter().zip(workers).enumerate() {
            let steps = steps.load(Ordering::Relaxed);
            // Not begun, or ended.
            if steps != *seen || steps == 0 || steps == u64::MAX {
                (*seen, *since) = (steps, Instant::now());
            } else if since.elapsed() > self.timeout && !self.halt.is_halted() {
                self.halt.fail(Error::stop(format!(
                    "worker {} of process {} has not come back from a step for {:.1} s (process_timeout): a closure of the pipeline \
                     blocks it, or the machine has too much to do",
                    self.place.process * self.place.workers + worker,
                    self.place.process,
                    since.elapsed().as_secs_f64()
                )));
            }
        }
    }

    fn listen_anew(&self, workers: &mut [(u64, Instant)]) {
        let now = self.now_ms();
        self.links.get().into_iter().flatten().for_each(|link| link.heard_ms.store(now, Ordering::Relaxed));
        workers.iter_mut().for_each(|(_, since)| *since = Instant::now());
    }
}
