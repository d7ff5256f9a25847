//! Fan-out: every change goes to every action of a set, each with an operator, a frontier and a share of its own.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Stream, StreamVec};
use tokio::sync::Semaphore;

use crate::action::operator::{ActionLines, Bounds, deliver, is_called};
use crate::action::{ActionSpec, cut_back};
use crate::books::{Account, LineId};
use crate::change::Change;
use crate::checkpoint::report::Report;
use crate::filter::Filters;
use crate::position::Epoch;
use crate::process::Process;

/// What stands before a fan-out, as far as its books and its actions must know.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// Lines on which sources count what they read.
    pub read: Vec<LineId>,
    /// Lines on which changes end before the fan-out: rejected, duplicate, filtered.
    pub ended: Vec<LineId>,
    /// Whether ids are unique, because a dedup stands upstream.
    pub unique_ids: bool,
    /// The filters before it, which a parked change may have to pass again.
    pub filters: Filters,
}

/// Fan-out of a stream that is exchanged by key.
pub trait FanOutExt<'s> {
    /// Delivers every change to every action, and reports the outcomes.
    ///
    /// # Guarantee
    /// An epoch is let go, by each action for itself, once every change of it has a durable outcome for that action.
    fn fan_out(self, process: &Arc<Process>, actions: &[Arc<ActionSpec>], upstream: &Upstream) -> Stream<'s, Epoch, Vec<Report>>;
}

impl<'s> FanOutExt<'s> for StreamVec<'s, Epoch, Change> {
    fn fan_out(self, process: &Arc<Process>, actions: &[Arc<ActionSpec>], upstream: &Upstream) -> Stream<'s, Epoch, Vec<Report>> {
        let scope = self.scope();
        // Of several actions none may fill the window alone; a single one is paced by the window itself.
        let share = (process.limits.actions > 1).then(|| (process.limits.changes as usize / process.limits.workers).max(1));
        let permits = |spec: &ActionSpec| {
            process.shared.get_or_make(spec.name(), || Semaphore::new(process.cluster.place().share(spec.max_parallelism)))
        };
        let mut hooks = Vec::new();
        let mut reports: Vec<_> = actions
            .iter()
            .map(|spec| {
                let lines = ActionLines::new(&process.books, spec.name());
                let account = Account {
                    read: upstream.read.clone(),
                    cut_off: process.books.line(&format!("cut off {}", spec.name())).id,
                    upstream: upstream.ended.clone(),
                    own: lines.ids(),
                };
                process.books.account(spec.name(), account);
                let bounds = |spec| Bounds {
                    permits: permits(spec),
                    share,
                    unique_ids: upstream.unique_ids,
                    filters: upstream.filters.clone(),
                };
                let reports = if is_called(spec) {
                    deliver(self.clone(), process, spec, lines, bounds(spec))
                } else {
                    cut_back::write(self.clone(), process, spec, lines, upstream.filters.clone())
                };
                if let Some(hook) = spec.hook() {
                    // No change comes to it from upstream: it takes up what is set aside for it, as long as its action lives.
                    let quiet = nothing_of(&reports, &hook.name);
                    let lines = ActionLines::new(&process.books, hook.name());
                    hooks.push(deliver(quiet, process, hook, lines, Bounds { filters: Filters::default(), ..bounds(hook) }));
                }
                reports
            })
            .collect();
        reports.append(&mut hooks);
        scope.concatenate(reports)
    }
}

/// A stream of no changes that lasts as long as another stream.
fn nothing_of<'s>(reports: &Stream<'s, Epoch, Vec<Report>>, name: &str) -> StreamVec<'s, Epoch, Change> {
    reports.clone().unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, &format!("Hook {name}"), |_, _| {
        |input, _| input.for_each(|_, _| {})
    })
}
