//! A row, read lazily: nothing is parsed before a field is asked for, and several fields are found in one walk.

pub(crate) mod apart;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use self::apart::Names;
use crate::json::plain_until;

/// A row of a change, or of a lookup. Cheap to copy; borrows from the change.
///
/// A row answers alike whatever it is made of. *Absent* (no such row, or no such field), *null*, *unchanged* (a value that the source did not
/// send, for it is as it was) and a value are four things.
///
/// ```
/// use highwater_operators::row::{Row, Value};
/// let row = Row::json(br#"{"status":"paid","amount":12.5,"note":null}"#);
/// assert_eq!(row.str("status").as_deref(), Some("paid"));
/// assert_eq!(row.parse::<f64>("amount"), Some(12.5));
/// assert_eq!(row.get("note"), Some(Value::Null));
/// assert_eq!(row.get("nothing"), None);
/// assert_eq!(row.pick(["amount", "status"]).map(|value| value.is_some()), [true, true]);
/// ```
#[derive(Clone, Copy)]
pub struct Row<'a>(Form<'a>);

#[derive(Clone, Copy)]
enum Form<'a> {
    Absent,
    Json(&'a [u8]),
    /// An object, and the names of fields of which it does not say all.
    Apart(&'a [u8], &'a [u8]),
    Fields(&'a Fields),
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The field is there and null: NULL, of a database.
    Null,
    /// The field is there and as it was before the change; the source did not send what that is (a large value in Postgres).
    Unchanged,
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// A number, a boolean, a list or an object, as it was written; and the document `null` where a source tells it from NULL.
    Other(&'a str),
}

impl<'a> Value<'a> {
    /// The value as text: strings unescaped, everything else as it was written; `None` for null, and for what is unchanged.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Value::Null | Value::Unchanged => None,
            Value::Text(text) => Some(text),
            Value::Other(text) => Some(Cow::Borrowed(text)),
        }
    }
}

impl<'a> Row<'a> {
    /// No row at all: every field is absent.
    pub const ABSENT: Row<'static> = Row(Form::Absent);

    /// A row from the text of one JSON object.
    pub fn json(object: &'a [u8]) -> Self {
        Row(Form::Json(object))
    }

    /// A row of which its text does not say all. `apart` is a list of JSON strings, names of fields: one that the row lacks is unchanged,
    /// one that is null in it is the document `null`, not NULL.
    pub fn with_names_apart(object: &'a [u8], apart: &'a [u8]) -> Self {
        Row(Form::Apart(object, apart))
    }

