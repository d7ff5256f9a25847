//! The table as the server's catalog has it: what it cannot be used for is refused here, before anything is read.

use highwater_operators::postgres::{Table, failed, quote};
use highwater_operators::{Error, Result};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::mapping::Source;
use super::values::Form;
use super::{Deletes, Description, Mode};

/// How rows of the table are made.
#[derive(Debug)]
pub(super) struct Layout {
    /// The table's name, as SQL takes it.
    pub table: String,
    pub columns: Vec<Column>,
    /// Which columns are the key.
    pub key: Vec<usize>,
    /// Which column says that a row is deleted.
    pub mark: Option<usize>,
    /// Columns that are filled from fields of the row: the field, the rest of the path, the column.
    pub fields: Vec<(String, Vec<String>, usize)>,
    /// Whether one field fills several columns.
    pub fields_repeat: bool,
}

/// A column that is filled.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name, as SQL takes it.
    pub name: String,
    /// The type that text is cast to. Without its length: an explicit cast to `varchar(5)` would cut, where the column refuses.
    pub cast: String,
    pub form: Form,
    pub is_bool: bool,
    pub is_always_generated: bool,
    /// Whether a row cannot be inserted without it.
    pub is_needed: bool,
    pub source: Source,
}

/// A column as the catalog has it.
struct Found {
    name: String,
    cast: String,
    form: Form,
    is_bool: bool,
    is_computed: bool,
    is_always_generated: bool,
    is_needed: bool,
}

impl Layout {
    pub(super) async fn read(client: &Client, table: &Table, description: &Description) -> Result<Self> {
        let name = table.to_string();
        let what = || format!("looking at table {name}");
        let ask = async |sql: &str, oid: u32| {
            client.query_typed(sql, &[(&oid, Type::OID)]).await.map_err(|error| failed(&what(), error))
        };
        let about = "select c.oid, c.relkind::text, has_table_privilege(c.oid, 'insert'), has_table_privilege(c.oid, 'update'),
               has_table_privilege(c.oid, 'delete'), has_table_privilege(c.oid, 'select'), current_user::text
             from pg_class c where c.oid = to_regclass($1)";
        let rows = client.query_typed(about, &[(&name, Type::TEXT)]).await.map_err(|error| failed(&what(), error))?;
        let Some(row) = rows.first() else {
            return Err(Error::stop(format!("table {name} is not there: create it, or mend its name (it may lack its schema)")));
        };
        let oid: u32 = row.get(0);
        if !matches!(row.get(1), "r" | "p") {
            return Err(Error::stop(format!("{name} is no table: rows can only be written to a table")));
        }
        let upserts = description.mode == Mode::Upsert;
        let needs = [(2, "insert", true), (3, "update", upserts), (4, "delete", upserts), (5, "select", upserts)];
        let missing: Vec<&str> =
            needs.iter().filter(|(at, _, needed)| *needed && !row.get::<_, bool>(*at)).map(|(_, right, _)| *right).collect();
        if !missing.is_empty() {
            let (rights, user): (_, String) = (missing.join(", "), row.get(6));
            return Err(Error::stop(format!(
                "user {user} may not write table {name}: grant {rights} on {name} to {}",
                quote(&user)
            )));
        }
        let columns = "select a.attname::text, format_type(a.atttypid, -1), t.typcategory::text,
               coalesce(base.typname, t.typname)::text, a.attgenerated <> '', a.attidentity = 'a',
               a.attnotnull and not a.atthasdef and a.attidentity = ''
             from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type base on base.oid = t.typbasetype
             where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";
        let rows = ask(columns, oid).await?;
        let found = rows.iter().map(|row| {
            let (category, base): (&str, &str) = (row.get(2), row.get(3));
            let form = match (category, base) {
                (_, "json" | "jsonb") => Form::Json,
                ("A", list) => Form::List { json: matches!(list, "_json" | "_jsonb") },
                _ => Form::Plain,
            };
            Found {
                name: row.get(0),
                cast: row.get(1),
                form,
                is_bool: category == "B",
                is_computed: row.get(4),
                is_always_generated: row.get(5),
                is_needed: row.get(6),
            }
        });
        let layout = Layout::new(name.clone(), found.collect(), description)?;
        if upserts {
            let unique = "select array(select a.attname::text from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k)
                 from pg_index i where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null";
            let rows = ask(unique, oid).await?;
            let is_key = |row: &tokio_postgres::Row| {
                let columns: Vec<String> = row.get(0);
                columns.len() == description.key.len() && columns.iter().all(|column| description.key.contains(column))
            };
            if !rows.iter().any(is_key) {
                let key: Vec<String> = description.key.iter().map(|column| quote(column)).collect();
                return Err(Error::stop(format!(
                    "table {name} has no unique index on ({key}), without which a row cannot be found by its key: create unique index \
                     on {name} ({key})",
                    key = key.join(", ")
                )));
            }
        }
        Ok(layout)
    }

