//! One JSON object on one line, written field by field into a buffer.

use std::borrow::Cow;

use highwater_operators::change::Change;
use highwater_operators::row::{Row, Value};
use serde::Serialize;

/// Writes the fields of one JSON object. Whoever made it closes it.
///
/// ```
/// use highwater_operators::Row;
/// use highwater_sinks::Line;
/// let mut out = Vec::new();
/// Line::write(&mut out, |line| {
///     line.field("id", "c-1").row(Row::json(br#"{"status":"paid"}"#)).field("tier", &3);
/// });
/// assert_eq!(out, b"{\"id\":\"c-1\",\"status\":\"paid\",\"tier\":3}\n");
/// ```
#[derive(Debug)]
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Line<'a> {
    /// Appends one object and a newline.
    pub fn write(out: &'a mut Vec<u8>, fields: impl FnOnce(&mut Line<'_>)) {
        out.push(b'{');
        fields(&mut Line { out, first: true });
        out.extend_from_slice(b"}\n");
    }

    /// Appends a field. Strings are escaped; anything serde can write as JSON may stand here.
    ///
    /// # Panics
    /// If the value cannot be written as JSON (a map whose keys are no strings). In a pipeline that parks the change.
    pub fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        self.name(name);
        serde_json::to_writer(&mut *self.out, value).expect("the value can be written as JSON");
        self
    }

    /// Appends a field that may be absent: then nothing is written.
    pub fn field_if<T: Serialize>(&mut self, name: &str, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.field(name, &value),
            None => self,
        }
    }

    /// Appends every field of a row, as it stands.
    pub fn row(&mut self, row: Row<'_>) -> &mut Self {
        if let Some(object) = row.raw_json() {
            let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().trim();
            if !inner.is_empty() {
                self.comma();
                self.raw(inner);
            }
            return self;
        }
        for (name, value) in row.to_vec() {
            self.value(&name, value);
        }
        self
    }

    /// Appends a row as an object of its own, or null.
    pub fn object(&mut self, name: &str, row: Row<'_>) -> &mut Self {
        self.name(name);
        if row.is_present() {
            self.out.push(b'{');
            Line { out: self.out, first: true }.row(row);
            self.out.push(b'}');
        } else {
            self.out.extend_from_slice(b"null");
        }
        self
    }

    /// Appends a change in the default envelope.
    pub fn change(&mut self, change: &Change) -> &mut Self {
        self.field("id", change.id()).field("table", change.table()).field("op", change.operation().as_str());
        self.field("key", change.key()).field("ts", &change.time_ms());
        self.object("before", change.before()).object("after", change.after());
        let unchanged: Vec<Cow<'_, str>> = change.after().unchanged().collect();
        if !unchanged.is_empty() {
            self.field("unchanged", &unchanged);
        }
        self
    }

    fn value(&mut self, name: &str, value: Value<'_>) {
        match value {
            Value::Null => {
                self.field(name, &());
            }
            // Left out: it is neither null nor known.
            Value::Unchanged => {}
            Value::Text(text) => {
                self.field::<Cow<'_, str>>(name, &text);
            }
            Value::Other(raw) => {
                self.name(name);
                self.raw(raw);
            }
        }
    }

    /// Appends JSON as it is written, on one line: between the values of a document somebody may have broken lines, and here a line is a change.
    fn raw(&mut self, json: &str) {
        let start = self.out.len();
        self.out.extend_from_slice(json.as_bytes());
        for byte in &mut self.out[start..] {
            *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
        }
    }

    fn name(&mut self, name: &str) {
        self.comma();
        serde_json::to_writer(&mut *self.out, name).expect("a string can be written as JSON");
        self.out.push(b':');
    }

    fn comma(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fields: impl FnOnce(&mut Line<'_>)) -> String {
        let mut out = Vec::new();
        Line::write(&mut out, fields);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn empty_rows_leave_no_comma() {
        assert_eq!(
            written(|line| {
                line.row(Row::json(b"{ }")).field("a", "\"").row(Row::ABSENT);
            }),
            "{\"a\":\"\\\"\"}\n"
        );
    }

    #[test]
    fn a_line_is_one_line_however_its_documents_are_broken() {
        let row = Row::json(b"{\"a\":{\"b\":\r\n1},\"c\":\"x\\n\"}");
        assert_eq!(
            written(|line| {
                line.row(row).object("r", row);
            }),
            "{\"a\":{\"b\":  1},\"c\":\"x\\n\",\"r\":{\"a\":{\"b\":  1},\"c\":\"x\\n\"}}\n"
        );
    }

    #[test]
    fn nested_objects_keep_their_braces() {
        let row = Row::json(b"{\"a\":{\"b\":{}}}");
        assert_eq!(
            written(|line| {
                line.row(row);
            }),
            "{\"a\":{\"b\":{}}}\n"
        );
        assert_eq!(
            written(|line| {
                line.object("r", row).object("n", Row::ABSENT);
            }),
            "{\"r\":{\"a\":{\"b\":{}}},\"n\":null}\n"
        );
    }
}
