//! Keys as a cache holds them: hashed once, and short ones without a place of their own on the heap.
//!
//! A short key is compared as three words, with no call and no other line of memory than the entry's own.

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::DefaultHashBuilder;
use quick_cache::Equivalent;

/// Bytes of a key that need no place on the heap.
const SHORT_MAX: usize = 22;

/// The bytes of a short key, zeros behind them, its length last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short([u8; SHORT_MAX + 1]);

impl Short {
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut short = [0; SHORT_MAX + 1];
        short.get_mut(..SHORT_MAX)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        short[SHORT_MAX] = bytes.len() as u8;
        Some(Short(short))
    }
}

/// A key in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Short(Short),
    Long(Box<[u8]>),
}

impl Key {
    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        match self {
            Key::Short(_) => 0,
            Key::Long(bytes) => bytes.len(),
        }
    }
}

/// A key in a cache, with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub hash: u64,
    pub key: Key,
}

/// A key that is asked for, with its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub hash: u64,
    key: AskedKey<'a>,
}

#[derive(Clone, Copy, Debug)]
enum AskedKey<'a> {
    Short(Short),
    Long(&'a [u8]),
}

impl<'a> Asked<'a> {
    pub(super) fn of(bytes: &'a [u8], hashes: &DefaultHashBuilder) -> Self {
        let key = Short::of(bytes).map_or(AskedKey::Long(bytes), AskedKey::Short);
        Asked { hash: hashes.hash_one(bytes), key }
    }

    pub(super) fn is(&self, key: &Key) -> bool {
        match (self.key, key) {
            (AskedKey::Short(asked), Key::Short(key)) => asked == *key,
            (AskedKey::Long(asked), Key::Long(key)) => *asked == **key,
            _ => false,
        }
    }

    /// The same as a cache keeps it.
    pub(super) fn to_hashed(self) -> Hashed {
        let key = match self.key {
            AskedKey::Short(short) => Key::Short(short),
            AskedKey::Long(bytes) => Key::Long(bytes.into()),
        };
        Hashed { hash: self.hash, key }
    }
}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Hashed> for Asked<'_> {
    fn equivalent(&self, hashed: &Hashed) -> bool {
        self.is(&hashed.key)
    }
}

/// The keys of a batch, one for each of its changes, in order. Kept from batch to batch, so that it asks for no memory.
#[derive(Debug, Default)]
pub struct Keys {
    text: Vec<u8>,
    /// Where each key ends in `text`, and whether there is one.
    ends: Vec<(usize, bool)>,
}

impl Keys {
    /// Forgets all keys.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// The next change's key; `None` if it has none.
    pub fn push(&mut self, key: Option<&str>) {
        self.text.extend_from_slice(key.unwrap_or_default().as_bytes());
        self.ends.push((self.text.len(), key.is_some()));
    }

    /// Changes that have been looked at.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether no change has been looked at.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key of the change at this place; `None` if it has none.
    pub fn get(&self, index: usize) -> Option<&str> {
        // Every key was a `str` when it was pushed.
        self.bytes(index).map(|bytes| std::str::from_utf8(bytes).unwrap_or_default())
    }

    pub(super) fn bytes(&self, index: usize) -> Option<&[u8]> {
        let (end, is_there) = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1].0 };
        is_there.then(|| &self.text[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: keys are told apart at every length about the border, also where one is the other with zeros behind it.
    #[test]
    fn keys_are_equal_only_to_themselves() {
        let hashes = DefaultHashBuilder::default();
        let mut texts: Vec<Vec<u8>> = (0..40).map(|length| vec![b'a'; length]).collect();
        texts.extend((0..30).map(|zeros| [b"a".as_slice(), &vec![0; zeros]].concat()));
        texts.dedup();
        for (i, a) in texts.iter().enumerate() {
            for (j, b) in texts.iter().enumerate() {
                let (asked, kept) = (Asked::of(a, &hashes), Asked::of(b, &hashes).to_hashed());
                assert_eq!(asked.is(&kept.key), a == b, "{i} and {j}");
                assert_eq!(asked.hash == kept.hash, a == b, "{i} and {j}");
                assert_eq!(kept.key.heap(), if b.len() > SHORT_MAX { b.len() } else { 0 });
            }
        }
        assert_eq!(size_of::<Key>(), 24);
    }

    #[test]
    fn the_keys_of_a_batch_stand_beside_each_other() {
        let mut keys = Keys::default();
        for key in [Some("a"), None, Some(""), Some("bc")] {
            keys.push(key);
        }
        assert_eq!([0, 1, 2, 3, 4].map(|index| keys.get(index)), [Some("a"), None, Some(""), Some("bc"), None]);
        keys.clear();
        assert!(keys.is_empty() && keys.get(0).is_none());
    }
}
