//! The one exchange: every change goes to the worker of its key, where dedup, lookups and actions of the key live.

use timely::dataflow::StreamVec;
use timely::dataflow::operators::Exchange;

use crate::change::Change;
use crate::position::Epoch;
use crate::process::shard;

/// Exchange by key.
pub trait ExchangeByKey {
    /// Sends each change to the worker that owns its key's shard. Changes of one key that come from one partition keep
    /// their order; their time is unchanged.
    ///
    /// Routed by id instead, a duplicate could meet its original, but two changes of one key would live on two workers and
    /// overtake each other.
    fn exchange_by_key(self) -> Self;
}

impl ExchangeByKey for StreamVec<'_, Epoch, Change> {
    fn exchange_by_key(self) -> Self {
        self.exchange(|change: &Change| shard(change.key_hash()))
    }
}
