//! Every step that reaches the database, so that a test can make any one of them fail. In everyday builds it is empty.

use std::future::Future;

use crate::error::Result;

/// What fails, as a test has planned it.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    #[cfg(any(test, feature = "testing"))]
    planned: std::sync::Arc<parking_lot::Mutex<Planned>>,
}

/// How a step fails; every later one fails too.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done.
    Before,
    /// It is done, and the answer is lost.
    After,
}

#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Default)]
struct Planned {
    next: Option<(u64, Fault)>,
    dead: bool,
}

impl Faults {
    #[cfg(not(any(test, feature = "testing")))]
    pub(super) async fn step<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.await
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) async fn step<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let gone = || crate::error::Error::stop("the process is gone, as a test has planned it");
        match self.strikes() {
            None => work.await,
            Some(Fault::Before) => Err(gone()),
            Some(Fault::After) => {
                drop(work.await);
                Err(gone())
            }
        }
    }

    /// From now on the `nth` step fails, counted from 0.
    #[cfg(any(test, feature = "testing"))]
    pub fn fail(&self, nth: u64, fault: Fault) {
        self.planned.lock().next = Some((nth, fault));
    }

    /// Nothing fails any more.
    #[cfg(any(test, feature = "testing"))]
    pub fn revive(&self) {
        *self.planned.lock() = Planned::default();
    }

    #[cfg(any(test, feature = "testing"))]
    fn strikes(&self) -> Option<Fault> {
        let mut planned = self.planned.lock();
        if planned.dead {
            return Some(Fault::Before);
        }
        match planned.next {
            Some((0, fault)) => {
                planned.dead = true;
                Some(fault)
            }
            Some((n, fault)) => {
                planned.next = Some((n - 1, fault));
                None
            }
            None => None,
        }
    }
}
