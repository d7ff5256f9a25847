//! The border between the managed pipeline and timely operators of the user's own, which may make changes and eat them.
//!
//! What leaves gives its room in the window back; what comes in takes room and is counted as read, on a line of its own.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batches::ForEachEpoch;
use crate::books::Line;
use crate::change::Change;
use crate::checkpoint::report::Report;
use crate::position::Epoch;
use crate::process::Process;

/// Crossing the border.
pub trait MeterExt<'s>: Sized {
    /// Changes leave: each gives back the `fan` units it took.
    fn leave(self, process: &Arc<Process>, fan: u64) -> Self;

    /// Changes come in: each takes `fan` units and is counted as read on `line`.
    fn come_in(self, process: &Arc<Process>, line: Line, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> MeterExt<'s> for StreamVec<'s, Epoch, Change> {
    fn leave(self, process: &Arc<Process>, fan: u64) -> Self {
        let process = process.clone();
        self.unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, "Leave", move |_, _| {
            move |input, output| {
                input.for_each_epoch(|capability, batches| {
                    let mut session = output.session(&capability);
                    for batch in batches {
                        process.in_flight.give_back(batch.len() as u64 * fan);
                        session.give_container(batch);
                    }
                });
            }
        })
    }

    fn come_in(self, process: &Arc<Process>, line: Line, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>) {
        let mut builder = OperatorBuilder::new("Come in".to_owned(), self.scope());
        let mut input = builder.new_input(self, Pipeline);
        builder.set_notify_for(0, FrontierInterest::Never);
        let (changes_out, changes) = builder.new_output::<Vec<Change>>();
        let (reports_out, reports) = builder.new_output::<Vec<Report>>();
        let mut changes_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(changes_out);
        let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
        let process = process.clone();
        builder.build(move |capabilities| {
            drop(capabilities);
            move |_frontiers| {
                let mut changes_handle = changes_out.activate();
                let mut reports_handle = reports_out.activate();
                input.for_each_epoch(|capability, batches| {
                    let mut session = changes_handle.session(&capability);
                    let mut n = 0;
                    for batch in batches {
                        n += batch.len() as u64;
                        session.give_container(batch);
                    }
                    if n > 0 {
                        process.in_flight.take(n * fan);
                        line.add(n);
                        reports_handle.session(&capability).give(Report::Count { line: line.id, n });
                    }
                });
            }
        });
        (changes, reports)
    }
}
