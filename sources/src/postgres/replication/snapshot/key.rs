//! A table's key in SQL: values travel as text, and are compared by nobody but the server.
//!
//! Rows of a table are read in the order of the index of its key, and whether a key was read is asked in that same order. So both are written here,
//! from one description of the key's columns: their types, and the collation *of the index*. A key may be given by its first columns
//! alone; then all keys that begin so compare equal to it, as in every row comparison.
//!
//! Two keys that the server holds for equal (`1.0` and `1.00`, `a` and `A` of a `citext`) are one key: the index lets only one of them be there.

use highwater_operators::postgres::{Connection, failed, quote, quote_text};
use highwater_operators::{Error, Result};
use tokio_postgres::Row;

/// The columns of a key, in the order of its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct TableKey {
    pub columns: Vec<KeyColumn>,
}

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct KeyColumn {
    pub name: String,
    /// Its type, as SQL takes it.
    cast: String,
    /// `smallint`, `integer` or `bigint`.
    is_integer: bool,
    /// The index's collation, as SQL takes it.
    collation: Option<String>,
    /// The schema of the operators that compare it.
    operators: String,
}

/// The columns of the key that rows of a table are known by: that of its replica identity if that is an index, else its primary key.
///
/// An index that serves as replica identity may have another collation than its columns; equal is then what is equal to the index.
const KEY: &str = "select a.attname::text, format_type(a.atttypid, a.atttypmod), \
       coalesce(base.oid, a.atttypid) in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype), \
       (select quote_ident(n.nspname) || '.' || quote_ident(l.collname) from pg_collation l join pg_namespace n on n.oid = l.collnamespace \
          where l.oid = i.indcollation[k.n - 1]), \
       (select n.nspname::text from pg_opclass f join pg_amop m on m.amopfamily = f.opcfamily and m.amopstrategy = 5 \
          and m.amoplefttype = f.opcintype and m.amoprighttype = f.opcintype join pg_operator o on o.oid = m.amopopr \
          join pg_namespace n on n.oid = o.oprnamespace where f.oid = i.indclass[k.n - 1]) \
     from pg_class c \
     join pg_index i on i.indrelid = c.oid and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end \
     cross join generate_series(1, i.indnkeyatts) k(n) \
     join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[k.n - 1] \
     join pg_type t on t.oid = a.atttypid left join pg_type base on base.oid = t.typbasetype \
     where c.oid = $1 order by k.n";

impl TableKey {
    /// The key of this table as it is now; `None` if it has none.
    pub(in super::super) async fn of(connection: &Connection, table: u32) -> Result<Option<TableKey>> {
        let rows = connection.query(KEY, &[&table]).await.map_err(|error| failed("looking at the key of a table", error))?;
        if rows.is_empty() {
            return Ok(None);
        }
        Ok(Some(TableKey { columns: rows.iter().map(KeyColumn::of).collect() }))
    }

    /// The schemas where the operators of these keys are, for `search_path`: without that of an extension, its values would be compared as
    /// something else that they can be cast to (a `citext` as `text`), and in another order than the index's.
    pub(super) fn search_path<'k>(keys: impl Iterator<Item = &'k TableKey>) -> String {
        let mut schemas = vec!["pg_catalog"];
        for column in keys.flat_map(|key| &key.columns) {
            if !schemas.contains(&column.operators.as_str()) {
                schemas.push(&column.operators);
            }
        }
        schemas.into_iter().map(quote).collect::<Vec<_>>().join(", ")
    }

    /// The one column, if it is a whole number: then keys can be compared here.
    pub(super) fn is_integer(&self) -> bool {
        matches!(&self.columns[..], [column] if column.is_integer)
    }

    /// What rows are ordered by.
    pub(super) fn order(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(KeyColumn::compared).collect();
        columns.join(", ")
    }

    /// Whether the row's key stands so (`>`, `<=`) to this one.
    pub(super) fn row_is(&self, operator: &str, than: &[String]) -> Result<String> {
        self.is(KeyColumn::compared, operator, than)
    }

    /// Whether the key in the parameters `$1`, `$2` .. stands so to this one.
    pub(super) fn parameter_is(&self, operator: &str, than: &[String]) -> Result<String> {
        let parameter = |column: &KeyColumn| {
            let number = self.columns.iter().position(|other| other.name == column.name).unwrap_or_default() + 1;
            column.collated(format!("${number}::{}", column.cast))
        };
        self.is(parameter, operator, than)
    }

    /// Holds for every key in the parameters: so that the server knows the types of all, also of those that nothing is compared with.
    pub(super) fn parameters_are_there(&self) -> String {
        let parameters = self.columns.iter().enumerate();
        let all: Vec<String> = parameters.map(|(n, column)| format!("${}::{} is not null", n + 1, column.cast)).collect();
        all.join(" and ")
    }

    /// These values of the first column, written as texts, cast and in order.
    pub(super) fn sorted(&self, texts: &str) -> String {
        let first = self.columns.first();
        let value = first.map_or_else(String::new, |column| column.collated(format!("v::{}", column.cast)));
        format!("select distinct on ({value}) v from ({texts}) as texts(v) where v is not null order by {value}")
    }

    /// The first column.
    pub(super) fn first(&self) -> Result<&KeyColumn> {
        self.columns.first().ok_or_else(|| Error::stop("a key has no column"))
    }

    fn is(&self, left: impl Fn(&KeyColumn) -> String, operator: &str, than: &[String]) -> Result<String> {
        if than.is_empty() || than.len() > self.columns.len() {
            let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Error::stop(format!(
                "the checkpoint knows a key of {} columns where the table's key is ({}): the key was altered while the table was being read; give \
                 the old key back, or have the table read anew",
                than.len(),
                names.join(", ")
            )));
        }
        let columns = &self.columns[..than.len()];
        let left: Vec<String> = columns.iter().map(left).collect();
        let right: Vec<String> =
            columns.iter().zip(than).map(|(column, text)| format!("{}::{}", quote_text(text), column.cast)).collect();
        Ok(format!("({}) {operator} ({})", left.join(", "), right.join(", ")))
    }
}

impl KeyColumn {
    fn of(row: &Row) -> Self {
        KeyColumn {
            name: row.get(0),
            cast: row.get(1),
            is_integer: row.get(2),
            collation: row.get(3),
            operators: row.get::<_, Option<String>>(4).unwrap_or_else(|| "pg_catalog".to_owned()),
        }
    }

    /// The column as it is compared.
    pub(super) fn compared(&self) -> String {
        self.collated(quote(&self.name))
    }

    pub(super) fn is_integer(&self) -> bool {
        self.is_integer
    }

    fn collated(&self, value: String) -> String {
        match &self.collation {
            Some(collation) => format!("{value} collate {collation}"),
            None => value,
        }
    }
}
