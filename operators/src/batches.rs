//! Taking what has come to an operator: by epoch, and within an epoch as it came.
//!
//! timely's `for_each_stamp` groups by time as well, but by a sort that is not stable: of more than some twenty batches, a
//! later one of an epoch may come first, and the order of a key is lost. Batch by batch, with `for_each`, the order is kept and
//! the work per batch (a session, a report, an entry) is done some ten times as often.

use timely::Container;
use timely::communication::Pull;
use timely::dataflow::channels::Message;
use timely::dataflow::operators::InputCapability;
use timely::dataflow::operators::generic::InputHandleCore;

use crate::position::Epoch;

/// Input by epoch.
pub trait ForEachEpoch<C> {
    /// Calls `logic` once per epoch that has something, in the order of epochs, with all its batches in the order in which
    /// they came.
    fn for_each_epoch(&mut self, logic: impl FnMut(InputCapability<Epoch>, &mut [C]));
}

impl<C: Container, P: Pull<Message<Epoch, C>>> ForEachEpoch<C> for InputHandleCore<Epoch, C, P> {
    fn for_each_epoch(&mut self, mut logic: impl FnMut(InputCapability<Epoch>, &mut [C])) {
        let mut came: Vec<(InputCapability<Epoch>, C)> = Vec::new();
        self.for_each(|capability, batch| came.push((capability, std::mem::take(batch))));
        // Stable: what is of one epoch keeps its order.
        came.sort_by_key(|(capability, _)| capability.least().copied());
        let mut came = came.into_iter().peekable();
        let mut batches = Vec::new();
        while let Some((capability, batch)) = came.next() {
            batches.push(batch);
            while let Some((_, batch)) = came.next_if(|(next, _)| next.least() == capability.least()) {
                batches.push(batch);
            }
            logic(capability, &mut batches);
            batches.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use timely::container::CapacityContainerBuilder;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::Input;
    use timely::dataflow::operators::generic::Operator;

    use super::*;

    /// Goal: hundreds of batches of a few epochs come out by epoch, each in its order. Fifty would do to upset an unstable sort.
    #[test]
    fn the_order_within_an_epoch_is_kept_over_many_batches() {
        let (tell, told) = mpsc::channel();
        timely::execute_directly(move |worker| {
            let mut input = worker.dataflow::<Epoch, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<u64>>();
                stream.unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(Pipeline, "Look", move |_, _| {
                    move |input, _output| {
                        input.for_each_epoch(|capability, batches| {
                            let all: Vec<u64> = batches.concat();
                            tell.send((*capability.least().unwrap(), all)).unwrap();
                        });
                    }
                });
                input
            });
            for epoch in 0..3 {
                for batch in 0..200 {
                    input.send_batch(&mut vec![batch]);
                }
                input.advance_to(epoch + 1);
            }
        });
        let mut seen: Vec<(Epoch, u64)> = Vec::new();
        for (epoch, all) in told {
            seen.extend(all.into_iter().map(|n| (epoch, n)));
        }
        let expected: Vec<(Epoch, u64)> = (0..3).flat_map(|epoch| (0..200).map(move |n| (epoch, n))).collect();
        assert_eq!(seen, expected);
    }
}
