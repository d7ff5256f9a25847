//! Where entries stand, by hash: one array of 64-bit slots, each a tag of 32 bits and the number of an entry.
//!
//! Tag and number lie together, so that a look at a hash that is not there (most are not) touches one line of memory. The
//! place of a tag is made of its high bits: what grows keeps its order, and is copied from front to back.

use crate::checkpoint::store::ChangeHash;

/// Numbers of entries, by hash. Several may stand under one hash, and under one tag.
#[derive(Debug)]
pub(super) struct Places {
    /// Tag in the high half, number in the low half; 0 is an empty slot, for no tag is 0.
    slots: Vec<u64>,
    /// How far a tag is shifted to become an index.
    shift: u32,
    len: usize,
}

/// Slots at first, as a power of two.
const BITS_MIN: u32 = 10;

impl Places {
    pub(super) fn new() -> Self {
        Places { slots: vec![0; 1 << BITS_MIN], shift: u32::BITS - BITS_MIN, len: 0 }
    }

    fn tag(hash: ChangeHash) -> u32 {
        (hash as u32).max(1)
    }

    fn home(&self, tag: u32) -> usize {
        (tag >> self.shift) as usize
    }

    fn after(&self, index: usize) -> usize {
        (index + 1) & (self.slots.len() - 1)
    }

    /// The slot in which a hash would stand. To read the slots of many hashes, one after the other and nothing in between,
    /// brings them into the cache together: the processor waits for all of them at once.
    pub(super) fn first_slot(&self, hash: ChangeHash) -> u64 {
        self.slots[self.home(Self::tag(hash))]
    }

    /// Numbers that may be those of this hash.
    pub(super) fn candidates(&self, hash: ChangeHash) -> impl Iterator<Item = u32> + '_ {
        let tag = Self::tag(hash);
        let mut index = self.home(tag);
        std::iter::from_fn(move || {
            loop {
                let slot = self.slots[index];
                if slot == 0 {
                    return None;
                }
                index = self.after(index);
                if (slot >> 32) as u32 == tag {
                    return Some(slot as u32);
                }
            }
        })
    }

    pub(super) fn insert(&mut self, hash: ChangeHash, number: u32) {
        // At three quarters a look at what is not there passes some eight slots, and they lie side by side.
        if self.len >= self.slots.len() / 4 * 3 {
            self.grow();
        }
        self.len += 1;
        self.put(u64::from(Self::tag(hash)) << 32 | u64::from(number));
    }

    fn put(&mut self, slot: u64) {
        let mut index = self.home((slot >> 32) as u32);
        while self.slots[index] != 0 {
            index = self.after(index);
        }
        self.slots[index] = slot;
    }

    fn grow(&mut self) {
        assert!(self.shift > 0, "more ids than an entry's number can tell apart");
        self.shift -= 1;
        let doubled = vec![0; self.slots.len() * 2];
        for slot in std::mem::replace(&mut self.slots, doubled) {
            if slot != 0 {
                self.put(slot);
            }
        }
    }

    /// Takes a number out. What was pushed on by it moves back, so that no gap ends a search too early.
    pub(super) fn remove(&mut self, hash: ChangeHash, number: u32) {
        let slot = u64::from(Self::tag(hash)) << 32 | u64::from(number);
        let mut gap = self.home(Self::tag(hash));
        while self.slots[gap] != slot {
            if self.slots[gap] == 0 {
                return;
            }
            gap = self.after(gap);
        }
        self.len -= 1;
        let mask = self.slots.len() - 1;
        let mut index = gap;
        loop {
            index = self.after(index);
            let slot = self.slots[index];
            if slot == 0 {
                break;
            }
            let home = self.home((slot >> 32) as u32);
            // It may move into the gap if that does not lie before its home.
            if index.wrapping_sub(home) & mask >= index.wrapping_sub(gap) & mask {
                self.slots[gap] = slot;
                gap = index;
            }
        }
        self.slots[gap] = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Goal: the same numbers under the same hashes as a plain set holds, through growth and removals. Method: seeded steps over
    /// few hashes that crowd at both ends of the array, so that runs are long and go around its end.
    #[test]
    fn oracle_numbers_are_found_until_they_are_removed() {
        for seed in 0..200 {
            let mut dice = SmallRng::seed_from_u64(seed);
            let (mut places, mut expected) = (Places::new(), BTreeSet::new());
            for number in 0..dice.random_range(1..3_000_u32) {
                let tag = dice.random_range(0..40_u32).wrapping_sub(20).wrapping_mul(dice.random_range(1..3_000));
                let hash = u128::from(tag);
                if dice.random_bool(0.6) {
                    places.insert(hash, number);
                    expected.insert((Places::tag(hash), number));
                } else if let Some((tag, number)) = expected.range((Places::tag(hash), 0)..).next().copied() {
                    places.remove(u128::from(tag), number);
                    expected.remove(&(tag, number));
                }
                places.remove(hash, u32::MAX);
            }
            assert_eq!(places.len, expected.len(), "seed {seed}");
            for (tag, _) in &expected {
                let mut found: Vec<u32> = places.candidates(u128::from(*tag)).collect();
                found.sort_unstable();
                let all: Vec<u32> = expected.range((*tag, 0)..=(*tag, u32::MAX)).map(|(_, number)| *number).collect();
                assert_eq!(found, all, "seed {seed}");
            }
        }
    }
}
