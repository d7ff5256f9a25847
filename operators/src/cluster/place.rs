//! Which process this is, of how many, and what falls to which.

use crate::position::PartitionId;
use crate::process::shard;

/// A process among those of a run. Workers are numbered through: those of process 0 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which process it is. Process 0 leads.
    pub process: usize,
    /// How many processes there are.
    pub processes: usize,
    /// Workers of each process.
    pub workers: usize,
}

impl Place {
    /// The only process.
    pub fn alone(workers: usize) -> Self {
        Place { process: 0, processes: 1, workers }
    }

    /// Workers of all processes together.
    pub fn peers(&self) -> usize {
        self.processes * self.workers
    }

    /// Whether there are other processes.
    pub fn has_others(&self) -> bool {
        self.processes > 1
    }

    /// Whether this process leads: opens the store, numbers partitions, saves checkpoints.
    pub fn leads(&self) -> bool {
        self.process == 0
    }

    /// All other processes.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.process;
        (0..self.processes).filter(move |process| *process != own)
    }

    /// The process of a worker.
    pub fn process_of(&self, worker: usize) -> usize {
        worker / self.workers
    }

    /// The worker that reads a partition.
    pub fn reader_of(&self, partition: PartitionId) -> usize {
        partition as usize % self.peers()
    }

    /// The process that owns a key.
    pub fn owner_of(&self, key_hash: u64) -> usize {
        self.process_of(shard(key_hash) as usize % self.peers())
    }

    /// A worker's number within its process.
    pub fn within(&self, worker: usize) -> usize {
        worker % self.workers
    }

    /// This process's share of something that is of the whole pipeline: at least 1.
    pub fn share(&self, whole: usize) -> usize {
        let (each, left) = (whole / self.processes, whole % self.processes);
        (each + usize::from(self.process < left)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_as_long_as_there_is_one_for_each() {
        let shares = |whole| (0..3).map(|process| Place { process, processes: 3, workers: 2 }.share(whole)).collect::<Vec<_>>();
        assert_eq!([shares(100), shares(3), shares(1)], [vec![34, 33, 33], vec![1, 1, 1], vec![1, 1, 1]]);
        assert_eq!(Place::alone(4).share(7), 7);
    }

    #[test]
    fn workers_are_numbered_through() {
        let place = Place { process: 1, processes: 3, workers: 2 };
        assert_eq!((place.peers(), place.process_of(3), place.within(3), place.reader_of(10)), (6, 1, 1, 4));
        assert_eq!(place.others().collect::<Vec<_>>(), [0, 2]);
    }
}
