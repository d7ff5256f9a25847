//! Any entry may go, each as likely: a hit costs nothing, and no pattern of use is the worst.

use rand::Rng;
use rand::rngs::SmallRng;

use super::slots::{Policy, Slot};

pub(super) struct Random {
    /// The slots that are taken; an entry's mark is its place in here.
    taken: Vec<u32>,
    dice: SmallRng,
}

impl Random {
    pub(super) fn new(dice: SmallRng) -> Self {
        Random { taken: Vec::new(), dice }
    }
}

impl Policy for Random {
    type Mark = u32;

    fn inserted(&mut self, slots: &mut [Slot<u32>], at: u32) {
        slots[at as usize].mark = self.taken.len() as u32;
        self.taken.push(at);
    }

    fn hit(&mut self, _slots: &mut [Slot<u32>], _at: u32) {}

    fn removed(&mut self, slots: &mut [Slot<u32>], at: u32) {
        let place = slots[at as usize].mark;
        self.taken.swap_remove(place as usize);
        if let Some(moved) = self.taken.get(place as usize) {
            slots[*moved as usize].mark = place;
        }
    }

    fn victims(&mut self, _slots: &[Slot<u32>], victims: &mut Vec<u32>) {
        if !self.taken.is_empty() {
            victims.push(self.taken[self.dice.random_range(0..self.taken.len())]);
        }
    }
}
