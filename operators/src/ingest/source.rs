//! What a source is: something with partitions, each of which can be read on from a resume token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::change::{Change, Operation, Parts};
use crate::checkpoint::store::{Cause, Parked};
use crate::error::Result;
use crate::in_flight::InFlight;
use crate::position::{Order, PartitionId, Position, ResumeToken};

/// A description of where changes come from; opened when the pipeline runs.
pub trait Source: Send + Sync + 'static {
    /// What kind of source it is, in a word: part of its default name.
    fn kind(&self) -> &'static str;

    /// Where it reads, for people.
    fn place(&self) -> String;

    /// The partitions there are, by names that follow from content, never from a path or a consumer.
    ///
    /// # Errors
    /// Names what is missing or cannot be read, and what can be done.
    fn partitions(&self) -> Result<Vec<PartitionName>>;

    /// Opens one partition where `from` says, or at its beginning.
    ///
    /// # Errors
    /// If the partition is not what it was: shorter than the token says, or changed before it.
    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>>;

    /// The source as one run has it, which knows what earlier runs have read. `None`: it needs to know nothing, and is used as
    /// it is.
    ///
    /// # Errors
    /// If what is known does not fit the source.
    fn bind(&self, _known: &[Known]) -> Result<Option<Arc<dyn Source>>> {
        Ok(None)
    }

    /// Whether partitions may come while the pipeline runs; then [`look`](Self::look) finds them.
    fn grows(&self) -> bool {
        false
    }

    /// Looks for partitions that are new since [`partitions`](Self::partitions) or the last look, and says when to look again.
    /// Called again and again on a thread of its own.
    ///
    /// # Errors
    /// Ends the pipeline.
    fn look(&self) -> Result<(Vec<PartitionName>, Duration)> {
        Ok((Vec::new(), Duration::from_secs(1)))
    }

    /// Whether a partition that a checkpoint continues here need not be there any more: it was read whole.
    fn may_be_missing(&self, _name: &str, _token: &ResumeToken) -> bool {
        false
    }

    /// Bytes that stand before a resume token, for progress bars.
    fn bytes_before(&self, _token: &ResumeToken) -> u64 {
        0
    }

    /// Whether what was read can be read again after a crash. What cannot is excepted from "nothing is lost".
    fn can_be_read_again(&self) -> bool {
        true
    }

    /// A checkpoint has become durable: everything of the partition before `token` has a durable outcome for every action. Called on the
    /// store's own thread; must be quick.
    fn saved(&self, _partition: &Partition, _token: &ResumeToken) {}

    /// The run is over, and no more checkpoints come of it.
    fn over(&self) {}

    /// Of a partition of this source: the token with which the rows of these tables (all, if none are named) are read again as new changes, although they were read; it continues
    /// behind `token`. `None`: it is no partition of this source, or this source has no such thing.
    ///
    /// # Errors
    /// Names what does not fit.
    fn read_anew(&self, _partition: &str, _token: &ResumeToken, _tables: &[String]) -> Result<Option<ResumeToken>> {
        Ok(None)
    }

    /// Whether an update may come with the row before it. Where none ever does, a condition that needs it is refused at start.
    fn gives_rows_before(&self) -> bool {
        true
    }

    /// How its changes are ordered within a partition, if they are read in an order that their positions tell. Lookups in tables as of a change's commit
    /// need it.
    fn order(&self) -> Option<OrderOf> {
        None
    }

    /// Changes of this source are looked up in these tables of it as of their own place. Where it reads rows that were there, those of these tables come
    /// before all others. Told before [`bind`](Self::bind).
    fn keeps_tables(&self, _tables: &BTreeSet<String>) {}

    /// Whether ids are unique beyond one partition.
    fn has_global_ids(&self) -> bool {
        false
    }
}

/// Tells where a change of a source stands among those of its partition.
pub type OrderOf = fn(&Change) -> Order;

/// A partition as its source names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionName {
    /// The name, made of content.
    pub name: String,
    /// Bytes there are to read in all, if that is known: for progress bars.
    pub bytes: Option<u64>,
}

/// A partition of an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name, as its source gave it.
    pub name: String,
    /// Where the checkpoint continues it; `None` if it was begun, and is in no checkpoint yet.
    pub token: Option<ResumeToken>,
}

/// A partition with the number it has in the checkpoint store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub id: PartitionId,
    /// Its name, as its source gave it.
    pub name: String,
}

/// Reads one partition. Runs on a thread of its own, where it may block.
pub trait Reader: Send {
    /// Reads the next batch into `batch`, which comes empty. May wait a little for data, and returns if there is none.
    fn read(&mut self, batch: &mut Batch) -> Result<Read>;
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// There is a batch, and maybe more.
    Some,
    /// There is nothing now; look again after this long.
    Idle(Duration),
    /// It cannot be said whether there is more: whoever has it is away, or has not answered yet. Look again after this long.
    Away(Duration),
    /// There will never be more.
    End,
}

/// What was read at once from one partition.
#[derive(Debug, Default)]
pub struct Batch {
    /// The changes, in the order of the source.
    pub changes: Vec<Change>,
    /// What was read and is no change.
    pub rejected: Vec<Rejected>,
    /// Where reading continues after this batch.
    pub token: ResumeToken,
    /// Bytes read for it.
    pub bytes: u64,
    /// Whether with this batch all was read again that earlier runs had read of the partition, or never will be. Said once, by a source
    /// that may leave out after a crash what it had read before: outcomes of such changes are then counted without meeting them.
    pub caught_up: bool,
    /// The partition; set by ingest.
    pub partition: PartitionId,
}

/// Something that was read and is no change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it stands.
    pub position: Position,
    /// The sentence that says where, and what is wrong.
    pub why: String,
    /// What was read, as far as it can be shown.
    pub text: String,
}

impl Rejected {
    /// The record under which it is set aside: a change without a table whose row is the text that was read.
    pub(crate) fn into_parked(self, source: &str) -> Parked {
        let id = format!("{}/{}/{}", self.position.partition, self.position.at, self.position.within);
        let text = serde_json::to_string(&self.text).unwrap_or_default();
        let parts =
            Parts { id: &id, table: "", key: None, operation: Operation::Read, time_ms: 0, before: None, after: Some(&text) };
        let change = Change::new(bytes::Bytes::new(), self.position, parts).expect("an id made of three numbers is short");
        Parked {
            id: 0,
            action: source.to_owned(),
            cause: Cause::Rejected,
            error: self.why,
            attempts: 0,
            parked_at_ms: crate::epoch::unix_ms(),
            hash: 0,
            change,
            history: Default::default(),
        }
    }
}

/// The sources of a process, which are told what has become durable. Cheap to clone.
#[derive(Clone, Default)]
pub struct Listeners(Arc<Mutex<Vec<Listener>>>);

/// A source and its partitions.
type Listener = (Arc<dyn Source>, Vec<Partition>);

impl Listeners {
    /// Tells a source of its partitions from now on.
    pub fn add(&self, source: Arc<dyn Source>, partitions: Vec<Partition>) {
        self.0.lock().push((source, partitions));
    }

    /// A checkpoint with this mark is durable.
    pub(crate) fn saved(&self, mark: &BTreeMap<PartitionId, ResumeToken>) {
        for (source, partitions) in &*self.0.lock() {
            for partition in partitions {
                if let Some(token) = mark.get(&partition.id) {
                    source.saved(partition, token);
                }
            }
        }
    }

    /// The run is over.
    pub(crate) fn over(&self) {
        for (source, _) in self.0.lock().drain(..) {
            source.over();
        }
    }
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listeners")
    }
}
