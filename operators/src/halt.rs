//! What ends a process early, and what a test arms to make it crash.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// What ends a process early: a failure, a crash made by a test, or a person in a hurry.
#[derive(Debug, Default)]
pub struct Halt {
    halted: AtomicBool,
    why: Mutex<Option<Ending>>,
    #[cfg(feature = "testing")]
    /// Where a test makes the process crash.
    pub failpoints: crate::testing::failpoint::Failpoints,
}

/// Why a process ended early.
#[derive(Debug)]
pub enum Ending {
    /// Something failed that the pipeline must not go on with.
    Failed(Error),
    /// Left without draining: what is unfinished is read again by the next run.
    Abandoned,
    /// A failpoint fired.
    Crashed,
}

impl Halt {
    /// Ends the process because of an error. The first reason counts.
    pub fn fail(&self, error: Error) {
        self.end(Ending::Failed(error));
    }

    /// Ends the process for a reason. The first reason counts.
    pub fn end(&self, ending: Ending) {
        self.why.lock().get_or_insert(ending);
        self.halted.store(true, Ordering::Release);
    }

    /// Whether the process is to end now.
    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Whether nothing may become durable any more.
    pub fn is_frozen(&self) -> bool {
        self.is_halted() && matches!(*self.why.lock(), Some(Ending::Crashed | Ending::Failed(_)))
    }

    /// Looks at why the process ended, if it did and nobody has taken the reason.
    pub fn look<T>(&self, see: impl FnOnce(&Ending) -> Option<T>) -> Option<T> {
        self.why.lock().as_ref().and_then(see)
    }

    /// The error the process ended with, as one to be passed on: the reason itself stays.
    ///
    /// # Errors
    /// That error.
    pub fn reason(&self) -> Result<()> {
        match self.look(|ending| if let Ending::Failed(error) = ending { Some(error.to_string()) } else { None }) {
            Some(sentence) => Err(Error::stop(sentence)),
            None => Ok(()),
        }
    }

    /// Why the process ended, taken once.
    pub fn take(&self) -> Result<Option<Ending>> {
        match self.why.lock().take() {
            Some(Ending::Failed(error)) => Err(error),
            other => Ok(other),
        }
    }

    /// Passes a failpoint. `true`: the process has crashed here and the caller does nothing more.
    pub fn passes(&self, failpoint: &str) -> bool {
        #[cfg(feature = "testing")]
        {
            if self.failpoints.pass(failpoint) {
                self.end(Ending::Crashed);
            }
            self.is_frozen()
        }
        #[cfg(not(feature = "testing"))]
        {
            let _ = failpoint;
            false
        }
    }
}
