//! What processes tell each other on their control connections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::store::CutBackFile;
use crate::position::{Epoch, PartitionId, ResumeToken};
use crate::why::Why;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Twice a second, whatever else there is: the sender lives.
    Beat(Beat),
    /// Epoch, window and quiet, gathered for a millisecond.
    Tally(Tally),
    /// A step of the forming.
    Form(Form),
    /// Somebody was asked to stop: all drain.
    Stop,
    /// The run ends early.
    Farewell(Farewell),
    /// The leader asks.
    Ask(u64, Question),
    /// A member answers.
    Answer(u64, Answer),
    /// A checkpoint is durable.
    Saved(Epoch, BTreeMap<PartitionId, ResumeToken>),
    /// All workers of the sender have ended; its last counts.
    Ended(Box<Counts>),
    /// All workers of all processes have ended, and what they did is saved.
    Over,
}

/// That a process lives, and figures of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Changes read by this run.
    pub changes_read: u64,
    /// Bytes read by this run.
    pub bytes_read: u64,
    /// Units of the window that are taken.
    pub units: u64,
    /// Whether every source was asked and has nothing.
    pub rests: bool,
}

/// What is gathered for a millisecond before it is told. The order of its parts is the order in which they count: whoever is
/// paid has heard before whether the payer still has something to take up.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// By process, whether it has work that no window shows.
    pub busy: Vec<(u32, Busy)>,
    /// An epoch that somebody has left.
    pub left: Epoch,
    /// Units and bytes of the window that go back to the process that took them.
    pub pays: Vec<Pay>,
}

/// What keeps the sources of all processes open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Busy {
    /// Its workers are not built yet: nobody knows what it has.
    pub begins: bool,
    /// Parked changes are to be taken up.
    pub backlog: bool,
    /// Parked changes are at their actions.
    pub taken_up: bool,
    /// As much stands parked as may be.
    pub full: bool,
}

/// Room that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pay {
    /// To this process.
    pub to: u32,
    /// Units.
    pub units: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A step of the forming.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Form {
    /// The leader has opened everything.
    Welcome(Box<Welcome>),
    /// A member has opened everything too.
    Ready,
    /// Everybody has: the workers may start.
    Start,
}

/// What the leader has found and numbered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The number of the run.
    pub generation: u64,
    /// By source, the partitions there are: number and name.
    pub partitions: BTreeMap<String, Vec<(PartitionId, String)>>,
}

/// Why a run ends early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Farewell {
    /// Something failed in this process.
    Failed {
        /// Where.
        process: u32,
        /// What.
        sentence: String,
    },
    /// Somebody was told twice to end.
    Abandoned,
}

/// What the leader asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Sync the output files; how long are they at the end of the epochs below this one?
    Files(Epoch),
    /// How do your books stand?
    Counts,
    /// What do you hold? Answer within so many milliseconds.
    Why(u64),
    /// There is a new partition; know it.
    Know {
        /// Its source.
        source: String,
        /// Its number.
        id: PartitionId,
    },
    /// A new partition that everybody knows now falls to one of your workers; read it.
    Read {
        /// Its source.
        source: String,
        /// Its number.
        id: PartitionId,
        /// Its name.
        name: String,
    },
}

/// What a member answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Its files, synced, or what went wrong.
    Files(Result<Vec<CutBackFile>, String>),
    /// Its books.
    Counts(Box<Counts>),
    /// What its operators hold.
    Why(Box<Why>),
    /// It was done, or what went wrong.
    Done(Result<(), String>),
}

/// What a process has counted since it began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// The books, by line.
    pub lines: BTreeMap<String, u64>,
    /// By action, parked records that were delivered after all, and dropped.
    pub resolved: BTreeMap<String, (u64, u64)>,
    /// Changes read.
    pub changes_read: u64,
    /// Changes read again that an earlier run had read.
    pub replayed: u64,
    /// Microseconds until the first change came that had not been read before; 0 for none yet.
    pub first_new_us: u64,
    /// Lookups answered by a cache, and by the origin.
    pub lookups: (u64, u64),
    /// Units of the window that are taken.
    pub units: u64,
}
