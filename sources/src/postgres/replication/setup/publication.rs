//! The publication: what it publishes, what is missing in it, and whether it is what it was.

use std::collections::HashSet;

use highwater_operators::postgres::{Connection, Table, failed, quote, quote_text};
use highwater_operators::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::super::session::ask;
use super::super::token::Place;
use super::{Description, RESNAPSHOT, Wanted};

/// A publication as the server has it.
#[derive(Clone, Debug)]
pub(in super::super) struct Published {
    /// What it publishes of its tables, as a hash.
    pub definition: u64,
    /// The same, for people.
    shown: String,
    /// Those that are published and wanted.
    pub tables: Vec<PublishedTable>,
    /// All that are published.
    all: HashSet<u32>,
    /// Whether changes of a partition come as changes of its table.
    via_root: bool,
}

/// A table that is published and wanted.
#[derive(Clone, Debug)]
pub(in super::super) struct PublishedTable {
    pub oid: u32,
    pub name: Table,
}

const PUBLICATION: &str = "select pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, \
     coalesce((select string_agg(r.prrelid::text || ':' || coalesce(to_jsonb(r) ->> 'prqual', '') || ':' || \
         coalesce(to_jsonb(r) ->> 'prattrs', ''), ';' order by r.prrelid) from pg_publication_rel r where r.prpubid = p.oid \
         and (to_jsonb(r) ->> 'prqual' is not null or to_jsonb(r) ->> 'prattrs' is not null)), '') \
     from pg_publication p where pubname = $1";

const TABLES: &str = "select c.oid, n.nspname::text, c.relname::text from pg_publication_tables p \
     join pg_namespace n on n.nspname = p.schemaname join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename \
     where p.pubname = $1 order by c.oid";

/// What a table is that is to be published, by a name.
const TABLE: &str = "select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text, \
     exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)";

