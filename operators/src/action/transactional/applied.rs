//! Which transactions were applied, and from when on nobody will ask for their outcomes again.
//!
//! A transaction's outcomes may go once all that would otherwise be done again is durable on our side: a mark above every
//! epoch it has a change of, and, for changes that were parked, the end of their records. Dropping is work for the target beside
//! the hot path, one statement after each save.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Forget, Shared};
use crate::guard::backoff::Backoff;
use crate::position::Epoch;
use crate::process::Process;

/// How long a run that ends tries to tidy up in its targets.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// The applied transactions of one action in one process whose outcomes the target holds.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    last_number: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    transactions: Vec<Transaction>,
    /// The statement that runs, if one does.
    dropping: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Transaction {
    number: u64,
    last_epoch: Epoch,
    receipt: Receipt,
}

/// What must be durable, beside the mark, before the outcomes of a transaction may go: counted up by whoever waits for something, and
/// down when that is durable. In a crash it is simply never counted down.
#[derive(Debug)]
pub(crate) struct Receipt(Arc<AtomicUsize>);

impl Receipt {
    fn is_settled(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// One thing more must become durable.
    pub(crate) fn one_more(&self) -> Receipt {
        self.0.fetch_add(1, Ordering::AcqRel);
        Receipt(self.0.clone())
    }

    /// It is.
    pub(crate) fn settled(self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Applied {
    /// A number for a transaction.
    pub(super) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A transaction was applied. The caller settles the receipt once it has asked for all that must become durable.
    pub(super) fn add(&self, number: u64, last_epoch: Epoch) -> Receipt {
        let receipt = Receipt(Arc::new(AtomicUsize::new(1)));
        let kept = Receipt(receipt.0.clone());
        self.held.lock().transactions.push(Transaction { number, last_epoch, receipt: kept });
        receipt
    }
}

impl Held {
    /// Takes out what need not be kept once the mark of `epoch` is durable.
    fn take_dead(&mut self, epoch: Epoch) -> Vec<Transaction> {
        let is_dead = |transaction: &mut Transaction| transaction.last_epoch < epoch && transaction.receipt.is_settled();
        self.transactions.extract_if(.., is_dead).collect()
    }
}

impl Shared {
    /// A mark became durable: everything of epochs below it is done.
    fn saved(self: &Arc<Self>, epoch: Epoch, process: &Process) {
        let mut held = self.applied.held.lock();
        if held.dropping.as_ref().is_some_and(|dropping| !dropping.is_finished()) || process.halt.is_frozen() {
            return;
        }
        let dead = held.take_dead(epoch);
        if !dead.is_empty() {
            held.dropping = Some(process.runtime.spawn(self.clone().forget(dead)));
        }
    }

    /// Has the target forget these. If it cannot now, a later save tries again, or the next run, which takes over.
    async fn forget(self: Arc<Self>, dead: Vec<Transaction>) {
        let numbers = dead.iter().map(|transaction| transaction.number).collect();
        if let Err(error) = self.sink.forget(&self.run, Forget::Transactions(numbers)).await {
            tracing::debug!(action = %self.run.action, %error, "outcomes below the mark could not be dropped yet");
            self.applied.held.lock().transactions.extend(dead);
        }
    }
}

impl Process {
    /// Tells every transactional action that a mark became durable.
    pub(crate) fn outcomes_saved(&self, epoch: Epoch) {
        for (_, shared) in self.shared.all::<Shared>() {
            shared.saved(epoch, self);
        }
    }

    /// Drops the outcomes that the last save has made needless from their targets, trying for a moment.
    pub fn drop_outcomes(&self) {
        let until = Instant::now() + LAST_MOMENT;
        let backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_millis(200) };
        for attempt in 1.. {
            self.outcomes_saved(self.saved_epoch());
            let dropping: Vec<_> = self
                .shared
                .all::<Shared>()
                .into_iter()
                .filter_map(|(_, shared)| shared.applied.held.lock().dropping.take())
                .collect();
            let left = until.saturating_duration_since(Instant::now());
            if dropping.is_empty() || left.is_zero() {
                return;
            }
            self.runtime.block_on(async {
                let _ = tokio::time::timeout(left, futures_util::future::join_all(dropping)).await;
                if attempt > 1 {
                    tokio::time::sleep(backoff.wait(attempt).min(left)).await;
                }
            });
        }
    }
}
