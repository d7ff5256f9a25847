//! What a program says that was built without Postgres.

use std::sync::Arc;

use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::{Error, Result};

pub(super) fn place(_: &str) -> Result<Arc<dyn StorePlace>> {
    Err(Error::stop(
        "this program keeps no checkpoints in Postgres: it was built without the feature \"postgres\" of the crate highwater; \
         name a directory, or build it with the feature",
    ))
}
