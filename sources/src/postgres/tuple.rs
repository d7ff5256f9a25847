//! Rows of a `COPY … TO STDOUT (FORMAT binary)`, field by field, where they stand.

/// What begins such a copy: a signature, flags and the length of an extension.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The fields of a row, in the order of the query's columns.
#[derive(Debug)]
pub(super) struct Tuple<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Tuple<'a> {
    /// The row in a message of a copy, of which the first has the header in front; `None` if it is the end.
    ///
    /// # Errors
    /// The message is none of a binary copy.
    pub(super) fn of(message: &'a [u8], is_first: bool) -> Result<Option<Self>, &'static str> {
        let mut rest = message;
        if is_first {
            rest = rest.strip_prefix(SIGNATURE).ok_or("it does not begin with the signature of a binary copy")?;
            let flags = number(&mut rest).ok_or("the header is cut off")?;
            let extension = number(&mut rest).ok_or("the header is cut off")?;
            rest = rest.get(extension as usize..).ok_or("the header is cut off")?;
            if flags as u32 >> 16 != 0 {
                return Err("it has flags that this version does not know");
            }
        }
        let Some((count, rest)) = rest.split_first_chunk::<2>() else { return Err("a row is cut off") };
        match i16::from_be_bytes(*count) {
            -1 => Ok(None),
            count => Ok(Some(Tuple { rest, left: count as u16 })),
        }
    }

    /// The next field's bytes; `None` for NULL.
    ///
    /// # Errors
    /// There is none, or it is cut off.
    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>, &'static str> {
        self.left = self.left.checked_sub(1).ok_or("a row has too few fields")?;
        let length = number(&mut self.rest).ok_or("a row is cut off")?;
        if length < 0 {
            return Ok(None);
        }
        let (field, rest) = self.rest.split_at_checked(length as usize).ok_or("a row is cut off")?;
        self.rest = rest;
        Ok(Some(field))
    }
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (number, left) = rest.split_first_chunk::<4>()?;
    *rest = left;
    Some(i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_field_by_field() {
        let mut first = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        let row = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        first.extend_from_slice(row);
        for (message, is_first) in [(&first[..], true), (&row[..], false)] {
            let mut tuple = Tuple::of(message, is_first).unwrap().unwrap();
            assert_eq!([tuple.next(), tuple.next(), tuple.next()], [Ok(Some(&b"ab"[..])), Ok(None), Ok(Some(&b""[..]))]);
            assert!(tuple.next().is_err());
        }
        assert!(Tuple::of(b"\xff\xff", false).unwrap().is_none());
        assert!(Tuple::of(&row[..1], false).is_err() && Tuple::of(row, true).is_err());
        let mut cut = Tuple::of(&row[..7], false).unwrap().unwrap();
        assert!(cut.next().is_err());
    }
}
