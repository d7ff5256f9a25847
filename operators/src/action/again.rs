//! A parked change that is to be tried again first passes again what it failed at on its way: a filter, a lookup, the
//! action's condition. What it passed then is not asked again, and what was found for it is kept.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::action::gate::Gate;
use crate::action::parking::Failure;
use crate::change::Found;
use crate::checkpoint::store::Parked;
use crate::filter::Filters;
use crate::lookup::loader::{Ask, Asks};
use crate::offload::Post;
use crate::process::Process;

/// What came of looking at a parked change again.
pub(crate) enum Again {
    /// It may go to the action.
    Ready(Parked),
    /// A lookup was asked; the answer comes by mail as [`Reloaded`].
    Asked,
    /// A filter or the condition does not hold for it: it is given up.
    Filtered(Parked),
    /// It fails again, on its way to the action, and stays parked.
    Failed(Parked, Failure),
}

/// The answer of a lookup for a parked change.
pub(crate) struct Reloaded {
    parked: Parked,
    found: Option<Arc<Found>>,
}

/// What is needed to look at parked changes again.
pub(crate) struct Examiner {
    pub process: Arc<Process>,
    pub filters: Filters,
    pub post: Post<Reloaded>,
}

impl Examiner {
    /// Looks at a parked change again.
    pub(crate) fn examine(&self, mut parked: Parked, gate: &Gate) -> Again {
        while let Some(stage) = parked.change.failed_stage() {
            if let Some(passes) = self.filters.ask(&stage, &parked.change) {
                match passes {
                    Ok(true) => parked.change.heal(&stage),
                    Ok(false) => return Again::Filtered(parked),
                    Err(why) => return failed(parked, why),
                }
                continue;
            }
            // Neither a filter nor a lookup of this pipeline any more: there is nothing to ask.
            let Some(asks) = self.process.shared.get::<Asks>(&stage) else {
                let why = format!("{stage}: the pipeline has no such step any more");
                return failed(parked, why);
            };
            match asks.key_of(&parked.change) {
                Err(why) => return failed(parked, why),
                Ok(None) => {
                    parked.change.heal(&stage);
                    parked.change.attach(&Arc::new(Found::nothing(stage)));
                }
                Ok(Some(key)) => {
                    // A post may be called more than once as far as its type knows; this one is called once.
                    let waiting = Mutex::new(Some(parked));
                    let post = self.post.filter_map(move |mut found: Vec<(String, Arc<Found>)>| {
                        let parked = waiting.lock().take()?;
                        Some(Reloaded { parked, found: found.pop().map(|(_, found)| found) })
                    });
                    asks.ask(Ask { keys: vec![key], post });
                    return Again::Asked;
                }
            }
        }
        match gate.ask(&parked.change) {
            Ok(true) => Again::Ready(parked),
            Ok(false) => Again::Filtered(parked),
            Err(why) => failed(parked, why),
        }
    }

    /// Goes on when the answer of a lookup has come.
    pub(crate) fn reloaded(&self, reloaded: Reloaded, gate: &Gate) -> Again {
        let Reloaded { mut parked, found } = reloaded;
        match found {
            Some(found) if found.failure().is_none() => {
                parked.change.heal(found.stage());
                parked.change.attach(&found);
                self.examine(parked, gate)
            }
            found => {
                let why = found.as_ref().and_then(|found| Some(format!("{}: {}", found.stage(), found.failure()?)));
                let why = why.unwrap_or_else(|| parked.error.clone());
                failed(parked, why)
            }
        }
    }
}

fn failed(parked: Parked, why: impl ToString) -> Again {
    let failure = Failure::new(parked.cause, why.to_string());
    Again::Failed(parked, failure)
}
