//! Which rows of the tables that are being read were read: what of the stream concerns them is handed over, and the rest comes with its page.
//!
//! Whether a key was read is a question of order, and order is the server's. A whole number is compared here; of any other key the server is asked,
//! change by change. That is rare: only while a table is partly read, that is after a crash in its midst, or for a table that was added to a
//! running pipeline.

use std::collections::BTreeMap;

use bytes::BytesMut;
use highwater_operators::change::Operation;
use highwater_operators::postgres::{Connection, Url, failed, quote_text};
use highwater_operators::{Error, Result};
use tokio_postgres::Statement;
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::super::relation::Relation;
use super::super::token::{Parts, Range, TableProgress};
use super::key::TableKey;
use super::{Kind, Page, ranges, session};

/// What its connection is for.
const ASKS: &str = "snapshot (what was read)";

/// How far each table was read.
pub(in super::super) struct Progress {
    url: Url,
    tables: BTreeMap<u32, Table>,
    /// Where the server is asked. Opened when it is asked first.
    connection: Option<Connection>,
}

/// A table, and how it is told whether a key of it was read.
struct Table {
    parts: Parts,
    key: Option<TableKey>,
    how: Option<How>,
}

/// How it is told whether a key was read.
enum How {
    /// No row was read.
    Nothing,
    /// By numbers: what is in one of these, beyond the first and up to the second, was not read.
    Numbers(Vec<(Option<i64>, Option<i64>)>),
    /// By the server: whether it was not read.
    Server(Statement),
}

impl Progress {
    /// Of what a token says, or what was planned.
    pub(in super::super) fn new(url: &Url, tables: &[TableProgress]) -> Self {
        let mut progress = Progress { url: url.clone(), tables: BTreeMap::new(), connection: None };
        for table in tables {
            progress.advance(table.clone());
        }
        progress
    }

    /// Whether rows of this table are still to be read.
    pub(in super::super) fn holds(&self, table: u32) -> bool {
        self.tables.get(&table).is_some_and(|table| table.parts != Parts::Done)
    }

    /// Whether rows of any table are still to be read.
    pub(in super::super) fn is_over(&self) -> bool {
        self.tables.values().all(|table| table.parts == Parts::Done)
    }

    /// Whether the table was planned at all.
    pub(in super::super) fn knows(&self, table: u32) -> bool {
        self.tables.contains_key(&table)
    }

    /// Rows were read, and are handed over.
    pub(in super::super) fn take(&mut self, page: &Page) {
        let (oid, piece) = match &page.0 {
            Kind::Rows(piece) => (piece.table.relation.oid, Some(piece)),
            Kind::Gone(oid) => (*oid, None),
        };
        let Some(table) = self.tables.get_mut(&oid) else { return };
        table.how = None;
        match piece {
            Some(piece) => ranges::advance(&mut table.parts, &piece.range, piece.read_to.clone()),
            None => table.parts = Parts::Done,
        }
    }

    /// What is known of a table, in place of what was.
    pub(in super::super) fn advance(&mut self, table: TableProgress) {
        let key = self.tables.remove(&table.oid).and_then(|table| table.key);
        self.tables.insert(table.oid, Table { parts: table.parts, key, how: None });
    }

    /// How far all tables are.
    pub(in super::super) fn tables(&self) -> Vec<TableProgress> {
        self.tables.iter().map(|(oid, table)| TableProgress { oid: *oid, parts: table.parts.clone() }).collect()
    }

    /// Whether a change of this table is left out, because its row comes with a page that is read later, as of a later point.
    ///
    /// **A delete is never left out.** A run that crashed may have handed over the row from a page whose token was not saved: when it is deleted
    /// before it is read again, no page tells of it any more. A delete of a row that nobody was told of does no harm.
    pub(in super::super) async fn leaves_out(&mut self, operation: Operation, relation: &Relation, key: &[&str]) -> Result<bool> {
        if !matches!(operation, Operation::Insert | Operation::Update) || !self.holds(relation.oid) {
            return Ok(false);
        }
        Ok(!self.is_read(relation, key).await?)
    }

    /// The row of this key is wanted again, although it was read: the stream told that it is there, and not all of it. (A change of the key does
    /// not tell large values that stay as they are. What was done under the old key is undone by the delete.) It comes with a round.
    pub(in super::super) async fn read_again(&mut self, relation: &Relation, key: &[&str]) -> Result {
        let of_table = match self.tables.get(&relation.oid).and_then(|table| table.key.clone()) {
            Some(known) => known,
            None => self.key(relation).await?,
        };
        let names = of_table.columns.iter().map(|column| column.name.as_str());
        let values = ranges::in_order(names, relation, key).ok_or_else(|| other_key(&of_table, relation))?;
        let table = self.tables.entry(relation.oid).or_insert_with(|| Table { parts: Parts::Done, key: None, how: None });
        ranges::again(&mut table.parts, values.into_iter().map(str::to_owned).collect());
        table.how = None;
        table.key = Some(of_table);
        Ok(())
    }

