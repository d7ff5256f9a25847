//! `check`: says what is wrong with a pipeline, all of it at once, and runs nothing.

use highwater_operators::Result;

use crate::commands::counted;
use crate::run::{Build, plan_with};
use crate::settings::Settings;

/// Checks the plan, and whether its sources and lookups can be opened. Returns whether all is well.
pub(crate) fn run(name: &str, build: &Build, settings: &Settings) -> Result<bool> {
    let plan = plan_with(build, &settings.tuning)?;
    let mut problems = plan.problems.clone();
    for (name, source) in &plan.sources {
        if let Err(error) = source.partitions() {
            problems.push(format!("source \"{name}\": {error}"));
        }
    }
    for (name, lookup) in &plan.lookups {
        if let Some(Err(error)) = lookup.origin().map(|origin| origin.open()) {
            problems.push(format!("lookup \"{name}\": {error}"));
        }
    }
    if let Err(error) = settings.store(name, &plan).and_then(|place| place.check()) {
        problems.push(format!("checkpoint store: {error}"));
    }
    for (name, source) in plan.sources.iter().filter(|(_, source)| !source.can_be_read_again()) {
        say!("note: source \"{name}\" ({}): after a crash, changes that were under way are lost", source.place());
    }
    for problem in &problems {
        say!("problem: {problem}");
    }
    if problems.is_empty() {
        let sources = counted(plan.sources.len() as u64, "source", "sources");
        say!("the pipeline is whole: {sources}, {}", counted(plan.actions.len() as u64, "action", "actions"));
    }
    Ok(problems.is_empty())
}
