//! The resume token of a change log: how far it was read, and whose log it is.

use bytes::Bytes;

use super::gaps::Range;
use crate::numbers;

/// What is the same as long as it is the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The server's data, as `initdb` has named it.
    pub system: u64,
    /// The server's history: another one after every fail-over.
    pub timeline: u32,
    /// The database, by its number.
    pub database: u32,
    /// The table, by its number.
    pub table: u32,
}

impl Identity {
    /// The partition's name. The timeline is no part of it: a log stays the same log if somebody says that it does.
    pub(super) fn partition(&self) -> String {
        format!("{}-{}-{}", self.system, self.database, self.table)
    }
}

/// What a token holds beside the number of rows read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub identity: Identity,
    /// The highest id read.
    pub hi: i64,
    /// What is open below it, ascending.
    pub open: Vec<Range>,
}

/// The first byte: which form this is.
const FORM: u8 = 1;

/// Writes a place. Ranges are written as their distances: two or three bytes each.
pub(super) fn write(identity: &Identity, hi: i64, open: impl Iterator<Item = Range>, count: usize) -> Bytes {
    let mut out = Vec::with_capacity(40 + count * 3);
    out.push(FORM);
    out.extend_from_slice(&identity.system.to_le_bytes());
    for number in [identity.timeline, identity.database, identity.table] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&hi.to_le_bytes());
    let mut last = i64::MIN;
    for (from, to) in open {
        numbers::write(from.wrapping_sub(last) as u64, &mut out);
        numbers::write(to.wrapping_sub(from) as u64, &mut out);
        last = to;
    }
    out.into()
}

/// Reads a place; `None` if it is none.
pub(super) fn read(detail: &[u8]) -> Option<Place> {
    let (&FORM, mut rest) = detail.split_first()? else { return None };
    let system = u64::from_le_bytes(numbers::take(&mut rest)?);
    let mut next = || Some(u32::from_le_bytes(numbers::take(&mut rest)?));
    let identity = Identity { system, timeline: next()?, database: next()?, table: next()? };
    let hi = i64::from_le_bytes(numbers::take(&mut rest)?);
    let (mut open, mut last) = (Vec::new(), i64::MIN);
    while !rest.is_empty() {
        let from = last.wrapping_add(numbers::read(&mut rest)? as i64);
        let to = from.wrapping_add(numbers::read(&mut rest)? as i64);
        if to < from || from < last || to > hi {
            return None;
        }
        open.push((from, to));
        last = to;
    }
    Some(Place { identity, hi, open })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { system: 7_300_000_000_000_000_001, timeline: 3, database: 16_384, table: 16_390 };

    #[test]
    fn what_is_written_is_read() {
        for open in [vec![], vec![(i64::MIN + 1, 0)], vec![(1, 1), (3, 9), (1000, 5_000_000_000), (5_000_000_002, 5_000_000_002)]]
        {
            let written = write(&IDENTITY, 6_000_000_000, open.iter().copied(), open.len());
            assert_eq!(read(&written), Some(Place { identity: IDENTITY, hi: 6_000_000_000, open }));
        }
        let near: Vec<Range> = (0..1000).map(|n| (n * 20, n * 20 + 1)).collect();
        assert!(write(&IDENTITY, 20_000, near.into_iter(), 1000).len() < 2100, "two bytes a range");
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let whole = write(&IDENTITY, 9, [(1, 2), (4, 4)].into_iter(), 2);
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\x02other"), None);
        assert_eq!(read(&whole[..28]), None);
        assert_eq!(read(&whole[..whole.len() - 1]), None);
        assert_eq!(read(&write(&IDENTITY, 3, [(1, 4)].into_iter(), 1)), None, "a gap above the highest id");
    }
}
