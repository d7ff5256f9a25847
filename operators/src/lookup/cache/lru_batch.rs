//! Least recently used go first, a share of all at once: a hit only writes a tick, and a full cache looks through all of them.

use super::slots::{Policy, Slot};

pub(super) struct LruBatch {
    /// Share of the entries that go when there is no room, in percent.
    percent: u8,
    tick: u64,
    ages: Vec<(u64, u32)>,
}

impl LruBatch {
    pub(super) fn new(percent: u8) -> Self {
        LruBatch { percent, tick: 0, ages: Vec::new() }
    }

    fn next(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }
}

impl Policy for LruBatch {
    type Mark = u64;

    fn inserted(&mut self, slots: &mut [Slot<u64>], at: u32) {
        slots[at as usize].mark = self.next();
    }

    fn hit(&mut self, slots: &mut [Slot<u64>], at: u32) {
        slots[at as usize].mark = self.next();
    }

    fn removed(&mut self, _slots: &mut [Slot<u64>], _at: u32) {}

    fn victims(&mut self, slots: &[Slot<u64>], victims: &mut Vec<u32>) {
        self.ages.clear();
        self.ages.extend(slots.iter().zip(0..).filter(|(slot, _)| slot.is_taken()).map(|(slot, at)| (slot.mark, at)));
        if self.ages.is_empty() {
            return;
        }
        let count = (self.ages.len() * usize::from(self.percent) / 100).max(1);
        self.ages.select_nth_unstable(count - 1);
        victims.extend(self.ages[..count].iter().map(|(_, at)| at));
    }
}
