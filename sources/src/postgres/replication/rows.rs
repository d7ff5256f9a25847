//! Rows become changes: values, as Postgres writes them as text, become a row of JSON in a block, and what stands where is noted.

mod list;

use highwater_operators::json::plain_until;

use super::relation::{Column, Form, Relation};

/// A value of a row: where its text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    /// Large, as it was before, and therefore not sent.
    Unchanged,
    /// From here to there in the text beside it.
    Text(u32, u32),
}

/// The values of a row, in the order of the table's columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub text: &'a [u8],
    pub cells: &'a [Cell],
}

impl<'a> Values<'a> {
    /// The text of a value; `None` if it is null or was not sent.
    pub(super) fn get(&self, column: usize) -> Option<&'a [u8]> {
        match *self.cells.get(column)? {
            Cell::Text(start, end) => self.text.get(start as usize..end as usize),
            Cell::Null | Cell::Unchanged => None,
        }
    }

    /// Whether a value was not sent.
    pub(super) fn is_unchanged(&self, column: usize) -> bool {
        self.cells.get(column) == Some(&Cell::Unchanged)
    }
}

/// Writes a row as an object. What was not sent is taken from the row before, where that is whole; else it is left out, and `apart` is
/// called for it. So it is for documents `null`, which the object does not tell from NULL.
pub(super) fn object(
    relation: &Relation,
    row: Values<'_>,
    before: Option<Values<'_>>,
    out: &mut Vec<u8>,
    mut apart: impl FnMut(&Column),
) {
    out.push(b'{');
    let mut is_first = true;
    for (at, column) in relation.columns.iter().enumerate() {
        let mut from = row;
        if row.is_unchanged(at) {
            match before {
                Some(before) => from = before,
                None => {
                    apart(column);
                    continue;
                }
            }
        }
        let text = from.get(at);
        if column.form == Form::Json && text.is_some_and(|text| text.trim_ascii() == b"null") {
            apart(column);
        }
        field(column, text, &mut is_first, out);
    }
    out.push(b'}');
}

/// Names of columns, as they stand behind a row: a list of JSON.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<u8>);

impl Names {
    pub(super) fn push(&mut self, column: &Column) {
        self.0.push(if self.0.is_empty() { b'[' } else { b',' });
        quote(column.name.as_bytes(), &mut self.0);
    }

    /// Appends names as a list of their own, if there are any.
    pub(super) fn push_list(&mut self, names: Names) {
        if !names.0.is_empty() {
            self.0.push(if self.0.is_empty() { b'[' } else { b',' });
            names.write(&mut self.0);
        }
    }

    /// Writes the list, if there are any; where it ends.
    pub(super) fn write(self, out: &mut Vec<u8>) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        out.extend_from_slice(&self.0);
        out.push(b']');
        Some(out.len())
    }
}

/// Writes the key of a row as an object: all that is told of a row that is gone.
pub(super) fn key_object(relation: &Relation, row: Values<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut is_first = true;
    for (at, column) in relation.columns.iter().enumerate().filter(|(_, column)| column.is_key) {
        field(column, row.get(at), &mut is_first, out);
    }
    out.push(b'}');
}

fn field(column: &Column, text: Option<&[u8]>, is_first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(is_first) {
        out.push(b',');
    }
    out.extend_from_slice(&column.label);
    match text {
        Some(text) => value(&column.form, text, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Writes the key of a row: the text of its only column, else a list of texts. `false`: a column of it is missing or null.
pub(super) fn key(relation: &Relation, row: Values<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if let [only] = relation.key[..] {
        return row.get(only).map(|text| out.extend_from_slice(text)).is_some();
    }
    out.push(b'[');
    for (at, column) in relation.key.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match row.get(*column) {
            Some(text) => quote(text, out),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    out.push(b']');
    true
}

/// Writes a value as JSON.
pub(super) fn value(form: &Form, text: &[u8], out: &mut Vec<u8>) {
    match form {
        Form::Text => quote(text, out),
        Form::Number if is_number(text) => out.extend_from_slice(text),
        Form::Bool if text == b"t" => out.extend_from_slice(b"true"),
        Form::Bool if text == b"f" => out.extend_from_slice(b"false"),
        Form::Json if !text.is_empty() => out.extend_from_slice(text),
        Form::List(element) => list::write(element, text, out),
        Form::Number | Form::Bool | Form::Json => quote(text, out),
    }
}

/// Writes a string.
pub(super) fn quote(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut from = 0;
    loop {
        let at = plain_until(text, from);
        out.extend_from_slice(&text[from..at]);
        let Some(&byte) = text.get(at) else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
            }
        }
        from = at + 1;
    }
    out.push(b'"');
}

/// Whether a text is a number as JSON writes them.
fn is_number(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"-").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    let mut rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = digits(fraction);
        if length == 0 {
            return false;
        }
        rest = &fraction[length..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
        let length = digits(exponent);
        return length > 0 && length == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