    /// Asks for the key of a table.
    async fn key(&mut self, relation: &Relation) -> Result<TableKey> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(session::open(&self.url, ASKS).await?),
        };
        let key = TableKey::of(connection, relation.oid).await?;
        key.ok_or_else(|| super::table::without_key(&relation.table))
    }

    /// Whether the row of this key was read. The values are those of the relation's key, in its order.
    pub(in super::super) async fn is_read(&mut self, relation: &Relation, key: &[&str]) -> Result<bool> {
        if self.connection.as_ref().is_some_and(|connection| connection.is_closed()) {
            // What was prepared on it is gone too.
            self.connection = None;
            self.tables.values_mut().for_each(|table| table.how = None);
        }
        let Some(table) = self.tables.get_mut(&relation.oid) else { return Ok(true) };
        let Parts::Ranges(ranges) = &table.parts else { return Ok(true) };
        if table.how.is_none() && ranges::is_untouched(ranges) {
            table.how = Some(How::Nothing);
        }
        if matches!(table.how, Some(How::Nothing)) {
            return Ok(false);
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(session::open(&self.url, ASKS).await?),
        };
        if table.key.is_none() {
            table.key = TableKey::of(connection, relation.oid).await?;
        }
        let Some(of_table) = &table.key else { return Err(super::table::without_key(&relation.table)) };
        let names = of_table.columns.iter().map(|column| column.name.as_str());
        let values = ranges::in_order(names, relation, key).ok_or_else(|| other_key(of_table, relation))?;
        if table.how.is_none() {
            table.how = Some(match numbers(of_table, ranges) {
                Some(numbers) => How::Numbers(numbers),
                None => How::Server(prepare(connection, of_table, ranges).await?),
            });
        }
        match &table.how {
            Some(How::Numbers(unread)) => {
                let number = values.first().and_then(|text| text.parse().ok());
                let number: i64 = number.ok_or_else(|| Error::stop(format!("a key of {} is no whole number", relation.table)))?;
                let is_in = |(above, up_to): &(Option<i64>, Option<i64>)| {
                    above.is_none_or(|above| above < number) && up_to.is_none_or(|up_to| number <= up_to)
                };
                Ok(!unread.iter().any(is_in))
            }
            Some(How::Server(statement)) => {
                let texts: Vec<AsText<'_>> = values.iter().map(|value| AsText(value)).collect();
                let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
                let asked = connection.query_one(statement, &parameters).await;
                let row =
                    asked.map_err(|error| failed(&format!("asking whether a row of {} was read", relation.table), error))?;
                Ok(!row.get::<_, bool>(0))
            }
            _ => Ok(false),
        }
    }
}

/// Says that a table's key is another one than that by which its rows are read.
fn other_key(of_table: &TableKey, relation: &Relation) -> Error {
    let expected: Vec<&str> = of_table.columns.iter().map(|column| column.name.as_str()).collect();
    let found: Vec<&str> = relation.key_names().collect();
    Error::stop(format!(
        "changes of {} are told apart by ({}), and its rows are read by ({}): its key was altered while it was being read; start with a new data \
         directory, which reads all of it",
        relation.table,
        found.join(", "),
        expected.join(", ")
    ))
}

/// What is not read, by numbers; `None` if the key is no whole number.
fn numbers(key: &TableKey, ranges: &[Range]) -> Option<Vec<(Option<i64>, Option<i64>)>> {
    if !key.is_integer() {
        return None;
    }
    let number = |key: Option<&Vec<String>>| -> Option<Option<i64>> {
        match key.map(Vec::as_slice) {
            None => Some(None),
            Some([text]) => Some(Some(text.parse().ok()?)),
            Some(_) => None,
        }
    };
    let pair = |range: &Range| {
        let (above, up_to) = (number(ranges::from(range))?, number(range.up_to.as_ref())?);
        // One row is beyond the number before it; of the least number of all, beyond none.
        let above = if ranges::only(range).is_some() { above.and_then(|only| only.checked_sub(1)) } else { above };
        Some((above, up_to))
    };
    ranges.iter().map(pair).collect()
}

/// Prepares the question whether a key is in a part that was not read.
async fn prepare(connection: &Connection, key: &TableKey, ranges: &[Range]) -> Result<Statement> {
    let cannot = |error| failed("preparing to ask whether rows were read", error);
    let path = TableKey::search_path(std::iter::once(key));
    let set = format!("select set_config('search_path', {}, false)", quote_text(&path));
    connection.batch_execute(&set).await.map_err(cannot)?;
    let mut unread = Vec::with_capacity(ranges.len());
    for range in ranges {
        if let Some(only) = ranges::only(range) {
            unread.push(format!("({})", key.parameter_is("=", only)?));
            continue;
        }
        let above = ranges::from(range).map(|from| key.parameter_is(">", from)).transpose()?;
        let up_to = range.up_to.as_ref().map(|up_to| key.parameter_is("<=", up_to)).transpose()?;
        let both: Vec<String> = above.into_iter().chain(up_to).collect();
        unread.push(if both.is_empty() { "true".to_owned() } else { format!("({})", both.join(" and ")) });
    }
    // Every parameter is named, so that the server knows the types of all.
    let all = key.parameters_are_there();
    let so = if unread.is_empty() { "false".to_owned() } else { unread.join(" or ") };
    connection.prepare(&format!("select ({so}) and {all}")).await.map_err(cannot)
}

/// A value in its text form, whatever its type: read by the type's own input function.
#[derive(Debug)]
struct AsText<'a>(&'a str);

impl ToSql for AsText<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(ty, out)
    }
}
