//! The seen-set in memory: which ids were seen, where each was first seen, and when.
//!
//! Entries stand in a ring in the order in which they came, 48 bytes each; a table of 64-bit places finds them by hash. So
//! a million ids take about 65 MB, the oldest are dropped at little cost, and what is new since a save is the end of the ring.

use std::collections::VecDeque;

use crate::checkpoint::report::Oldest;
use crate::checkpoint::store::ChangeHash;
use crate::dedup::places::Places;
use crate::dedup::ring::Ring;
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

    fn hash(&self) -> ChangeHash {
        ChangeHash::from(self.hash[1]) << 64 | ChangeHash::from(self.hash[0])
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
    ring: Ring<Entry>,
    /// Number of the entry at the front of the ring; numbers only grow, and wrap.
    front: u32,
    /// Numbers of entries, by hash. An id that came again outside its window has several entries: each answers for the
    /// changes of its own time, and with only the newest, a copy read late would meet the wrong one.
    places: Places,
    /// By age: up to which number (exclusive) entries are of this age, and the latest time among them.
    ages: VecDeque<(Oldest, u32, i64)>,
    window_ms: Option<i64>,
    entries_max: usize,
    below: Below,
}

/// What lies below the saved mark. Only that decides on eviction, and only that is evicted: what lies above may be read
/// again, in another order, and must find the same set.
#[derive(Debug)]
struct Below {
    /// Ages at the front of the list that lie below.
    ages: usize,
    /// Number (exclusive) up to which entries lie below.
    upto: u32,
    /// The latest time below.
    time_max: i64,
}

impl SeenSet {
    /// A set with a window in the changes' own time, if any, and in entries.
    pub fn new(window_ms: Option<i64>, entries_max: usize) -> Self {
        SeenSet {
            ring: Ring::new(),
            front: 0,
            places: Places::new(),
            ages: VecDeque::new(),
            window_ms,
            entries_max: entries_max.max(1),
            below: Below { ages: 0, upto: 0, time_max: i64::MIN },
        }
    }

    /// Brings what a look at these hashes will touch into the cache. Asked for one by one, each would be waited for.
    pub fn look_ahead(&self, hashes: &[ChangeHash]) {
        let touched = hashes.iter().fold(0, |touched, hash| touched ^ self.places.first_slot(*hash));
        std::hint::black_box(touched);
    }

    /// Looks a change up and enters it if it is new.
    pub fn see(&mut self, hash: ChangeHash, position: Position, time_ms: i64, age: Oldest) -> Seen {
        let entry = Entry::new(hash, position, time_ms);
        let mut seen = Seen::New;
        for number in self.places.candidates(hash) {
            let place = number.wrapping_sub(self.front) as usize;
            let Some(first) = self.ring.get(place).filter(|first| first.hash == entry.hash) else { continue };
            if first.position() == position {
                return Seen::Again;
            }
            if self.window_ms.is_none_or(|window| time_ms.abs_diff(first.time_ms) <= window as u64) {
                seen = Seen::Duplicate;
            }
        }
        if seen == Seen::Duplicate {
            return seen;
        }
        let number = self.front.wrapping_add(self.ring.len() as u32);
        self.places.insert(hash, number);
        self.ring.push_back(entry);
        match self.ages.back_mut() {
            Some((last, upto, time_max)) if *last == age => {
                *upto = number.wrapping_add(1);
                *time_max = time_ms.max(*time_max);
            }
            _ => self.ages.push_back((age, number.wrapping_add(1), time_ms)),
        }
        Seen::New
    }

    /// Drops the oldest entries while there are too many, or they are older than the window, as far as they lie below the
    /// mark at `saved`.
    pub fn evict(&mut self, saved: Epoch) {
        let is_below = |age: Oldest| !matches!(age, Oldest::Epoch(epoch) if epoch >= saved);
        while let Some((_, upto, time_max)) = self.ages.get(self.below.ages).filter(|(age, ..)| is_below(*age)) {
            self.below.upto = *upto;
            self.below.time_max = self.below.time_max.max(*time_max);
            self.below.ages += 1;
        }
        let mut looked_ahead = 0;
        while self.below.ages > 0 {
            let oldest = self.ring.get(0).expect("an age has entries");
            let too_old = self.window_ms.is_some_and(|window| oldest.time_ms.saturating_add(window) < self.below.time_max);
            let too_many = (self.below.upto.wrapping_sub(self.front) as usize).saturating_sub(self.entries_max);
            if !too_old && too_many == 0 {
                break;
            }
            if looked_ahead == 0 {
                looked_ahead = too_many.clamp(1, 64);
                let next = (0..looked_ahead).filter_map(|place| self.ring.get(place));
                std::hint::black_box(next.fold(0, |touched, entry| touched ^ self.places.first_slot(entry.hash())));
            }
            looked_ahead -= 1;
            self.places.remove(oldest.hash(), self.front);
            self.ring.pop_front();
            self.front = self.front.wrapping_add(1);
            if self.ages.front().is_some_and(|(_, upto, _)| *upto == self.front) {
                self.ages.pop_front();
                self.below.ages -= 1;
            }
        }
    }

    /// The age of the oldest entry.
    pub fn oldest(&self) -> Oldest {
        self.ages.front().map_or(Oldest::Empty, |(age, ..)| *age)
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.ring.len() == 0
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
        assert_eq!(seen.see(1, at(5), 100, Oldest::Epoch(1)), Seen::Again);
        seen.evict(5);
        assert_eq!((seen.len(), seen.see(1, at(7), 111, Oldest::Epoch(1))), (1, Seen::Again));
    }

    #[test]
    fn the_oldest_go_first_and_what_is_above_the_mark_neither_goes_nor_counts() {
        let mut seen = SeenSet::new(None, 2);
        for n in 0..6 {
            seen.see(u128::from(n), at(n), 0, Oldest::Epoch(n));
        }
        seen.evict(2);
        assert_eq!((seen.len(), seen.oldest()), (6, Oldest::Epoch(0)));
        seen.evict(3);
        assert_eq!((seen.len(), seen.oldest()), (5, Oldest::Epoch(1)));
        seen.evict(9);
        assert_eq!((seen.len(), seen.oldest()), (2, Oldest::Epoch(4)));
        assert_eq!(seen.see(0, at(9), 0, Oldest::Epoch(9)), Seen::New);
        assert_eq!(seen.see(4, at(9), 0, Oldest::Epoch(9)), Seen::Duplicate);
    }

    #[test]
    fn nothing_above_the_mark_makes_an_entry_too_old() {
        let mut seen = SeenSet::new(Some(10), 100);
        seen.see(1, at(1), 0, Oldest::Epoch(1));
        seen.see(2, at(2), 1_000, Oldest::Epoch(2));
        seen.evict(2);
        assert_eq!(seen.len(), 2);
        seen.evict(3);
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn entries_survive_their_encoding() {
        let mut segment = Vec::new();
        encode(7, 1 << 100, at(9), -5, &mut segment);
        encode(8, 2, at(10), 5, &mut segment);
        assert_eq!(decode(&segment).collect::<Vec<_>>(), [(7, 1 << 100, at(9), -5), (8, 2, at(10), 5)]);
    }
}
