//! Ranges of a table, by which it is read side by side and which a token can hold: few, however large the table is.
//!
//! Where to split is taken from what `analyze` has found of the key's first column; that may be old or rough, for any values will do: rows are in
//! exactly one range whatever these are. Without it a column of whole numbers is split evenly, and any other table is one range.

use highwater_operators::Result;
use highwater_operators::postgres::{Connection, failed, is_away, quote};
use tokio_postgres::Row;

use super::super::token::{Parts, Range};
use super::key::TableKey;

/// Ranges of a table at most.
const RANGES_MAX: i64 = 32;
/// A range is about so large, or so many pages, whichever makes more of them.
const RANGE_BYTES: i64 = 64 << 20;
const RANGE_PAGES: i64 = 16;

/// How large a table is: bytes, and rows as far as it is known. Of a partitioned one all partitions count.
const SIZE: &str = "select coalesce(sum(pg_table_size(c.oid)), 0)::int8, coalesce(sum(greatest(c.reltuples, 0)), 0)::int8, \
     (select quote_ident(n.nspname) || '.' || quote_ident(t.relname) from pg_class t join pg_namespace n on n.oid = t.relnamespace \
      where t.oid = $1), \
     (select t.relkind = 'p' from pg_class t where t.oid = $1) \
     from (select $1::oid as oid union select relid::oid from pg_partition_tree($1::oid::regclass) where isleaf) leaf join pg_class c on c.oid = leaf.oid";

/// Values of a column that `analyze` has found, as texts. Seen by who may read the column.
const FOUND: &str = "select unnest(coalesce(s.histogram_bounds::text::text[], '{}') || coalesce(s.most_common_vals::text::text[], '{}')) \
     from pg_stats s join pg_namespace n on n.nspname = s.schemaname join pg_class c on c.relnamespace = n.oid and c.relname = s.tablename \
     where c.oid = $1 and s.attname = $2 and s.inherited = (c.relkind = 'p')";

/// The ranges of a table whose rows nobody has read yet.
pub(in super::super) async fn plan(connection: &Connection, table: u32, key: &TableKey, page_rows: u32) -> Result<Parts> {
    let query = connection.query_opt(SIZE, &[&table]).await;
    let Some(row) = query.map_err(|error| failed("looking at how large a table is", error))? else { return Ok(Parts::Done) };
    let (bytes, rows): (i64, i64) = (row.get(0), row.get(1));
    let wanted = (bytes / RANGE_BYTES).max(rows / (i64::from(page_rows) * RANGE_PAGES)).min(RANGES_MAX);
    let name: Option<String> = row.get(2);
    let (Some(name), true) = (name, wanted > 1) else { return Ok(whole()) };
    let is_partitioned: bool = row.get(3);
    let from = if is_partitioned { name } else { format!("only {name}") };
    Ok(match splits(connection, table, &from, key, wanted as usize).await? {
        Some(splits) => ranges(&splits),
        None => whole(),
    })
}

/// Where to split, in order.
async fn splits(connection: &Connection, table: u32, from: &str, key: &TableKey, wanted: usize) -> Result<Option<Vec<String>>> {
    let first = key.first()?;
    let asked = connection.query(&key.sorted(FOUND), &[&table, &first.name]).await;
    match asked {
        Ok(rows) if rows.len() > 1 => return Ok(Some(evenly(&rows, wanted))),
        Ok(_) => {}
        Err(error) if is_away(&error) => return Err(failed("planning how a table is read", error)),
        // A domain may refuse what was once in it, say. Any split would do, and so will none.
        Err(error) => tracing::debug!(table, %error, "what was found of a column cannot be used"),
    }
    if !first.is_integer() {
        return Ok(None);
    }
    let column = quote(&first.name);
    let numbers = format!(
        "select distinct (low + (high - low) * n / $1)::int8::text, (low + (high - low) * n / $1)::int8 \
         from (select min({column})::numeric as low, max({column})::numeric as high from {from}) ends, generate_series(1, $1::int4 - 1) n \
         where low is not null order by 2"
    );
    let rows = connection.query(&numbers, &[&(wanted as i32)]).await;
    let rows = rows.map_err(|error| failed("planning how a table is read", error))?;
    Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
}

/// So many less one of these, at even distances.
fn evenly(rows: &[Row], wanted: usize) -> Vec<String> {
    let wanted = wanted.min(rows.len());
    (1..wanted).map(|n| rows[n * rows.len() / wanted].get(0)).collect()
}

/// One range from the first row to the last.
fn whole() -> Parts {
    ranges(&[])
}

/// The ranges between these values of the first column.
fn ranges(splits: &[String]) -> Parts {
    let key = |split: &String| vec![split.clone()];
    let above = std::iter::once(None).chain(splits.iter().map(|split| Some(key(split))));
    let up_to = splits.iter().map(|split| Some(key(split))).chain(std::iter::once(None));
    Parts::Ranges(above.zip(up_to).map(|(above, up_to)| Range { above, read_to: None, up_to }).collect())
}
