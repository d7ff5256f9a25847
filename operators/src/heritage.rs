//! What the last run left, for the operators that continue its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::checkpoint::store::{ChangeHash, Outcome, ParkedHead, Restored, StateSegment};
use crate::position::{Epoch, PartitionId, Position, ResumeToken};

/// What the last run left, for the operators that continue its work.
#[derive(Debug, Default)]
pub struct Heritage {
    /// Where each partition continues.
    pub mark: BTreeMap<u32, ResumeToken>,
    /// Number and epoch of the last save.
    pub last_save: (u64, Epoch),
    /// Whether all sources had ended at the last save.
    pub ended: bool,
    /// Live operator state, released once all workers are built.
    state: Mutex<Arc<Vec<(u64, StateSegment)>>>,
    /// Outcomes above the mark, by action.
    pub ledger: HashMap<u16, Arc<LedgerAbove>>,
    /// Action numbers by name.
    pub actions: BTreeMap<String, u16>,
    /// Everything parked, released once all workers are built.
    parked: Mutex<Arc<Vec<ParkedHead>>>,
    /// The number for the next partition that is new.
    pub(crate) next_partition: AtomicU32,
}

/// The outcomes of one action that earlier runs noted above the mark.
#[derive(Debug, Default)]
pub struct LedgerAbove {
    outcomes: HashMap<(ChangeHash, Position), Outcome>,
    unmet: AtomicUsize,
}

impl LedgerAbove {
    /// The outcome of a change that is read again, if it had one. Each is asked for once.
    pub fn meet(&self, change: ChangeHash, position: Position) -> Option<Outcome> {
        let outcome = self.outcomes.get(&(change, position)).copied();
        if outcome.is_some() {
            self.unmet.fetch_sub(1, Ordering::Relaxed);
        }
        outcome
    }

    /// All outcomes of changes of a partition.
    pub fn of_partition(&self, partition: PartitionId) -> impl Iterator<Item = (ChangeHash, Position, Outcome)> + '_ {
        let all = self.outcomes.iter().map(|((change, position), outcome)| (*change, *position, *outcome));
        all.filter(move |(_, position, _)| position.partition == partition)
    }

    /// So many will never be met.
    pub fn given_up(&self, outcomes: usize) {
        self.unmet.fetch_sub(outcomes, Ordering::Relaxed);
    }

    /// Whether there may still be one to meet. Once all were met, nobody needs to hash a change to ask.
    pub fn is_open(&self) -> bool {
        self.unmet.load(Ordering::Relaxed) > 0
    }
}

impl Heritage {
    /// Takes over what a store restored.
    pub fn from_restored(restored: &mut Restored) -> Self {
        let mut ledger: HashMap<u16, LedgerAbove> = HashMap::new();
        for note in std::mem::take(&mut restored.notes) {
            let above = ledger.entry(note.action).or_default();
            above.outcomes.insert((note.change, note.position), note.outcome);
        }
        let checkpoint = restored.checkpoint.take().unwrap_or_default();
        Heritage {
            mark: checkpoint.mark,
            last_save: (checkpoint.number, checkpoint.epoch),
            ended: checkpoint.ended,
            state: Mutex::new(Arc::new(std::mem::take(&mut restored.state))),
            ledger: ledger
                .into_iter()
                .map(|(action, mut above)| {
                    *above.unmet.get_mut() = above.outcomes.len();
                    (action, Arc::new(above))
                })
                .collect(),
            actions: std::mem::take(&mut restored.actions),
            parked: Mutex::new(Arc::new(std::mem::take(&mut restored.parked))),
            next_partition: AtomicU32::new(restored.partitions.keys().last().map_or(0, |last| last + 1)),
        }
    }

    /// The live state segments, in the order of saves.
    pub fn state(&self) -> Arc<Vec<(u64, StateSegment)>> {
        self.state.lock().clone()
    }

    /// The heads of everything parked.
    pub fn parked(&self) -> Arc<Vec<ParkedHead>> {
        self.parked.lock().clone()
    }

    /// Forgets segments and heads, once every worker has taken what it needs.
    pub fn release(&self) {
        *self.state.lock() = Arc::default();
        *self.parked.lock() = Arc::default();
    }

    /// Ids and positions that have an outcome above the mark or stand parked: dedup must know them before the first change.
    pub fn outcomes_by_change(&self) -> impl Iterator<Item = (ChangeHash, Position)> + '_ {
        self.ledger.values().flat_map(|above| above.outcomes.keys().copied())
    }
}
