//! Filter: lets changes pass for which a condition holds, and counts the rest.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::batches::ForEachEpoch;
use crate::change::{Change, Found};
use crate::checkpoint::report::Report;
use crate::guard::panic::guarded;
use crate::position::Epoch;
use crate::process::Process;

/// A filter's condition. It stays on its worker, where a parked change may be shown to it again.
pub type FilterCondition = Rc<RefCell<dyn FnMut(&Change) -> bool>>;

/// The filters a change has passed, by name, on one worker.
#[derive(Clone, Default)]
pub struct Filters(Vec<(Arc<str>, FilterCondition)>);

impl Filters {
    /// One filter more.
    pub fn push(&mut self, name: &str, condition: FilterCondition) {
        self.0.push((name.into(), condition));
    }

    /// Asks a filter about a change: whether it passes, or how the condition panicked. `None` if there is no such filter.
    pub(crate) fn ask(&self, name: &str, change: &Change) -> Option<Result<bool, String>> {
        let (_, condition) = self.0.iter().find(|(known, _)| **known == *name)?;
        Some(guarded(|| (condition.borrow_mut())(change)))
    }
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

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
        condition: FilterCondition,
        fan: u64,
    ) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> FilterExt<'s> for StreamVec<'s, Epoch, Change> {
    fn filter_changes(
        self,
        process: &Arc<Process>,
        name: &str,
        condition: FilterCondition,
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
                let mut condition = condition.borrow_mut();
                input.for_each_epoch(|capability, batches| {
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
