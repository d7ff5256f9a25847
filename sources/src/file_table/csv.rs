//! CSV with a header line.

use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use highwater_operators::row::Fields;
use highwater_operators::{Error, Result};

use super::Rows;

pub(super) fn read(file: &Path, key: Option<&str>) -> Result<HashMap<String, Fields>> {
    let path = file.display();
    let cannot = |error: csv::Error| match error.position() {
        Some(position) => Error::stop(format!("{path}, line {}: {}", position.line(), describe(&error))),
        None => Error::stop(format!("cannot read {path}: {}", describe(&error))),
    };
    let mut reader = csv::Reader::from_path(file).map_err(cannot)?;
    let columns = reader.headers().map_err(cannot)?.clone();
    let key = match key {
        None => 0,
        Some(key) => columns.iter().position(|column| column == key).ok_or_else(|| {
            let known: Vec<&str> = columns.iter().collect();
            Error::stop(format!("{path} has no column \"{key}\"; its columns are: {}", known.join(", ")))
        })?,
    };
    let names: Arc<[Box<str>]> = columns.iter().map(Box::from).collect();
    let mut rows = Rows::of(file);
    for record in reader.records() {
        let record = record.map_err(cannot)?;
        let line = record.position().map_or(0, csv::Position::line);
        let id = record.get(key).unwrap_or_default().to_owned();
        let row = Fields::named(names.clone(), record.iter().map(Some));
        rows.take(line, id, row)?;
    }
    Ok(rows.by_key)
}

fn describe(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Io(error) => error.to_string(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, but the header has {expected_len}; quote a field that holds a comma")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use highwater_operators::lookup::Loader;

    use super::super::FileTable;

    fn table(text: &str) -> (tempfile::TempDir, FileTable) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        std::fs::write(&path, text).unwrap();
        (folder, FileTable::csv(path))
    }

    #[track_caller]
    fn check_refused(text: &str, key: &str, why: &str) {
        let (_folder, table) = table(text);
        let error = table.key(key).open().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn rows_are_found_by_their_key() {
        let (_folder, table) = table("id,name\n1,\"a, b\"\n2,\n");
        table.open().unwrap();
        let row = table.at_hand("1").flatten().unwrap();
        assert_eq!(highwater_operators::Row::fields(&row).str("name").as_deref(), Some("a, b"));
        assert_eq!(table.at_hand("3"), Some(None));
    }

    #[test]
    fn mistakes_are_named_with_file_and_line() {
        check_refused("id,name\n1,a\n", "nam", "has no column \"nam\"; its columns are: id, name");
        check_refused("id,name\n1,a\n2\n", "id", "line 3: 1 fields, but the header has 2");
        check_refused("id,name\n1,a\n1,b\n", "id", "line 3: the key \"1\" stands in an earlier line too");
        let error = FileTable::csv("no/such.csv").open().unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such.csv: No such file"), "{error}");
    }
}
