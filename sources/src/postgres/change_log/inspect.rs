//! Looks at the log as the server has it, and refuses what could not be read without loss.

use highwater_operators::postgres::{Connection, Table, failed};
use highwater_operators::{Error, Result};
use tokio_postgres::Row;

use super::Description;
use super::rows::{Json, Names, Shape, Time};
use super::token::Identity;

/// A log as the server has it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub identity: Identity,
    /// Its name with its schema, as SQL takes it.
    pub name: String,
    /// The sequence that ids are drawn from; `None` if they are made elsewhere, which only `gap_hold` allows.
    pub sequence: Option<Sequence>,
    /// What is asked for, in the order in which rows are taken apart.
    pub select: Vec<String>,
    /// The column of ids, as SQL takes it.
    pub id: String,
    pub shape: Shape,
}

/// A sequence.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub oid: u32,
    /// Its name with its schema, as SQL takes it.
    pub name: String,
    /// How many ids a backend draws at once.
    pub cache: i64,
}

const SERVER: &str = "select pg_is_in_recovery(), (select system_identifier from pg_control_system()), \
     (select oid from pg_database where datname = current_database()), \
     case when pg_is_in_recovery() then null else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end, current_database()";

const TABLE: &str = "select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text, c.relpersistence::text, \
     has_table_privilege(c.oid, 'select'), has_schema_privilege(n.oid, 'usage'), \
     exists (select from pg_subscription_rel where srrelid = c.oid) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)";

const COLUMNS: &str = "select a.attname::text, format_type(a.atttypid, null), quote_ident(a.attname), a.attnotnull, \
     pg_get_expr(d.adbin, d.adrelid), \
     exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique and i.indisvalid and i.indpred is null \
             and i.indkey[0] = a.attnum and (i.indnkeyatts = 1 or c.relkind = 'p')), \
     exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary and i.indkey[0] = a.attnum \
             and (i.indnkeyatts = 1 or c.relkind = 'p')) \
     from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum \
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";

/// The sequences that a column's identity or default draws from, here and in partitions and children; or the one that was named.
const SEQUENCES: &str = "with recursive tree(oid) as (select $1::oid union select inhrelid from pg_inherits, tree where inhparent = tree.oid), \
     col as (select a.attrelid, a.attnum from tree join pg_attribute a on a.attrelid = tree.oid and a.attname = $2), \
     used(seq) as (\
       select to_regclass($3)::oid where $3 is not null \
       union select dep.refobjid from col join pg_attrdef d on d.adrelid = col.attrelid and d.adnum = col.attnum \
         join pg_depend dep on dep.classid = 'pg_attrdef'::regclass and dep.objid = d.oid and dep.refclassid = 'pg_class'::regclass \
         where $3 is null \
       union select dep.objid from col join pg_depend dep on dep.classid = 'pg_class'::regclass \
         and dep.refclassid = 'pg_class'::regclass and dep.refobjid = col.attrelid and dep.refobjsubid = col.attnum and dep.deptype = 'i' \
         where $3 is null) \
     select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), s.seqcache, s.seqincrement, s.seqcycle, \
            has_sequence_privilege(c.oid, 'select') \
     from used join pg_class c on c.oid = used.seq and c.relkind = 'S' join pg_namespace n on n.oid = c.relnamespace \
     join pg_sequence s on s.seqrelid = c.oid";

/// What to do where ids do not come from a sequence as they must.
const WAYS_OUT: &str = "let ids be drawn from one sequence (`generated always as identity`, or `default nextval(..)`; where a trigger draws them, \
     name it with .sequence(..)), read the table by logical replication, or say .gap_hold(..) and accept its limit";

/// Looks at the log, and refuses what cannot be made safe.
pub(super) async fn inspect(connection: &Connection, description: &Description) -> Result<Log> {
    let table = description.table.as_ref().map_err(Error::stop)?;
    let (identity, database) = server(connection, description).await?;
    let place = format!("table {table} in database {database}");
    let Some(row) = query(connection, TABLE, &[&table.to_string()]).await?.pop() else {
        return Err(Error::stop(format!(
            "there is no {place} (or the user may not see its schema); mend the name, or make one with `highwater init change-log --table {}`",
            plain(table)
        )));
    };
    let (oid, name): (u32, String) = (row.get(0), row.get(1));
    refuse_table(&place, &row, description)?;
    let identity = Identity { table: oid, ..identity };
    let columns: Vec<Column> = query(connection, COLUMNS, &[&oid]).await?.iter().map(Column::of).collect();
    let find = Find { place: &place, columns: &columns };
    let id = find.id(description)?;
    let sequence = sequence(connection, description, &place, oid, id).await?;
    let (shape, select) = find.shape(description, id)?;
    Ok(Log { identity, name, sequence, select, id: id.quoted.clone(), shape })
}

