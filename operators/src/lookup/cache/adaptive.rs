//! The default: quick_cache's CLOCK-PRO, which holds on to what is used often, follows what becomes popular, and lets a scan
//! pass through.

use std::hash::{BuildHasherDefault, Hasher};

use quick_cache::{Lifecycle, Weighter, unsync};

use super::key::{Asked, Hashed};
use super::{Kept, Room};

/// What a key takes that was dropped and is remembered: as much as one that is there, without its row.
const GHOST_BYTES: u64 = super::ENTRY_BYTES as u64;

pub(super) struct Adaptive {
    entries: unsync::Cache<Hashed, Weighed, Weight, BuildHasherDefault<AsIs>, Count>,
    bytes: u64,
}

struct Weighed {
    kept: Kept,
    weight: u32,
}

impl Adaptive {
    pub(super) fn new(room: Room) -> Self {
        let (weight, most, expected) = match room.bytes {
            u64::MAX => (Weight { least: None }, room.entries as u64, room.entries),
            bytes => {
                // It also remembers keys that it has dropped, half as many as it expects to hold. They take of the same bytes, so
                // it is told to expect no more than lets those take an eighth of them.
                let expected = room.entries.min((bytes / (4 * GHOST_BYTES)) as usize);
                let most = bytes - expected as u64 / 2 * GHOST_BYTES;
                // Of one limit it knows. An entry that weighs at least its share of the bytes keeps both.
                (Weight { least: Some(most.div_ceil(room.entries as u64)) }, most, expected)
            }
        };
        Adaptive { entries: unsync::Cache::with(expected, most, weight, BuildHasherDefault::default(), Count), bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Finds several, the entries looked for before any is used: so memory is waited for once, not once for each.
    pub(super) fn find<const N: usize>(&self, asked: &[Option<Asked<'_>>; N], now: u64, mut found: impl FnMut(Option<&Kept>)) {
        let entries = asked.each_ref().map(|asked| self.entries.get(asked.as_ref()?));
        for weighed in entries {
            found(weighed.map(|weighed| &weighed.kept).filter(|kept| kept.until > now));
        }
    }

    pub(super) fn get(&self, asked: &Asked<'_>) -> Option<&Kept> {
        self.entries.get(asked).map(|weighed| &weighed.kept)
    }

    pub(super) fn remove(&mut self, asked: &Asked<'_>) {
        if let Some((_, weighed)) = self.entries.remove(asked) {
            self.bytes -= u64::from(weighed.weight);
        }
    }

    /// Keeps an entry that fits, in the place of an earlier one of its key. Returns how many others had to go.
    pub(super) fn insert(&mut self, key: Hashed, kept: Kept, weight: u32, asked: &Asked<'_>) -> u64 {
        let before = self.entries.len() + usize::from(!self.entries.contains_key(asked));
        // It tells of the entry that is replaced like of those that are driven out, and of one that it does not let in.
        let Gone(gone) = self.entries.insert_with_lifecycle(key, Weighed { kept, weight });
        self.bytes = self.bytes + u64::from(weight) - gone;
        (before - self.entries.len()) as u64
    }
}

struct Weight {
    /// The least an entry counts, in bytes; without a limit of bytes, entries are counted.
    least: Option<u64>,
}

impl Weighter<Hashed, Weighed> for Weight {
    fn weight(&self, _key: &Hashed, weighed: &Weighed) -> u64 {
        self.least.map_or(1, |least| least.max(weighed.weight.into()))
    }
}

/// Adds up what goes.
struct Count;

/// Bytes.
#[derive(Default)]
struct Gone(u64);

impl Lifecycle<Hashed, Weighed> for Count {
    type RequestState = Gone;

    fn begin_request(&self) -> Gone {
        Gone::default()
    }

    fn on_evict(&self, gone: &mut Gone, _key: Hashed, weighed: Weighed) {
        gone.0 += u64::from(weighed.weight);
    }
}

/// Takes the hash that a key brings.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a key brings one hash of 64 bits");
    }
}
