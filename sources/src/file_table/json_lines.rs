//! JSON lines: an object on each, whose fields may differ from line to line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use hashbrown::HashMap;
use highwater_operators::row::Fields;
use highwater_operators::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Rows, shared_names};

pub(super) fn read(path: &Path, key: &str) -> Result<HashMap<String, Fields>> {
    let cannot = |error: std::io::Error| Error::stop(format!("cannot read {}: {error}", path.display()));
    let mut rows = Rows::of(path);
    let mut names = Default::default();
    for (number, line) in (1..).zip(BufReader::new(File::open(path).map_err(cannot)?).lines()) {
        let line = line.map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => rows.wrong(number, "not UTF-8"),
            _ => cannot(error),
        })?;
        if line.trim().is_empty() {
            continue;
        }
        let Object(fields) = serde_json::from_str(&line).map_err(|error| rows.wrong(number, error))?;
        let found = fields.iter().find(|(name, _)| name == key).map(|(_, value)| text(value));
        let Some(Some(found)) = found else {
            let known: Vec<&str> = fields.iter().map(|(name, _)| name.as_ref()).collect();
            return Err(rows.wrong(number, format!("no \"{key}\" to find the row by; its fields are: {}", known.join(", "))));
        };
        let found = found.into_owned();
        let names = shared_names(&mut names, fields.iter().map(|(name, _)| name.as_ref()));
        let row = Fields::named(names, fields.iter().map(|(_, value)| text(value)));
        rows.take(number, found, row)?;
    }
    Ok(rows.by_key)
}

/// A value as text; `None` is null.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'n') => None,
        Some(b'"') => serde_json::from_str::<String>(json).ok().map(Cow::Owned),
        _ => Some(Cow::Borrowed(json)),
    }
}

/// An object's fields in their order. Of a name that stands twice the first counts, as everywhere in rows.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with the fields of a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use highwater_operators::Row;
    use highwater_operators::lookup::Loader;

    use super::super::FileTable;

    fn table(text: &[u8]) -> (tempfile::TempDir, FileTable) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, FileTable::json_lines(path))
    }

    #[track_caller]
    fn check_refused(text: &[u8], why: &str) {
        let (_folder, table) = table(text);
        let error = table.open().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn rows_are_found_by_their_key() {
        let lines = "{\"id\":1,\"name\":\"a \\u00e4\",\"tags\":[1, 2]}\n\n{\"id\":\"x\",\"na\\u006de\":null,\"vip\":true}\n";
        let (_folder, table) = table(lines.as_bytes());
        table.open().unwrap();
        let field = |key: &str, name: &str| {
            let row = table.at_hand(key).flatten().unwrap();
            Row::fields(&row).str(name).map(|text| text.into_owned())
        };
        assert_eq!(field("1", "name").as_deref(), Some("a ä"));
        assert_eq!(field("1", "tags").as_deref(), Some("[1, 2]"));
        assert_eq!((field("x", "vip").as_deref(), field("x", "name")), (Some("true"), None));
        assert_eq!(table.at_hand("2"), Some(None));
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        check_refused(b"{\"id\":1}\n{\"id\":1}\n", "t.jsonl, line 2: the key \"1\" stands in an earlier line too");
        check_refused(b"{\"id\":1}\n\n{\"nr\":1,\"b\":2}\n", "line 3: no \"id\" to find the row by; its fields are: nr, b");
        check_refused(b"{\"id\":null}\n", "line 1: no \"id\" to find the row by");
        check_refused(b"[1]\n", "line 1: invalid type: sequence, expected an object with the fields of a row");
        check_refused(b"{\"id\":1", "line 1: EOF while parsing");
        check_refused(b"{\"id\":\"\xff\"}\n", "line 1: not UTF-8");
        let error = FileTable::json_lines("no/such.jsonl").open().unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such.jsonl: No such file"), "{error}");
    }
}
