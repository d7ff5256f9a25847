//! A way through every thread of a run: who has passed it knows that each has looked at what it had been given before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use highwater_operators::process::Process;
use parking_lot::Mutex;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::SyncActivator;

use crate::flow::Flow;

/// How long a thread may be busy. A run that ends meanwhile does not answer at all.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longer than the pause in which operators look at the clock.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(super) struct Barrier {
    workers: Mutex<Vec<(SyncActivator, Arc<AtomicU64>)>>,
    asked: Arc<AtomicU64>,
    closing: Arc<AtomicBool>,
}

impl Barrier {
    /// Adds an operator to a worker's dataflow that tells when the worker has run.
    pub(super) fn build(&self, flow: &Flow<'_>) {
        let scope = flow.scope();
        let builder = OperatorBuilder::new("Barrier".to_owned(), scope);
        let activator = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
        let passed = Arc::new(AtomicU64::new(0));
        self.workers.lock().push((activator, passed.clone()));
        let (asked, closing) = (self.asked.clone(), self.closing.clone());
        builder.build_reschedule(move |_| {
            move |_| {
                passed.store(asked.load(Ordering::Acquire), Ordering::Release);
                // Not done before the run ends: an operator that is done is not run any more.
                !closing.load(Ordering::Acquire)
            }
        });
    }

    /// A new run begins; what was built before, for its plan or for an earlier one, does not count.
    pub(super) fn open(&self) {
        self.workers.lock().clear();
        self.closing.store(false, Ordering::Release);
    }

    /// The run is to end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.workers.lock().iter().for_each(|(activator, _)| wake(activator));
    }

    /// Whether so many workers have built their dataflow.
    pub(super) fn is_built(&self, workers: usize) -> bool {
        self.workers.lock().len() == workers
    }

    /// Passes through the workers, the runtime and the store's thread.
    pub(super) fn pass(&self, process: &Process) {
        std::thread::sleep(PAUSE);
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let workers = self.workers.lock().clone();
        workers.iter().for_each(|(activator, _)| wake(activator));
        let (tell, told) = crossbeam_channel::bounded(2);
        let from_store = tell.clone();
        process.runtime.spawn(async move {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let _ = tell.try_send(());
        });
        process.keeper.read_parked(Vec::new(), move |_| {
            let _ = from_store.try_send(());
        });
        for _ in 0..2 {
            let _ = told.recv_timeout(PATIENCE);
        }
        let began = std::time::Instant::now();
        while workers.iter().any(|(_, passed)| passed.load(Ordering::Acquire) < asked) && began.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

fn wake(worker: &SyncActivator) {
    // An error means the worker is gone, and then there is nobody to wake.
    let _ = worker.activate();
}
