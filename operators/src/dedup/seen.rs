//! The seen-set in memory: which ids were seen, where each was first seen, and when.
//!
//! Entries stand in a ring in the order in which they came, 48 bytes each; a table of 32-bit places finds them by hash. So
//! a million ids take about 60 MB, the oldest are dropped at no cost, and what is new since a save is the end of the ring.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::checkpoint::report::Oldest;
use crate::checkpoint::store::ChangeHash;
use crate::position::{Epoch, Position};

/// Bytes of an encoded entry: shard, hash, partition, at, within, time.
pub const ENTRY: usize = 1 + 16 + 4 + 8 + 8 + 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    hash: [u64; 2],
    at: u64,
    within: u64,
    time_ms: i64,
    partition: u32,
}

impl Entry {
    fn new(hash: ChangeHash, position: Position, time_ms: i64) -> Self {
        let Position { partition, at, within } = position;
        Entry { hash: [hash as u64, (hash >> 64) as u64], at, within, time_ms, partition }
    }

    fn position(&self) -> Position {
        Position { partition: self.partition, at: self.at, within: self.within }
    }
}

/// What the seen-set says of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was never seen, or longer ago than the window. Now it is.
    New,
    /// It is itself, read again.
    Again,
    /// It is a copy of another change.
    Duplicate,
}

/// Ids seen, and where first.
#[derive(Debug)]
pub struct SeenSet {
    ring: VecDeque<Entry>,
    /// Number of the entry at the front of the ring; numbers only grow, and wrap.
    front: u32,
    places: HashTable<u32>,
    /// By age: up to which number (exclusive) entries are of this age.
    ages: VecDeque<(Oldest, u32)>,
    window_ms: Option<i64>,
    entries_max: usize,
    time_max: i64,
}

impl SeenSet {
    /// A set with a window in the changes' own time, if any, and in entries.
    pub fn new(window_ms: Option<i64>, entries_max: usize) -> Self {
        SeenSet {
            ring: VecDeque::new(),
            front: 0,
            places: HashTable::new(),
            ages: VecDeque::new(),
            window_ms,
            entries_max: entries_max.max(1),
            time_max: i64::MIN,
        }
    }

    /// Looks a change up and enters it if it is new.
    pub fn see(&mut self, hash: ChangeHash, position: Position, time_ms: i64, age: Oldest) -> Seen {
        let entry = Entry::new(hash, position, time_ms);
        let (ring, front) = (&self.ring, self.front);
        let number = front.wrapping_add(ring.len() as u32);
        let place = |number: u32| ring[number.wrapping_sub(front) as usize];
        if let Some(known) = self.places.find_mut(entry.hash[0], |known| place(*known).hash == entry.hash) {
            let first = place(*known);
            if first.position() == position {
                return Seen::Again;
            }
            if self.window_ms.is_none_or(|window| time_ms.abs_diff(first.time_ms) <= window as u64) {
                return Seen::Duplicate;
            }
            // Outside the window it is another change: the newer entry takes the older one's place in the table.
            *known = number;
        } else {
            self.places.insert_unique(entry.hash[0], number, |known| place(*known).hash[0]);
        }
        self.ring.push_back(entry);
        self.time_max = self.time_max.max(time_ms);
        match self.ages.back_mut() {
            Some((last, upto)) if *last == age => *upto = number.wrapping_add(1),
            _ => self.ages.push_back((age, number.wrapping_add(1))),
        }
        Seen::New
    }

    /// Drops the oldest entries while there are too many, or they are older than the window; but nothing of an epoch from
    /// `saved` on: what is above the mark may be read again and must be recognised.
    pub fn evict(&mut self, saved: Epoch) {
        while let Some(oldest) = self.ring.front() {
            let too_old = self.window_ms.is_some_and(|window| oldest.time_ms.saturating_add(window) < self.time_max);
            let above_mark = matches!(self.oldest(), Oldest::Epoch(epoch) if epoch >= saved);
            if above_mark || !(too_old || self.ring.len() > self.entries_max) {
                break;
            }
            let number = self.front;
            if let Ok(place) = self.places.find_entry(oldest.hash[0], |known| *known == number) {
                place.remove();
            }
            self.ring.pop_front();
            self.front = self.front.wrapping_add(1);
            if self.ages.front().is_some_and(|(_, upto)| *upto == self.front) {
                self.ages.pop_front();
            }
        }
    }

