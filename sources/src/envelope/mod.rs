//! Envelopes: what a line of JSON must look like to be a change.
//!
//! The default envelope is one object per change:
//!
//! ```json
//! {"id":"c-1","table":"orders","op":"update","key":"o-1","ts":1700000000000,"before":{"status":"new"},"after":{"status":"paid"}}
//! ```
//!
//! | field | what it is | may be missing |
//! | --- | --- | --- |
//! | `id` | unique in its source; a string or a number | no |
//! | `table` | where the row lives | yes: empty |
//! | `op` | `insert`, `update`, `delete` or `read`; also `c`, `u`, `d`, `r` | no |
//! | `key` | the row's key; a string or a number | yes: the id is the key |
//! | `ts` | commit time: Unix milliseconds, or RFC 3339 text | yes: 0 |
//! | `before`, `after` | rows, as objects; `null` is no row | yes: no row |
//!
//! Further fields are passed over. Lines of another shape are mapped ([`Envelope::mapping`]), are rows without an envelope
//! ([`Envelope::rows`]), or come from Debezium ([`Envelope::debezium`], [`Envelope::auto`]).
//!
//! A line is read in one pass that checks all of it and remembers where the named fields stand; nothing is copied unless a
//! name has to be unescaped or put together.

mod debezium;
mod line;
mod mapped;
mod path;
pub(crate) mod piece;
mod quick;

use std::sync::Arc;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation};
use highwater_operators::position::Position;

use self::debezium::Debezium;
use self::line::Names;
use self::mapped::{Mapped, RowFrom, Table, Verb};
use self::path::Path;

/// How lines become changes. Cheap to clone; built at start, shared by all readers.
///
/// ```
/// use bytes::Bytes;
/// use highwater_operators::{Operation, Position};
/// use highwater_sources::Envelope;
///
/// let events = Envelope::mapping()
///     .id("event_id")
///     .table("type")
///     .key("payload.order_id")
///     .op("kind", [("created", Operation::Insert), ("changed", Operation::Update)])
///     .time("at")
///     .after("payload");
/// let line = br#"{"event_id":"e-1","type":"orders","kind":"created","at":"2024-01-01T00:00:00Z","payload":{"order_id":7}}"#;
/// let change = events.parse(Bytes::from_static(line), Position { partition: 0, at: 0, within: 0 }).unwrap();
/// assert_eq!((change.id(), change.table(), change.key()), ("e-1", "orders", "7"));
/// assert_eq!(change.after().parse("order_id"), Some(7));
/// ```
#[derive(Clone, Debug)]
pub struct Envelope(Arc<Shape>);

#[derive(Clone, Debug)]
struct Shape {
    names: Names,
    form: Form,
    problem: Option<String>,
}

#[derive(Clone, Debug)]
enum Form {
    Mapped(Mapped),
    Debezium(Debezium),
    /// The default envelope or Debezium's, whichever the line is.
    Auto(Mapped, Debezium),
}

impl Default for Envelope {
    /// The default envelope, as the module describes it.
    fn default() -> Self {
        let mut names = Names::default();
        let mapped = Mapped::usual(&mut names);
        Envelope::of(names, Form::Mapped(mapped))
    }
}

impl Envelope {
    fn of(names: Names, form: Form) -> Self {
        Envelope(Arc::new(Shape { names, form, problem: None }))
    }

    /// Lines of a shape of your own, told field by field. Fields are named by dotted paths into nested objects (`\.` is a dot
    /// in a name).
    ///
    /// [`id`](Self::id) must be named. Every other field is as follows unless named: the table is empty, the operation insert,
    /// the id is the key, the time 0, and the whole line is the row. A field that is named must be in every line; only
    /// rows may be missing or null.
    pub fn mapping() -> Self {
        Envelope::of(Names::default(), Form::Mapped(Mapped::default()))
    }

    /// Lines that are rows of this table, without any envelope. Name the field that is the [`id`](Self::id).
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use highwater_operators::{Operation, Position};
    /// # use highwater_sources::Envelope;
    /// let orders = Envelope::rows("orders").id("order_id");
    /// let line = Bytes::from_static(br#"{"order_id":7,"status":"paid"}"#);
    /// let change = orders.parse(line, Position { partition: 0, at: 0, within: 0 }).unwrap();
    /// assert_eq!((change.id(), change.table(), change.operation()), ("7", "orders", Operation::Insert));
    /// assert_eq!(change.row().str("status").as_deref(), Some("paid"));
    /// ```
    pub fn rows(table: impl Into<String>) -> Self {
        Envelope::mapping().fixed_table(table)
    }

