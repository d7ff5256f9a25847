//! The statements by which a log is read: each one its own, in this order, never two merged.
//!
//! | | statement | why there |
//! | --- | --- | --- |
//! | Q1 | a page above the highest id | first: whoever fills a gap it shows has drawn its id before |
//! | | the log and its sequence as they are | after the page: no row of it can have an id that the sequence has not given |
//! | Q2b | the backends there are, with `CACHE` above 1 | before Q2: one that prepares a transaction with an id drawn ahead, and ends, is seen here or its lock there |
//! | Q2 | who holds a lock under which ids are drawn or rows written | after the page: whoever is not seen any more has ended |
//! | Q3 | the gaps that lost a blocker | last: whoever has ended has written what it ever will |
//!
//! A page is a `COPY` of binary rows, which reaches more rows a second than the extended protocol. A copy takes no parameters, so they are settings
//! of the session, set just before. The planner is told to use no sort and no sequential scan: what is left is
//! a scan of the index on the ids, however large the table is and whatever is known of it.

use highwater_operators::Result;
use highwater_operators::postgres::{Connection, failed, quote_text};
use tokio_postgres::Statement;

use super::inspect::Log;

/// The session reads, whatever the user may do elsewhere, and no page waits long for a lock.
pub(super) const SESSION: &str = "set default_transaction_isolation = 'read committed'; set default_transaction_read_only = on; \
     set row_security = off; set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off; set jit = off; \
     set max_parallel_workers_per_gather = 0; set statement_timeout = 0; set lock_timeout = '10s'; set timezone = 'UTC'; \
     set bytea_output = 'hex'; \
     select set_config(name, '0', false) from pg_settings \
     where name in ('idle_session_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')";

/// The statements, prepared.
pub(super) struct Statements {
    /// Sets what Q1 asks for.
    pub set_page: Statement,
    pub page: Statement,
    pub guard: Statement,
    pub backends: Statement,
    pub holders: Statement,
    /// Sets what Q3 asks for.
    pub set_gaps: Statement,
    pub gaps: Statement,
}

impl Statements {
    pub(super) async fn prepare(connection: &Connection, log: &Log) -> Result<Self> {
        let prepare = async |what: &str, sql: String| connection.prepare(&sql).await.map_err(|error| failed(what, error));
        Ok(Statements {
            set_page: prepare("preparing to read", set(["after", "rows"])).await?,
            page: prepare("preparing to read pages", page(log)).await?,
            guard: prepare("preparing to look at the sequence", guard(log)).await?,
            backends: prepare("preparing to look at backends", BACKENDS.to_owned()).await?,
            holders: prepare("preparing to look at locks", HOLDERS.to_owned()).await?,
            set_gaps: prepare("preparing to read", set(["from", "to", "rows"])).await?,
            gaps: prepare("preparing to read gaps", gaps(log)).await?,
        })
    }
}

fn set<const N: usize>(names: [&str; N]) -> String {
    let set = names.iter().zip(1..).map(|(name, number)| format!("set_config('highwater.{name}', ${number}, false)"));
    format!("select {}", set.collect::<Vec<_>>().join(", "))
}

/// Should another table take the name, nothing of it is read: the guard then tells.
fn is_the_same(log: &Log) -> String {
    format!("to_regclass({})::oid = {}", quote_text(&log.name), log.identity.table)
}

/// Q1.
fn page(log: &Log) -> String {
    let Log { name, id, select, .. } = log;
    format!(
        "copy (select {} from {name} where {id} > current_setting('highwater.after')::int8 and {} order by {id} \
         limit current_setting('highwater.rows')::int8) to stdout (format binary)",
        select.join(", "),
        is_the_same(log)
    )
}

/// The table behind the name, and what the sequence is and has given.
fn guard(log: &Log) -> String {
    let name = quote_text(&log.name);
    match &log.sequence {
        Some(sequence) => format!(
            "select to_regclass({name})::oid, s.seqcache, s.seqincrement, s.seqcycle, q.last_value, q.is_called \
             from {} q left join pg_sequence s on s.seqrelid = {}",
            sequence.name, sequence.oid
        ),
        None => format!("select to_regclass({name})::oid"),
    }
}

/// Q2b: anybody connected to the database may hold ids drawn ahead.
const BACKENDS: &str = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";

/// Q2: `$1` is the table, `$2` its sequence or 0. Of a tree of tables all are asked for: rows may be written straight into a partition.
const HOLDERS: &str = "with recursive tree(oid) as (select $1::oid union select inhrelid from pg_inherits, tree where inhparent = tree.oid) \
     select virtualtransaction, pid is null from pg_locks where locktype = 'relation' and granted \
     and database = (select oid from pg_database where datname = current_database()) \
     and relation = any (array(select oid from tree) || $2::oid) \
     and mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";

/// Q3: range by range, each in the order of its ids.
fn gaps(log: &Log) -> String {
    let Log { name, id, select, .. } = log;
    let columns: Vec<String> = (0..select.len()).map(|number| format!("c{number}")).collect();
    let named: Vec<String> = select.iter().zip(&columns).map(|(column, name)| format!("{column} as {name}")).collect();
    format!(
        "copy (select {} from unnest(current_setting('highwater.from')::int8[], current_setting('highwater.to')::int8[]) g(lo, hi), \
         lateral (select {} from {name} where {id} between g.lo and g.hi and {} order by {id}) t \
         limit current_setting('highwater.rows')::int8) to stdout (format binary)",
        columns.join(", "),
        named.join(", "),
        is_the_same(log)
    )
}