    /// The age of the oldest entry.
    pub fn oldest(&self) -> Oldest {
        self.ages.front().map_or(Oldest::Empty, |(age, _)| *age)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// Appends an entry to a state segment. The shard is that of the change's key, by which entries are dealt to workers.
pub fn encode(shard: u8, hash: ChangeHash, position: Position, time_ms: i64, to: &mut Vec<u8>) {
    let mut entry = [0; ENTRY];
    entry[0] = shard;
    entry[1..17].copy_from_slice(&hash.to_le_bytes());
    entry[17..21].copy_from_slice(&position.partition.to_le_bytes());
    entry[21..29].copy_from_slice(&position.at.to_le_bytes());
    entry[29..37].copy_from_slice(&position.within.to_le_bytes());
    entry[37..45].copy_from_slice(&time_ms.to_le_bytes());
    to.extend_from_slice(&entry);
}

/// The entries of a state segment: shard, hash, position, time.
pub fn decode(segment: &[u8]) -> impl Iterator<Item = (u8, ChangeHash, Position, i64)> + '_ {
    fn array<const N: usize>(entry: &[u8], start: usize) -> [u8; N] {
        entry[start..start + N].try_into().expect("the range is as long as the array")
    }
    segment.chunks_exact(ENTRY).map(|entry| {
        let position = Position {
            partition: u32::from_le_bytes(array(entry, 17)),
            at: u64::from_le_bytes(array(entry, 21)),
            within: u64::from_le_bytes(array(entry, 29)),
        };
        (entry[0], u128::from_le_bytes(array(entry, 1)), position, i64::from_le_bytes(array(entry, 37)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: u64) -> Position {
        Position { partition: 1, at, within: 2 }
    }

    #[test]
    fn a_change_is_a_duplicate_only_of_another_change() {
        let mut seen = SeenSet::new(None, 10);
        assert_eq!(seen.see(1, at(5), 0, Oldest::Epoch(1)), Seen::New);
        assert_eq!(seen.see(1, at(5), 0, Oldest::Epoch(2)), Seen::Again);
        assert_eq!(seen.see(1, at(6), 0, Oldest::Epoch(2)), Seen::Duplicate);
    }

    #[test]
    fn outside_its_window_an_id_is_new_again() {
        let mut seen = SeenSet::new(Some(10), 10);
        assert_eq!(seen.see(1, at(5), 100, Oldest::Epoch(1)), Seen::New);
        assert_eq!(seen.see(1, at(6), 110, Oldest::Epoch(1)), Seen::Duplicate);
        assert_eq!(seen.see(1, at(7), 111, Oldest::Epoch(1)), Seen::New);
        assert_eq!(seen.see(1, at(8), 112, Oldest::Epoch(1)), Seen::Duplicate);
        seen.evict(5);
        assert_eq!((seen.len(), seen.see(1, at(7), 111, Oldest::Epoch(1))), (1, Seen::Again));
    }

    #[test]
    fn the_oldest_go_first_but_nothing_above_the_mark() {
        let mut seen = SeenSet::new(None, 2);
        for n in 0..5 {
            seen.see(u128::from(n), at(n), 0, Oldest::Epoch(n));
        }
        seen.evict(2);
        assert_eq!((seen.len(), seen.oldest()), (3, Oldest::Epoch(2)));
        seen.evict(9);
        assert_eq!((seen.len(), seen.oldest()), (2, Oldest::Epoch(3)));
        assert_eq!(seen.see(0, at(9), 0, Oldest::Epoch(9)), Seen::New);
        assert_eq!(seen.see(3, at(9), 0, Oldest::Epoch(9)), Seen::Duplicate);
    }

    #[test]
    fn entries_survive_their_encoding() {
        let mut segment = Vec::new();
        encode(7, 1 << 100, at(9), -5, &mut segment);
        encode(8, 2, at(10), 5, &mut segment);
        assert_eq!(decode(&segment).collect::<Vec<_>>(), [(7, 1 << 100, at(9), -5), (8, 2, at(10), 5)]);
    }
}
