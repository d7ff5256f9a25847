//! The resume token of a slot: how far its log was read, and how far the tables were that had rows before.

use bytes::Bytes;

use super::lsn::Lsn;
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
}

/// Where reading continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub identity: Identity,
    /// What the publication publishes, as a hash: which kinds of changes, which rows and columns.
    pub publication: u64,
    /// The end of the last transaction that was read whole: the slot may be confirmed to here.
    pub end: Lsn,
    /// Inside a transaction: its commit, and how many of its messages were handed over.
    pub within: Option<(Lsn, u64)>,
    /// The number of the snapshot; `resnapshot` raises it.
    pub snapshot: u32,
    pub tables: Vec<TableProgress>,
}

/// How far the rows of a table were read that were there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableProgress {
    /// Its number.
    pub oid: u32,
    pub parts: Parts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// All were read, or none were wanted.
    Done,
    Ranges(Vec<Range>),
}

/// A range of keys, in the order of the primary key at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// It begins above this key, or with the first.
    pub above: Option<Key>,
    /// It was read up to this key and with it; `None`: nothing was.
    pub read_to: Option<Key>,
    /// It ends with this key, or with the last.
    pub up_to: Option<Key>,
}

/// The values of the key's columns, as text.
pub(super) type Key = Vec<String>;

/// The first byte: which form this is.
const FORM: u8 = 1;

/// The tables' part of a token. It is written once for many tokens: it changes with a snapshot only.
pub(super) fn write_tables(tables: &[TableProgress]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers::write(tables.len() as u64, &mut out);
    for table in tables {
        numbers::write(table.oid.into(), &mut out);
        let Parts::Ranges(ranges) = &table.parts else {
            numbers::write(0, &mut out);
            continue;
        };
        numbers::write(ranges.len() as u64 + 1, &mut out);
        for key in ranges.iter().flat_map(|range| [&range.above, &range.read_to, &range.up_to]) {
            numbers::write(key.as_ref().map_or(0, |key| key.len() as u64 + 1), &mut out);
            for text in key.iter().flatten() {
                numbers::write(text.len() as u64, &mut out);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
    out
}

/// Writes a place, whose tables were written already.
pub(super) fn write(place: &Place, tables: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(64 + tables.len());
    out.push(FORM);
    out.extend_from_slice(&place.identity.system.to_le_bytes());
    out.extend_from_slice(&place.publication.to_le_bytes());
    let (commit, rows) = place.within.map_or((0, 0), |(commit, rows)| (commit.0, rows));
    let Identity { timeline, database, .. } = place.identity;
    for value in [timeline.into(), database.into(), place.end.0, commit, rows, place.snapshot.into()] {
        numbers::write(value, &mut out);
    }
    out.extend_from_slice(tables);
    out.into()
}

/// Reads a place; `None` if it is none.
pub(super) fn read(detail: &[u8]) -> Option<Place> {
    let (&FORM, mut rest) = detail.split_first()? else { return None };
    let rest = &mut rest;
    let system = u64::from_le_bytes(numbers::take(rest)?);
    let publication = u64::from_le_bytes(numbers::take(rest)?);
    let identity = Identity { system, timeline: small(rest)?, database: small(rest)? };
    let (end, commit, rows) = (Lsn(numbers::read(rest)?), Lsn(numbers::read(rest)?), numbers::read(rest)?);
    let within = (commit.0 > 0).then_some((commit, rows));
    let snapshot = small(rest)?;
    let mut tables = Vec::new();
    for _ in 0..numbers::read(rest)? {
        let oid = small(rest)?;
        let parts = match numbers::read(rest)? {
            0 => Parts::Done,
            ranges => {
                let mut read = Vec::new();
                for _ in 1..ranges {
                    read.push(Range { above: key(rest)?, read_to: key(rest)?, up_to: key(rest)? });
                }
                Parts::Ranges(read)
            }
        };
        tables.push(TableProgress { oid, parts });
    }
    rest.is_empty().then_some(Place { identity, publication, end, within, snapshot, tables })
}

/// A key, or none. The outer `None`: it is cut off.
fn key(rest: &mut &[u8]) -> Option<Option<Key>> {
    let mut key = Key::new();
    match numbers::read(rest)? {
        0 => return Some(None),
        columns => {
            for _ in 1..columns {
                let length = usize::try_from(numbers::read(rest)?).ok()?;
                let (text, left) = rest.split_at_checked(length)?;
                *rest = left;
                key.push(std::str::from_utf8(text).ok()?.to_owned());
            }
        }
    }
    Some(Some(key))
}

fn small(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(numbers::read(rest)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let key = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        let ranges = vec![
            Range { above: None, read_to: key(&["a", ""]), up_to: key(&["é", "2"]) },
            Range { above: key(&["é", "2"]), read_to: None, up_to: None },
        ];
        Place {
            identity: Identity { system: 7_300_000_000_000_000_001, timeline: 3, database: 16_384 },
            publication: 99,
            end: Lsn(0x16_B374_D848),
            within: Some((Lsn(0x16_B374_E000), 5_000_000)),
            snapshot: 2,
            tables: vec![
                TableProgress { oid: 16_390, parts: Parts::Done },
                TableProgress { oid: 16_400, parts: Parts::Ranges(ranges) },
                TableProgress { oid: 16_410, parts: Parts::Ranges(Vec::new()) },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for place in [place(), Place { within: None, tables: Vec::new(), ..place() }] {
            assert_eq!(read(&write(&place, &write_tables(&place.tables))), Some(place));
        }
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let place = place();
        let whole = write(&place, &write_tables(&place.tables));
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\x02other"), None);
        (0..whole.len()).for_each(|length| assert_eq!(read(&whole[..length]), None, "{length} bytes"));
        assert_eq!(read(&[&whole[..], b"x"].concat()), None);
    }
}
