//! Ids of entries: a time in milliseconds and a number within it. A stream hands them out ascending.

use std::fmt;

/// The id of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub ms: u64,
    pub seq: u64,
}

impl EntryId {
    /// Before every entry.
    pub const ZERO: EntryId = EntryId { ms: 0, seq: 0 };
    /// Behind every entry.
    pub const MAX: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX };

    /// Reads `MS-SEQ`, or `MS` alone, as Redis writes them.
    pub fn parse(text: &str) -> Option<EntryId> {
        let number = |text: &str| text.parse().ok().filter(|_| text.as_bytes().iter().all(u8::is_ascii_digit));
        match text.split_once('-') {
            Some((ms, seq)) => Some(EntryId { ms: number(ms)?, seq: number(seq)? }),
            None => Some(EntryId { ms: number(text)?, seq: 0 }),
        }
    }

    /// The same of bytes.
    pub fn read(bytes: &[u8]) -> Option<EntryId> {
        EntryId::parse(std::str::from_utf8(bytes).ok()?)
    }

    /// The least id above this one.
    pub fn next(self) -> EntryId {
        match self.seq.checked_add(1) {
            Some(seq) => EntryId { seq, ..self },
            None => EntryId { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_redis_writes_them() {
        let id = |ms, seq| Some(EntryId { ms, seq });
        assert_eq!(EntryId::parse("1700000000000-7"), id(1_700_000_000_000, 7));
        assert_eq!(EntryId::parse("18446744073709551615-18446744073709551615"), id(u64::MAX, u64::MAX));
        assert_eq!(EntryId::parse("5"), id(5, 0));
        for wrong in ["", "-", "1-", "-1", "+1-1", "1-2-3", "$", "1-x", "18446744073709551616-0", " 1-1"] {
            assert_eq!(EntryId::parse(wrong), None, "{wrong}");
        }
        assert_eq!(EntryId { ms: 3, seq: u64::MAX }.next(), EntryId { ms: 4, seq: 0 });
        assert_eq!(EntryId { ms: 3, seq: 4 }.to_string(), "3-4");
    }
}
