//! `graph`: prints the shape of a pipeline.

use highwater_operators::Result;

use crate::run::{Build, plan};

/// Prints the plan as text, or in the language of Graphviz.
pub(crate) fn run(build: &Build, dot: bool) -> Result {
    let plan = plan(build)?;
    let text = if dot { plan.dot() } else { plan.text() };
    say!("{}", text.trim_end());
    for problem in &plan.problems {
        eprintln!("problem: {problem}");
    }
    Ok(())
}
