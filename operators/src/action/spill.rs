//! What an action has set aside for lack of room, and takes up again by itself, in order.
//!
//! Two kinds of records wait here, by key: those that overflowed (taken up again as soon as there is room) and those that
//! stand behind a parked change of their key in an action that holds keys (taken up when that change is settled). As long
//! as one record of a key waits, every later change of the key must go behind it.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use crate::checkpoint::store::{Cause, ParkedHead, ParkedId};

/// A record that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub id: ParkedId,
    pub key: u64,
}

/// The waiting records of one action on one worker.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    /// To be taken up again, in order.
    line: VecDeque<Waiting>,
    /// By held key, what waits behind its parked change: in the order of ids, which is that in which it was set aside. Some
    /// of it comes back from the line when later changes of the key stand here already.
    held: HashMap<u64, BTreeSet<ParkedId>>,
    /// By key, how many records wait or are on their way to the store.
    keys: HashMap<u64, usize>,
}

impl Spill {
    /// Goes on with what an earlier run left, given in the order in which it was parked. Returns how many are in the line.
    pub(crate) fn restore<'h>(&mut self, heads: impl IntoIterator<Item = &'h ParkedHead>, hold: bool) -> usize {
        for head in heads {
            match head.cause {
                Cause::Overflow | Cause::Held => {
                    self.leads(head.key_hash);
                    self.stored(Waiting { id: head.id, key: head.key_hash });
                }
                Cause::Failed | Cause::Panicked | Cause::Lookup if hold => self.hold(head.key_hash),
                _ => {}
            }
        }
        self.line.len()
    }

    /// Why a change of this key cannot go to the action now, if it cannot.
    pub(crate) fn follows(&self, key: u64) -> Option<Cause> {
        match (self.held.contains_key(&key), self.keys.contains_key(&key)) {
            (true, _) => Some(Cause::Held),
            (false, true) => Some(Cause::Overflow),
            (false, false) => None,
        }
    }

    /// A change of this key is on its way to the store: from now on later ones follow it.
    pub(crate) fn leads(&mut self, key: u64) {
        *self.keys.entry(key).or_default() += 1;
    }

    /// A record is stored. Returns whether it stands in the line.
    pub(crate) fn stored(&mut self, waiting: Waiting) -> bool {
        match self.held.get_mut(&waiting.key) {
            Some(behind) => {
                behind.insert(waiting.id);
                false
            }
            None => {
                self.line.push_back(waiting);
                true
            }
        }
    }

    /// The next records of the line, at most `n`.
    pub(crate) fn take(&mut self, n: usize) -> Vec<Waiting> {
        self.line.drain(..n.min(self.line.len())).collect()
    }

    /// A record taken from the line has entered the action: what comes now may go behind it there.
    pub(crate) fn entered(&mut self, key: u64) {
        if let Some(count) = self.keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&key);
            }
        }
    }

    /// A change of this key was parked in an action that holds keys.
    pub(crate) fn hold(&mut self, key: u64) {
        self.held.entry(key).or_default();
    }

    /// A record that had been taken up goes back behind its held key.
    pub(crate) fn back(&mut self, waiting: Waiting) {
        self.leads(waiting.key);
        self.held.entry(waiting.key).or_default().insert(waiting.id);
    }

    /// The parked change of this key is settled: what waited behind it joins the line. Returns how many.
    pub(crate) fn release(&mut self, key: u64) -> usize {
        let behind = self.held.remove(&key).unwrap_or_default();
        self.line.extend(behind.iter().map(|id| Waiting { id: *id, key }));
        behind.len()
    }

    /// Whether records wait in the line.
    pub(crate) fn has_line(&self) -> bool {
        !self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_changes_of_a_key_follow_until_its_last_record_has_entered() {
        let mut spill = Spill::default();
        spill.leads(7);
        assert_eq!(spill.follows(7), Some(Cause::Overflow));
        assert!(spill.stored(Waiting { id: 1, key: 7 }));
        assert_eq!(spill.take(5), [Waiting { id: 1, key: 7 }]);
        assert_eq!(spill.follows(7), Some(Cause::Overflow));
        spill.entered(7);
        assert_eq!(spill.follows(7), None);
    }

    #[test]
    fn what_waits_behind_a_held_key_joins_the_line_when_it_is_released() {
        let mut spill = Spill::default();
        spill.hold(7);
        assert_eq!(spill.follows(7), Some(Cause::Held));
        spill.leads(7);
        assert!(!spill.stored(Waiting { id: 4, key: 7 }));
        assert!(!spill.has_line());
        assert_eq!(spill.release(7), 1);
        assert_eq!((spill.has_line(), spill.follows(7)), (true, Some(Cause::Overflow)));
    }
}
