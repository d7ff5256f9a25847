//! What of a table is published: the same rows and columns as in the stream, as the catalog says *within the snapshot*.

use highwater_operators::postgres::{Connection, failed, quote};
use highwater_operators::{Error, Result};

use super::super::relation::{Column, Relation, ReplicaIdentity, Types};
use super::key::TableKey;

/// A table as it is read.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub relation: Relation,
    pub key: TableKey,
    /// Where the key's columns stand among those of the relation.
    pub places: Vec<usize>,
    columns: String,
    from: String,
    filter: Option<String>,
}

/// The table and the publication's filter. Children of a plain table are published by themselves, partitions of a published root as the root's rows.
const TABLE: &str = "select n.nspname::text, c.relname::text, c.relkind = 'p', to_jsonb(p) ->> 'rowfilter', c.relreplident in ('f', 'n') \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     join pg_publication_tables p on p.pubname = $2 and p.schemaname = n.nspname and p.tablename = c.relname \
     where c.oid = $1 and c.relkind in ('r', 'p')";

/// The columns that are published: before version 15 all that are not generated. (As JSON, so that a column which the view does not have is none.)
const COLUMNS: &str = "select a.attname::text, a.atttypid, a.atttypmod from pg_attribute a \
     join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
     where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' \
       and exists (select from pg_publication_tables p where p.pubname = $2 and p.schemaname = n.nspname and p.tablename = c.relname \
          and coalesce(to_jsonb(p) -> 'attnames' ? a.attname, true)) \
     order by a.attnum";

/// Files that hold the rows of a table: those that the snapshot knows, and those there are now.
const FILES: &str = "select count(*) filter (where c.relfilenode <> 0 and c.relfilenode is distinct from pg_relation_filenode(c.oid)) \
     from (select $1::oid as oid union select relid::oid from pg_partition_tree($1::oid::regclass) where isleaf) leaf join pg_class c on c.oid = leaf.oid";

impl Published {
    /// The table as it is published; `None` if it is not, or not any more.
    pub(super) async fn of(connection: &Connection, table: u32, publication: &str, types: &Types) -> Result<Option<Published>> {
        let cannot = |error| failed("looking at a table that is to be read", error);
        let Some(row) = connection.query_opt(TABLE, &[&table, &publication]).await.map_err(cannot)? else { return Ok(None) };
        let (schema, name, is_partitioned): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let filter: Option<String> = row.get(3);
        let columns = connection.query(COLUMNS, &[&table, &publication]).await.map_err(cannot)?;
        let Some(key) = TableKey::of(connection, table).await? else { return Err(without_key(&format!("{schema}.{name}"))) };
        let columns: Vec<Column> = columns
            .iter()
            .map(|row| {
                let name: String = row.get(0);
                let is_key = key.columns.iter().any(|column| column.name == name);
                Column::new(name, row.get(1), row.get(2), is_key, types)
            })
            .collect();
        let place = |key: &str| {
            columns.iter().position(|column| column.name == key).ok_or_else(|| {
                Error::stop(format!(
                    "the column {} of the key of {schema}.{name} is not published, so that its rows cannot be told apart; add it to the column \
                     list of the publication",
                    quote(key)
                ))
            })
        };
        let places = key.columns.iter().map(|column| place(&column.name)).collect::<Result<Vec<usize>>>()?;
        let table_name = format!("{}.{}", quote(&schema), quote(&name));
        let columns_sql = columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ");
        let mut relation = Relation::new(table, schema, name, ReplicaIdentity::Default, columns);
        if row.get(4) {
            // As for the stream, which hears of no key then.
            let names: Vec<String> = key.columns.iter().map(|column| column.name.clone()).collect();
            relation = relation.with_key(&names);
        }
        Ok(Some(Published {
            columns: columns_sql,
            from: if is_partitioned { table_name } else { format!("only {table_name}") },
            relation,
            key,
            places,
            filter,
        }))
    }

    /// Holds the table as it is until the transaction ends.
    ///
    /// # Errors
    /// Of kind *retry* if it was emptied or written anew since the snapshot was taken, which does not see that: its rows would seem to be gone.
    pub(super) async fn hold(&self, connection: &Connection) -> Result {
        let cannot = |error| failed(&format!("reading {}", self.name()), error);
        connection.batch_execute(&format!("select {} from {} limit 0", self.columns, self.from)).await.map_err(cannot)?;
        let row = connection.query_one(FILES, &[&self.relation.oid]).await.map_err(cannot)?;
        if row.get::<_, i64>(0) > 0 {
            return Err(Error::retry(format!(
                "{} was truncated or rewritten since the snapshot was taken; another one is taken",
                self.name()
            )));
        }
        Ok(())
    }

    /// The statement that copies rows whose keys are so, in the order of the key.
    pub(super) fn copy(&self, conditions: &[String], rows: u32) -> String {
        let filter = self.filter.iter().map(|filter| format!("({filter})"));
        let all: Vec<String> = conditions.iter().cloned().chain(filter).collect();
        let so = if all.is_empty() { String::new() } else { format!(" where {}", all.join(" and ")) };
        format!("copy (select {} from {}{so} order by {} limit {rows}) to stdout", self.columns, self.from, self.key.order())
    }

    /// Its name, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.relation.schema, self.relation.name)
    }
}

/// What to do with a table whose rows cannot be told apart.
pub(super) fn without_key(table: &str) -> Error {
    Error::stop(format!(
        "{table} has neither a primary key nor an index as replica identity, so its rows cannot be read in parts; add a primary key, or leave them \
         out with .without_snapshot(\"{table}\")"
    ))
}
