//! What becomes of that which a thread has written into a block, when the reader takes it.

use bytes::Bytes;
use highwater_operators::Result;
use highwater_operators::ingest::Batch;
use highwater_operators::position::PartitionId;

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
