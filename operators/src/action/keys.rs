//! Order per key: of each key at most one change is on its way, the rest waits behind it in the order of arrival. Only changes that go in
//! one transaction, which applies them in order, are on their way together.

use std::collections::VecDeque;

use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

/// The busy keys of one action on one worker. A key is its 64-bit hash: two keys that share one merely wait for each other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// Busy keys, each with the change it is busy with. A key is its own hash.
    busy: HashTable<(u64, u32)>,
    /// By key, what is on its way together with that change, behind it in order: only where something is.
    together: HashMap<u64, VecDeque<usize>>,
    /// By key, what waits behind: only where something does.
    waiting: HashMap<u64, VecDeque<usize>>,
}

impl Keys {
    /// A change arrives for `key`. `true`: the key is now busy with it; `false`: it waits.
    pub(crate) fn enter(&mut self, key: u64, slot: usize) -> bool {
        match self.busy.entry(key, |(known, _)| *known == key, |(known, _)| *known) {
            Entry::Occupied(_) => {
                self.waiting.entry(key).or_default().push_back(slot);
                false
            }
            Entry::Vacant(free) => {
                free.insert((key, slot as u32));
                true
            }
        }
    }

    /// The change that `key` is busy with.
    pub(crate) fn first(&self, key: u64) -> Option<usize> {
        self.busy.find(key, |(known, _)| *known == key).map(|(_, first)| *first as usize)
    }

    /// The next one that waits behind `key` goes together with those that are on their way.
    pub(crate) fn join(&mut self, key: u64) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let next = next_waiting(&mut self.waiting, key)?;
        self.together.entry(key).or_default().push_back(next);
        Some(next)
    }

    /// Everything of `key` that is on its way, in order.
    pub(crate) fn on_their_way(&self, key: u64) -> impl Iterator<Item = usize> {
        self.first(key).into_iter().chain(self.together.get(&key).into_iter().flatten().copied())
    }

    /// Whether changes of `key` are on their way together.
    pub(crate) fn is_together(&self, key: u64) -> bool {
        self.together.contains_key(&key)
    }

    /// A change that `key` was busy with is settled. Returns the next one, with which the key is busy now, once none is on its way.
    pub(crate) fn leave(&mut self, key: u64, slot: usize) -> Option<usize> {
        let Ok(mut busy) = self.busy.find_entry(key, |(known, _)| *known == key) else { return None };
        if !self.together.is_empty()
            && let Some(others) = self.together.get_mut(&key)
        {
            if busy.get().1 != slot as u32 {
                others.retain(|other| *other != slot);
            } else if let Some(first) = others.pop_front() {
                busy.get_mut().1 = first as u32;
            }
            if others.is_empty() {
                self.together.remove(&key);
            }
            return None;
        }
        let next = match self.waiting.is_empty() {
            true => None,
            false => next_waiting(&mut self.waiting, key),
        };
        match next {
            Some(next) => busy.get_mut().1 = next as u32,
            None => drop(busy.remove()),
        }
        next
    }

    /// Takes out everything that waits behind `key`, in order. The key stays busy.
    pub(crate) fn take_waiting(&mut self, key: u64) -> VecDeque<usize> {
        self.waiting.remove(&key).unwrap_or_default()
    }
}

fn next_waiting(waiting: &mut HashMap<u64, VecDeque<usize>>, key: u64) -> Option<usize> {
    let behind = waiting.get_mut(&key)?;
    let next = behind.pop_front();
    if behind.is_empty() {
        waiting.remove(&key);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_busy_with_one_and_the_rest_follows_in_order() {
        let mut keys = Keys::default();
        assert!(keys.enter(7, 0) && !keys.enter(7, 1) && !keys.enter(7, 2) && keys.enter(8, 3));
        assert_eq!((keys.first(7), keys.leave(7, 0), keys.first(7)), (Some(0), Some(1), Some(1)));
        assert_eq!(keys.take_waiting(7), [2]);
        assert_eq!((keys.leave(7, 1), keys.first(7), keys.leave(7, 1)), (None, None, None));
        assert_eq!(keys.leave(8, 3), None);
    }

    #[test]
    fn what_goes_together_is_left_one_by_one_and_only_then_is_there_a_next() {
        let mut keys = Keys::default();
        assert!(keys.enter(7, 0) && (1..5).all(|slot| !keys.enter(7, slot)));
        assert_eq!((keys.join(7), keys.join(7), keys.join(8)), (Some(1), Some(2), None));
        assert_eq!(keys.on_their_way(7).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((keys.leave(7, 1), keys.leave(7, 0), keys.first(7), keys.is_together(7)), (None, None, Some(2), false));
        assert_eq!((keys.leave(7, 2), keys.leave(7, 3), keys.leave(7, 4)), (Some(3), Some(4), None));
    }
}
