//! The one exchange: every change goes to the worker of its key, where dedup, lookups and actions of the key live.

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;

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
        let by_key = Exchange::new(|change: &Change| shard(change.key_hash()));
        // Not timely's own exchange, which uses `for_each_stamp` (see `batches`).
        self.unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(by_key, "Exchange", |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| output.session(&capability).give_container(batch));
            }
        })
    }
}
