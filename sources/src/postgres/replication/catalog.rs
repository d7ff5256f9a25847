//! What has to be asked beside the log: types that somebody has made, and the primary key of a table whose rows come whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::Result;
use highwater_operators::postgres::Connection;

use super::pgoutput::Described;
use super::relation::{Column, FIRST_OWN, OWN_TYPES, Relation, ReplicaIdentity, Types};
use super::session::ask;

/// How long an answer counts for a table that is described as it was: each call of catching up describes all tables anew.
const FRESH: Duration = Duration::from_secs(10);

const PRIMARY_KEY: &str = "select a.attname::text from pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, at) \
     join pg_attribute a on a.attnum = k.attnum where i.indrelid = $1 and a.attrelid = $1 and i.indisprimary and k.at <= i.indnkeyatts order by k.at";

/// Tables as they were described, made ready to read rows by.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    types: Option<Types>,
    tables: HashMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    described: Described,
    relation: Arc<Relation>,
    asked: Instant,
}

impl Catalog {
    /// The table, ready to read rows by. `is_altered`: it was described on the same connection before.
    pub(super) async fn relation(
        &mut self,
        connection: &Connection,
        described: Described,
        is_altered: bool,
    ) -> Result<Arc<Relation>> {
        if let Some(known) = self.tables.get(&described.oid)
            && !is_altered
            && known.described == described
            && known.asked.elapsed() < FRESH
        {
            return Ok(known.relation.clone());
        }
        let asked = Instant::now();
        let has_own = described.columns.iter().any(|column| column.type_oid >= FIRST_OWN);
        if has_own || self.types.is_none() {
            let rows = ask(connection, "looking at the database's types", OWN_TYPES, &[]).await?;
            let rows: Vec<(u32, u32, u32)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
            self.types = Some(Types::of(&rows));
        }
        let types = self.types.get_or_insert_default();
        let column = |column: &super::pgoutput::DescribedColumn| {
            Column::new(column.name.clone(), column.type_oid, column.typmod, column.is_key, types)
        };
        let columns = described.columns.iter().map(column).collect();
        let Described { oid, identity, .. } = described;
        let mut relation = Relation::new(oid, described.schema.clone(), described.name.clone(), identity, columns);
        if matches!(identity, ReplicaIdentity::Full | ReplicaIdentity::Nothing) {
            let rows = ask(connection, "looking at the table's primary key", PRIMARY_KEY, &[&oid]).await?;
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            relation = relation.with_key(&names);
        }
        let relation = Arc::new(relation);
        self.tables.insert(oid, Known { described, relation: relation.clone(), asked });
        Ok(relation)
    }
}
