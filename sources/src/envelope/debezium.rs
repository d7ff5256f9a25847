//! Debezium's envelope. What it says of a change is told at [`Envelope::debezium`](super::Envelope::debezium).

use std::borrow::Cow;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::position::Position;
use highwater_operators::row::Row;

use super::line::{Found, Names};
use super::path::Path;
use super::piece;

const VALUE_FIELDS: [&str; 6] = ["before", "after", "source", "op", "ts_ms", "payload"];

#[derive(Clone, Debug)]
pub(super) struct Debezium {
    /// Where the fields of a value stand in the pass over the line.
    fields: [usize; VALUE_FIELDS.len()],
    key: usize,
    value: usize,
    /// In place of the id that is put together.
    pub(super) id: Option<Path>,
    /// Columns of the row that are its key, in place of the record's key.
    pub(super) keys: Vec<Path>,
}

/// The parts of an envelope, as they are written.
struct Value<'a> {
    before: Option<&'a str>,
    after: Option<&'a str>,
    source: Option<&'a str>,
    op: Option<&'a str>,
    ts_ms: Option<&'a str>,
    payload: Option<&'a str>,
    /// The object that holds them.
    text: &'a str,
}

/// Where a change stands in the log of its database, by connector: fields of `source` that must be there, fields that count where
/// they are not null, and which operations need the row's key besides.
struct Log {
    must: &'static [&'static str],
    may: &'static [&'static str],
    needs_key: fn(Operation) -> bool,
}

impl Log {
    fn of(connector: &str) -> Option<Log> {
        let snapshot = |operation| operation == Operation::Read;
        let (must, may, needs_key): (&[_], &[_], fn(Operation) -> bool) = match connector {
            "postgresql" => (&["lsn"], &[], |_| true),
            "mysql" | "mariadb" => (&["file", "pos", "row"], &[], snapshot),
            "sqlserver" => (&["commit_lsn"], &["change_lsn", "event_serial_no"], snapshot),
            "db2" => (&["commit_lsn"], &["change_lsn"], |_| true),
            "oracle" => (&["scn"], &["rs_id", "ssn", "redo_thread"], |_| true),
            _ => return None,
        };
        Some(Log { must, may, needs_key })
    }
}

impl Debezium {
    pub(super) fn new(names: &mut Names) -> Self {
        let mut at = |name| names.number(name).expect("Debezium's envelope has few fields");
        Debezium { fields: VALUE_FIELDS.map(&mut at), key: at("key"), value: at("value"), id: None, keys: Vec::new() }
    }

    /// Whether a line has one of the fields by which it is known.
    pub(super) fn is_met(&self, found: &Found<'_>) -> bool {
        let [.., source, _, _, payload] = self.fields;
        [source, payload, self.value].into_iter().any(|field| found[field].is_some())
    }

    pub(super) fn read(
        &self,
        block: &Bytes,
        line: &str,
        found: &Found<'_>,
        position: Position,
    ) -> Result<Option<Change>, String> {
        let Some(value) = self.value(line, found)? else { return Ok(None) };
        let operation = operation(line, &value)?;
        let source = value.source.ok_or("\"source\" is missing: no change of Debezium's")?;
        if !source.starts_with('{') {
            return Err(piece::wrong(line, "source", source, "an object"));
        }
        let [table, collection, ts_ms] = Row::json(source.as_bytes()).pick_written(["table", "collection", "ts_ms"]);
        let table = piece::needed(line, "source.table", "a table", table.or(collection))?;
        let before = row(line, "before", value.before)?;
        let after = row(line, "after", value.after)?;
        let key = self.key(line, found[self.key], before, after)?;
        let id = match &self.id {
            Some(path) => piece::needed(line, &path.written, "an id", path.find_in(value.text))?,
            None => Cow::Owned(put_together(line, source, operation, key.as_deref())?),
        };
        let time_ms = match ts_ms.filter(|written| *written != "null") {
            Some(written) => piece::time(line, "source.ts_ms", written)?,
            None => value.ts_ms.map_or(Ok(0), |written| piece::time(line, "ts_ms", written))?,
        };
        let parts = Parts { id: &id, table: &table, key: key.as_deref(), operation, time_ms, before, after };
        Change::new(block.clone(), position, parts).map(Some)
    }

    /// The envelope, out of its wrappers; `None` for a tombstone.
    fn value<'a>(&self, line: &'a str, found: &Found<'a>) -> Result<Option<Value<'a>>, String> {
        let mut value = Value::of(line, self.fields.map(|field| found[field]));
        if let Some(record) = found[self.value] {
            match Value::inside(line, "value", record)? {
                Some(inside) => value = inside,
                None => return Ok(None),
            }
        }
        if let (None, Some(payload)) = (value.op, value.payload) {
            return Value::inside(line, "payload", payload);
        }
        Ok(Some(value))
    }

