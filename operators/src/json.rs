//! The one thing that everybody who passes over JSON text needs to be fast: where a string ends.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// Where, from `at` on, the next byte stands that a string does not simply go on with: a quote, a backslash or a control
/// character. The length of `text` if there is none.
pub fn plain_until(text: &[u8], mut at: usize) -> usize {
    // Eight bytes at a time. Subtracting borrows from the byte above, so bytes above the lowest one found mean nothing.
    while let Some(eight) = text.get(at..).and_then(|rest| rest.first_chunk()) {
        let bytes = u64::from_le_bytes(*eight);
        let is_zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let quote = is_zero(bytes ^ (ONES * u64::from(b'"')));
        let backslash = is_zero(bytes ^ (ONES * u64::from(b'\\')));
        let control = bytes.wrapping_sub(ONES * 0x20) & !bytes;
        let found = (quote | backslash | control) & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | ..0x20)) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oracle_every_byte_at_every_place() {
        for length in 0..20 {
            for place in 0..=length {
                for byte in 0..=u8::MAX {
                    // Bytes above 127 before it and after it: they borrow.
                    for filler in [b'x', 0x80, 0xff, b'!', b'#', b'[', b']', b' '] {
                        let mut text = vec![filler; length];
                        text.insert(place, byte);
                        let is_plain = !matches!(byte, b'"' | b'\\' | ..0x20);
                        let expected = if is_plain { text.len() } else { place };
                        assert_eq!(plain_until(&text, 0), expected, "{text:?}");
                        assert_eq!(plain_until(&text, place + 1), text.len(), "{text:?}");
                    }
                }
            }
        }
    }
}
