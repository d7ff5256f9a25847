//! Messages as they come over the line, taken out of one buffer where they stand.

use bytes::{Buf, BytesMut};

use super::super::failure::failed_as;
use super::strange;
use crate::{Error, Result};

/// Room for what comes next: a large read costs no more than a small one.
const ROOM: usize = 256 << 10;
/// The longest message that the server may send.
const LONGEST: usize = 1 << 30;

/// A message.
pub(super) struct Frame<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

/// Messages that have come.
#[derive(Default)]
pub(super) struct Frames {
    bytes: BytesMut,
    /// The message that was taken last stands in front, and goes with the next.
    taken: usize,
}

impl Frames {
    /// The whole length of the next message, if that is here. `None`: not all of it.
    fn length(&self) -> Result<Option<usize>> {
        let Some(head) = self.bytes.get(self.taken..).and_then(|rest| rest.first_chunk::<5>()) else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..=LONGEST).contains(&length) {
            return Err(strange("a message of an impossible length"));
        }
        Ok(Some(length + 1).filter(|length| self.bytes.len() - self.taken >= *length))
    }

    /// Whether a whole message is here.
    pub(super) fn has_one(&self) -> Result<bool> {
        Ok(self.length()?.is_some())
    }

    /// The next message, if all of it is here.
    pub(super) fn take(&mut self) -> Result<Option<Frame<'_>>> {
        let Some(length) = self.length()? else { return Ok(None) };
        let start = self.taken;
        self.taken += length;
        let message = &self.bytes[start..self.taken];
        Ok(Some(Frame { kind: message[0], body: &message[5..] }))
    }

    /// Where what comes next is put. What was taken goes.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.bytes.advance(std::mem::take(&mut self.taken));
        if self.bytes.capacity() - self.bytes.len() < ROOM / 4 {
            self.bytes.reserve(ROOM);
        }
        &mut self.bytes
    }
}

/// The fields of a row, as texts. `None`: it is cut off.
pub(super) fn row(mut body: &[u8]) -> Option<Vec<Option<String>>> {
    let count = take(&mut body, 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))?;
    let mut row = Vec::with_capacity(count.into());
    for _ in 0..count {
        let length = take(&mut body, 4).map(|bytes| i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => Some(String::from_utf8_lossy(take(&mut body, length)?).into_owned()),
        });
    }
    Some(row)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// What the server says, as an error of the kind that its code has.
pub(super) fn refusal(body: &[u8], what: &str) -> Error {
    let (mut code, mut message) = (String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text);
        match kind {
            b'C' => code = text.into_owned(),
            b'M' => message = text.into_owned(),
            b'D' | b'H' => message = format!("{message}; {text}"),
            _ => {}
        }
    }
    failed_as(what, &code, &message)
}
