//! What becomes of that which a thread has written into a block, when the reader takes it.

use bytes::Bytes;
use highwater_operators::ingest::Batch;
use highwater_operators::position::PartitionId;
use highwater_operators::{Error, Result};

use super::chunk::Written;

/// Makes changes of what was written.
pub(crate) trait Form: Send {
    /// What is known of one of them beside its text.
    type Written: Send;

    /// Puts the changes into the batch, and those that are none among its rejected.
    ///
    /// # Errors
    /// The block is not what it should be.
    fn take(&self, written: Vec<Self::Written>, block: &Bytes, partition: PartitionId, batch: &mut Batch) -> Result;
}

/// The pieces of a change were found by whoever wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed;

impl Form for Placed {
    type Written = Written;

    fn take(&self, written: Vec<Written>, block: &Bytes, partition: PartitionId, batch: &mut Batch) -> Result {
        let text = std::str::from_utf8(block).map_err(|_| Error::stop("a block of rows is no text"))?;
        for written in written {
            match written.into_change(block, text, partition) {
                Ok(change) => batch.changes.push(change),
                Err(rejected) => batch.rejected.push(rejected),
            }
        }
        Ok(())
    }
}