pub(super) async fn look(connection: &Connection, description: &Description) -> Result<Option<Published>> {
    let name = description.publication();
    let rows = ask(connection, "looking at the publication", PUBLICATION, &[&name]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let flags: [bool; 5] = [0, 1, 2, 3, 4].map(|at| row.get(at));
    let filters: &str = row.get(5);
    let kinds = ["insert", "update", "delete", "truncate", "via root"].into_iter().zip(flags).filter(|(_, is_set)| *is_set);
    let mut shown = kinds.map(|(kind, _)| kind).collect::<Vec<_>>().join(", ");
    if !filters.is_empty() {
        shown.push_str("; with filters of rows or columns");
    }
    let rows = ask(connection, "looking at the publication", TABLES, &[&name]).await?;
    let table = |row: &tokio_postgres::Row| PublishedTable {
        oid: row.get(0),
        name: Table { schema: Some(row.get(1)), name: row.get(2) },
    };
    let mut tables: Vec<PublishedTable> = rows.iter().map(table).collect();
    let all = tables.iter().map(|table| table.oid).collect();
    if let Wanted::Tables(wanted) = &description.wanted {
        let wanted: HashSet<u32> = find(connection, description, wanted).await?.into_iter().map(|table| table.oid).collect();
        tables.retain(|table| wanted.contains(&table.oid));
    }
    Ok(Some(Published { definition: xxh3_64(format!("{flags:?} {filters}").as_bytes()), shown, tables, all, via_root: flags[4] }))
}

pub(super) fn is_missing(description: &Description, begun: bool) -> Error {
    let name = description.publication();
    let what = if begun {
        "it was dropped, and what was committed since cannot be read by another"
    } else {
        "nothing can be read without one"
    };
    let way = if begun {
        RESNAPSHOT.to_owned()
    } else {
        format!("`create publication {} for table ..`, or name the tables with .tables(..), and it is made", quote(name))
    };
    Error::stop(format!("there is no publication {}: {what}. {way}", quote(name)))
}

/// A table that is wanted by name.
struct Named {
    oid: u32,
    name: Table,
    is_partitioned: bool,
}

/// Finds tables that were named, and refuses what cannot be published.
async fn find(connection: &Connection, description: &Description, wanted: &[Result<Table, String>]) -> Result<Vec<Named>> {
    let mut found = Vec::with_capacity(wanted.len());
    for table in wanted {
        let table = table.as_ref().map_err(Error::stop)?;
        // The session has no search path.
        let full = Table { schema: Some(table.schema.clone().unwrap_or_else(|| "public".to_owned())), name: table.name.clone() };
        let rows = ask(connection, "looking at the tables", TABLE, &[&full.to_string()]).await?;
        let Some(row) = rows.first() else {
            return Err(Error::stop(format!(
                "there is no table {full} in the database (or the user may not see its schema); mend the name"
            )));
        };
        let refuse = |why: &str| Err(Error::stop(format!("{full} cannot be read by replication: {why}")));
        match (row.get(3), row.get(4)) {
            ("r" | "p", "p") => {}
            ("r" | "p", "u") => return refuse("it is unlogged, so nothing of it is in the log; `alter table .. set logged`"),
            ("r" | "p", _) => return refuse("it is temporary"),
            _ => return refuse("it is no table"),
        }
        let (identity, has_key): (&str, bool) = (row.get(5), row.get(6));
        // Of a table that rows are only added to nothing fails.
        let is_loose = identity == "n" || (identity == "d" && !has_key);
        if is_loose && !description.is_without_snapshot(&full)? {
            return refuse(&format!(
                "it has no replica identity, and once it is published, updates and deletes of it would fail. Give it a primary key, or \
                 `alter table {full} replica identity full` (or `using index ..`); if rows are only ever added to it, \
                 leave the rows out that are there: .without_snapshot(\"{full}\")"
            ));
        }
        let is_partitioned = row.get::<_, &str>(3) == "p";
        found.push(Named { oid: row.get(0), name: Table { schema: Some(row.get(1)), name: row.get(2) }, is_partitioned });
    }
    Ok(found)
}

/// Makes the publication, or adds to it what is missing.
pub(super) async fn make(connection: &Connection, description: &Description, published: Option<&Published>) -> Result {
    let name = quote(description.publication());
    let sql = match (&description.wanted, published) {
        (Wanted::Published, Some(_)) | (Wanted::All | Wanted::Schemas(_), Some(_)) => return Ok(()),
        (Wanted::Published, None) => return Err(is_missing(description, false)),
        (Wanted::Tables(wanted), published) => {
            let there: HashSet<u32> = published.iter().flat_map(|published| &published.tables).map(|table| table.oid).collect();
            let wanted = find(connection, description, wanted).await?;
            if let Some(table) =
                wanted.iter().find(|table| table.is_partitioned && published.is_some_and(|published| !published.via_root))
            {
                return Err(Error::stop(format!(
                    "the publication {name} tells of partitions, not of the table {} that has them: `alter publication {name} set \
                     (publish_via_partition_root = true)`",
                    table.name
                )));
            }
            let missing = wanted.into_iter().filter(|table| !there.contains(&table.oid));
            let missing: Vec<String> = missing.map(|table| table.name.to_string()).collect();
            match (published, missing.is_empty()) {
                (Some(_), true) => return Ok(()),
                (Some(_), false) => format!("alter publication {name} add table {}", missing.join(", ")),
                (None, true) => return Err(Error::stop("no tables are named: .tables([..]) is empty".to_owned())),
                (None, false) => {
                    format!("create publication {name} for table {} with (publish_via_partition_root = true)", missing.join(", "))
                }
            }
        }
        (Wanted::All, None) => format!("create publication {name} for all tables with (publish_via_partition_root = true)"),
        (Wanted::Schemas(schemas), None) => {
            let schemas: Vec<String> = schemas.iter().map(|schema| quote(schema)).collect();
            format!(
                "create publication {name} for tables in schema {} with (publish_via_partition_root = true)",
                schemas.join(", ")
            )
        }
    };
    let made = connection.batch_execute(&sql).await;
    made.map_err(|error| match error.code().map(tokio_postgres::error::SqlState::code) {
        Some("42501") => {
            let said = failed("making the publication", error);
            Error::stop(format!("{said}. Let somebody who owns the tables (and may create in the database) run: {sql}"))
        }
        // Somebody was faster.
        Some("42710") => Error::retry("the publication was made meanwhile"),
        _ => failed(&format!("making the publication ({})", quote_text(&sql)), error),
    })
}

/// Refuses to go on where something else is published than was before: what is missing was not sent.
pub(super) fn must_be(published: Option<&Published>, place: &Place, description: &Description) -> Result {
    let Some(published) = published else { return Err(is_missing(description, true)) };
    let name = quote(description.publication());
    if published.definition != place.publication {
        return Err(Error::stop(format!(
            "the publication {name} publishes something else than when the checkpoint was made (now: {}): kinds of changes, rows or columns were \
             added or left out. Alter it back, or: {RESNAPSHOT}",
            published.shown
        )));
    }
    Ok(())
}

impl Published {
    pub(in super::super) fn has(&self, oid: u32) -> bool {
        self.tables.iter().any(|table| table.oid == oid)
    }
}

/// Of these tables those that are still in the database.
async fn still_there(connection: &Connection, oids: &[u32]) -> Result<Vec<(u32, String)>> {
    let sql = "select c.oid, c.oid::regclass::text from pg_class c where c.oid = any($1) order by 1";
    let rows = ask(connection, "looking at the tables", sql, &[&oids]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Refuses to go on where a table was taken out of the publication: what happened to it since was not sent.
pub(super) async fn must_have_all(
    connection: &Connection,
    published: &Published,
    place: &Place,
    description: &Description,
) -> Result {
    let without: Vec<u32> = place.tables.iter().map(|table| table.oid).filter(|oid| !published.all.contains(oid)).collect();
    if without.is_empty() {
        return Ok(());
    }
    let there = still_there(connection, &without).await?;
    if there.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = there.iter().map(|(_, name)| name.as_str()).collect();
    Err(Error::stop(format!(
        "the checkpoint has read {}, which the publication {} does not have any more: what happened since was \
         not sent. Add it again if nothing was written meanwhile, or: {RESNAPSHOT}",
        names.join(", "),
        quote(description.publication())
    )))
}
