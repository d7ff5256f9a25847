//! What operators tell the checkpoint, each report under the epoch it belongs to.

use serde::{Deserialize, Serialize};

use crate::books::LineId;
use crate::checkpoint::store::{ChangeHash, Resolved};
use crate::position::{Epoch, PartitionId, Position, ResumeToken};

/// One report. It travels as data under its epoch, so when the frontier has passed the epoch, all its reports are in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// A source has emitted a batch: reading may continue at `token` once everything before is done.
    Read {
        /// The partition.
        partition: PartitionId,
        /// Where reading continues after the batch.
        token: ResumeToken,
    },
    /// So many changes more on a line of the books.
    Count {
        /// The line.
        line: LineId,
        /// How many.
        n: u64,
    },
    /// What changed in an operator's state, as absolute values.
    State {
        /// The operator's name.
        operator: String,
        /// The worker that sends it.
        worker: usize,
        /// The encoded state.
        bytes: Vec<u8>,
        /// The oldest state of this worker that still counts.
        oldest: Oldest,
    },
    /// A parked record has ended in a sink that is cut back: durable with the checkpoint, not before.
    Ended(Resolved),
    /// All that earlier runs had read of a partition was read again, or never will be: what has an outcome and was not met by the
    /// end of this epoch was cut off by a crash.
    CaughtUp {
        /// The partition.
        partition: PartitionId,
    },
    /// A change whose outcome an earlier run had noted was met again; below a saved mark its note may go.
    Met {
        /// The action.
        action: u16,
        /// The change.
        change: ChangeHash,
        /// Where it stands.
        position: Position,
    },
}

/// Where the oldest state that still counts was saved, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Oldest {
    /// In this save of an earlier run.
    Save(u64),
    /// In the save of this run that covers this epoch.
    Epoch(Epoch),
    /// There is none.
    Empty,
}
