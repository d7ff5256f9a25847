//! Order per key: of each key at most one change is on its way, the rest waits behind it in the order of arrival.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// The busy keys of one action on one worker. A key is its 64-bit hash: two keys that share one merely wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    busy: HashMap<u64, VecDeque<usize>>,
}

impl Keys {
    /// A change arrives for `key`. `true`: the key is now busy with it; `false`: it waits.
    pub(crate) fn enter(&mut self, key: u64, slot: usize) -> bool {
        match self.busy.entry(key) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(slot);
                false
            }
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
        }
    }

    /// Whether a change of `key` is on its way.
    pub(crate) fn is_busy(&self, key: u64) -> bool {
        self.busy.contains_key(&key)
    }

    /// The change that `key` was busy with is settled. Returns the next one, with which the key is busy now.
    pub(crate) fn leave(&mut self, key: u64) -> Option<usize> {
        let Entry::Occupied(mut waiting) = self.busy.entry(key) else { return None };
        let next = waiting.get_mut().pop_front();
        if next.is_none() {
            waiting.remove();
        }
        next
    }

    /// Takes out everything that waits behind `key`, in order. The key stays busy.
    pub(crate) fn take_waiting(&mut self, key: u64) -> VecDeque<usize> {
        self.busy.get_mut(&key).map(std::mem::take).unwrap_or_default()
    }
}
