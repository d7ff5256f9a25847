//! The one exchange: every change goes to the worker of its key, where dedup, lookups and actions of the key live.

use std::sync::Arc;

use timely::container::{CapacityContainerBuilder, ContainerBuilder, LengthPreservingContainerBuilder, PushInto};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::ExchangeCore;
use timely::dataflow::operators::generic::Operator;

use crate::change::Change;
use crate::cluster::Place;
use crate::in_flight::InFlight;
use crate::position::Epoch;
use crate::process::{Process, shard};

/// Exchange by key.
pub trait ExchangeByKey {
    /// Sends each change to the worker that owns its key's shard. Changes of one key that come from one partition keep
    /// their order; their time is unchanged.
    ///
    /// With `fan`, changes are those of a source, at so many units of the window each: what comes from the reader of another
    /// process takes room in this one's window too, and is paid back as it is done with. Without, nobody's room is touched.
    ///
    /// Routed by id instead, a duplicate could meet its original, but two changes of one key would live on two workers and
    /// overtake each other.
    fn exchange_by_key(self, process: &Arc<Process>, fan: Option<u64>) -> Self;
}

impl ExchangeByKey for StreamVec<'_, Epoch, Change> {
    fn exchange_by_key(self, process: &Arc<Process>, fan: Option<u64>) -> Self {
        let place = process.cluster.place();
        let fan = fan.filter(|_| place.has_others());
        let (lender, window) = (process.in_flight.clone(), process.in_flight.clone());
        let by_key = ExchangeCore::<LargeBatches, _>::new_core(move |change: &Change| {
            let shard = shard(change.key_hash());
            if fan.is_some() && place.process_of(shard as usize % place.peers()) != place.process {
                lender.lend(change.bytes() as u64);
            }
            shard
        });
        // Not timely's own exchange, which uses `for_each_stamp` (see `batches`).
        self.unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(by_key, "Exchange", |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    if let Some(fan) = fan {
                        take_in(batch, place, &window, fan);
                    }
                    output.session(&capability).give_container(batch);
                });
            }
        })
    }
}

/// Counts what has arrived by the process that read it, and holds what another one has sent.
fn take_in(batch: &mut [Change], place: Place, window: &Arc<InFlight>, fan: u64) {
    // Changes of one reader stand together.
    for run in batch.chunk_by_mut(|one, next| one.position().partition == next.position().partition) {
        let from = place.process_of(place.reader_of(run[0].position().partition));
        window.arrived(from, place.process, run.len() as u64 * fan);
        if from != place.process {
            run.iter_mut().for_each(|change| change.take_in(|block| window.foreign(block, from)));
        }
    }
}

/// Changes in a batch that is sent to another worker. timely's own measure is 8 KiB, which is 85 changes: too few for what
/// each operator does once per batch.
const BATCH: usize = 512;

/// Gathers changes into batches larger than timely's.
#[derive(Default)]
struct LargeBatches {
    current: Vec<Change>,
    /// A batch that is being sent, and afterwards, emptied, the room for another one.
    sent: Vec<Change>,
}

impl PushInto<Change> for LargeBatches {
    fn push_into(&mut self, change: Change) {
        if self.current.capacity() == 0 {
            self.current.reserve_exact(BATCH);
        }
        self.current.push(change);
    }
}

impl LargeBatches {
    fn send(&mut self) -> Option<&mut Vec<Change>> {
        self.sent.clear();
        std::mem::swap(&mut self.current, &mut self.sent);
        Some(&mut self.sent)
    }
}

impl ContainerBuilder for LargeBatches {
    type Container = Vec<Change>;

    fn extract(&mut self) -> Option<&mut Vec<Change>> {
        if self.current.len() < BATCH { None } else { self.send() }
    }

    fn finish(&mut self) -> Option<&mut Vec<Change>> {
        if self.current.is_empty() { None } else { self.send() }
    }

    fn relax(&mut self) {
        *self = LargeBatches::default();
    }
}

/// What is pushed is sent, once.
impl LengthPreservingContainerBuilder for LargeBatches {}
