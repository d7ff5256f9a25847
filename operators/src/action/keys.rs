//! Order per key: of each key at most one change is on its way, the rest waits behind it in the order of arrival.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// The busy keys of one action on one worker. A key is its 64-bit hash: two keys that share one merely wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By busy key: the change it is busy with, and what waits behind.
    busy: HashMap<u64, (usize, VecDeque<usize>)>,
}

impl Keys {
    /// A change arrives for `key`. `true`: the key is now busy with it; `false`: it waits.
    pub(crate) fn enter(&mut self, key: u64, slot: usize) -> bool {
        match self.busy.entry(key) {
            Entry::Occupied(mut busy) => {
                busy.get_mut().1.push_back(slot);
                false
            }
            Entry::Vacant(free) => {
                free.insert((slot, VecDeque::new()));
                true
            }
        }
    }

    /// The change that `key` is busy with.
    pub(crate) fn first(&self, key: u64) -> Option<usize> {
        self.busy.get(&key).map(|(first, _)| *first)
    }

    /// The change that `key` was busy with is settled. Returns the next one, with which the key is busy now.
    pub(crate) fn leave(&mut self, key: u64) -> Option<usize> {
        let Entry::Occupied(mut busy) = self.busy.entry(key) else { return None };
        let (first, waiting) = busy.get_mut();
        let next = waiting.pop_front();
        match next {
            Some(next) => *first = next,
            None => drop(busy.remove()),
        }
        next
    }

    /// Takes out everything that waits behind `key`, in order. The key stays busy.
    pub(crate) fn take_waiting(&mut self, key: u64) -> VecDeque<usize> {
        self.busy.get_mut(&key).map(|(_, waiting)| std::mem::take(waiting)).unwrap_or_default()
    }
}