    /// The text of the object it is made of.
    fn object(&self) -> Option<&'a [u8]> {
        match self.0 {
            Form::Json(object) | Form::Apart(object, _) => Some(object),
            Form::Absent | Form::Fields(_) => None,
        }
    }

    /// The names of the fields that are as they were, and are not in the row.
    pub fn unchanged(&self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let (object, names) = if let Form::Apart(object, names) = self.0 { (object, names) } else { (&[][..], &[][..]) };
        Names::new(names).map(unescape).filter(move |name| Walk::new(object).all(|(other, _)| !is_name(other, name)))
    }

    /// The names of fields of which the text does not say all, if there are any.
    pub(crate) fn apart(&self) -> Option<&'a [u8]> {
        if let Form::Apart(_, names) = self.0 { Some(names) } else { None }
    }

    /// Whether this field, which is null in the text, is the document `null`.
    fn is_document(&self, field: &str) -> bool {
        matches!(self.0, Form::Apart(_, names) if Names::new(names).any(|name| is_name(name, field)))
    }

    /// A row whose fields are already separated.
    pub fn fields(fields: &'a Fields) -> Self {
        Row(Form::Fields(fields))
    }

    /// Whether there is a row.
    pub fn is_present(&self) -> bool {
        !matches!(self.0, Form::Absent)
    }

    /// One field: `None` if it is absent.
    pub fn get(&self, field: &str) -> Option<Value<'a>> {
        let [value] = self.pick([field]);
        value
    }

    /// One field as text: `None` if it is absent or null.
    pub fn str(&self, field: &str) -> Option<Cow<'a, str>> {
        self.get(field)?.text()
    }

    /// Whether a field is there and has this value, as [`str`](Self::str) would give it. Costs less: what is compared need not be
    /// looked at as text.
    pub fn has(&self, field: &str, value: &str) -> bool {
        match self.object() {
            Some(object) => match Walk::new(object).find(|(name, _)| is_name(name, field)) {
                None => false,
                Some((_, null @ [b'n', ..])) => value.as_bytes() == null && self.is_document(field),
                Some((_, [b'"', inner @ .., b'"'])) => is_name(inner, value),
                Some((_, other)) => other == value.as_bytes(),
            },
            None => self.str(field).as_deref() == Some(value),
        }
    }

    /// One field, parsed: `None` if it is absent, null or does not parse.
    pub fn parse<T: FromStr>(&self, field: &str) -> Option<T> {
        self.str(field)?.parse().ok()
    }

    /// One field of a JSON row as it is written: quotes, escapes and all. `None` if it is absent.
    pub fn written(&self, field: &str) -> Option<&'a str> {
        let [value] = self.pick_written([field]);
        value
    }

    /// Several fields of a JSON row as they are written, in one walk.
    pub fn pick_written<const N: usize>(&self, fields: [&str; N]) -> [Option<&'a str>; N] {
        match self.object() {
            Some(object) => pick(object, fields, |value| std::str::from_utf8(value).unwrap_or_default()),
            None => [None; N],
        }
    }

    /// Every field of a JSON row, with its value as it is written.
    pub fn each_written(&self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        Walk::new(self.object().unwrap_or_default())
            .map(|(name, value)| (unescape(name), std::str::from_utf8(value).unwrap_or_default()))
    }

    /// Several fields in one walk over the row, which ends at the last of them. Of a field that stands twice the first counts.
    pub fn pick<const N: usize>(&self, fields: [&str; N]) -> [Option<Value<'a>>; N] {
        match self.0 {
            Form::Absent => [const { None }; N],
            Form::Fields(row) => fields.map(|field| row.get(field)),
            Form::Json(object) => pick(object, fields, value_of),
            Form::Apart(object, _) => {
                let mut found = pick(object, fields, value_of);
                for (slot, field) in found.iter_mut().zip(fields) {
                    match slot {
                        Some(Value::Null) if self.is_document(field) => *slot = Some(Value::Other("null")),
                        None => *slot = self.unchanged().any(|name| name == field).then_some(Value::Unchanged),
                        Some(_) => {}
                    }
                }
                found
            }
        }
    }

    /// The row as the text of a JSON object, if it is made of one. What is unchanged is not in it.
    pub fn raw_json(&self) -> Option<&'a str> {
        std::str::from_utf8(self.object()?).ok()
    }

    /// Every field with its value, in the order of the row; what is unchanged comes last.
    pub fn to_vec(&self) -> Vec<(Cow<'a, str>, Value<'a>)> {
        match self.0 {
            Form::Absent => Vec::new(),
            Form::Fields(row) => row.iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect(),
            Form::Json(object) => Walk::new(object).map(|(name, value)| (unescape(name), value_of(value))).collect(),
            Form::Apart(object, _) => {
                let mut fields: Vec<_> = Row::json(object).to_vec();
                for (name, value) in fields.iter_mut().filter(|(_, value)| *value == Value::Null) {
                    if self.is_document(name) {
                        *value = Value::Other("null");
                    }
                }
                fields.extend(self.unchanged().map(|name| (name, Value::Unchanged)));
                fields
            }
        }
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_present() {
            return f.write_str("absent");
        }
        f.debug_map().entries(self.to_vec()).finish()
    }
}

/// A row with its fields separated once and read often: what lookups keep. `None` is null.
///
/// The names are shared by all rows of an origin, and the values stand in one piece of text: to find a field touches
/// little memory beside the value.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fields {
    names: Arc<[Box<str>]>,
    text: Box<str>,
    /// Where each value ends in `text`; `None` is null.
    ends: Box<[(u32, bool)]>,
}

impl Fields {
    /// A row of these fields; `None` is null.
    pub fn new<N: Into<Box<str>>, V: AsRef<str>>(fields: impl IntoIterator<Item = (N, Option<V>)>) -> Self {
        let (names, values): (Vec<Box<str>>, Vec<Option<V>>) =
            fields.into_iter().map(|(name, value)| (name.into(), value)).unzip();
        Self::named(names.into(), values)
    }

    /// A row whose names are shared with others. Values beyond the names are left out.
    pub fn named<V: AsRef<str>>(names: Arc<[Box<str>]>, values: impl IntoIterator<Item = Option<V>>) -> Self {
        let mut text = String::new();
        let mut ends = Vec::with_capacity(names.len());
        for value in values.into_iter().take(names.len()) {
            text.push_str(value.as_ref().map_or("", AsRef::as_ref));
            ends.push((text.len() as u32, value.is_none()));
        }
        Fields { names, text: text.into(), ends: ends.into() }
    }

