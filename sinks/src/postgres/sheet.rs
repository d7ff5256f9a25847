//! The rows of a batch, as text: one piece of memory for all their values, and for each value its place in it.

use std::fmt;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// The change does not have it.
    Absent,
    /// The change says that it is as it was, without saying what that is.
    Unchanged,
    /// Null.
    Null,
    /// Text: where it begins, and its length.
    Text(u32, u32),
}

impl Cell {
    /// Whether there is a value, null or not.
    pub(super) fn is_given(self) -> bool {
        matches!(self, Cell::Null | Cell::Text(..))
    }
}

/// Rows of so many values each.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    width: usize,
    text: Vec<u8>,
    cells: Vec<Cell>,
}

impl Sheet {
    pub(super) fn new(width: usize, rows: usize) -> Self {
        Sheet { width, text: Vec::with_capacity(rows * width * 12), cells: Vec::with_capacity(rows * width) }
    }

    /// A new row without values. Returns its number.
    pub(super) fn add_row(&mut self) -> usize {
        self.cells.resize(self.cells.len() + self.width, Cell::Absent);
        self.cells.len() / self.width - 1
    }

    /// Gives a value to a row: the text that is written, or null if it is not written.
    pub(super) fn set(&mut self, row: usize, column: usize, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.text.len();
        let cell = match write(&mut self.text) {
            true => Cell::Text(start as u32, (self.text.len() - start) as u32),
            false => Cell::Null,
        };
        self.cells[row * self.width + column] = cell;
    }

    /// Says that a value is as it was.
    pub(super) fn keep(&mut self, row: usize, column: usize) {
        self.cells[row * self.width + column] = Cell::Unchanged;
    }

    pub(super) fn row(&self, row: usize) -> &[Cell] {
        &self.cells[row * self.width..(row + 1) * self.width]
    }

    /// The text of a value; `None` if there is none.
    pub(super) fn text(&self, row: usize, column: usize) -> Option<&[u8]> {
        match self.row(row)[column] {
            Cell::Text(start, length) => Some(&self.text[start as usize..(start + length) as usize]),
            Cell::Null | Cell::Absent | Cell::Unchanged => None,
        }
    }

    /// Writes a row as a line of `copy .. from stdin`, of these columns.
    pub(super) fn write_line(&self, row: usize, columns: &[usize], to: &mut Vec<u8>) {
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                to.push(b'\t');
            }
            match self.text(row, *column) {
                None => to.extend_from_slice(b"\\N"),
                Some(text) => escape(text, to),
            }
        }
        to.push(b'\n');
    }
}

fn escape(mut text: &[u8], to: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        to.extend_from_slice(&text[..at]);
        let letter = match text[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        };
        to.extend_from_slice(&[b'\\', letter]);
        text = &text[at + 1..];
    }
    to.extend_from_slice(text);
}

/// One column of some rows as a parameter of type `text[]`, written straight from the sheet.
pub(super) struct Column<'s> {
    pub sheet: &'s Sheet,
    pub rows: &'s [usize],
    pub column: usize,
}

impl ToSql for Column<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        const DIMENSIONS: i32 = 1;
        const MAY_HOLD_NULL: i32 = 1;
        const FIRST: i32 = 1;
        let header = [DIMENSIONS, MAY_HOLD_NULL, Type::TEXT.oid() as i32, i32::try_from(self.rows.len())?, FIRST];
        header.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        for row in self.rows {
            match self.sheet.text(*row, self.column) {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    out.extend_from_slice(&i32::try_from(text.len())?.to_be_bytes());
                    out.extend_from_slice(text);
                }
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {} of {} rows", self.column, self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_and_null_is_not_the_text_of_it() {
        let mut sheet = Sheet::new(3, 1);
        let row = sheet.add_row();
        sheet.set(row, 0, |to| {
            to.extend_from_slice(b"a\tb\\N\nc\r");
            true
        });
        sheet.set(row, 1, |_| false);
        sheet.set(row, 2, |to| {
            to.extend_from_slice(b"\\N");
            true
        });
        let mut line = Vec::new();
        sheet.write_line(row, &[0, 1, 2], &mut line);
        assert_eq!(String::from_utf8(line).unwrap(), "a\\tb\\\\N\\nc\\r\t\\N\t\\\\N\n");
    }
}
