//! What earlier runs left that says of a change that it has passed.

use hashbrown::HashMap;

use crate::checkpoint::store::{Cause, ChangeHash};
use crate::dedup::seen::Seen;
use crate::position::Position;
use crate::process::Process;

/// Where changes stand that have an outcome above the mark, or are parked. They have passed, and pass again when they are read again. One id may
/// stand at several places, each outside the window of the others.
///
/// They are kept apart from what was seen until their change is met again; entered like seen ones, they would never reach the next save's state.
#[derive(Debug)]
pub(super) struct Settled {
    places: HashMap<ChangeHash, Vec<Place>>,
    window_ms: Option<i64>,
}

/// Where a change stands that has passed.
#[derive(Clone, Copy, Debug)]
struct Place {
    position: Position,
    /// Its time, where that is known: the ledger does not keep it.
    time_ms: Option<i64>,
}

impl Settled {
    pub(super) fn restore(process: &Process, window_ms: Option<i64>) -> Self {
        let parked = process.heritage.parked();
        let parked = parked.iter().filter(|head| head.cause != Cause::Rejected);
        let parked = parked.map(|head| (head.hash, Place { position: head.position, time_ms: Some(head.time_ms) }));
        let noted = process.heritage.outcomes_by_change().map(|(hash, position)| (hash, Place { position, time_ms: None }));
        let mut places: HashMap<ChangeHash, Vec<Place>> = HashMap::new();
        for (hash, place) in parked.chain(noted) {
            let known = places.entry(hash).or_default();
            // Several actions may have noted it; its parked record, which comes first, knows its time.
            if known.iter().all(|known| known.position != place.position) {
                known.push(place);
            }
        }
        Settled { places, window_ms }
    }

    /// What the outcomes of earlier runs say of a change, if they say anything.
    ///
    /// Places in its own partition only tell whether it is itself: whatever stands before it there is read before it, as it
    /// was in the earlier run, so the seen-set decides as it did then. Another partition may be read later this time, and a
    /// copy there that has passed is the first.
    pub(super) fn judge(&mut self, hash: ChangeHash, position: Position, time_ms: i64) -> Option<Seen> {
        if self.places.is_empty() {
            return None;
        }
        let places = self.places.get_mut(&hash)?;
        if let Some(index) = places.iter().position(|place| place.position == position) {
            places.swap_remove(index);
            if places.is_empty() {
                self.places.remove(&hash);
            }
            return Some(Seen::Again);
        }
        let within = |place: &Place| match (self.window_ms, place.time_ms) {
            (Some(window), Some(time)) => time_ms.abs_diff(time) <= window as u64,
            _ => true,
        };
        let elsewhere = |place: &&Place| place.position.partition != position.partition;
        places.iter().filter(elsewhere).any(within).then_some(Seen::Duplicate)
    }
}