    fn new(table: String, found: Vec<Found>, description: &Description) -> Result<Self> {
        let mark = match &description.deletes {
            Deletes::Mark(column) => Some(column),
            _ => None,
        };
        let asked: Vec<(String, Source)> = match &description.columns {
            Some(columns) => {
                let parsed = columns.iter().map(|(column, source)| Ok((column.clone(), Source::parse(source)?)));
                parsed.collect::<Result<_>>().map_err(|error| error.context(format!("table {table}")))?
            }
            None => {
                let filled = found.iter().filter(|column| !column.is_computed);
                filled.map(|column| (column.name.clone(), Source::Field(vec![column.name.clone()]))).collect()
            }
        };
        let mut asked: Vec<(String, Source)> = asked.into_iter().filter(|(column, _)| Some(column) != mark).collect();
        // The mark is filled by the sink itself; the source is only a place holder.
        asked.extend(mark.map(|column| (column.clone(), Source::Time)));
        let mut columns = Vec::with_capacity(asked.len());
        for (at, (column, source)) in asked.iter().enumerate() {
            let Some(found) = found.iter().find(|found| found.name == *column) else {
                let there: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
                return Err(Error::stop(format!("table {table} has no column {}; it has {}", quote(column), there.join(", "))));
            };
            if found.is_computed {
                return Err(Error::stop(format!(
                    "column {} of table {table} is computed by the server: leave it out",
                    quote(column)
                )));
            }
            if asked[..at].iter().any(|(other, _)| other == column) {
                return Err(Error::stop(format!("column {} of table {table} is filled twice", quote(column))));
            }
            columns.push(Column {
                name: quote(column),
                cast: found.cast.clone(),
                form: found.form,
                is_bool: found.is_bool,
                is_always_generated: found.is_always_generated,
                is_needed: found.is_needed,
                source: source.clone(),
            });
        }
        let place = |column: &String| {
            asked.iter().position(|(asked, _)| asked == column).ok_or_else(|| {
                Error::stop(format!(
                    "column {} is in the key of table {table}, but is not filled: name it in `.columns`",
                    quote(column)
                ))
            })
        };
        let key = description.key.iter().map(place).collect::<Result<_>>()?;
        let mark = mark.map(place).transpose()?;
        let mut fields: Vec<(String, Vec<String>, usize)> = Vec::new();
        for (at, column) in columns.iter().enumerate().filter(|(at, _)| Some(*at) != mark) {
            if let Source::Field(path) = &column.source {
                fields.push((path[0].clone(), path[1..].to_vec(), at));
            }
        }
        let fields_repeat =
            fields.iter().enumerate().any(|(at, (name, ..))| fields[..at].iter().any(|(other, ..)| other == name));
        Ok(Layout { table, columns, key, mark, fields, fields_repeat })
    }
}