    /// Debezium's envelope, with or without the `schema`/`payload` wrapper around it, as the value alone or as a
    /// record `{"key":…,"value":…}`.
    ///
    /// | of the change | is |
    /// | --- | --- |
    /// | operation | `op`: `c`, `u`, `d` or `r`; `t` (truncate) and `m` (message) are refused |
    /// | table, time | `source.table`, `source.ts_ms` (else the envelope's `ts_ms`) |
    /// | key | the record's key (several columns: a list of them as JSON), or the columns named by [`key`](Self::key) |
    /// | id | made of where the change stands in the database's log, as below |
    ///
    /// Debezium gives changes no id, and may write one again after a restart. So an id is put together from what is the same in every copy:
    /// connector, `source.name`, place in the log, database, schema, table, operation, key. The place is, by `source.connector`:
    ///
    /// | connector | place in the log | key needed |
    /// | --- | --- | --- |
    /// | `postgresql` | `lsn` | yes: rows of one `COPY` share it |
    /// | `mysql`, `mariadb` | `file`, `pos`, `row` | for `r` alone: a snapshot's rows share it |
    /// | `sqlserver` | `commit_lsn`, and `change_lsn`, `event_serial_no` unless null | for `r` alone |
    /// | `db2` | `commit_lsn`, and `change_lsn` unless null | yes |
    /// | `oracle` | `scn`, and `rs_id`, `ssn`, `redo_thread` unless null | yes |
    ///
    /// For other connectors name what identifies a change with [`id`](Self::id), such as `source.vgtid`. A line of which no id can be made is
    /// refused. Making one costs a small allocation per change and a copy of its rows.
    ///
    /// A tombstone (a null value) says nothing that the delete before it has not said: [`read`](Self::read) passes over it.
    pub fn debezium() -> Self {
        let mut names = Names::default();
        let debezium = Debezium::new(&mut names);
        Envelope::of(names, Form::Debezium(debezium))
    }

    /// The default envelope or Debezium's, whichever each line is: a line with `id` is in the default envelope, one with `source`, `payload` or
    /// `value` is Debezium's. To look costs nothing: both are read in the same pass. [`id`](Self::id) and [`key`](Self::key) speak
    /// of Debezium's lines.
    pub fn auto() -> Self {
        let mut names = Names::default();
        let mapped = Mapped::usual(&mut names);
        let debezium = Debezium::new(&mut names);
        Envelope::of(names, Form::Auto(mapped, debezium))
    }

    /// The field that is the change's id: a string or a number. With Debezium's envelope a path into the value, in place of the
    /// id that is put together.
    pub fn id(self, path: &str) -> Self {
        self.with(path, |form, path| match form {
            Form::Mapped(mapped) => mapped.id = Some(path),
            Form::Debezium(debezium) | Form::Auto(_, debezium) => debezium.id = Some(path),
        })
    }

    /// The field that is the row's key: a string or a number. With Debezium's envelope a column of the row.
    pub fn key(self, path: &str) -> Self {
        self.keys([path])
    }

