//! The header in front of every entry: it says how long the frame is and that it was written here, in this file.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 24;

/// Lengths of a frame, and the sum over its entry. The entry holds the sums over the attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) entry_length: u32,
    pub(super) entry_crc: u32,
    pub(super) attached_length: u64,
}

/// What makes the frames of one journal file differ from those of every other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal(u64);

impl Seal {
    pub(super) fn new(state_id: u128, journal: u64) -> Self {
        let mut seed = [0; 24];
        seed[..16].copy_from_slice(&state_id.to_le_bytes());
        seed[16..].copy_from_slice(&journal.to_le_bytes());
        Seal(xxh3_64(&seed))
    }

    /// The check binds the header to its place, so that bytes of a user that look like a frame are none.
    fn check(self, lengths: &[u8; 16], offset: u64) -> u64 {
        let mut bound = [0; 24];
        bound[..16].copy_from_slice(lengths);
        bound[16..].copy_from_slice(&offset.to_le_bytes());
        xxh3_64_with_seed(&bound, self.0)
    }
}

impl FrameHeader {
    pub(super) fn encode(self, seal: Seal, offset: u64) -> [u8; HEADER] {
        let mut lengths = [0; 16];
        lengths[..4].copy_from_slice(&self.entry_length.to_le_bytes());
        lengths[4..8].copy_from_slice(&self.entry_crc.to_le_bytes());
        lengths[8..].copy_from_slice(&self.attached_length.to_le_bytes());
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(&lengths);
        header[16..].copy_from_slice(&seal.check(&lengths, offset).to_le_bytes());
        header
    }

    /// The header, or `None` if these bytes were not written as a header at this offset of this file.
    pub(super) fn decode(header: &[u8; HEADER], seal: Seal, offset: u64) -> Option<Self> {
        let (lengths, check) = header.split_first_chunk::<16>()?;
        let (entry_length, rest) = lengths.split_first_chunk::<4>()?;
        let (entry_crc, attached_length) = rest.split_first_chunk::<4>()?;
        (u64::from_le_bytes(check.try_into().ok()?) == seal.check(lengths, offset)).then_some(FrameHeader {
            entry_length: u32::from_le_bytes(*entry_length),
            entry_crc: u32::from_le_bytes(*entry_crc),
            attached_length: u64::from_le_bytes(attached_length.try_into().ok()?),
        })
    }

    /// Where the frame that begins at `offset` ends.
    pub(super) fn end(self, offset: u64) -> u64 {
        offset.saturating_add(HEADER as u64 + u64::from(self.entry_length)).saturating_add(self.attached_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_only_where_it_was_written() {
        let seal = Seal::new(7, 1);
        let header = FrameHeader { entry_length: 3, entry_crc: 0xdead_beef, attached_length: 1 << 40 };
        let bytes = header.encode(seal, 100);
        assert_eq!(FrameHeader::decode(&bytes, seal, 100), Some(header));
        assert_eq!(FrameHeader::decode(&bytes, seal, 101), None);
        assert_eq!(FrameHeader::decode(&bytes, Seal::new(7, 2), 100), None);
        assert_eq!(FrameHeader::decode(&bytes, Seal::new(8, 1), 100), None);
        for bit in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped, seal, 100), None, "bit {bit}");
        }
    }
}
