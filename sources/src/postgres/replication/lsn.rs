//! A place in the server's log of changes.

use std::fmt;
use std::str::FromStr;

/// A place in the log: bytes written before it since the server's data were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let half = |text: &str| match text.len() {
            1..=8 => u64::from_str_radix(text, 16).ok(),
            _ => None,
        };
        let halves = text.split_once('/').and_then(|(high, low)| Some(half(high)? << 32 | half(low)?));
        halves.map(Lsn).ok_or_else(|| format!("`{text}` is no place in a log: it is written like 16/B374D848"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_the_server_writes_them() {
        for (number, text) in [(0x16_B374_D848, "16/B374D848"), (0, "0/0"), (u64::MAX, "FFFFFFFF/FFFFFFFF"), (1 << 32, "1/0")] {
            assert_eq!((Lsn(number).to_string().as_str(), text.parse()), (text, Ok(Lsn(number))));
        }
        for text in ["", "/", "1", "1/", "1/2/3", "1/123456789", "x/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
