//! Begins to read a log: the thread that talks to the server.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::Partition;
use highwater_operators::{Error, Result, ResumeToken};

use super::tail::{self, Tail};
use super::{Description, token};
use crate::ahead::{AheadReader, Doing, Placed};

/// Begins to read.
pub(super) fn start(
    description: &Arc<Description>,
    partition: &Partition,
    from: Option<&ResumeToken>,
    window: &Arc<InFlight>,
) -> Result<AheadReader<Placed>> {
    let from = match from {
        None => None,
        Some(token) => {
            let place = token::read(&token.detail);
            let place = place.ok_or_else(|| Error::stop("the checkpoint's token is none of a change log, or of a newer form"))?;
            Some((token.order, place))
        }
    };
    // An answer is due after the longest wait; one that does not come says nothing.
    let doing = Doing::new(tail::longest_wait(description) + Duration::from_millis(250));
    let (described, name) = (description.clone(), partition.name.clone());
    AheadReader::start("change-log", partition, window, doing, description.on_reject, move |way| {
        Tail::new(described, name, from, way).run()
    })
}
