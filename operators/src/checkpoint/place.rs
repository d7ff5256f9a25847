//! Where a pipeline keeps its checkpoints, and what a run, or a person who looks, gets from there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::lease::Lease;
use crate::checkpoint::requests::{Request, RequestId};
use crate::checkpoint::store::{CheckpointStore, Parked, ParkedHead, ParkedId, Save};
use crate::error::Result;
use crate::parked::{Filter, Page};
use crate::position::PartitionId;

/// Where a pipeline keeps its checkpoints: opened once by each process of a run.
///
/// A description: nothing is opened, and no connection made, before one of its functions is called. All of them may block, so
/// they are called outside of asynchronous code.
pub trait StorePlace: Send + Sync {
    /// The place, for people. It holds no secret.
    fn place(&self) -> String;

    /// Whether the store can be shared by several processes.
    ///
    /// # Errors
    /// It cannot; the sentence says why, and which store can.
    fn takes_several_processes(&self) -> Result;

    /// Whether the store could be opened as things stand. Changes nothing.
    ///
    /// # Errors
    /// What would go wrong, as [`open`](Self::open) says it.
    fn check(&self) -> Result;

    /// Opens the store for a new run. That raises the generation durably: from here on no earlier run can write.
    /// Called by one process of the run, the first.
    ///
    /// # Errors
    /// Of kind stop: the store is in use where it cannot be shared, belongs to another pipeline, is of a newer format, cannot be
    /// reached or may not be written.
    fn open(&self, pipeline: &str, seat: Seat) -> Result<OpenStore>;

    /// Opens the store for a further process of the run of this generation.
    ///
    /// # Errors
    /// As [`open`](Self::open), or the run was replaced meanwhile.
    fn join(&self, pipeline: &str, generation: u64, seat: Seat) -> Result<OpenStore>;

    /// Looks into the store without disturbing a run, or `None` where this pipeline has nothing.
    ///
    /// # Errors
    /// What is there cannot be read.
    fn inspect(&self, pipeline: &str) -> Result<Option<Box<dyn Inspect>>>;

    /// The letters between people and the runs of a pipeline.
    ///
    /// # Errors
    /// The store cannot be reached.
    fn letters(&self, pipeline: &str) -> Result<Arc<dyn Letters>>;
}

/// Which process of a run this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number, from 0.
    pub process: usize,
    /// How many there are.
    pub processes: usize,
}

impl Seat {
    /// The only process of its run.
    pub const ALONE: Seat = Seat { process: 0, processes: 1 };
}

/// What a process of a run gets from its store.
pub struct OpenStore {
    /// The store itself, for the keeper.
    pub store: Box<dyn CheckpointStore>,
    /// Letters between people and this run.
    pub letters: Arc<dyn Letters>,
    /// Whether this run may still act.
    pub lease: Lease,
    /// A directory for what need not be kept, if the store has one.
    pub scratch: Option<PathBuf>,
}

/// Letters between people and the runs of a pipeline: requests one way, the notice where the monitor is the other.
pub trait Letters: Send + Sync {
    /// Leaves a request for the run, or for the next one. It is durable when this returns.
    fn leave(&self, request: Request) -> Result;

    /// The requests not yet taken, in the order in which they were left. To a run this may answer from what it was told a
    /// moment ago: it never waits for a store that is away.
    fn pending(&self) -> Result<Vec<(RequestId, Request)>>;

    /// Removes a request whose outcome is durable. One that is gone already is no error.
    fn remove(&self, id: &RequestId) -> Result;

    /// Hangs up this run's notice, in place of any other.
    fn post(&self, notice: &str) -> Result;

    /// The notice that hangs there. It may be of a run that was killed.
    fn notice(&self) -> Option<String>;

    /// Takes a notice down, unless another one hangs there meanwhile.
    fn take_down(&self, notice: &str);
}

/// What a store held at one moment.
pub trait Inspect {
    /// The pipeline's name.
    fn pipeline(&self) -> &str;

    /// Where it is kept, and how much that is: a line for people.
    fn medium(&self) -> String;

    /// The number of the last run.
    fn generation(&self) -> u64;

    /// When the last run began, in Unix milliseconds, and its process id if that is a process of this machine. It may have ended
    /// since.
    fn started(&self) -> (u64, Option<u32>);

    /// The last checkpoint, without its state.
    fn checkpoint(&self) -> Option<&Save>;

    /// When it was saved, in Unix milliseconds.
    fn saved_at_ms(&self) -> Option<u64>;

    /// Partition names by number.
    fn partitions(&self) -> &BTreeMap<PartitionId, String>;

    /// How many records are parked.
    fn parked_count(&self) -> u64;

    /// Everything parked, in order of id.
    fn parked_heads(&self) -> Vec<&ParkedHead>;

    /// A page of parked changes, as [`CheckpointStore::parked_page`].
    ///
    /// # Errors
    /// What is there cannot be read.
    fn parked_page(&self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page>;

    /// One parked change, whole, or `None` if it is not parked.
    fn parked(&self, id: ParkedId) -> Result<Option<Parked>>;

    /// Lines of the ledger.
    fn notes(&self) -> usize;
}
