//! Where a change stands, and where reading continues: two types, never one.
//!
//! A [`Position`] is identity: the same change has the same position in every run, on every number of workers.
//! A [`ResumeToken`] is progress: made by the source for each batch, ordered by reading, opaque to everybody else.
//! A pipeline that used one for the other would lose changes (a highest id taken as progress skips whatever
//! commits late) or call a change a duplicate of itself (a position made of "which poll, which row" moves).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The dataflow's time: milliseconds of Unix time, never falling. Batches read within one millisecond share it.
pub type Epoch = u64;

/// The number of a partition of a source, given once and kept in the checkpoint store with the partition's name.
pub type PartitionId = u32;

/// Where a change stands in its source. Compared for equality only; `at` and `within` mean what the source says.
///
/// For a file, `at` is the byte offset of the line. For a Postgres log, `at` is the commit LSN and `within` the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition of the source.
    pub partition: PartitionId,
    /// The place in the partition.
    pub at: u64,
    /// The place within `at`, where one `at` holds several changes.
    pub within: u64,
}

/// Where a change stands among those of its partition, where the source says so: of two, the one with the larger order came later. Rows that were there
/// when reading began share one with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order(pub u64, pub u64, pub u64);

impl Order {
    /// That of a place which grows with reading.
    pub fn of_place(place: Position) -> Order {
        Order(place.at, place.within, 0)
    }
}

/// Where a source continues reading one partition. Ordered by `order` alone; `detail` belongs to the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken {
    /// Grows with reading: of two tokens of one partition, the larger was read later.
    pub order: u64,
    /// What else the source needs to continue and to recognise that it is still the same source.
    pub detail: Bytes,
}