    /// The row's key: of the columns that were named, or of the record.
    fn key<'a>(
        &'a self,
        line: &str,
        key: Option<&'a str>,
        before: Option<&'a str>,
        after: Option<&'a str>,
    ) -> Result<Option<Cow<'a, str>>, String> {
        if !self.keys.is_empty() {
            let row = after.or(before).ok_or("neither \"before\" nor \"after\" holds the row with the key's columns")?;
            return piece::joined(line, "a key", self.keys.iter().map(|path| (&*path.written, path.find_in(row)))).map(Some);
        }
        let Some(mut key) = key.filter(|key| *key != "null") else { return Ok(None) };
        if !key.starts_with('{') {
            return piece::name(line, "key", key);
        }
        if let [Some(_), Some(payload)] = Row::json(key.as_bytes()).pick_written(["schema", "payload"])
            && payload.starts_with('{')
        {
            key = payload;
        }
        let columns: Vec<(Cow<'a, str>, &'a str)> = Row::json(key.as_bytes()).each_written().collect();
        if columns.is_empty() {
            return Ok(None);
        }
        match &columns[..] {
            // The name of the column is borrowed from here, and the key must not be.
            [(column, value)] => piece::needed(line, column, "a key", Some(value)).map(Some),
            columns => piece::joined(line, "a key", columns.iter().map(|(column, value)| (&**column, Some(*value))))
                .map(|list| Some(Cow::Owned(list.into_owned()))),
        }
    }
}

impl<'a> Value<'a> {
    fn of(text: &'a str, [before, after, source, op, ts_ms, payload]: [Option<&'a str>; VALUE_FIELDS.len()]) -> Self {
        Value { before, after, source, op, ts_ms, payload, text }
    }

    /// The envelope in a wrapper; `None` for null.
    fn inside(line: &str, field: &str, written: &'a str) -> Result<Option<Self>, String> {
        match written.as_bytes().first() {
            Some(b'{') => Ok(Some(Self::of(written, Row::json(written.as_bytes()).pick_written(VALUE_FIELDS)))),
            Some(b'n') => Ok(None),
            _ => Err(piece::wrong(line, field, written, "Debezium's envelope as an object, or null")),
        }
    }
}

fn operation(line: &str, value: &Value<'_>) -> Result<Operation, String> {
    let Some(written) = value.op else {
        return Err(
            "\"op\" is missing: no change of Debezium's (its messages on schemas, transactions and heartbeats belong in \
             topics of their own)"
                .to_owned(),
        );
    };
    match written {
        "\"c\"" => Ok(Operation::Insert),
        "\"u\"" => Ok(Operation::Update),
        "\"d\"" => Ok(Operation::Delete),
        "\"r\"" => Ok(Operation::Read),
        "\"t\"" => Err("\"op\" is \"t\": the table was truncated, which says nothing of single rows; deal with it by hand, and \
             leave such events out with skipped.operations=t"
            .to_owned()),
        "\"m\"" => Err("\"op\" is \"m\": a message in the log, no change of a row; leave it out at the connector".to_owned()),
        _ => Err(piece::wrong(line, "op", written, "\"c\", \"u\", \"d\" or \"r\"")),
    }
}

fn row<'a>(line: &str, field: &str, written: Option<&'a str>) -> Result<Option<&'a str>, String> {
    match written {
        Some(text) if text.starts_with('"') => Err(format!(
            "\"{field}\" is text that holds a row, as MongoDB's connector writes it; it must be an object or null{}",
            piece::column(line, text)
        )),
        written => piece::row(line, field, written),
    }
}

/// An id of what is the same in every copy of a change.
fn put_together(line: &str, source: &str, operation: Operation, key: Option<&str>) -> Result<String, String> {
    let row = Row::json(source.as_bytes());
    let [connector, name, db, schema, table, collection] =
        row.pick_written(["connector", "name", "db", "schema", "table", "collection"]);
    let connector = piece::needed(line, "source.connector", "an id, which begins with the connector", connector)?;
    let log = Log::of(&connector).ok_or_else(|| {
        format!(
            "where the changes of the connector \"{connector}\" stand in their log is not known here; say with \
             .id(\"source.…\") what identifies a change"
        )
    })?;
    if key.is_none() && (log.needs_key)(operation) {
        return Err(format!(
            "there is no key, and without one the id of this change would be that of others too ({connector}); give lines as \
             {{\"key\":…,\"value\":…}}, or name the key's columns with .key(\"…\")"
        ));
    }
    let mut id = String::with_capacity(96);
    id.push_str(&connector);
    let mut part = |separator: char, written: Option<&str>| {
        id.push(separator);
        id.push_str(written.filter(|written| *written != "null").unwrap_or_default().trim_matches('"'));
    };
    part('/', name);
    for field in log.must {
        let written = row.written(field).filter(|written| *written != "null");
        let written = written
            .ok_or_else(|| format!("\"source.{field}\" is missing or null, and without it no id can be made ({connector})"))?;
        part('/', Some(written));
    }
    for field in log.may {
        part('/', row.written(field));
    }
    part('/', db);
    part('.', schema);
    part('.', table.or(collection));
    part('/', Some(operation.as_str()));
    part('/', None);
    id.push_str(key.unwrap_or_default());
    Ok(id)
}
