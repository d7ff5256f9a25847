//! Filter: lets changes pass for which a condition holds, and counts the rest.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::change::{Change, Found};
use crate::checkpoint::report::Report;
use crate::guard::panic::guarded;
use crate::position::Epoch;
use crate::process::Process;

/// Filter on a stream of changes.
pub trait FilterExt<'s>: Sized {
    /// Lets pass what `condition` holds for; the rest is counted on the line `filtered NAME`. `fan` is the number
    /// of actions a change can reach from here.
    ///
    /// A change on which `condition` panics passes marked as failed, and every action parks it.
    fn filter_changes(
        self,
        process: &Arc<Process>,
        name: &str,
        condition: impl FnMut(&Change) -> bool + 'static,
        fan: u64,
    ) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> FilterExt<'s> for StreamVec<'s, Epoch, Change> {
    fn filter_changes(
        self,
        process: &Arc<Process>,
        name: &str,
        mut condition: impl FnMut(&Change) -> bool + 'static,
        fan: u64,
    ) -> (Self, Stream<'s, Epoch, Vec<Report>>) {
        let mut builder = OperatorBuilder::new(format!("Filter {name}"), self.scope());
        let mut input = builder.new_input(self, Pipeline);
        builder.set_notify_for(0, FrontierInterest::Never);
        let (passed_out, passed) = builder.new_output::<Vec<Change>>();
        let (reports_out, reports) = builder.new_output::<Vec<Report>>();
        let mut passed_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(passed_out);
        let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
        let line = process.books.line(&format!("filtered {name}"));
        let (process, stage) = (process.clone(), Arc::<str>::from(name));
        builder.build(move |capabilities| {
            drop(capabilities);
            move |_frontiers| {
                let mut passed_handle = passed_out.activate();
                let mut reports_handle = reports_out.activate();
                input.for_each_stamp(|capability, batches| {
                    let mut session = passed_handle.session(&capability);
                    let mut dropped = 0;
                    for batch in batches {
                        let before = batch.len();
                        batch.retain_mut(|change| {
                            guarded(|| condition(change)).unwrap_or_else(|panic| {
                                change.attach(&Arc::new(Found::failed(stage.clone(), panic)));
                                true
                            })
                        });
                        dropped += (before - batch.len()) as u64;
                        if !batch.is_empty() {
                            session.give_container(batch);
                        }
                    }
                    if dropped > 0 {
                        line.add(dropped);
                        reports_handle.session(&capability).give(Report::Count { line: line.id, n: dropped });
                        process.in_flight.give_back(dropped * fan);
                    }
                });
            }
        });
        (passed, reports)
    }
}
