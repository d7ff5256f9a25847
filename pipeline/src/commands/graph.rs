//! `graph`: prints the shape of a pipeline.

use highwater_operators::Result;

use crate::run::{Build, plan_with};
use crate::settings::Settings;

/// Prints the plan as text, or in the language of Graphviz.
pub(crate) fn run(build: &Build, settings: &Settings, dot: bool) -> Result {
    let plan = plan_with(build, &settings.tuning)?;
    let text = if dot { plan.dot() } else { plan.text() };
    say!("{}", text.trim_end());
    for problem in &plan.problems {
        eprintln!("problem: {problem}");
    }
    Ok(())
}
