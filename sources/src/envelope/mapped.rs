//! Envelopes told field by field; the default envelope is one of them.

use std::borrow::Cow;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::position::Position;

use super::line::{Found, Names};
use super::path::Path;
use super::piece;

#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub(super) id: Option<Path>,
    pub(super) table: Table,
    pub(super) verb: Verb,
    /// Without one the id is the key.
    pub(super) keys: Vec<Path>,
    /// Whether the key must be there.
    pub(super) keys_needed: bool,
    /// Where it stands, and whether it must.
    pub(super) time: Option<(Path, bool)>,
    pub(super) before: RowFrom,
    pub(super) after: RowFrom,
}

#[derive(Clone, Debug)]
pub(super) enum Table {
    Fixed(Box<str>),
    /// Where it stands, and whether it must.
    At(Path, bool),
}

#[derive(Clone, Debug)]
pub(super) enum Verb {
    Fixed(Operation),
    /// Where it stands, and what its values mean; without values the usual words.
    At(Path, Box<[(Box<str>, Operation)]>),
}

#[derive(Clone, Debug)]
pub(super) enum RowFrom {
    Nowhere,
    Line,
    At(Path),
}

impl Default for Mapped {
    fn default() -> Self {
        Mapped {
            id: None,
            table: Table::Fixed("".into()),
            verb: Verb::Fixed(Operation::Insert),
            keys: Vec::new(),
            keys_needed: true,
            time: None,
            before: RowFrom::Nowhere,
            after: RowFrom::Line,
        }
    }
}

impl Mapped {
    /// The default envelope.
    pub(super) fn usual(names: &mut Names) -> Self {
        let mut at = |name| Path::new(name, Some(names)).expect("the default envelope has few fields");
        Mapped {
            id: Some(at("id")),
            table: Table::At(at("table"), false),
            verb: Verb::At(at("op"), Box::default()),
            keys: vec![at("key")],
            keys_needed: false,
            time: Some((at("ts"), false)),
            before: RowFrom::At(at("before")),
            after: RowFrom::At(at("after")),
        }
    }

    /// Whether a line has the field by which it is known.
    pub(super) fn is_met(&self, found: &Found<'_>) -> bool {
        self.id.as_ref().is_some_and(|id| id.find(found).is_some())
    }

    pub(super) fn read(&self, block: &Bytes, line: &str, found: &Found<'_>, position: Position) -> Result<Change, String> {
        let id = self.id.as_ref().ok_or("the envelope names no id; say with .id(\"field\") what identifies a change")?;
        let id = piece::needed(line, &id.written, "an id", id.find(found))?;
        let key = self.key(line, found)?;
        let table = self.table(line, found)?;
        let operation = self.operation(line, found)?;
        let time_ms = match &self.time {
            None => 0,
            Some((path, needed)) => match path.find(found).filter(|written| !needed || *written != "null") {
                Some(written) => piece::time(line, &path.written, written)?,
                None if *needed => return Err(format!("\"{}\" is missing; it was named as the time", path.written)),
                None => 0,
            },
        };
        let mut before = self.before.find(line, found)?;
        let mut after = self.after.find(line, found)?;
        if operation == Operation::Delete && matches!(self.before, RowFrom::Nowhere) {
            before = after.take();
        }
        let parts = Parts { id: &id, table: &table, key: key.as_deref(), operation, time_ms, before, after };
        Change::new(block.clone(), position, parts)
    }

    fn key<'a>(&'a self, line: &str, found: &Found<'a>) -> Result<Option<Cow<'a, str>>, String> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        if let ([path], false) = (&self.keys[..], self.keys_needed) {
            return Ok(path.find(found).map(|written| piece::name(line, &path.written, written)).transpose()?.flatten());
        }
        piece::joined(line, "a key", self.keys.iter().map(|path| (&*path.written, path.find(found)))).map(Some)
    }

    fn table<'a>(&'a self, line: &str, found: &Found<'a>) -> Result<Cow<'a, str>, String> {
        match &self.table {
            Table::Fixed(table) => Ok(Cow::Borrowed(table)),
            Table::At(path, needed) => match path.find(found) {
                Some(written) if written.starts_with('"') => piece::needed(line, &path.written, "a table", Some(written)),
                Some(written) => Err(piece::wrong(line, &path.written, written, "a string")),
                None if *needed => Err(format!("\"{}\" is missing; it was named as the table", path.written)),
                None => Ok(Cow::Borrowed("")),
            },
        }
    }

    fn operation(&self, line: &str, found: &Found<'_>) -> Result<Operation, String> {
        let (path, values) = match &self.verb {
            Verb::Fixed(operation) => return Ok(*operation),
            Verb::At(path, values) => (path, values),
        };
        let written = path.find(found);
        let word = piece::needed(line, &path.written, "an operation", written)?;
        let known = match &values[..] {
            [] => Operation::parse(&word),
            values => values.iter().find(|(value, _)| **value == *word).map(|(_, operation)| *operation),
        };
        known.ok_or_else(|| {
            let words = match &values[..] {
                [] => "\"insert\", \"update\", \"delete\" or \"read\"".to_owned(),
                values => values.iter().map(|(value, _)| format!("\"{value}\"")).collect::<Vec<_>>().join(" or "),
            };
            piece::wrong(line, &path.written, written.unwrap_or_default(), &words)
        })
    }
}

impl RowFrom {
    fn find<'a>(&self, line: &'a str, found: &Found<'a>) -> Result<Option<&'a str>, String> {
        match self {
            RowFrom::Nowhere => Ok(None),
            RowFrom::Line => Ok(Some(line)),
            RowFrom::At(path) => piece::row(line, &path.written, path.find(found)),
        }
    }
}
