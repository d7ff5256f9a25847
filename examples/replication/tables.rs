//! What the tables are that are copied: their keys, by the source's catalog, and the tables of the target, which are made if they are missing.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use highwater::ErrorKind;
use highwater::operators::postgres::{Connection, Table, Url, failed, quote};
use highwater::prelude::*;

use crate::Args;

/// How long a database that is away is waited for at the start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A table that is copied.
#[derive(Clone, Debug)]
pub struct Copied {
    /// With its schema.
    pub name: Table,
    /// As changes have it: `public.orders`.
    pub label: String,
    /// The columns of its primary key; none if it has none.
    pub key: Vec<String>,
    /// The SQL that makes such a table.
    sql: String,
}

/// The tables that are to be copied; asked for once.
pub fn copied(args: &Args) -> Result<Vec<Copied>> {
    static COPIED: OnceLock<Result<Vec<Copied>, String>> = OnceLock::new();
    let asked = COPIED.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        runtime.block_on(look_until_it_is_there(args)).map_err(|error| error.to_string())
    });
    asked.clone().map_err(Error::stop)
}

/// A database that is away for a moment is asked again.
async fn look_until_it_is_there(args: &Args) -> Result<Vec<Copied>> {
    let began = Instant::now();
    loop {
        match look(args).await {
            Err(error) if error.kind() == ErrorKind::Retry && began.elapsed() < PATIENCE => tokio::time::sleep(millis(200)).await,
            looked => return looked,
        }
    }
}

async fn look(args: &Args) -> Result<Vec<Copied>> {
    let url = Url::parse(args.url())?;
    let source = Connection::open(&url, "example").await?;
    let mut tables = Vec::new();
    for name in &args.tables {
        tables.push(table(&source, &Table::parse(name)?).await?);
    }
    first_time(&source, args, &tables).await?;
    if let Some(target) = &args.target {
        let target = Connection::open(&Url::parse(target)?, "example").await?;
        for table in &tables {
            make(&target, table).await?;
        }
    }
    Ok(tables)
}

/// Columns with their types, as `create table` takes them. Defaults, checks and references are left to the source.
const COLUMNS: &str = "select quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod) || \
       case when a.attgenerated <> '' then ' generated always as (' || pg_get_expr(d.adbin, d.adrelid) || ') stored' else '' end || \
       case when a.attnotnull then ' not null' else '' end \
     from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum \
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum";

const KEY: &str = "select a.attname::text from pg_index i, unnest(i.indkey::int2[]) with ordinality k(number, place) \
     join pg_attribute a on a.attnum = k.number \
     where i.indrelid = $1 and i.indisprimary and a.attrelid = $1 order by k.place";

async fn table(client: &Connection, wanted: &Table) -> Result<Copied> {
    let wrong = |error| failed(&format!("looking at table {wanted}"), error);
    let find = "select c.oid, n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                where c.oid = to_regclass($1) and c.relkind in ('r', 'p')";
    let found = client.query_opt(find, &[&wanted.to_string()]).await.map_err(wrong)?;
    let found = found.ok_or_else(|| Error::stop(format!("the source has no table {wanted}; perhaps it lacks its schema")))?;
    let (oid, schema, name): (u32, String, String) = (found.get(0), found.get(1), found.get(2));
    let texts = async |sql: &str| -> Result<Vec<String>> {
        Ok(client.query(sql, &[&oid]).await.map_err(wrong)?.iter().map(|row| row.get(0)).collect())
    };
    let (mut columns, key) = (texts(COLUMNS).await?, texts(KEY).await?);
    if !key.is_empty() {
        columns.push(format!("primary key ({})", key.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")));
    }
    let label = format!("{schema}.{name}");
    let name = Table { schema: Some(schema), name };
    let sql = format!("create table {name} ({})", columns.join(", "));
    Ok(Copied { name, label, key, sql })
}

/// Before the first run: rows of a table without a primary key would be left behind.
async fn first_time(client: &Connection, args: &Args, tables: &[Copied]) -> Result {
    let wrong = |error| failed("looking at the tables", error);
    let there = "select exists (select from pg_replication_slots where slot_name = $1)";
    if client.query_one(there, &[&args.slot]).await.map_err(wrong)?.get(0) {
        return Ok(());
    }
    for table in tables.iter().filter(|table| table.key.is_empty()) {
        let any = format!("select exists (select from {})", table.name);
        if client.query_one(&any, &[]).await.map_err(wrong)?.get(0) {
            return Err(Error::stop(format!(
                "table {} has no primary key and has rows: they cannot be read in parts; add a key, or empty it before the first run",
                table.name
            )));
        }
    }
    Ok(())
}

/// Makes a table that the target lacks. What the target has is taken as it is, if its key is the same.
async fn make(client: &Connection, table: &Copied) -> Result {
    let wrong = |error| failed(&format!("looking for table {} in the target", table.name), error);
    let name = table.name.to_string();
    let found = client.query_one("select to_regclass($1)::oid", &[&name]).await.map_err(wrong)?;
    if let Some(oid) = found.get::<_, Option<u32>>(0) {
        let mut key: Vec<String> = client.query(KEY, &[&oid]).await.map_err(wrong)?.iter().map(|row| row.get(0)).collect();
        let mut same = table.key.clone();
        key.sort();
        same.sort();
        return match key.is_empty() || key == same {
            true => Ok(()),
            false => Err(Error::stop(format!(
                "table {name} has another primary key in the target ({}) than in the source",
                key.join(", ")
            ))),
        };
    }
    let schema = quote(table.name.schema.as_deref().unwrap_or("public"));
    let made = client.batch_execute(&format!("create schema if not exists {schema}; {}", table.sql)).await;
    made.map_err(|error| {
        let error = failed("making it", error);
        Error::stop(format!(
            "the target has no table {name}, and it cannot be made there: {error}; make it yourself: {}",
            table.sql
        ))
    })
}
