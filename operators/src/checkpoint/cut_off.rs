//! Outcomes that no change will meet: what a crash cut off.
//!
//! An outcome above the mark is counted when its change is read again. A source that reads what was there as it is *now*, as a
//! snapshot does, may not bring that change again: its row has changed, or comes under the point of another snapshot. Its
//! outcome stands all the same; something was delivered or parked. When such a source says that it has caught up with all that
//! earlier runs had read, what was not met is counted, as read and as what became of it, and its note may go.

use hashbrown::HashSet;

use crate::checkpoint::store::{ChangeHash, Outcome};
use crate::heritage::Heritage;
use crate::position::{PartitionId, Position};

/// One outcome in the ledger, by action, change and place.
pub(super) type Noted = (u16, ChangeHash, Position);

/// Which outcomes of earlier runs were met.
#[derive(Default)]
pub(super) struct CutOff {
    met: HashSet<Noted>,
}

/// What was cut off of one action.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub action: String,
    pub delivered: u64,
    pub parked: u64,
    pub notes: Vec<Noted>,
}

impl CutOff {
    /// These were met.
    pub(super) fn met(&mut self, met: &[Noted]) {
        self.met.extend(met);
    }

    /// All of a partition was read again that will be: what was not met, by action.
    pub(super) fn caught_up(&mut self, heritage: &Heritage, partition: PartitionId) -> Vec<Counted> {
        let mut cut_off = Vec::new();
        for (action, number) in &heritage.actions {
            let Some(above) = heritage.ledger.get(number) else { continue };
            let mut counted = Counted { action: action.clone(), ..Counted::default() };
            for (change, position, outcome) in above.of_partition(partition) {
                // Told once: a source that says it again says nothing new.
                if self.met.insert((*number, change, position)) {
                    counted.notes.push((*number, change, position));
                    match outcome {
                        Outcome::Delivered => counted.delivered += 1,
                        Outcome::Parked => counted.parked += 1,
                    }
                }
            }
            if !counted.notes.is_empty() {
                above.given_up(counted.notes.len());
                cut_off.push(counted);
            }
        }
        cut_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::store::{Note, Restored};

    #[test]
    fn what_was_not_met_is_counted_once() {
        let place = |partition, at| Position { partition, at, within: 0 };
        let note = |action, change, position, outcome| Note { action, change, position, epoch: 5, outcome };
        let notes = vec![
            note(1, 10, place(0, 100), Outcome::Delivered),
            note(1, 11, place(0, 110), Outcome::Delivered),
            note(1, 12, place(0, 120), Outcome::Parked),
            note(2, 11, place(0, 110), Outcome::Delivered),
            note(1, 13, place(1, 130), Outcome::Delivered),
        ];
        let actions = [("a".to_owned(), 1), ("b".to_owned(), 2)].into();
        let heritage = Heritage::from_restored(&mut Restored { notes, actions, ..Restored::default() });
        let mut cut_off = CutOff::default();
        cut_off.met(&[(1, 10, place(0, 100))]);
        heritage.ledger[&1].meet(10, place(0, 100));
        let mut counted = cut_off.caught_up(&heritage, 0);
        counted.iter_mut().for_each(|counted| counted.notes.sort_by_key(|(_, change, _)| *change));
        let a = vec![(1, 11, place(0, 110)), (1, 12, place(0, 120))];
        assert_eq!(
            counted,
            [
                Counted { action: "a".to_owned(), delivered: 1, parked: 1, notes: a },
                Counted { action: "b".to_owned(), delivered: 1, parked: 0, notes: vec![(2, 11, place(0, 110))] },
            ]
        );
        assert_eq!(cut_off.caught_up(&heritage, 0), []);
        assert!(heritage.ledger[&1].is_open(), "that of another partition may still come");
        assert!(!heritage.ledger[&2].is_open());
    }
}
