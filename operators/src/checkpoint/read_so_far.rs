//! How far each partition was read, for one figure only: how many changes a run reads again (`replayed`).
//!
//! The file is written without a sync, so a power cut may lose it, and nothing but that figure depends on it. It survives
//! `kill -9`, which is when the figure is of interest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::position::PartitionId;

/// How far each partition was read by earlier runs, and by this one.
#[derive(Debug, Default)]
pub struct ReadSoFar {
    file: Option<File>,
    earlier: BTreeMap<PartitionId, u64>,
}

impl ReadSoFar {
    /// Opens the file in a directory, if there is one. If that cannot be done the figure is wrong and all else is right, so it
    /// is no error.
    pub fn open(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else { return ReadSoFar::default() };
        let path = directory.join("read-so-far");
        let earlier = std::fs::read(&path).unwrap_or_default();
        let earlier = earlier.as_chunks().0.iter().enumerate().map(|(n, order)| (n as PartitionId, u64::from_le_bytes(*order)));
        ReadSoFar {
            earlier: earlier.collect(),
            file: OpenOptions::new().create(true).truncate(false).write(true).open(&path).ok(),
        }
    }

    /// Whether an earlier run had read beyond this order of a resume token.
    pub fn was_read(&self, partition: PartitionId, order: u64) -> bool {
        self.earlier.get(&partition).is_some_and(|earlier| order < *earlier)
    }

    /// Notes that a partition was read up to here.
    pub fn note(&self, partition: PartitionId, order: u64) {
        if let Some(file) = self.file.as_ref().filter(|_| !self.was_read(partition, order)) {
            let _ = file.write_all_at(&order.to_le_bytes(), u64::from(partition) * 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_knows_how_far_an_earlier_one_had_read() {
        let folder = tempfile::tempdir().unwrap();
        let first = ReadSoFar::open(Some(folder.path()));
        assert!(!first.was_read(1, 0));
        first.note(1, 100);
        let second = ReadSoFar::open(Some(folder.path()));
        second.note(1, 50);
        assert!(second.was_read(1, 99) && !second.was_read(1, 100) && !second.was_read(2, 0));
        assert!(ReadSoFar::open(Some(folder.path())).was_read(1, 99));
    }
}
