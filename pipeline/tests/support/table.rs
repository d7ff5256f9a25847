//! A target with transactions, in memory, which no crash of the pipeline touches: it keeps rows and outcomes together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use highwater::operators::action::transactional::{Forget, Recorded, RunOf, Transaction, TransactionalSink};
use highwater::prelude::*;
use parking_lot::Mutex;

use super::record::Record;

/// The target. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    action: &'static str,
    record: Record,
    kept: Arc<Mutex<Kept>>,
    tries: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Kept {
    generation: u64,
    /// By generation, process of the run, and number.
    outcomes: BTreeMap<(u64, u32, u64), Vec<u8>>,
}

impl Table {
    pub fn new(action: &'static str, record: &Record) -> Self {
        Table { action, record: record.clone(), kept: Arc::default(), tries: Arc::default() }
    }

    /// Transactions whose outcomes it keeps.
    pub fn outcomes(&self) -> usize {
        self.kept.lock().outcomes.len()
    }

    fn commit(&self, transaction: Transaction<'_>) -> Result {
        let mut kept = self.kept.lock();
        if kept.generation != transaction.run.generation {
            return Err(Error::stop("this run was replaced"));
        }
        let place = (transaction.run.generation, transaction.run.process, transaction.number);
        if kept.outcomes.contains_key(&place) {
            return Ok(());
        }
        if transaction.changes().any(|change| change.row().str("fate").as_deref() == Some("poison")) {
            return Err(Error::park("a row is not as it must be"));
        }
        kept.outcomes.insert(place, transaction.outcomes.to_vec());
        self.record.committed(self.action, transaction.changes().map(Delivery::change));
        Ok(())
    }
}

impl TransactionalSink for Table {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn begin<'a>(&'a self, run: &'a RunOf) -> BoxFuture<'a, Result<Vec<Recorded>>> {
        let mut kept = self.kept.lock();
        assert!(kept.generation < run.generation, "a run begins with a generation of its own");
        kept.generation = run.generation;
        let recorded = kept.outcomes.values().map(|outcomes| Recorded { outcomes: outcomes.clone() }).collect();
        Box::pin(async move { Ok(recorded) })
    }

    fn apply<'a>(&'a self, transaction: Transaction<'a>) -> BoxFuture<'a> {
        Box::pin(async move {
            let panics = |change: &Delivery| change.row().str("fate").as_deref() == Some("panic");
            assert!(!transaction.changes().any(panics), "this change makes transactions panic");
            let tries = self.tries.fetch_add(1, Ordering::Relaxed);
            for _ in 0..tries % 3 {
                tokio::task::yield_now().await;
            }
            match tries % 7 {
                2 => Err(Error::retry("away")),
                5 => self.commit(transaction).and(Err(Error::retry("the answer was lost"))),
                _ => self.commit(transaction),
            }
        })
    }

    fn forget<'a>(&'a self, run: &'a RunOf, which: Forget) -> BoxFuture<'a> {
        let mut kept = self.kept.lock();
        match which {
            Forget::EarlierRuns => kept.outcomes.retain(|(generation, ..), _| *generation == run.generation),
            Forget::Transactions(numbers) => {
                kept.outcomes.retain(|(generation, process, number), _| {
                    (*generation, *process) != (run.generation, run.process) || !numbers.contains(number)
                });
            }
        }
        Box::pin(async { Ok(()) })
    }
}
