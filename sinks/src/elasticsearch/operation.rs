//! A change becomes an operation on a document: lines of a `_bulk` request.

use highwater_operators::Operation;
use highwater_operators::action::Delivery;
use serde::Serialize;

use super::{Description, Document};
use crate::line::Line;

/// The longest id of a document, in bytes.
const ID_MAX: usize = 512;
/// The longest name of an index, in bytes.
const INDEX_MAX: usize = 255;

/// What is done to one document: its lines, and what of them an answer is held against.
pub(super) struct Written {
    pub lines: Vec<u8>,
    pub id: String,
    pub is_delete: bool,
}

#[derive(Serialize)]
struct Meta<'a> {
    _index: &'a str,
    _id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_type: Option<&'static str>,
}

impl Description {
    /// The operation of a change. `None`: it has none.
    ///
    /// # Errors
    /// Why there can be none, and the change is parked.
    pub(super) fn write(&self, delivery: &Delivery) -> Result<Option<Written>, String> {
        match delivery.operation() {
            Operation::Message if !self.append => return Ok(None),
            Operation::Truncate if !self.append => {
                return Err(
                    "all rows of the table are gone at once, which this does not do to an index: empty the index by hand, then \
                            drop this change"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let text = |value: &str, out: &mut String| out.push_str(value);
        let index = self.index.fill(delivery, text).map_err(|why| format!("index: {why}"))?;
        check_index(&index)?;
        let id = self.id.fill(delivery, text).map_err(|why| format!("id: {why}"))?;
        if id.is_empty() || id.len() > ID_MAX {
            return Err(format!("its id would have {} bytes: a document's has 1 to {ID_MAX}", id.len()));
        }
        let version = if self.append { None } else { self.versioning.of(delivery)? };
        let is_delete = delivery.operation() == Operation::Delete && !self.append && self.soft_delete.is_none();
        let name = match (self.append, is_delete) {
            (true, _) => "create",
            (_, true) => "delete",
            _ => "index",
        };
        let mut lines = Vec::with_capacity(256);
        let meta = Meta { _index: &index, _id: &id, version, version_type: version.map(|_| "external_gte") };
        Line::write(&mut lines, |line| {
            line.field(name, &meta);
        });
        if !is_delete {
            self.write_document(delivery, &mut lines)?;
        }
        Ok(Some(Written { lines, id, is_delete }))
    }

    /// Appends the document on a line of its own.
    fn write_document(&self, delivery: &Delivery, out: &mut Vec<u8>) -> Result<(), String> {
        let template = match &self.document {
            Document::Template(template) => template,
            Document::Row => return self.write_row(delivery, out),
        };
        if let Some(field) = template.unsent(delivery) {
            return Err(unsent(&field));
        }
        let start = out.len();
        template.fill_json(delivery, out);
        // Within strings breaks are escaped; between values they are blanks. A line is a document here.
        out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        out.push(b'\n');
        Ok(())
    }

    /// The whole row; what the source did not send since it is as it was is taken of the row before, if that is there.
    fn write_row(&self, delivery: &Delivery, out: &mut Vec<u8>) -> Result<(), String> {
        let (row, before) = (delivery.row(), delivery.before());
        let mut kept = Vec::new();
        for name in row.unchanged() {
            let value = before.written(&name).and_then(|value| serde_json::value::RawValue::from_string(value.to_owned()).ok());
            kept.push((name.clone(), value.ok_or_else(|| unsent(&name))?));
        }
        let is_deleted = delivery.operation() == Operation::Delete;
        Line::write(out, |line| {
            line.row(row);
            for (name, value) in &kept {
                line.field(name, value);
            }
            if let Some(field) = &self.soft_delete {
                line.field(field, &is_deleted);
            }
        });
        Ok(())
    }
}

fn unsent(field: &str) -> String {
    format!(
        "the source did not send {field:?}, which is as it was, and without it the document would not be whole: let the table tell whole \
         rows (ALTER TABLE .. REPLICA IDENTITY FULL)"
    )
}

fn check_index(name: &str) -> Result<(), String> {
    let is_bad = |c: char| c.is_uppercase() || c.is_control() || "\\/*?\"<>| ,#:".contains(c);
    if name.is_empty() || name.len() > INDEX_MAX || name.starts_with(['_', '-', '+', '.']) || name.contains(is_bad) {
        return Err(format!(
            "{name:?} cannot be the name of an index: it is in small letters, begins with none of _ - + . and has no blank and none of \
             \\ / * ? \" < > | , # :"
        ));
    }
    Ok(())
}
