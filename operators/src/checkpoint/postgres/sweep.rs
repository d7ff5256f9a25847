//! Clean-up: rows that no longer count are removed beside the run, a bounded step at a time.
//!
//! Nothing here decides what counts: readers leave out what lies below the saved epoch and below the floor of an operator's
//! state. So a clean-up that lags, or stops with its process, costs room and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::link::Of;
use super::save::Floor;
use super::text::{bigint, escape};
use super::write::Writer;
use crate::error::Result;
use crate::position::Epoch;
use crate::postgres::failed;

/// How long clean-up rests when nothing is left to do.
const REST: Duration = Duration::from_secs(1);
/// Rows removed in one transaction at most.
const STEP: i64 = 500;

/// Chunks of a run's own, up to a group.
pub(super) const CHUNKS: &str = "delete from observer_ledger where listener_id = $1 and generation = $2 and process = $3 \
                                 and sequence > $4 and sequence <= $5 and kind = 0";
/// What earlier runs noted and what of it was forgotten, once all is.
pub(super) const EARLIER: &str = "delete from observer_ledger where listener_id = $1 and generation = $2 and kind > 0";
/// State below an operator's floor.
pub(super) const STATE: &str = "delete from observer_state where ctid = any (array (select ctid from observer_state \
                                where listener_id = $1 and operator = $2 and save_number >= $3 and save_number < $4 limit $5))";

/// What no longer counts.
#[derive(Debug, Default)]
pub(super) struct Dead {
    saved: AtomicU64,
    /// Chunks of groups up to this one.
    pub chunks: AtomicI64,
    /// All that earlier runs noted was forgotten.
    pub earlier: AtomicBool,
    floor: Mutex<Floor>,
}

impl Dead {
    /// A checkpoint of this epoch is durable.
    pub(super) fn saved(&self, epoch: Epoch) {
        self.saved.fetch_max(epoch, Ordering::AcqRel);
    }

    pub(super) fn saved_epoch(&self) -> Epoch {
        self.saved.load(Ordering::Acquire)
    }

    pub(super) fn floor(&self, floor: &Floor) {
        if *self.floor.lock() != *floor {
            self.floor.lock().clone_from(floor);
        }
    }
}

/// How far clean-up has come.
#[derive(Default)]
struct Swept {
    chunks: i64,
    earlier: bool,
    state: BTreeMap<String, u64>,
}

/// Cleans up for as long as the store lives.
pub(super) async fn sweep(of: Of, writer: Writer, dead: std::sync::Weak<Dead>) {
    let mut swept = Swept::default();
    loop {
        let Some(now) = dead.upgrade() else { return };
        let more = match Box::pin(step(&of, writer, &now, &mut swept)).await {
            Ok(more) => more,
            Err(error) => {
                tracing::debug!(%error, "clean-up of the checkpoint store is put off");
                false
            }
        };
        drop(now);
        if !more {
            tokio::time::sleep(REST).await;
        }
    }
}

/// One step of each kind. Returns whether there is more to do at once.
async fn step(of: &Of, writer: Writer, dead: &Arc<Dead>, swept: &mut Swept) -> Result<bool> {
    let (name, mut more) = (&*of.pipeline, false);
    let wrong = |error| failed("cleaning up the checkpoint store", error);
    let chunks = dead.chunks.load(Ordering::Acquire);
    if swept.chunks < chunks {
        let to = chunks.min(swept.chunks + STEP);
        let client = of.link.client().await?;
        let statement = client.prepare_cached(CHUNKS).await.map_err(wrong)?;
        client.execute(&statement, &[&name, &writer.generation, &writer.process, &swept.chunks, &to]).await.map_err(wrong)?;
        swept.chunks = to;
        more |= to < chunks;
    }
    if dead.earlier.load(Ordering::Acquire) && !swept.earlier {
        let client = of.link.client().await?;
        client.execute(EARLIER, &[&name, &writer.generation]).await.map_err(wrong)?;
        swept.earlier = true;
    }
    let floor = dead.floor.lock().clone();
    for (operator, floor) in floor {
        let from = swept.state.get(&operator).copied().unwrap_or(0);
        if from >= floor {
            continue;
        }
        let client = of.link.client().await?;
        let statement = client.prepare_cached(STATE).await.map_err(wrong)?;
        let (own, low, high) = (escape(&operator).into_owned(), bigint(from), bigint(floor));
        let gone = client.execute(&statement, &[&name, &own, &low, &high, &STEP]).await.map_err(wrong)?;
        match gone < STEP as u64 {
            true => drop(swept.state.insert(operator, floor)),
            false => more = true,
        }
    }
    Ok(more)
}