async fn query(
    connection: &Connection,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Row>> {
    connection.query(sql, parameters).await.map_err(|error| failed("looking at the change log", error))
}

async fn server(connection: &Connection, description: &Description) -> Result<(Identity, String)> {
    let rows = query(connection, SERVER, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::stop("the server does not say who it is"))?;
    let timeline: Option<&str> = row.get(3);
    let Some(timeline) = timeline.and_then(|hex| u32::from_str_radix(hex, 16).ok()) else {
        return Err(Error::stop(format!(
            "the server at {} is a standby: only at the primary do locks tell who may still write the log; connect to the primary, or add \
             `target_session_attrs=read-write` to the URL",
            description.url()?
        )));
    };
    let identity = Identity { system: row.get::<_, i64>(1) as u64, timeline, database: row.get(2), table: 0 };
    Ok((identity, row.get(4)))
}

fn refuse_table(place: &str, row: &Row, description: &Description) -> Result {
    let (kind, persistence): (&str, &str) = (row.get(2), row.get(3));
    let refuse = |why: &str| Err(Error::stop(format!("{place} cannot be read as a change log: {why}")));
    match kind {
        "r" | "p" => {}
        "v" | "m" => return refuse("it is a view, whose locks do not tell who may still write; name the table behind it"),
        "f" => {
            return refuse(
                "it is a foreign table: locks here do not tell who may still write there; connect to the server that it is on",
            );
        }
        _ => return refuse("it is no table"),
    }
    if !row.get::<_, bool>(5) || !row.get::<_, bool>(4) {
        return refuse(
            "the user may not read it; `highwater init change-log --role NAME` prints the grants (usage on its schema, select on the table and \
             on its sequence)",
        );
    }
    if persistence == "u" {
        return refuse("it is unlogged: a crash of the server empties it; `alter table .. set logged` first");
    }
    if row.get::<_, bool>(6) && description.gap_hold.is_zero() {
        return refuse(&format!("a subscription writes it, with ids made on another server; read it there, or: {WAYS_OUT}"));
    }
    Ok(())
}

async fn sequence(
    connection: &Connection,
    description: &Description,
    place: &str,
    table: u32,
    id: &Column,
) -> Result<Option<Sequence>> {
    let holds = !description.gap_hold.is_zero();
    let named = match &description.sequence {
        Some(name) => Some(Table::parse(name)?.to_string()),
        None => None,
    };
    let refuse = |why: String| Err(Error::stop(format!("{place} cannot be read without loss: {why}; {WAYS_OUT}")));
    let rows = query(connection, SEQUENCES, &[&table, &id.name, &named]).await?;
    let row = match &rows[..] {
        [row] => row,
        [] if holds => return Ok(None),
        [] => {
            return match (&named, &id.default) {
                (Some(name), _) => refuse(format!("there is no sequence {name}")),
                (None, Some(default)) => refuse(format!("the default of {} is {default}, not a draw from a sequence", id.quoted)),
                (None, None) => refuse(format!("{} has no default, so ids are made by whoever writes", id.quoted)),
            };
        }
        several => {
            let names: Vec<&str> = several.iter().map(|row| row.get(1)).collect();
            return refuse(format!("ids are drawn from several sequences ({})", names.join(", ")));
        }
    };
    let name: String = row.get(1);
    let (cache, increment, cycles): (i64, i64, bool) = (row.get(2), row.get(3), row.get(4));
    if let Some(default) = &id.default
        && named.is_none()
        && !holds
        && !(default.starts_with("nextval('") && default.ends_with("'::regclass)") && default.matches('(').count() == 1)
    {
        return refuse(format!("the default of {} is {default}, not the plain draw from {name}", id.quoted));
    }
    if cycles || increment < 1 {
        return Err(Error::stop(format!(
            "{place} cannot be read without loss: the sequence {name} {}, so a new row may have a smaller id than an old one; \
             `alter sequence {name} increment 1 no cycle`",
            if cycles { "cycles" } else { "counts down" }
        )));
    }
    if increment != 1 && !holds {
        return refuse(format!(
            "the sequence {name} counts by {increment}, so the ids between come from elsewhere or are never drawn"
        ));
    }
    if !row.get::<_, bool>(5) {
        return Err(Error::stop(format!(
            "the user may not read the sequence {name}, which tells whether ids were made outside of it; `grant select on sequence {name} to ..`"
        )));
    }
    Ok(Some(Sequence { oid: row.get(0), name, cache }))
}

impl Log {
    /// Refuses to continue what was begun on another log.
    pub(super) fn must_be(&self, begun: &Identity, after_failover: Option<u32>) -> Result {
        let (is, was) = (&self.identity, begun);
        let name = &self.name;
        let what = if is.system != was.system {
            format!(
                "it was read on the server {}, and this is the server {}, whose data were made anew or restored from a dump",
                was.system, is.system
            )
        } else if is.database != was.database {
            format!(
                "it was read in the database with number {}, and this one has number {}: it is another one or was made anew",
                was.database, is.database
            )
        } else if is.table != was.table {
            format!(
                "the table that was read had the number {}, and {name} has number {}: it was dropped and made anew",
                was.table, is.table
            )
        } else if is.timeline != was.timeline && after_failover != Some(is.timeline) {
            return Err(Error::stop(format!(
                "the checkpoint continues {name} on timeline {}, and the server is on timeline {}: it was failed over or restored. If it has every \
                 transaction that was confirmed before (a synchronous standby took over), say .after_failover({}); else start with a new data \
                 directory",
                was.timeline, is.timeline, is.timeline
            )));
        } else {
            return Ok(());
        };
        Err(Error::stop(format!(
            "the checkpoint continues another log than {name}: {what}; give the old one back, or start with a new data directory, which reads all of it"
        )))
    }
}

/// A column of the table.
struct Column {
    name: String,
    kind: String,
    quoted: String,
    default: Option<String>,
    is_unique: bool,
    is_primary: bool,
}

impl Column {
    fn of(row: &Row) -> Self {
        Column {
            name: row.get(0),
            kind: row.get(1),
            quoted: row.get(2),
            default: row.get(4),
            is_unique: row.get(5),
            is_primary: row.get(6),
        }
    }
}

/// Finds columns, and says what is wrong with them.
struct Find<'a> {
    place: &'a str,
    columns: &'a [Column],
}

