//! What entries of a stream are: fields and values that become changes.

use std::borrow::Cow;

use highwater_operators::change::{NAME_MAX, Operation};
use highwater_operators::row::Row;
use serde_json::value::RawValue;

use super::id::EntryId;
use crate::Envelope;
use crate::ahead::{Pieces, Written};

/// The field that holds a change, unless another is named.
const FIELD: &str = "change";

/// How entries of a stream become changes.
///
/// ```
/// use highwater_sources::redis_stream::Entries;
/// use highwater_sources::Envelope;
/// // XADD orders * payload '{"id":"c-1","table":"orders","op":"insert","after":{..}}'
/// let enveloped = Entries::envelope(Envelope::auto()).field("payload");
/// // XADD orders * order_id 7 status paid
/// let rows = Entries::rows().table("orders").key("order_id");
/// // XADD orders * event '{"order_id":7,"status":"paid"}'
/// let documents = Entries::documents().field("event").key("order_id");
/// # let _ = (enveloped, rows, documents);
/// ```
#[derive(Clone, Debug)]
pub struct Entries {
    pub(super) kind: Kind,
    field: Option<String>,
    table: Option<String>,
    key: Option<String>,
    id: Option<String>,
    problem: Option<String>,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// One field holds the change in an envelope.
    Envelope(Envelope),
    /// One field holds the row of an insert.
    Document,
    /// The fields are the row of an insert.
    Row,
}

impl Default for Entries {
    /// The default envelope.
    fn default() -> Self {
        Entries::envelope(Envelope::default())
    }
}

/// What became of an entry.
pub(super) enum Taken {
    /// The text of a line that an envelope reads stands in the block from here to here.
    Line(usize, usize),
    /// A change whose pieces stand in the block.
    Change(Written),
    /// It is none: why.
    Rejected(String),
}

impl Entries {
    fn of(kind: Kind) -> Self {
        Entries { kind, field: None, table: None, key: None, id: None, problem: None }
    }

    /// One field holds a change, in this envelope, as JSON. The field is `change`, else the only one there is, unless [`field`](Self::field) says
    /// which. The change's id is the envelope's.
    pub fn envelope(envelope: Envelope) -> Self {
        Entries::of(Kind::Envelope(envelope))
    }

    /// One field holds an object of JSON, which is the row of an insert. The field is found as that of an [`envelope`](Self::envelope); the change's
    /// id is the entry's.
    pub fn documents() -> Self {
        Entries::of(Kind::Document)
    }

    /// The fields of an entry are the row of an insert, each a string. The change's id is the entry's.
    pub fn rows() -> Self {
        Entries::of(Kind::Row)
    }

    /// The field that holds the change or the row.
    pub fn field(mut self, name: &str) -> Self {
        if let Kind::Row = self.kind {
            self.problem.get_or_insert_with(|| "with Entries::rows() all fields are the row; leave out .field(..)".to_owned());
        }
        self.field = Some(name.to_owned());
        self
    }

    /// The table of every change. Default: the stream's name. An envelope says itself.
    pub fn table(self, name: &str) -> Self {
        self.only_of_rows("table").with(|entries| entries.table = Some(name.to_owned()))
    }

    /// The field of the row that is its key. Default: the id, so that there is no order among changes. An envelope says itself.
    pub fn key(self, field: &str) -> Self {
        self.only_of_rows("key").with(|entries| entries.key = Some(field.to_owned()))
    }

    /// The field of the row that is the change's id, where a change is to be known by something else than its entry: two entries with one such id and
    /// one key are duplicates of each other. An envelope says itself.
    pub fn id(self, field: &str) -> Self {
        self.only_of_rows("id").with(|entries| entries.id = Some(field.to_owned()))
    }

    fn with(mut self, set: impl FnOnce(&mut Self)) -> Self {
        set(&mut self);
        self
    }

    fn only_of_rows(mut self, what: &str) -> Self {
        if let Kind::Envelope(_) = self.kind {
            let problem = format!("an envelope says itself what .{what}(..) would say; say it of the envelope");
            self.problem.get_or_insert(problem);
        }
        self
    }

