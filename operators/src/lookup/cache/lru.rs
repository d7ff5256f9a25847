//! Least recently used goes first: every hit moves its entry to the front of one row.

use super::list::{Link, List};
use super::slots::{NO_SLOT, Policy, Slot};

pub(super) struct Lru {
    used: List,
}

impl Lru {
    pub(super) fn new() -> Self {
        Lru { used: List::EMPTY }
    }
}

impl Policy for Lru {
    type Mark = Link;

    fn inserted(&mut self, slots: &mut [Slot<Link>], at: u32) {
        self.used.push_first(slots, at);
    }

    fn hit(&mut self, slots: &mut [Slot<Link>], at: u32) {
        if self.used.first != at {
            self.used.unlink(slots, at);
            self.used.push_first(slots, at);
        }
    }

    fn removed(&mut self, slots: &mut [Slot<Link>], at: u32) {
        self.used.unlink(slots, at);
    }

    fn victims(&mut self, _slots: &[Slot<Link>], victims: &mut Vec<u32>) {
        if self.used.last != NO_SLOT {
            victims.push(self.used.last);
        }
    }
}