    /// Several fields that are the row's key together, written as a list of JSON.
    pub fn keys<'p>(mut self, paths: impl IntoIterator<Item = &'p str>) -> Self {
        let mut first = true;
        for path in paths {
            let clear = std::mem::take(&mut first);
            self = self.with(path, move |form, path| {
                let keys = match form {
                    Form::Mapped(mapped) => {
                        mapped.keys_needed = true;
                        &mut mapped.keys
                    }
                    Form::Debezium(debezium) | Form::Auto(_, debezium) => &mut debezium.keys,
                };
                if clear {
                    keys.clear();
                }
                keys.push(path);
            });
        }
        self
    }

    /// The field that names the table.
    pub fn table(self, path: &str) -> Self {
        self.mapped("table", path, |mapped, path| mapped.table = Table::At(path, true))
    }

    /// Every line is of this table.
    pub fn fixed_table(self, table: impl Into<String>) -> Self {
        let table = table.into();
        self.mapped("fixed_table", "", |mapped, _| mapped.table = Table::Fixed(table.into()))
    }

    /// The field that tells the operation, and what its values mean. Without values: the usual words, `insert`, `update`,
    /// `delete`, `read`, `c`, `u`, `d`, `r`.
    pub fn op<'v>(self, path: &str, values: impl IntoIterator<Item = (&'v str, Operation)>) -> Self {
        let values: Box<[(Box<str>, Operation)]> =
            values.into_iter().map(|(value, operation)| (value.into(), operation)).collect();
        self.mapped("op", path, |mapped, path| mapped.verb = Verb::At(path, values))
    }

    /// Every line is this operation.
    pub fn fixed_op(self, operation: Operation) -> Self {
        self.mapped("fixed_op", "", |mapped, _| mapped.verb = Verb::Fixed(operation))
    }

    /// The field that tells the commit time: Unix milliseconds, or RFC 3339 text.
    pub fn time(self, path: &str) -> Self {
        self.mapped("time", path, |mapped, path| mapped.time = Some((path, true)))
    }

    /// The field that holds the row before the change.
    pub fn before(self, path: &str) -> Self {
        self.mapped("before", path, |mapped, path| mapped.before = RowFrom::At(path))
    }

    /// The field that holds the row after the change. For a delete it is the row before, unless [`before`](Self::before) is named.
    pub fn after(self, path: &str) -> Self {
        self.mapped("after", path, |mapped, path| mapped.after = RowFrom::At(path))
    }

    fn mapped(mut self, what: &str, path: &str, set: impl FnOnce(&mut Mapped, Path)) -> Self {
        if let Form::Mapped(_) = self.0.form {
            return self.with(path, |form, path| {
                if let Form::Mapped(mapped) = form {
                    set(mapped, path);
                }
            });
        }
        let shape = Arc::make_mut(&mut self.0);
        shape.problem.get_or_insert_with(|| format!("Debezium's envelope says itself what .{what}(..) would say; leave it out"));
        self
    }

    fn with(mut self, path: &str, set: impl FnOnce(&mut Form, Path)) -> Self {
        let Shape { names, form, problem } = Arc::make_mut(&mut self.0);
        let inside_value = matches!(form, Form::Debezium(_) | Form::Auto(..));
        match Path::new(path, (!inside_value).then_some(names)) {
            Ok(path) => set(form, path),
            Err(why) => drop(problem.get_or_insert(why)),
        }
        self
    }

    /// Says what is missing in the envelope's own description; a source asks this before it reads.
    ///
    /// # Errors
    /// A sentence that says which call to add or to leave out.
    pub fn check(&self) -> Result<(), String> {
        match (&self.0.problem, &self.0.form) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Form::Mapped(Mapped { id: None, .. })) => {
                Err("the envelope names no id; say with .id(\"field\") what identifies a change".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Makes a change of one line. `block` is the slice that holds the line and nothing else.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the line, with the field, and the column (in bytes, from 1) where that is known.
    pub fn parse(&self, block: Bytes, position: Position) -> Result<Change, String> {
        self.read(block, position)?.ok_or_else(|| {
            "the value is null: a tombstone, which repeats the delete before it; the connector leaves it out with \
             tombstones.on.delete=false"
                .to_owned()
        })
    }

    /// Like [`parse`](Self::parse), but `None` for a line that rightly says nothing: a tombstone of Debezium's.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn read(&self, block: Bytes, position: Position) -> Result<Option<Change>, String> {
        let text = std::str::from_utf8(&block).map_err(|utf8| format!("not UTF-8 from byte {} on", utf8.valid_up_to()))?;
        let text = text.trim_ascii();
        if text == "null" && !matches!(self.0.form, Form::Mapped(_)) {
            return Ok(None);
        }
        let found = self.0.names.find_in(text)?;
        match &self.0.form {
            Form::Mapped(mapped) => mapped.read(&block, text, &found, position).map(Some),
            Form::Debezium(debezium) => debezium.read(&block, text, &found, position),
            Form::Auto(mapped, debezium) if mapped.is_met(&found) || !debezium.is_met(&found) => {
                mapped.read(&block, text, &found, position).map(Some)
            }
            Form::Auto(_, debezium) => debezium.read(&block, text, &found, position),
        }
    }
}

#[cfg(test)]
mod tests;
