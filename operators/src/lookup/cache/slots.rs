//! Entries in one piece of memory, a line each, found by hash; which of them go when there is no room, a [`Policy`] says.

use hashbrown::HashTable;

use super::key::{Asked, Hashed, Key};
use super::{Kept, Room};

/// No entry.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// Which entries go. It notes with each entry what it must know of it.
pub(super) trait Policy {
    /// What is noted with an entry.
    type Mark: Copy + Default;

    /// An entry has come.
    fn inserted(&mut self, slots: &mut [Slot<Self::Mark>], at: u32);

    /// An entry was used, or loaded anew.
    fn hit(&mut self, slots: &mut [Slot<Self::Mark>], at: u32);

    /// An entry goes.
    fn removed(&mut self, slots: &mut [Slot<Self::Mark>], at: u32);

    /// Names the entries that go to make room, at least one if there is one. [`removed`](Self::removed) follows for each.
    fn victims(&mut self, slots: &[Slot<Self::Mark>], victims: &mut Vec<u32>);
}

/// A place for an entry: one line of memory.
#[repr(align(64))]
pub(super) struct Slot<M> {
    entry: Option<(Key, Kept)>,
    hash: u64,
    weight: u32,
    pub mark: M,
}

const _: () = assert!(size_of::<Slot<super::lfu::Used>>() == 64);

impl<M> Slot<M> {
    pub(super) fn is_taken(&self) -> bool {
        self.entry.is_some()
    }
}

pub(super) struct Slots<P: Policy> {
    places: HashTable<u32>,
    slots: Vec<Slot<P::Mark>>,
    free: Vec<u32>,
    policy: P,
    room: Room,
    bytes: u64,
    victims: Vec<u32>,
}

impl<P: Policy> Slots<P> {
    pub(super) fn new(policy: P, room: Room) -> Self {
        let (places, slots, free, victims) = (HashTable::new(), Vec::new(), Vec::new(), Vec::new());
        Slots { places, slots, free, policy, room, bytes: 0, victims }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn place(&self, asked: &Asked<'_>) -> u32 {
        let is_it = |at: &u32| self.slots[*at as usize].entry.as_ref().is_some_and(|(key, _)| asked.is(key));
        self.places.find(asked.hash, is_it).copied().unwrap_or(NO_SLOT)
    }

    /// Finds several, the entries looked for before any is used: so memory is waited for once, not once for each.
    pub(super) fn find<const N: usize>(
        &mut self,
        asked: &[Option<Asked<'_>>; N],
        now: u64,
        mut found: impl FnMut(Option<&Kept>),
    ) {
        let places = asked.each_ref().map(|asked| asked.as_ref().map_or(NO_SLOT, |asked| self.place(asked)));
        for at in places {
            let kept = self.slots.get(at as usize).and_then(|slot| slot.entry.as_ref()).filter(|(_, kept)| kept.until > now);
            found(kept.map(|(_, kept)| kept));
            if kept.is_some() {
                self.policy.hit(&mut self.slots, at);
            }
        }
    }

    pub(super) fn get(&mut self, asked: &Asked<'_>) -> Option<&Kept> {
        let at = self.place(asked);
        if at == NO_SLOT {
            return None;
        }
        self.policy.hit(&mut self.slots, at);
        self.slots[at as usize].entry.as_ref().map(|(_, kept)| kept)
    }

    pub(super) fn remove(&mut self, asked: &Asked<'_>) {
        let at = self.place(asked);
        if at != NO_SLOT {
            self.take(at);
        }
    }

    /// Keeps an entry that fits, in the place of an earlier one of its key. Returns how many others had to go.
    pub(super) fn insert(&mut self, key: Hashed, kept: Kept, weight: u32, asked: &Asked<'_>) -> u64 {
        let at = self.place(asked);
        let mut evicted = 0;
        if at == NO_SLOT {
            evicted = self.make_room(1, u64::from(weight));
            let at = self.free.pop().unwrap_or(self.slots.len() as u32);
            let slot = Slot { entry: Some((key.key, kept)), hash: key.hash, weight, mark: P::Mark::default() };
            match self.slots.get_mut(at as usize) {
                Some(place) => *place = slot,
                None => self.slots.push(slot),
            }
            let slots = &self.slots;
            self.places.insert_unique(key.hash, at, |at| slots[*at as usize].hash);
            self.bytes += u64::from(weight);
            self.policy.inserted(&mut self.slots, at);
        } else {
            let slot = &mut self.slots[at as usize];
            slot.entry = Some((key.key, kept));
            self.bytes = self.bytes - u64::from(slot.weight) + u64::from(weight);
            slot.weight = weight;
            self.policy.hit(&mut self.slots, at);
            evicted += self.make_room(0, 0);
        }
        evicted
    }

    fn make_room(&mut self, entries: usize, bytes: u64) -> u64 {
        let mut evicted = 0;
        while self.places.len() + entries > self.room.entries || self.bytes + bytes > self.room.bytes {
            let mut victims = std::mem::take(&mut self.victims);
            self.policy.victims(&self.slots, &mut victims);
            if victims.is_empty() {
                break;
            }
            evicted += victims.len() as u64;
            victims.drain(..).for_each(|at| self.take(at));
            self.victims = victims;
        }
        evicted
    }

    fn take(&mut self, at: u32) {
        self.policy.removed(&mut self.slots, at);
        let slot = &mut self.slots[at as usize];
        slot.entry = None;
        self.bytes -= u64::from(slot.weight);
        if let Ok(place) = self.places.find_entry(slot.hash, |place| *place == at) {
            place.remove();
        }
        self.free.push(at);
    }
}
