//! What a pipeline under test reads: changes in memory that stay there, so that they can be read again.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::epoch::EpochClock;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::PartitionName;
use highwater_operators::ingest::{Batch, OrderOf, Partition, Read, Reader, Source};
use highwater_operators::{Change, Epoch, Order, PartitionId, Position, Result, ResumeToken};
use parking_lot::Mutex;

/// Changes handed over at once.
const BATCH_MAX: usize = 64;

/// The input of a pipeline under test, as a source.
#[derive(Clone, Debug, Default)]
pub struct Input(Arc<Mutex<Fed>>);

#[derive(Debug, Default)]
struct Fed {
    changes: Vec<Change>,
    /// How many the run under way has read.
    read: u64,
    /// An epoch that is not below the one under which the last of them came in; told once nothing is under way.
    read_at: Option<Epoch>,
}

impl Input {
    pub(super) fn push(&self, changes: impl Iterator<Item = Change>) {
        self.0.lock().changes.extend(changes);
    }

    pub(super) fn fed(&self) -> u64 {
        self.0.lock().changes.len() as u64
    }

    pub(super) fn read(&self) -> u64 {
        self.0.lock().read
    }

    /// Something is under way again.
    pub(super) fn is_busy(&self) {
        self.0.lock().read_at = None;
    }

    /// An epoch that every change that was read lies at or below. Asked only while nothing is under way.
    pub(super) fn read_at(&self, clock: &EpochClock) -> Epoch {
        *self.0.lock().read_at.get_or_insert_with(|| clock.mint())
    }
}

impl Source for Input {
    fn kind(&self) -> &'static str {
        "input"
    }

    fn place(&self) -> String {
        "the test".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "input".to_owned(), bytes: None }])
    }

    fn order(&self) -> Option<OrderOf> {
        Some(|change| Order::of_place(change.position()))
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let next = from.map_or(0, |token| token.order);
        let mut fed = self.0.lock();
        (fed.read, fed.read_at) = (next, None);
        Ok(Box::new(InputReader { input: self.clone(), partition: partition.id }))
    }
}

struct InputReader {
    input: Input,
    partition: PartitionId,
}

impl Reader for InputReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let mut fed = self.input.0.lock();
        let next = fed.read as usize;
        let end = fed.changes.len().min(next + BATCH_MAX);
        if next == end {
            return Ok(Read::Idle(Duration::from_millis(1)));
        }
        let places = (next as u64..).map(|at| Position { partition: self.partition, at, within: 0 });
        batch.changes = fed.changes[next..end].iter().zip(places).map(|(change, at)| change.clone().with_position(at)).collect();
        (fed.read, fed.read_at) = (end as u64, None);
        batch.token = ResumeToken { order: end as u64, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}