impl<'a> Find<'a> {
    fn column(&self, name: &str, call: &str) -> Result<&'a Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let there: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            Error::stop(format!(
                "{} has no column \"{name}\"; its columns are {}; name the one that is meant with .{call}(..)",
                self.place,
                there.join(", ")
            ))
        })
    }

    fn refuse<T>(&self, column: &Column, why: &str) -> Result<T> {
        Err(Error::stop(format!("{}: the column {} is of type {}; {why}", self.place, column.quoted, column.kind)))
    }

    fn id(&self, description: &Description) -> Result<&'a Column> {
        let id = match &description.columns.id {
            Some(name) => self.column(name, "id")?,
            None => self.columns.iter().find(|column| column.is_primary).ok_or_else(|| {
                Error::stop(format!("{} has no primary key of one column; name the column of ids with .id(..)", self.place))
            })?,
        };
        if !matches!(id.kind.as_str(), "bigint" | "integer" | "smallint") {
            return self.refuse(
                id,
                "ids must be bigint, integer or smallint, for gaps between them must be seen; name another column with .id(..)",
            );
        }
        if !id.is_unique {
            return self.refuse(
                id,
                "it has no unique index of its own, by which pages are read; make one, or name another column with .id(..)",
            );
        }
        Ok(id)
    }

    /// How rows are read, and what is asked for.
    fn shape(&self, description: &Description, id: &Column) -> Result<(Shape, Vec<String>)> {
        let columns = &description.columns;
        let text = |column: &Column| match column.kind.as_str() {
            "text" | "character varying" => column.quoted.clone(),
            _ => format!("{}::text", column.quoted),
        };
        let object_type = self.column(&columns.object_type, "object_type")?;
        let object_id = self.column(&columns.object_id, "object_id")?;
        let modification = self.column(&columns.modification, "modification")?;
        let data = self.column(&columns.data, "data")?;
        let mut select =
            vec![format!("{}::int8", id.quoted), text(object_type), text(object_id), text(modification), data.quoted.clone()];
        let data = self.json(data)?;
        let mut before = None;
        if let Some(name) = &columns.before {
            let column = self.column(name, "before")?;
            before = Some(self.json(column)?);
            select.push(column.quoted.clone());
        }
        let usual = || self.columns.iter().find(|column| column.name == "created_at" && column.kind.starts_with("timestamp"));
        let time_column = match &columns.time {
            Some(name) => Some(self.column(name, "time")?),
            None => usual(),
        };
        let mut time = None;
        if let Some(column) = time_column {
            time = Some(match column.kind.as_str() {
                "bigint" => Time::UnixMs,
                kind if kind.starts_with("timestamp") => Time::Timestamp,
                _ => return self.refuse(column, "a time is timestamptz, timestamp, or bigint (Unix milliseconds)"),
            });
            select.push(column.quoted.clone());
        }
        if let Some(name) = &columns.change_id {
            select.push(text(self.column(name, "change_id")?));
        }
        let names = Names {
            id: id.name.clone(),
            object_type: object_type.name.clone(),
            object_id: object_id.name.clone(),
            modification: modification.name.clone(),
            data: columns.data.clone(),
            before: columns.before.clone(),
            time: time_column.map(|column| column.name.clone()),
            change_id: columns.change_id.clone(),
        };
        let change_id = columns.change_id.is_some();
        Ok((Shape { words: description.words.clone(), data, before, time, change_id, names }, select))
    }

    fn json(&self, column: &Column) -> Result<Json> {
        match column.kind.as_str() {
            "jsonb" => Ok(Json::Binary),
            "json" | "text" | "character varying" => Ok(Json::Text),
            _ => self.refuse(column, "rows are jsonb, json, or text that holds JSON"),
        }
    }
}

/// A table's name as one types it.
fn plain(table: &Table) -> String {
    match &table.schema {
        Some(schema) => format!("{schema}.{}", table.name),
        None => table.name.clone(),
    }
}
