//! Outcomes of a transaction as bytes: some 22 for each change, most of it the hash.
//!
//! One value per transaction, not a row per change: a row with an index of its own would cost the target about as much as the
//! row it speaks of. Numbers are written as differences from the change before, which are small: a batch is read in order.

use crate::checkpoint::store::ChangeHash;
use crate::error::{Error, Result};
use crate::position::{Epoch, Position};

/// One change that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub change: ChangeHash,
    pub position: Position,
    /// The epoch under which its run held it; 0 for one that was taken up from the parked.
    pub epoch: Epoch,
}

/// Leads the bytes, so that another form can be told from this one.
const FORM: u8 = 1;

pub(super) fn encode(entries: impl ExactSizeIterator<Item = Entry>) -> Vec<u8> {
    let mut to = Vec::with_capacity(1 + 24 * entries.len());
    to.push(FORM);
    let mut last = [0; 4];
    for Entry { change, position, epoch } in entries {
        to.extend_from_slice(&change.to_le_bytes());
        let now = [u64::from(position.partition), position.at, position.within, epoch];
        for (last, now) in last.iter_mut().zip(now) {
            put(&mut to, zigzag(now.wrapping_sub(*last) as i64));
            *last = now;
        }
    }
    to
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>> {
    let broken = || Error::stop("the outcomes recorded in the target are not of this program, or of a later version of it");
    let Some((&FORM, mut rest)) = bytes.split_first() else { return Err(broken()) };
    let mut entries = Vec::new();
    let mut last = [0_u64; 4];
    while let Some((hash, behind)) = rest.split_first_chunk::<16>() {
        rest = behind;
        for last in &mut last {
            let difference = take(&mut rest).ok_or_else(broken)?;
            *last = last.wrapping_add(unzigzag(difference) as u64);
        }
        let [partition, at, within, epoch] = last;
        let partition = u32::try_from(partition).map_err(|_| broken())?;
        let position = Position { partition, at, within };
        entries.push(Entry { change: ChangeHash::from_le_bytes(*hash), position, epoch });
    }
    if rest.is_empty() { Ok(entries) } else { Err(broken()) }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(change: u128, partition: u32, at: u64, within: u64, epoch: Epoch) -> Entry {
        Entry { change, position: Position { partition, at, within }, epoch }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let entries = [
            entry(u128::MAX, 0, 0, 0, 1_800_000_000_000),
            entry(7, 3, u64::MAX, 1, 0),
            entry(0, u32::MAX, 5, u64::MAX, Epoch::MAX),
            entry(9, 0, 1 << 63, 0, 1),
        ];
        assert_eq!(decode(&encode(entries.into_iter())).unwrap(), entries);
        assert_eq!(decode(&encode([].into_iter())).unwrap(), []);
    }

    #[test]
    fn changes_in_a_row_take_little_more_than_their_hashes() {
        let entries: Vec<Entry> = (0..1_000).map(|n| entry(n, 2, 1_000 + 120 * n as u64, 0, 1_800_000_000_000)).collect();
        assert!(encode(entries.into_iter()).len() < 22 * 1_000);
    }

    #[test]
    fn what_is_cut_or_strange_is_refused() {
        let whole = encode([entry(1, 2, 3, 4, 5)].into_iter());
        assert!((1..whole.len()).filter(|end| *end != 1).all(|end| decode(&whole[..end]).is_err()));
        assert!(decode(&[]).is_err() && decode(&[2]).is_err());
        let endless = [&whole[..17], &[0xff; 12]].concat();
        assert!(decode(&endless).is_err());
    }
}
