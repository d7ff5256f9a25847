//! Entries in a row, linked by their places: moving one to the front touches it and its neighbours, and allocates nothing.

use super::slots::{NO_SLOT, Slot};

/// An entry's neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: u32,
    behind: u32,
}

impl Default for Link {
    fn default() -> Self {
        Link { before: NO_SLOT, behind: NO_SLOT }
    }
}

/// What a policy notes with an entry, if it has a link in it.
pub(super) trait Linked {
    fn link(&mut self) -> &mut Link;
}

impl Linked for Link {
    fn link(&mut self) -> &mut Link {
        self
    }
}

/// The ends of a row of entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub first: u32,
    pub last: u32,
}

impl List {
    pub(super) const EMPTY: List = List { first: NO_SLOT, last: NO_SLOT };

    pub(super) fn push_first<M: Linked>(&mut self, slots: &mut [Slot<M>], at: u32) {
        *slots[at as usize].mark.link() = Link { before: NO_SLOT, behind: self.first };
        match self.first {
            NO_SLOT => self.last = at,
            first => slots[first as usize].mark.link().before = at,
        }
        self.first = at;
    }

    pub(super) fn unlink<M: Linked>(&mut self, slots: &mut [Slot<M>], at: u32) {
        let Link { before, behind } = *slots[at as usize].mark.link();
        match before {
            NO_SLOT => self.first = behind,
            before => slots[before as usize].mark.link().behind = behind,
        }
        match behind {
            NO_SLOT => self.last = before,
            behind => slots[behind as usize].mark.link().before = before,
        }
    }

    /// Puts another row in front of this one.
    pub(super) fn prepend<M: Linked>(&mut self, slots: &mut [Slot<M>], other: List) {
        if other.first == NO_SLOT {
            return;
        }
        match self.first {
            NO_SLOT => self.last = other.last,
            first => {
                slots[first as usize].mark.link().before = other.last;
                slots[other.last as usize].mark.link().behind = first;
            }
        }
        self.first = other.first;
    }

    /// The entry behind this one.
    pub(super) fn behind<M: Linked>(slots: &mut [Slot<M>], at: u32) -> u32 {
        slots[at as usize].mark.link().behind
    }
}
