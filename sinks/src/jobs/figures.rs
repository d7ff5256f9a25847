//! What a process has done with a queue, and how the queue stands, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use highwater_operators::queues::{self, Done, QueueStatus, Shown};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::store::{Counts, Enqueued, JobStore, Leased};

/// How often it is counted how a queue stands, if counting takes no time: it may take a twentieth of all.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The action that enqueues, if there is one.
    action: Mutex<String>,
    pub enqueued: AtomicU64,
    pub known: AtomicU64,
    pub taken: AtomicU64,
    pub returned: AtomicU64,
    pub finished: AtomicU64,
    pub retried: AtomicU64,
    pub parked: AtomicU64,
    pub refused: AtomicU64,
    pub lost: AtomicU64,
    counts: Mutex<Counts>,
    /// Who counts. It may have ended with the runtime it was started on.
    watch: Mutex<Option<JoinHandle<()>>>,
}

impl Figures {
    /// Figures that are shown under a queue's name.
    pub(super) fn shown(name: &str) -> Arc<Self> {
        let figures = Arc::new(Figures::default());
        let shown: Weak<Figures> = Arc::downgrade(&figures);
        queues::show(name, shown);
        figures
    }

    pub(super) fn action(&self) -> String {
        self.action.lock().clone()
    }

    pub(super) fn set_action(&self, name: &str) {
        name.clone_into(&mut self.action.lock());
    }

    pub(super) fn enqueued(&self, enqueued: &[Enqueued]) {
        let new = enqueued.iter().filter(|enqueued| **enqueued == Enqueued::New).count() as u64;
        add(&self.enqueued, new);
        add(&self.known, enqueued.len() as u64 - new);
    }

    pub(super) fn taken(&self, jobs: &[Leased]) {
        add(&self.taken, jobs.len() as u64);
        add(&self.returned, jobs.iter().filter(|job| job.returned).count() as u64);
    }

    /// Has it counted how the queue stands, from now on and for as long as both are there.
    pub(super) fn watch(self: &Arc<Self>, store: &Arc<dyn JobStore>) {
        let mut counts = self.watch.lock();
        if counts.as_ref().is_none_or(JoinHandle::is_finished) {
            *counts = Some(tokio::spawn(watch(Arc::downgrade(self), Arc::downgrade(store))));
        }
    }

    pub(super) fn done(&self) -> Done {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Done {
            enqueued: of(&self.enqueued),
            known: of(&self.known),
            taken: of(&self.taken),
            returned: of(&self.returned),
            finished: of(&self.finished),
            retried: of(&self.retried),
            parked: of(&self.parked),
            refused: of(&self.refused),
            lost: of(&self.lost),
        }
    }
}

async fn watch(figures: Weak<Figures>, store: Weak<dyn JobStore>) {
    loop {
        let (Some(figures), Some(store)) = (figures.upgrade(), store.upgrade()) else { return };
        let began = Instant::now();
        if let Ok(counts) = store.counts().await {
            *figures.counts.lock() = counts;
        }
        drop((figures, store));
        tokio::time::sleep(EVERY.max(20 * began.elapsed())).await;
    }
}

impl Shown for Figures {
    fn status(&self) -> QueueStatus {
        let counts = *self.counts.lock();
        let Counts { ready, later, behind, in_flight, parked, age } = counts;
        QueueStatus { depth: ready + later + behind, age, in_flight, parked, done: self.done() }
    }
}

pub(super) fn add(count: &AtomicU64, more: u64) {
    if more > 0 {
        count.fetch_add(more, Ordering::Relaxed);
    }
}
