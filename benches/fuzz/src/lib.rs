//! What the targets share: a plain reader of JSON to hold rows against, and folders in memory.

use std::fmt;
use std::path::Path;

use highwater_operators::row::{Row, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// An object as serde_json reads it, in its order and with what stands twice.
pub struct Object(pub Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        input.deserialize_map(Fields)
    }
}

/// Reads a row in every way there is, and holds it against serde_json where that accepts its text.
pub fn check_row(text: &[u8]) {
    let row = Row::json(text);
    let all = row.to_vec();
    let written: Vec<_> = row.each_written().collect();
    let _ = (row.get("a"), row.pick(["id", "b", ""]), row.pick_written(["a", "id"]), format!("{row:?}"));
    let Ok(Object(expected)) = serde_json::from_slice::<Object>(text) else { return };
    assert_eq!(all.len(), expected.len());
    assert_eq!(written.len(), expected.len());
    for (((name, value), (again, raw)), (expected_name, expected)) in all.into_iter().zip(written).zip(&expected) {
        assert_eq!((&*name, &*again), (expected_name.as_str(), expected_name.as_str()));
        assert_eq!(json_of(value), *expected);
        assert_eq!(serde_json::from_str::<serde_json::Value>(raw).unwrap(), *expected);
    }
    for (name, _) in &expected {
        let (_, first) = expected.iter().find(|(other, _)| other == name).unwrap();
        assert_eq!(json_of(row.get(name).unwrap()), *first);
    }
}

fn json_of(value: Value<'_>) -> serde_json::Value {
    match value {
        Value::Null | Value::Unchanged => serde_json::Value::Null,
        Value::Text(text) => text.into(),
        Value::Other(raw) => serde_json::from_str(raw).unwrap(),
    }
}

/// A folder in memory where there is such a place: a target makes one per input.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder can be made")
}
