//! Changes whose pieces were found by whoever wrote them, read by a thread of the reader's own.

use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Partition};
use highwater_operators::position::PartitionId;
use highwater_operators::{Error, Result};

use super::{AheadReader, Doing, Form, Thread, Way, Written, way};
use crate::OnReject;

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

impl AheadReader<Placed> {
    /// Starts a thread of this name, which does what `read` gives until that ends or nobody takes what it has read.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start<R: Future<Output = Result>>(
        what: &'static str,
        partition: &Partition,
        window: &Arc<InFlight>,
        doing: Doing,
        on_reject: OnReject,
        read: impl FnOnce(Way) -> R + Send + 'static,
    ) -> Result<Self> {
        let (way, chunks) = way(window, doing);
        let (room, doing) = (way.room.clone(), way.doing.clone());
        let thread = Thread::start(what, move || read(way))?;
        let stops_on_reject = on_reject == OnReject::Stop;
        let (form, partition, window) = (Placed, partition.id, window.clone());
        Ok(AheadReader { form, partition, window, chunks, room, doing, thread, stops_on_reject })
    }
}
