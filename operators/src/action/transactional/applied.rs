//! Which transactions were applied, and from when on nobody will ask for their outcomes again.
//!
//! A transaction's outcomes may go once all that would otherwise be done again is durable on our side: a mark above every
//! epoch it has a change of, and, for changes that were parked, the end of their records. Dropping is work for the target beside
//! the hot path, one statement after each save.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Forget, Shared};
use crate::position::Epoch;
use crate::process::Process;

/// The applied transactions of one action in one process whose outcomes the target holds.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    last_number: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    transactions: VecDeque<Transaction>,
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
        self.held.lock().transactions.push_back(Transaction { number, last_epoch, receipt: kept });
        receipt
    }
}

impl Shared {
    /// A mark became durable: everything of epochs below it is done.
    fn saved(self: &Arc<Self>, epoch: Epoch, process: &Process) {
        let mut held = self.applied.held.lock();
        if held.dropping.as_ref().is_some_and(|dropping| !dropping.is_finished()) || process.halt.is_frozen() {
            return;
        }
        let mut dead = Vec::new();
        held.transactions.retain(|transaction| {
            let is_dead = transaction.last_epoch < epoch && transaction.receipt.is_settled();
            if is_dead {
                dead.push(transaction.number);
            }
            !is_dead
        });
        if dead.is_empty() {
            return;
        }
        let shared = self.clone();
        held.dropping = Some(process.runtime.spawn(async move {
            // What could not be dropped goes when the next run has taken over: it is below the mark.
            if let Err(error) = shared.sink.forget(&shared.run, Forget::Transactions(dead)).await {
                tracing::debug!(action = %shared.run.action, %error, "outcomes below the mark could not be dropped");
            }
        }));
    }
}

impl Process {
    /// Tells every transactional action that a mark became durable.
    pub(crate) fn outcomes_saved(&self, epoch: Epoch) {
        for (_, shared) in self.shared.all::<Shared>() {
            shared.saved(epoch, self);
        }
    }

    /// Waits, for a moment, until the outcomes that the last save has made needless are dropped from their targets.
    pub fn drop_outcomes(&self) {
        self.outcomes_saved(self.saved_epoch());
        for (_, shared) in self.shared.all::<Shared>() {
            let dropping = shared.applied.held.lock().dropping.take();
            if let Some(dropping) = dropping {
                let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), dropping).await });
            }
        }
    }
}
