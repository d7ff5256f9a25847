//! Begins to read a slot: the thread that talks to the server, and what it tells when a checkpoint is durable.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::Partition;
use highwater_operators::{Error, Result, ResumeToken};

use super::confirm::Saved;
use super::stream::Begin;
use super::{Description, token};
use crate::ahead::{AheadReader, Doing, Placed};

/// How long it counts that the server had nothing when it was asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Begins to read.
pub(super) fn start(
    description: &Arc<Description>,
    partition: &Partition,
    from: Option<&ResumeToken>,
    window: &Arc<InFlight>,
    saved: &Arc<Saved>,
) -> Result<AheadReader<Placed>> {
    let from = match from {
        None => None,
        Some(token) => {
            let place = token::read(&token.detail);
            let place = place.ok_or_else(|| Error::stop("the checkpoint's token is none of a slot, or of a newer form"))?;
            saved.tell(token);
            Some((token.order, place))
        }
    };
    let begin = Begin { description: description.clone(), partition: partition.name.clone(), from, saved: saved.clone() };
    let doing = Doing::new(PATIENCE);
    AheadReader::start("replication", partition, window, doing, description.on_reject, move |way| begin.run(way))
}
