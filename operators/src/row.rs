//! A row, read lazily: nothing is parsed before a field is asked for, and several fields are found in one walk.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A row of a change, or of a lookup. Cheap to copy; borrows from the change.
///
/// A row answers alike whatever it is made of. *Absent* (no such row, or no such field), *null* and a value are three things.
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
    Fields(&'a Fields),
}

/// The value of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The field is there and null.
    Null,
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// A number, a boolean, a list or an object, as it was written.
    Other(&'a str),
}

impl<'a> Value<'a> {
    /// The value as text: strings unescaped, everything else as it was written; `None` for null.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Value::Null => None,
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

    /// One field, parsed: `None` if it is absent, null or does not parse.
    pub fn parse<T: FromStr>(&self, field: &str) -> Option<T> {
        self.str(field)?.parse().ok()
    }

    /// Several fields in one walk over the row, which ends at the last of them. Of a field that stands twice the first counts.
    pub fn pick<const N: usize>(&self, fields: [&str; N]) -> [Option<Value<'a>>; N] {
        match self.0 {
            Form::Absent => [const { None }; N],
            Form::Fields(row) => fields.map(|field| row.get(field)),
            Form::Json(object) => {
                let mut found = [None; N];
                // Checked as text once here, strings in it need no check each.
                let mut walk = serde_json::Deserializer::from_str(std::str::from_utf8(object).unwrap_or_default());
                // A row was checked when its change was made. An error here means that the walk ended early, as it should
                // once everything is found, or that this is no object and has no fields.
                let _ = walk.deserialize_map(Walk { fields: &fields, found: &mut found, missing: N });
                found.map(|raw| raw.map(value_of))
            }
        }
    }

    /// The row as the text of a JSON object, if it is made of one.
    pub fn raw_json(&self) -> Option<&'a str> {
        match self.0 {
            Form::Json(object) => std::str::from_utf8(object).ok(),
            _ => None,
        }
    }

    /// Every field with its value, in the order of the row.
    pub fn to_vec(&self) -> Vec<(Cow<'a, str>, Value<'a>)> {
        match self.0 {
            Form::Absent => Vec::new(),
            Form::Fields(row) => row.0.iter().map(|(name, value)| (Cow::Borrowed(&**name), field_value(value))).collect(),
            Form::Json(object) => {
                let mut all = Vec::new();
                let mut walk = serde_json::Deserializer::from_str(std::str::from_utf8(object).unwrap_or_default());
                let _ = walk.deserialize_map(WalkAll(&mut all));
                all.into_iter().map(|(name, raw)| (name, value_of(raw))).collect()
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
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fields(Box<[(Box<str>, Option<Box<str>>)]>);

impl Fields {
    /// A row of these fields; `None` is null.
    pub fn new<N: Into<Box<str>>, V: Into<Box<str>>>(fields: impl IntoIterator<Item = (N, Option<V>)>) -> Self {
        Fields(fields.into_iter().map(|(name, value)| (name.into(), value.map(Into::into))).collect())
    }

    fn get(&self, field: &str) -> Option<Value<'_>> {
        self.0.iter().find(|(name, _)| **name == *field).map(|(_, value)| field_value(value))
    }

    /// Bytes of memory this row takes, about.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| 32 + name.len() + value.as_ref().map_or(0, |value| value.len())).sum()
    }
}

fn field_value(value: &Option<Box<str>>) -> Value<'_> {
    match value {
        None => Value::Null,
        Some(text) => Value::Text(Cow::Borrowed(text)),
    }
}

fn value_of(raw: &RawValue) -> Value<'_> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Value::Null,
        // Without a backslash the text between the quotes is the string; most strings are such.
        Some(b'"') => match memchr_backslash(text) {
            false => Value::Text(Cow::Borrowed(&text[1..text.len() - 1])),
            true => Value::Text(serde_json::from_str::<String>(text).map(Cow::Owned).unwrap_or(Cow::Borrowed(text))),
        },
        _ => Value::Other(text),
    }
}

fn memchr_backslash(text: &str) -> bool {
    text.as_bytes().contains(&b'\\')
}

struct Walk<'f, 'a> {
    fields: &'f [&'f str],
    found: &'f mut [Option<&'a RawValue>],
    missing: usize,
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(mut self, mut map: M) -> Result<(), M::Error> {
        while self.missing > 0
            && let Some(slot) = map.next_key_seed(Which(self.fields))?
        {
            match slot {
                Some(slot) if self.found[slot].is_none() => {
                    self.found[slot] = Some(map.next_value()?);
                    self.missing -= 1;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads a key and says which of the wanted fields it is, without keeping the key.
struct Which<'f>(&'f [&'f str]);

impl<'a> DeserializeSeed<'a> for Which<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Which<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| *field == name))
    }
}

struct WalkAll<'f, 'a>(&'f mut Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Visitor<'a> for WalkAll<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<String>()? {
            self.0.push((Cow::Owned(name), map.next_value()?));
        }
        Ok(())
    }
}