    /// What is wrong with the description.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.problem, &self.kind) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Kind::Envelope(envelope)) => envelope.check(),
            _ => Ok(()),
        }
    }

    /// Writes an entry into a block. What was written of a rejected one is taken back.
    pub(super) fn take(&self, stream: &str, id: EntryId, fields: &Fields<'_>, out: &mut Vec<u8>) -> Taken {
        let start = out.len();
        let taken = match &self.kind {
            Kind::Envelope(_) => self.only_field(fields).map(|value| {
                out.extend_from_slice(value);
                Taken::Line(start, out.len())
            }),
            Kind::Document => self.only_field(fields).and_then(|value| {
                let row = object(value)?;
                let find = |name: &str| Row::json(row.as_bytes()).str(name);
                self.write(stream, id, find, out, |out| {
                    out.extend_from_slice(row.as_bytes());
                    Ok(())
                })
            }),
            Kind::Row => {
                let find = |name: &str| {
                    let value = fields.iter().find(|(field, _)| *field == name.as_bytes())?.1;
                    std::str::from_utf8(value).ok().map(Cow::Borrowed)
                };
                self.write(stream, id, find, out, |out| write_row(fields, out))
            }
        };
        taken.unwrap_or_else(|why| {
            out.truncate(start);
            Taken::Rejected(why)
        })
    }

    /// The value of the field that holds the change.
    fn only_field<'a>(&self, fields: &Fields<'a>) -> Result<&'a [u8], String> {
        let name = self.field.as_deref().unwrap_or(FIELD);
        let mut named = fields.iter().filter(|(field, _)| *field == name.as_bytes());
        match (named.next(), named.next(), &self.field) {
            (Some((_, value)), None, _) => Ok(value),
            (Some(_), Some(_), _) => Err(format!("the field \"{name}\" stands twice")),
            (None, _, None) if fields.len() == 1 => Ok(fields.iter().next().map_or(&[][..], |(_, value)| value)),
            (None, _, None) => Err(format!(
                "there is no field \"{name}\", and {} fields; say with Entries::..field(\"..\") which holds the change, or Entries::rows() if all of \
                 them are a row",
                fields.len()
            )),
            (None, _, Some(_)) => Err(format!("there is no field \"{name}\"")),
        }
    }

    fn write<'r>(
        &self,
        stream: &str,
        id: EntryId,
        find: impl Fn(&str) -> Option<Cow<'r, str>>,
        out: &mut Vec<u8>,
        row: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    ) -> Result<Taken, String> {
        let named = |name: &Option<String>, what: &str| match name {
            None => Ok(None),
            Some(name) => match find(name) {
                Some(found) if found.len() > NAME_MAX => {
                    Err(format!("the field \"{name}\", {what}, is longer than {NAME_MAX} bytes"))
                }
                Some(found) => Ok(Some(found)),
                None => Err(format!("the field \"{name}\", {what}, is missing or no text")),
            },
        };
        let (own, key) = (named(&self.id, "which is the id")?, named(&self.key, "which is the key")?);
        let start = out.len();
        match own {
            Some(own) => out.extend_from_slice(own.as_bytes()),
            None => {
                digits(id.ms, out);
                out.push(b'-');
                digits(id.seq, out);
            }
        }
        let id_end = out.len();
        out.extend_from_slice(self.table.as_deref().unwrap_or(stream).as_bytes());
        let table_end = out.len();
        let key_end = key.map(|key| {
            out.extend_from_slice(key.as_bytes());
            out.len()
        });
        row(out)?;
        let end = out.len();
        let pieces =
            Pieces { start, id_end, table_end, key_end, before_end: None, after_end: Some(end), unchanged_end: None, end };
        // The time of an entry is the one in its id, where Redis makes them.
        let time_ms = i64::try_from(id.ms).unwrap_or(i64::MAX);
        Ok(Taken::Change(Written { pieces, operation: Operation::Insert, time_ms, at: id.ms, within: id.seq }))
    }
}

/// The fields of an entry with their values, in its order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub &'a [redis::Value]);

impl<'a> Fields<'a> {
    /// They are; anything that is no text of the server's is empty.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1])))
    }

    fn len(self) -> usize {
        self.0.len() / 2
    }

    /// A hash of all of them.
    pub fn says(self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for (name, value) in self.iter() {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(&(value.len() as u64).to_le_bytes());
            hash.update(value);
        }
        hash.digest().max(1)
    }

    /// As they can be shown: an object of JSON, cut where it is long.
    pub fn show(self) -> String {
        const SHOWN: usize = 16 * 1024;
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
        let shown: serde_json::Map<String, serde_json::Value> =
            self.iter().take(64).map(|(name, value)| (text(name), text(value).into())).collect();
        let mut shown = serde_json::Value::Object(shown).to_string();
        shown.truncate(shown.floor_char_boundary(SHOWN));
        shown
    }
}

/// The bytes of a value.
pub(super) fn bytes(value: &redis::Value) -> &[u8] {
    match value {
        redis::Value::BulkString(bytes) => bytes,
        redis::Value::SimpleString(text) => text.as_bytes(),
        _ => &[],
    }
}

fn object(value: &[u8]) -> Result<&str, String> {
    let text = text(value)?.trim_ascii();
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if text.starts_with('{') => Ok(text),
        Ok(_) => Err("it is no object of JSON".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

fn text(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|error| format!("it is not UTF-8 from byte {} on", error.valid_up_to()))
}

fn write_row(fields: &Fields<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let named =
        |name: &[u8], why: String| format!("the field \"{}\": {why}", String::from_utf8_lossy(&name[..name.len().min(80)]));
    // Few are compared with each other; of many a set is made.
    let mut met = hashbrown::HashSet::new();
    let is_long = fields.len() > 16;
    let mut lead = b'{';
    for (number, (name, value)) in fields.iter().enumerate() {
        let is_met = if is_long { !met.insert(name) } else { fields.iter().take(number).any(|(before, _)| before == name) };
        if is_met {
            return Err(named(name, "it stands twice".to_owned()));
        }
        out.push(lead);
        lead = b',';
        string(text(name).map_err(|why| named(name, why))?, out);
        out.push(b':');
        string(text(value).map_err(|why| named(name, why))?, out);
    }
    if lead == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, text).expect("a string can be written as JSON");
}

fn digits(number: u64, out: &mut Vec<u8>) {
    use std::io::Write;
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests;
