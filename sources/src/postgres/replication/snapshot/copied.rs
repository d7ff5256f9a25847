//! Rows as `COPY` writes them in its text form: the same texts as in the stream, behind escapes.
//!
//! Casting to text in SQL would be no substitute: the cast of a type need not write what its output function does (`boolean`, `character(n)`).

use super::super::rows::{Cell, Values};

/// Rows of one table, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Rows {
    columns: usize,
    text: Vec<u8>,
    cells: Vec<Cell>,
}

impl Rows {
    /// None yet, of so many columns; with room for so many bytes.
    pub(super) fn new(columns: usize, bytes: usize) -> Self {
        Rows { columns: columns.max(1), text: Vec::with_capacity(bytes), cells: Vec::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.cells.len() / self.columns.max(1)
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Takes a row as it was sent.
    ///
    /// # Errors
    /// It has other columns than were asked for.
    pub(super) fn push(&mut self, line: &[u8]) -> Result<(), String> {
        let first = self.cells.len();
        let mut rest = Some(line.strip_suffix(b"\n").unwrap_or(line));
        while let Some(line) = rest {
            let end = memchr::memchr(b'\t', line);
            let field = &line[..end.unwrap_or(line.len())];
            rest = end.map(|end| &line[end + 1..]);
            let cell = if field == br"\N" { Cell::Null } else { self.cell(field)? };
            self.cells.push(cell);
        }
        let count = self.cells.len() - first;
        if count == self.columns {
            return Ok(());
        }
        self.cells.truncate(first);
        Err(format!("a row has {count} columns, and {} were asked for", self.columns))
    }

    fn cell(&mut self, field: &[u8]) -> Result<Cell, String> {
        let place = |text: &Vec<u8>| u32::try_from(text.len()).map_err(|_| "a row is larger than 4 GiB".to_owned());
        let start = place(&self.text)?;
        plain(field, &mut self.text);
        Ok(Cell::Text(start, place(&self.text)?))
    }

    /// The row at this place.
    pub(super) fn get(&self, row: usize) -> Option<Values<'_>> {
        let cells = self.cells.get(row * self.columns..(row + 1) * self.columns)?;
        Some(Values { text: &self.text, cells })
    }
}

/// Writes what is meant, without escapes.
fn plain(field: &[u8], out: &mut Vec<u8>) {
    let mut rest = field;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(&escaped) = rest.get(at + 1) else {
            rest = &rest[at..];
            break;
        };
        out.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_was_meant() {
        let mut rows = Rows::new(5, 0);
        rows.push(b"a\\tb\\\\n\t\\N\t\t\\\\N\tx\\\n").unwrap();
        rows.push(b"\\N\t1\t2\t3\t4\n").unwrap();
        assert!(rows.push(b"1\t2\n").unwrap_err().contains("2 columns, and 5"));
        let texts = |row: usize| (0..5).map(|at| rows.get(row).unwrap().get(at)).collect::<Vec<_>>();
        assert_eq!(texts(0), [Some(&b"a\tb\\n"[..]), None, Some(b""), Some(b"\\N"), Some(b"x\\")]);
        assert_eq!((texts(1)[0], texts(1)[4], rows.count()), (None, Some(&b"4"[..]), 2));
        assert!(rows.get(2).is_none());
        let mut empty = Rows::new(1, 0);
        empty.push(b"\n").unwrap();
        assert_eq!(empty.get(0).unwrap().get(0), Some(&b""[..]), "one column that is empty");
    }
}
