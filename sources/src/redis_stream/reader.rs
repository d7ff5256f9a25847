//! Begins to read: one thread for all streams of a process, which a stream joins when it is opened.

use std::sync::{Arc, Weak};
use std::time::Duration;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::Partition;
use highwater_operators::{Error, Result, ResumeToken};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::Description;
use super::entries::Kind;
use super::progress::Progress;
use super::stream::{Shape, Stream};
use super::tail::{QUIET, Tail};
use super::token::Place;
use crate::ahead::{AheadReader, Doing, Thread, way};

/// The thread that reads, as long as somebody takes what it reads.
#[derive(Default)]
pub(super) struct Reading(Mutex<Option<(Weak<Thread>, UnboundedSender<Stream>)>>);

impl Reading {
    /// Begins to read a stream.
    pub(super) fn open(
        &self,
        description: &Arc<Description>,
        progress: &Arc<Progress>,
        partition: &Partition,
        stream: &str,
        from: Option<&ResumeToken>,
        window: &Arc<InFlight>,
    ) -> Result<AheadReader<Shape>> {
        let from = from.map(|token| place(token).map(|place| (token.order, place))).transpose()?;
        progress.start(description, window)?;
        // An answer is due after the longest wait; one that does not come says nothing.
        let (way, chunks) = way(window, Doing::new(QUIET + Duration::from_millis(250)));
        let mut running = self.0.lock();
        let (thread, joins) = match running.as_ref().and_then(|(thread, joins)| Some((thread.upgrade()?, joins.clone()))) {
            Some(running) => running,
            None => {
                let (joins, joining) = unbounded_channel();
                let (described, told) = (description.clone(), progress.clone());
                let thread = Thread::start("redis-streams", move || Tail::new(described, joining, told).run())?;
                *running = Some((Arc::downgrade(&thread), joins.clone()));
                (thread, joins)
            }
        };
        let envelope = match &description.entries.kind {
            Kind::Envelope(envelope) => Some(envelope.clone()),
            Kind::Document | Kind::Row => None,
        };
        let shape = Shape { stream: stream.to_owned(), envelope };
        let reader = AheadReader::of(&thread, &way, chunks, partition.id, shape, description.on_reject);
        // If the thread has ended, the reader is told why.
        let _ = joins.send(Stream::new(stream, from, way));
        Ok(reader)
    }
}

/// The place that a token tells.
pub(super) fn place(token: &ResumeToken) -> Result<Place> {
    let none = || Error::stop("the checkpoint's token is none of a stream of Redis, or of a newer form");
    Place::read(&token.detail).ok_or_else(none)
}
