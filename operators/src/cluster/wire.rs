//! How messages stand on a control connection: a length, then so many bytes of postcard.

use std::io::{self, ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message between processes that know each other: a mark of a hundred thousand partitions fits.
pub(super) const MESSAGE_MAX: usize = 64 << 20;

/// The longest message from somebody who is not known yet.
pub(super) const GREETING_MAX: usize = 16 << 10;

/// Writes one message.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("a message of {} bytes is too long", bytes.len())));
    }
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    to.write_all(&bytes)
}

/// Reads one message of at most `longest` bytes. Room is made as bytes come, so that nobody has us make it by a length alone.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read, longest: usize) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > longest {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes is too long")));
    }
    let mut bytes = Vec::with_capacity(length.min(64 << 10));
    if from.take(length as u64).read_to_end(&mut bytes)? < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_too_long_or_cut_is_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, &("three", 3_u64)).unwrap();
        assert_eq!(read::<(String, u64)>(&mut &bytes[..], 100).unwrap(), ("three".to_owned(), 3));
        assert!(read::<(String, u64)>(&mut &bytes[..bytes.len() - 1], 100).is_err());
        assert!(read::<(String, u64)>(&mut &u32::MAX.to_le_bytes()[..], 100).unwrap_err().to_string().contains("too long"));
    }
}
