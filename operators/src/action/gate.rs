//! The gate before an action: what failed on the way, what an earlier run has settled, what the condition lets pass.

use std::sync::Arc;

use crate::action::spec::ActionSpec;
use crate::action::stats::ConditionName;
use crate::change::Change;
use crate::checkpoint::store::{Cause, ChangeHash, Outcome};
use crate::condition::{Answer, Condition};
use crate::guard::panic::guarded;
use crate::heritage::LedgerAbove;
use crate::process::Process;

/// What is to become of a change at an action.
pub(crate) enum Verdict {
    /// It goes to the action.
    Deliver,
    /// The condition does not hold.
    Filtered,
    /// It is read again, and had this outcome.
    Met(ChangeHash, Outcome),
    /// It cannot go to the action.
    Park(ChangeHash, Cause, String),
}

/// Why it is not known whether a change is for the action.
type Unknown = Box<(Cause, String)>;

/// Judges the changes of one action on one worker.
pub(crate) struct Gate {
    process: Arc<Process>,
    when: Option<Condition>,
    ledger: Option<Arc<LedgerAbove>>,
    passes: Vec<Result<bool, Unknown>>,
}

impl Gate {
    pub(crate) fn new(process: &Arc<Process>, spec: &ActionSpec) -> Self {
        if let Some(condition) = &spec.when {
            process.figures.get_or_make(&spec.name, || ConditionName(condition.name().to_owned()));
        }
        let number = process.heritage.actions.get(&spec.name);
        let ledger = number.and_then(|number| process.heritage.ledger.get(number)).cloned();
        Gate { process: process.clone(), when: spec.when.clone(), ledger, passes: Vec::new() }
    }

    /// Judges a batch, in order.
    pub(crate) fn judge(&mut self, changes: &mut Vec<Change>, mut each: impl FnMut(Change, Verdict)) {
        self.evaluate(changes);
        let ledger = self.ledger.as_ref().filter(|ledger| ledger.is_open());
        for (change, passed) in changes.drain(..).zip(self.passes.drain(..)) {
            let met = ledger.and_then(|ledger| {
                let hash = self.process.hasher.hash(&change);
                Some((hash, ledger.meet(hash, change.position())?))
            });
            let verdict = match (met, passed) {
                (Some((hash, outcome)), _) => Verdict::Met(hash, outcome),
                (None, Ok(true)) => Verdict::Deliver,
                (None, Ok(false)) => Verdict::Filtered,
                (None, Err(unknown)) => Verdict::Park(self.process.hasher.hash(&change), unknown.0, unknown.1),
            };
            let failed = match verdict {
                Verdict::Met(..) => None,
                _ if !change.has_failed() => None,
                _ => change.attachments().find_map(|found| Some((found.stage(), found.failure()?))),
            };
            let verdict = match failed {
                None => verdict,
                // A stage of the user's own panicked on it, or a lookup failed: no action can have it as it is.
                Some((stage, why)) => {
                    let cause = if why.starts_with("panicked") { Cause::Panicked } else { Cause::Lookup };
                    Verdict::Park(self.process.hasher.hash(&change), cause, format!("{stage}: {why}"))
                }
            };
            each(change, verdict);
        }
    }

    /// Asks the condition about one change.
    pub(crate) fn ask(&self, change: &Change) -> Result<bool, String> {
        let Some(when) = &self.when else { return Ok(true) };
        guarded(|| answer(when, change)).and_then(|answer| answer.map_err(|unknown| unknown.1))
    }

    /// Asks the condition about a whole batch under one guard; after a panic, change by change, to find the culprit.
    fn evaluate(&mut self, changes: &[Change]) {
        self.passes.clear();
        let Some(when) = &self.when else {
            self.passes.resize_with(changes.len(), || Ok(true));
            return;
        };
        let asked = |change: &Change| if change.has_failed() { Ok(true) } else { answer(when, change) };
        let passes = &mut self.passes;
        if guarded(|| passes.extend(changes.iter().map(asked))).is_err() {
            self.passes.clear();
            let one = |change| guarded(|| asked(change)).unwrap_or_else(|panic| Err(Box::new((Cause::Panicked, panic))));
            self.passes.extend(changes.iter().map(one));
        }
    }
}

fn answer(when: &Condition, change: &Change) -> Result<bool, Unknown> {
    match when.ask(change) {
        Answer::Holds => Ok(true),
        Answer::Fails => Ok(false),
        Answer::NoRowBefore => Err(Box::new((Cause::Failed, when.missing(change)))),
    }
}
