//! A file as a table for lookups, held in memory: read once per process, before the dataflow starts.

mod csv;
mod json_lines;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use highwater_operators::action::BoxFuture;
use highwater_operators::lookup::Loader;
use highwater_operators::row::Fields;
use highwater_operators::{Error, Result};

/// A file whose rows are found by one column: CSV with a header line, or JSON lines.
#[derive(Debug)]
pub struct FileTable {
    path: PathBuf,
    form: Form,
    key: Option<String>,
    rows: OnceLock<HashMap<String, Fields>>,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Csv,
    JsonLines,
}

impl FileTable {
    /// The CSV file at this path. Say by [`key`](Self::key) which column finds a row.
    pub fn csv(path: impl Into<PathBuf>) -> Self {
        FileTable { path: path.into(), form: Form::Csv, key: None, rows: OnceLock::new() }
    }

    /// The file of JSON lines at this path, an object on each. Say by [`key`](Self::key) which of their fields finds a row. Strings are their text; numbers, truth values, lists and
    /// objects are the text that stands there.
    pub fn json_lines(path: impl Into<PathBuf>) -> Self {
        FileTable { form: Form::JsonLines, ..Self::csv(path) }
    }

    /// The column that finds a row. Default: the first; of JSON lines `id`.
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }
}

/// Rows as they are read, by their keys.
struct Rows<'a> {
    path: &'a Path,
    by_key: HashMap<String, Fields>,
}

impl<'a> Rows<'a> {
    fn of(path: &'a Path) -> Self {
        Rows { path, by_key: HashMap::new() }
    }

    /// Takes a row of a line. Two rows for one key would be a guess.
    fn take(&mut self, line: u64, key: String, row: Fields) -> Result<()> {
        match self.by_key.try_insert(key, row) {
            Ok(_) => Ok(()),
            Err(taken) => {
                let key = taken.entry.key().clone();
                Err(self.wrong(line, format!("the key \"{key}\" stands in an earlier line too; keys must be unique")))
            }
        }
    }

    fn wrong(&self, line: u64, what: impl std::fmt::Display) -> Error {
        Error::stop(format!("{}, line {line}: {what}", self.path.display()))
    }
}

/// The names of a row, shared with the row before where they are the same.
fn shared_names<'n>(last: &mut Arc<[Box<str>]>, names: impl Iterator<Item = &'n str> + Clone) -> Arc<[Box<str>]> {
    if !last.iter().map(AsRef::as_ref).eq(names.clone()) {
        *last = names.map(Box::from).collect();
    }
    last.clone()
}

impl Loader for FileTable {
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async move { Ok(keys.iter().map(|key| self.at_hand(key).flatten()).collect()) })
    }

    fn at_hand(&self, key: &str) -> Option<Option<Fields>> {
        self.rows.get().map(|rows| rows.get(key).cloned())
    }

    fn open(&self) -> Result {
        let rows = match self.form {
            Form::Csv => csv::read(&self.path, self.key.as_deref())?,
            Form::JsonLines => json_lines::read(&self.path, self.key.as_deref().unwrap_or("id"))?,
        };
        let _ = self.rows.set(rows);
        Ok(())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}
