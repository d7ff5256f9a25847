//! Rows become changes: the text of a row's columns is written into a block, and what stands where is noted.

use std::borrow::Cow;

use highwater_operators::change::Operation;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::ahead::{Pieces, Written};
use crate::postgres::tuple::Tuple;

/// What a row's columns are, as far as it matters for reading them.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// What the words in the column of modifications mean; empty for the usual ones.
    pub words: Vec<(String, Operation)>,
    /// How the row itself is written.
    pub data: Json,
    /// How the row before is written, if there is such a column.
    pub before: Option<Json>,
    /// Whether there is a time, and what one is.
    pub time: Option<Time>,
    /// Whether there is a column for the change's id.
    pub change_id: bool,
    /// The columns' names, for messages, in the order in which they are asked for.
    pub names: Names,
}

/// The columns' names.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub id: String,
    pub object_type: String,
    pub object_id: String,
    pub modification: String,
    pub data: String,
    pub before: Option<String>,
    pub time: Option<String>,
    pub change_id: Option<String>,
}

/// How JSON is written in a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// `jsonb`, whose text the server makes of what it has checked; a byte of its version stands before it.
    Binary,
    /// `json` or text, as somebody has written it.
    Text,
}

/// How times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// `timestamptz`, or `timestamp` in UTC: microseconds since 2000.
    Timestamp,
    /// `bigint`: Unix milliseconds.
    UnixMs,
}

/// From 1970 to 2000, in milliseconds.
const Y2000_MS: i64 = 946_684_800_000;

/// A row that was read: what it is, or why it is no change.
pub(super) enum Taken {
    Change(Written),
    Rejected { why: String, text: String },
}

