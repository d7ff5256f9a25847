//! The resume token of a stream: how far it was read, and by what it is known again.

use bytes::Bytes;

use super::id::EntryId;
use crate::numbers;

/// How far a stream was read. The order of its tokens is the number of entries read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last entry read. As long as what others left pending is read, where reading begins behind that.
    pub id: EntryId,
    /// A hash of what that entry says; 0 if it is not known.
    pub says: u64,
    /// How many entries had been added to the stream up to this one, if that is known.
    pub added: Option<u64>,
    /// The highest entry that had been deleted when reading began: those are no loss.
    pub deleted: EntryId,
    /// The last entry read of those that others left pending in the group, as long as they are read.
    pub pending: Option<EntryId>,
}

/// The first byte: which form this is.
const FORM: u8 = 1;

impl Place {
    /// Writes it.
    pub fn write(&self) -> Bytes {
        let mut out = Vec::with_capacity(40);
        out.push(FORM);
        let mut id = |id: EntryId| {
            numbers::write(id.ms, &mut out);
            numbers::write(id.seq, &mut out);
        };
        id(self.id);
        id(self.deleted);
        numbers::write(self.added.map_or(0, |added| added.saturating_add(1)), &mut out);
        out.extend_from_slice(&self.says.to_le_bytes());
        if let Some(pending) = self.pending {
            numbers::write(pending.ms, &mut out);
            numbers::write(pending.seq, &mut out);
        }
        out.into()
    }

    /// Reads one; `None` if it is none.
    pub fn read(detail: &[u8]) -> Option<Place> {
        let (&FORM, mut rest) = detail.split_first()? else { return None };
        let id = |rest: &mut &[u8]| Some(EntryId { ms: numbers::read(rest)?, seq: numbers::read(rest)? });
        let (at, deleted) = (id(&mut rest)?, id(&mut rest)?);
        let added = numbers::read(&mut rest)?.checked_sub(1);
        let says = u64::from_le_bytes(numbers::take(&mut rest)?);
        let pending = if rest.is_empty() { None } else { Some(id(&mut rest)?) };
        rest.is_empty().then_some(Place { id: at, says, added, deleted, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let id = |ms, seq| EntryId { ms, seq };
        let now = Place { id: id(1_700_000_000_000, 3), says: 7, added: Some(0), deleted: id(1, 2), pending: None };
        let places = [
            now,
            Place { added: None, pending: Some(EntryId::ZERO), ..now },
            Place { id: id(u64::MAX, u64::MAX), added: Some(u64::MAX - 1), says: u64::MAX, pending: Some(id(5, 5)), ..now },
            Place::default(),
        ];
        for place in places {
            let written = place.write();
            assert!(written.len() < 64);
            assert_eq!(Place::read(&written), Some(place));
            for cut in 0..written.len() {
                let read = Place::read(&written[..cut]);
                assert!(read.is_none_or(|read| place.pending.is_some() && read == Place { pending: None, ..place }), "{cut}");
            }
            assert_eq!(Place::read(&[&written[..], &[1, 2, 3]].concat()).filter(|_| place.pending.is_some()), None);
        }
        assert_eq!(Place::read(b""), None);
        assert_eq!(Place::read(b"\x02other"), None);
    }
}
