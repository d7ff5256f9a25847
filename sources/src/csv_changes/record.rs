//! One row: its fields become a JSON object, and what names the change is found in it.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::position::Position;

use crate::envelope::piece;

/// What the header says, and which columns mean something.
pub(super) struct Columns {
    pub(super) table: String,
    pub(super) id: Option<usize>,
    pub(super) key: Option<usize>,
    pub(super) op: Option<usize>,
    pub(super) values: Arc<[(Box<str>, Operation)]>,
    pub(super) time: Option<usize>,
    pub(super) names: Vec<String>,
    /// The names as they begin a field of an object.
    pub(super) heads: Vec<Box<[u8]>>,
}

/// Where the pieces of one change stand in the text that its batch is written to.
pub(super) struct Written {
    pub(super) position: Position,
    whole: Range<usize>,
    table: Range<usize>,
    id: Range<usize>,
    key: Option<Range<usize>>,
    row: Range<usize>,
    operation: Operation,
    time_ms: i64,
}

/// A column's name as it begins a field of an object.
pub(super) fn head(name: &str) -> Box<[u8]> {
    let mut head = serde_json::to_vec(name).expect("text can be written as JSON");
    head.push(b':');
    head.into()
}

impl Columns {
    /// Writes a row behind what was written before it.
    pub(super) fn write(&self, fields: &Fields<'_>, position: Position, out: &mut Vec<u8>) -> Result<Written, String> {
        if fields.count() != self.names.len() {
            return Err(format!(
                "{} fields, but the header has {}; quote a field that holds a separator",
                fields.count(),
                self.names.len()
            ));
        }
        let start = out.len();
        let undo = |out: &mut Vec<u8>, why: String| {
            out.truncate(start);
            Err(why)
        };
        let operation = self.operation(fields)?;
        let time_ms = match self.time {
            None => 0,
            Some(at) => piece::time("", &self.names[at], fields.text(at).map_err(|why| self.in_column(at, &why))?)?,
        };
        out.extend_from_slice(self.table.as_bytes());
        let row = out.len();
        // Where id and key stand in the row, if they stand there as they are.
        let (mut id, mut key) = (None, None);
        for (index, head) in self.heads.iter().enumerate() {
            out.push(if index == 0 { b'{' } else { b',' });
            out.extend_from_slice(head);
            let text = match fields.text(index) {
                Ok(text) => text,
                Err(why) => return undo(out, self.in_column(index, &why)),
            };
            let place = string(text, out);
            for (column, slot) in [(self.id, &mut id), (self.key, &mut key)] {
                if column == Some(index) {
                    if text.is_empty() {
                        return undo(
                            out,
                            format!("the column \"{}\" is empty; every change needs a value there", self.names[index]),
                        );
                    }
                    *slot = Some((place.clone(), text));
                }
            }
        }
        out.extend_from_slice(if self.heads.is_empty() { b"{}" } else { b"}" });
        let row = row..out.len();
        let mut beside = |found: Option<(Option<Range<usize>>, &str)>| {
            found.map(|(place, text)| {
                place.unwrap_or_else(|| {
                    out.extend_from_slice(text.as_bytes());
                    out.len() - text.len()..out.len()
                })
            })
        };
        let (id, key) = (beside(id), beside(key));
        let id = id.unwrap_or_else(|| {
            let at = out.len();
            let mut digits = String::with_capacity(20);
            let _ = write!(digits, "{}", position.at);
            out.extend_from_slice(digits.as_bytes());
            at..out.len()
        });
        let table = start..start + self.table.len();
        Ok(Written { position, whole: start..out.len(), table, id, key, row, operation, time_ms })
    }

    fn operation(&self, fields: &Fields<'_>) -> Result<Operation, String> {
        let Some(at) = self.op else { return Ok(Operation::Insert) };
        let word = fields.text(at).map_err(|why| self.in_column(at, &why))?;
        let known = match &self.values[..] {
            [] => Operation::parse(word),
            values => values.iter().find(|(value, _)| **value == *word).map(|(_, operation)| *operation),
        };
        known.ok_or_else(|| {
            let words = match &self.values[..] {
                [] => "insert, update, delete or read".to_owned(),
                values => values.iter().map(|(value, _)| &**value).collect::<Vec<_>>().join(" or "),
            };
            format!("the column \"{}\" is \"{}\"; it must be {words}", self.names[at], piece::shorten(word))
        })
    }

    fn in_column(&self, column: usize, why: &str) -> String {
        format!("the column \"{}\" is {why}", self.names[column])
    }
}

impl Written {
    /// The change, over the block that the text has become.
    pub(super) fn into_change(self, block: &Bytes) -> Result<Change, String> {
        let text = |range: &Range<usize>| std::str::from_utf8(&block[range.clone()]).unwrap_or_default();
        let row = Some(text(&self.row));
        let (before, after) = if self.operation == Operation::Delete { (row, None) } else { (None, row) };
        let parts = Parts {
            id: text(&self.id),
            table: text(&self.table),
            key: self.key.as_ref().map(text),
            operation: self.operation,
            time_ms: self.time_ms,
            before,
            after,
        };
        Change::new(block.slice(self.whole.clone()), self.position, parts)
    }
}

/// The fields of a row: one text, and where each ends.
pub(super) struct Fields<'a> {
    pub(super) text: &'a [u8],
    pub(super) ends: &'a [usize],
}

impl<'a> Fields<'a> {
    fn count(&self) -> usize {
        self.ends.len()
    }

    fn text(&self, index: usize) -> Result<&'a str, String> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        std::str::from_utf8(&self.text[start..self.ends[index]]).map_err(|_| "not UTF-8".to_owned())
    }
}

/// Writes a string of JSON, and returns where its text stands if it needed no escape.
fn string(text: &str, out: &mut Vec<u8>) -> Option<Range<usize>> {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        serde_json::to_writer(&mut *out, text).expect("text can be written as JSON");
        return None;
    }
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Some(start..out.len() - 1)
}