    /// The names, for whoever keeps it elsewhere.
    #[cfg(any(feature = "disk", feature = "redis"))]
    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The values in one text, and where each ends there.
    #[cfg(any(feature = "disk", feature = "redis"))]
    pub(crate) fn values(&self) -> (&str, &[(u32, bool)]) {
        (&self.text, &self.ends)
    }

    /// A row of such parts, if they fit together.
    #[cfg(any(feature = "disk", feature = "redis"))]
    pub(crate) fn from_parts(names: Arc<[Box<str>]>, text: Box<str>, ends: Box<[(u32, bool)]>) -> Option<Self> {
        let mut last = 0;
        let fits = ends.iter().all(|(end, _)| {
            let follows = last <= *end && text.is_char_boundary(*end as usize);
            last = *end;
            follows
        });
        (fits && ends.len() <= names.len()).then_some(Fields { names, text, ends })
    }

    fn get(&self, field: &str) -> Option<Value<'_>> {
        self.value(self.names.iter().position(|name| **name == *field)?)
    }

    fn value(&self, index: usize) -> Option<Value<'_>> {
        let (end, is_null) = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1].0 };
        Some(if is_null { Value::Null } else { Value::Text(Cow::Borrowed(&self.text[start as usize..end as usize])) })
    }

    fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.names.iter().enumerate().filter_map(|(index, name)| Some((&**name, self.value(index)?)))
    }

    /// Bytes of memory this row takes beside itself, about: its two allocations, with what an allocator adds. The names are
    /// shared.
    pub fn heap(&self) -> usize {
        32 + self.text.len() + size_of_val(&*self.ends)
    }
}

/// The first of each of these fields in an object.
fn pick<'a, const N: usize, V>(object: &'a [u8], fields: [&str; N], read: impl Fn(&'a [u8]) -> V) -> [Option<V>; N] {
    let mut found = [const { None }; N];
    let mut missing = N;
    let mut walk = Walk::new(object);
    while missing > 0
        && let Some((name, value)) = walk.next()
    {
        for (field, slot) in fields.iter().zip(&mut found) {
            if slot.is_none() && is_name(name, field) {
                *slot = Some(read(value));
                missing -= 1;
            }
        }
    }
    found
}

/// Walks over the fields of a JSON object that is known to be valid: it was checked when its change was made. So the walk
/// need not look into values, only past them. Text that is no object has no fields.
struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(text: &'a [u8]) -> Self {
        Walk { text, at: 0 }
    }

    /// Moves past everything that separates names and values.
    fn skip_between(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' | b'{') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// Moves past a string, from its opening quote to behind its closing one.
    fn skip_string(&mut self) {
        self.at = plain_until(self.text, self.at + 1);
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
            self.at = plain_until(self.text, self.at);
        }
        self.at = (self.at + 1).min(self.text.len());
    }

    /// Moves past a value of any kind.
    fn skip_value(&mut self) {
        match self.text.get(self.at) {
            Some(b'"') => self.skip_string(),
            Some(b'{' | b'[') => {
                let mut depth = 0_usize;
                while let Some(byte) = self.text.get(self.at) {
                    match byte {
                        b'"' => {
                            self.skip_string();
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            _ => {
                while self
                    .text
                    .get(self.at)
                    .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'))
                {
                    self.at += 1;
                }
            }
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    /// A name between its quotes, still escaped, and a value as it is written.
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_between();
        let name = self.at;
        if self.text.get(name) != Some(&b'"') {
            return None;
        }
        self.skip_string();
        let name = &self.text[name + 1..(self.at - 1).max(name + 1)];
        // Not `skip_between`: a value may begin with the brace that it would pass over.
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b':') = self.text.get(self.at) {
            self.at += 1;
        }
        let value = self.at;
        self.skip_value();
        Some((name, &self.text[value..self.at]))
    }
}

/// Whether a name, as it is written, is this field. Names with escapes are rare and cost more.
fn is_name(name: &[u8], field: &str) -> bool {
    match name.contains(&b'\\') {
        // As it is written it may look like another name that has the backslash in it.
        true => unescape(name) == field,
        false => name == field.as_bytes(),
    }
}

/// The text of a string, given between its quotes.
fn unescape(inner: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(inner).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    serde_json::from_str::<String>(&format!("\"{text}\"")).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn value_of(value: &[u8]) -> Value<'_> {
    match value.first() {
        Some(b'n') => Value::Null,
        Some(b'"') if value.len() >= 2 => Value::Text(unescape(&value[1..value.len() - 1])),
        _ => Value::Other(std::str::from_utf8(value).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