/// The id of a row: its first field.
///
/// # Errors
/// The row is none of ours.
pub(super) fn id(tuple: &mut Tuple<'_>) -> Result<i64, &'static str> {
    let field = tuple.next()?.ok_or("an id is NULL")?;
    Ok(i64::from_be_bytes(field.try_into().map_err(|_| "an id is no bigint")?))
}

impl Shape {
    /// Writes the pieces of a row, whose id was taken, into `out`.
    ///
    /// # Errors
    /// The row is none of ours. (A row that is no change is no error.)
    pub(super) fn write(&self, id: i64, mut tuple: Tuple<'_>, out: &mut Vec<u8>) -> Result<Taken, &'static str> {
        let row = Row {
            object_type: tuple.next()?,
            object_id: tuple.next()?,
            modification: tuple.next()?,
            data: tuple.next()?,
            before: if self.before.is_some() { tuple.next()? } else { None },
            time: if self.time.is_some() { tuple.next()? } else { None },
            change_id: if self.change_id { tuple.next()? } else { None },
        };
        let start = out.len();
        Ok(match self.write_row(id, &row, out) {
            Ok(written) => Taken::Change(written),
            Err(why) => {
                out.truncate(start);
                Taken::Rejected { why, text: self.show(id, &row) }
            }
        })
    }

    fn write_row(&self, id: i64, row: &Row<'_>, out: &mut Vec<u8>) -> Result<Written, String> {
        let names = &self.names;
        let operation = self.operation(row.modification)?;
        let data = json(&names.data, self.data, row.data)?;
        let mut before = match (&names.before, self.before) {
            (Some(name), Some(form)) => json(name, form, row.before)?,
            _ => None,
        };
        let mut after = data;
        if operation == Operation::Delete {
            // What is gone was there before.
            before = before.or(after.take());
        }
        let time_ms = match (self.time, row.time) {
            (Some(time), Some(field)) => time.unix_ms(field).ok_or_else(|| wrong(names.time.as_deref(), "no time"))?,
            _ => 0,
        };
        let start = out.len();
        match (self.change_id, row.change_id) {
            (true, None) => return Err(wrong(names.change_id.as_deref(), "NULL; every change needs an id")),
            (true, Some(field)) => push(out, text(names.change_id.as_deref(), field)?),
            (false, _) => digits(id, out),
        }
        let id_end = out.len();
        push(out, text(Some(&names.object_type), row.object_type.unwrap_or_default())?);
        let table_end = out.len();
        let mut piece = |piece: Option<&str>| {
            piece.map(|piece| {
                push(out, piece);
                out.len()
            })
        };
        let key = row.object_id.map(|field| text(Some(&names.object_id), field)).transpose()?;
        let (key_end, before_end, after_end) = (piece(key), piece(before), piece(after));
        let (end, apart_end) = (out.len(), None);
        let pieces = Pieces { start, id_end, table_end, key_end, before_end, after_end, apart_end, end };
        Ok(Written { pieces, operation, time_ms, at: id as u64, within: 0 })
    }

    fn operation(&self, field: Option<&[u8]>) -> Result<Operation, String> {
        let name = Some(self.names.modification.as_str());
        let word = text(name, field.ok_or_else(|| wrong(name, "NULL; every change needs an operation"))?)?;
        let known = match &self.words[..] {
            [] => usual(word),
            words => words.iter().find(|(known, _)| known == word).map(|(_, operation)| *operation),
        };
        known.ok_or_else(|| {
            let known = match &self.words[..] {
                [] => "insert, update or delete, in a usual spelling; .operations(..) names others".to_owned(),
                words => words.iter().map(|(known, _)| known.as_str()).collect::<Vec<_>>().join(" or "),
            };
            wrong(name, &format!("\"{}\"; it must be {known}", shorten(word)))
        })
    }

    /// A row as it can be shown: a JSON object of its columns.
    fn show(&self, id: i64, row: &Row<'_>) -> String {
        let names = &self.names;
        let text = |field: Option<&[u8]>| match field {
            Some(field) => Value::from(String::from_utf8_lossy(field)),
            None => Value::Null,
        };
        let unframed = |form: Json, field: Option<&[u8]>| text(field.map(|field| unframe(form, field).unwrap_or(field)));
        let mut shown = Map::new();
        shown.insert(names.id.clone(), Value::from(id));
        shown.insert(names.object_type.clone(), text(row.object_type));
        shown.insert(names.object_id.clone(), text(row.object_id));
        shown.insert(names.modification.clone(), text(row.modification));
        shown.insert(names.data.clone(), unframed(self.data, row.data));
        if let (Some(name), Some(form)) = (&names.before, self.before) {
            shown.insert(name.clone(), unframed(form, row.before));
        }
        if let (Some(name), Some(time)) = (&names.time, self.time) {
            shown.insert(name.clone(), row.time.and_then(|field| time.unix_ms(field)).map_or(Value::Null, Value::from));
        }
        if let Some(name) = &names.change_id {
            shown.insert(name.clone(), text(row.change_id));
        }
        Value::Object(shown).to_string()
    }
}

/// The fields of a row behind its id.
struct Row<'a> {
    object_type: Option<&'a [u8]>,
    object_id: Option<&'a [u8]>,
    modification: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    before: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    change_id: Option<&'a [u8]>,
}

impl Time {
    fn unix_ms(self, field: &[u8]) -> Option<i64> {
        let number = i64::from_be_bytes(field.try_into().ok()?);
        Some(match self {
            // The infinities are as far away as can be said.
            Time::Timestamp => number.div_euclid(1000).saturating_add(Y2000_MS),
            Time::UnixMs => number,
        })
    }
}

/// The operation of a word in any usual spelling.
fn usual(word: &str) -> Option<Operation> {
    if let "INSERT" | "UPDATE" | "DELETE" = word {
        return Operation::parse(word);
    }
    let word = word.trim().to_ascii_lowercase();
    Operation::parse(&word).or(match word.as_str() {
        "inserted" | "created" | "add" | "added" | "new" => Some(Operation::Insert),
        "updated" | "modify" | "modified" | "change" | "changed" => Some(Operation::Update),
        "deleted" | "remove" | "removed" => Some(Operation::Delete),
        _ => None,
    })
}

/// The text of a row; none for NULL and for JSON's null.
fn json<'a>(name: &str, form: Json, field: Option<&'a [u8]>) -> Result<Option<&'a str>, String> {
    let Some(field) = field else { return Ok(None) };
    let is = |what: Cow<'_, str>| wrong(Some(name), &format!("{what}; it must be an object of JSON, or NULL"));
    let written = unframe(form, field).ok_or_else(|| is("jsonb of a version that is not known".into()))?;
    let written = text(Some(name), written)?.trim_ascii();
    if form == Json::Text
        && let Err(error) = serde_json::from_str::<IgnoredAny>(written)
    {
        return Err(is(format!("no JSON ({error})").into()));
    }
    match written.as_bytes().first() {
        Some(b'{') => Ok(Some(written)),
        Some(b'n') => Ok(None),
        _ => Err(is(shorten(written).into())),
    }
}

/// The text in a column of JSON.
fn unframe(form: Json, field: &[u8]) -> Option<&[u8]> {
    match form {
        Json::Binary => field.strip_prefix(&[1]),
        Json::Text => Some(field),
    }
}

fn text<'a>(name: Option<&str>, field: &'a [u8]) -> Result<&'a str, String> {
    std::str::from_utf8(field).map_err(|error| wrong(name, &format!("not UTF-8 from byte {} on", error.valid_up_to())))
}

fn wrong(name: Option<&str>, what: &str) -> String {
    format!("the column \"{}\" is {what}", name.unwrap_or_default())
}

/// The beginning of a text, for messages.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn digits(id: i64, out: &mut Vec<u8>) {
    let (mut digits, mut at, mut left) = ([0; 20], 20, id.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if id < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
