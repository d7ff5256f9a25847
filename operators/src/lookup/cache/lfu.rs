//! Least frequently used goes first, of those the least recently used.
//!
//! Entries stand in rows by how often they were used. So that yesterday's favourites do not stay for ever, all counts are
//! halved now and then: without that the policy collapses as soon as popularity drifts.

use super::list::{Link, Linked, List};
use super::slots::{NO_SLOT, Policy, Slot};

/// A count that grows no further.
pub(super) const COUNT_MAX: u8 = 255;
/// Counts are halved after so many uses per entry.
pub(super) const USES_PER_ENTRY: u64 = 10;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    link: Link,
    count: u8,
}

impl Linked for Used {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

pub(super) struct Lfu {
    by_count: Box<[List]>,
    /// No entry has a lower count than this.
    least: u8,
    entries: u64,
    uses: u64,
}

impl Lfu {
    pub(super) fn new() -> Self {
        Lfu { by_count: vec![List::EMPTY; usize::from(COUNT_MAX) + 1].into(), least: 0, entries: 0, uses: 0 }
    }

    fn used(&mut self, slots: &mut [Slot<Used>]) {
        self.uses += 1;
        if self.uses >= USES_PER_ENTRY * self.entries {
            self.uses = 0;
            self.halve(slots);
        }
    }

    fn halve(&mut self, slots: &mut [Slot<Used>]) {
        for count in 1..=COUNT_MAX {
            let list = std::mem::replace(&mut self.by_count[usize::from(count)], List::EMPTY);
            let mut at = list.first;
            while at != NO_SLOT {
                slots[at as usize].mark.count = count / 2;
                at = List::behind(slots, at);
            }
            // What was used more often stays in front of what was used less.
            self.by_count[usize::from(count / 2)].prepend(slots, list);
        }
        self.least = 0;
    }
}

impl Policy for Lfu {
    type Mark = Used;

    fn inserted(&mut self, slots: &mut [Slot<Used>], at: u32) {
        slots[at as usize].mark.count = 1;
        self.by_count[1].push_first(slots, at);
        self.least = self.least.min(1);
        self.entries += 1;
        self.used(slots);
    }

    fn hit(&mut self, slots: &mut [Slot<Used>], at: u32) {
        let count = slots[at as usize].mark.count;
        let more = count.saturating_add(1);
        self.by_count[usize::from(count)].unlink(slots, at);
        slots[at as usize].mark.count = more;
        self.by_count[usize::from(more)].push_first(slots, at);
        self.used(slots);
    }

    fn removed(&mut self, slots: &mut [Slot<Used>], at: u32) {
        let count = slots[at as usize].mark.count;
        self.by_count[usize::from(count)].unlink(slots, at);
        self.entries -= 1;
    }

    fn victims(&mut self, _slots: &[Slot<Used>], victims: &mut Vec<u32>) {
        if self.entries == 0 {
            return;
        }
        while self.by_count[usize::from(self.least)].last == NO_SLOT {
            self.least += 1;
        }
        victims.push(self.by_count[usize::from(self.least)].last);
    }
}
