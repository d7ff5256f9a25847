//! How far a checkpoint has made durable what was read: told by the store's thread, heard by the thread that reads.

use highwater_operators::ResumeToken;
use tokio::sync::watch;

use super::lsn::Lsn;
use super::token;

/// What is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The order of the token that was saved.
    pub order: u64,
    /// The end of the last transaction that is durable as a whole: the slot may move to here, and no further.
    pub end: Lsn,
}

/// Told on one side, heard on the other.
#[derive(Debug)]
pub(super) struct Saved(watch::Sender<Mark>);

impl Default for Saved {
    fn default() -> Self {
        Saved(watch::Sender::new(Mark::default()))
    }
}

impl Saved {
    /// A checkpoint with this token is durable.
    pub(super) fn tell(&self, saved: &ResumeToken) {
        let Some(place) = token::read(&saved.detail) else { return };
        let new = Mark { order: saved.order, end: place.end };
        // A mark never falls; what comes late is old.
        self.0.send_if_modified(|mark| {
            let is_new = new.order > mark.order;
            if is_new {
                *mark = Mark { end: new.end.max(mark.end), ..new };
            }
            is_new
        });
    }

    pub(super) fn hear(&self) -> watch::Receiver<Mark> {
        self.0.subscribe()
    }
}
