//! Checkpoints in Postgres, by URL.

use std::sync::Arc;

use highwater_operators::Result;
use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::checkpoint::postgres::PostgresCheckpointStore;
use highwater_operators::postgres::Url;

pub(super) fn place(url: &str) -> Result<Arc<dyn StorePlace>> {
    Url::parse(url)?;
    Ok(Arc::new(PostgresCheckpointStore::at(url)))
}
