//! `resnapshot`: has a source read again what it has read, as new changes: the way out where a slot is lost, or is another one.
//!
//! It is a run that reads nothing: it opens the store as any run does, which fences all before it off, makes one save with another token, and ends. So
//! the token is durable when this returns, in one step, and mark, books, ledger and parked changes stay as they were.

use clap::{Arg, Command};
use highwater_operators::checkpoint::lease::GivenBack;
use highwater_operators::checkpoint::place::{OpenStore, Seat};
use highwater_operators::checkpoint::store::{Group, Save};
use highwater_operators::{Error, Result};

use crate::run::{Build, plan_with};
use crate::settings::Settings;

/// The argument with the tables; a program's own flags may be called anything.
pub(crate) const TABLES: &str = "tables to resnapshot";

pub(crate) fn arguments(command: Command) -> Command {
    command
        .arg(Arg::new(TABLES).value_name("TABLE").num_args(0..).help("Only these tables; their slot must be as it was"))
        .after_help(
            "The pipeline must be stopped; its next run reads the rows. What was deleted while there was no slot nobody has seen: rows that a target has and \
             the source lacks stay there.",
        )
}

pub(crate) fn run(name: &str, build: &Build, settings: &Settings, tables: &[String]) -> Result {
    let plan = plan_with(build, &settings.tuning)?;
    let place = settings.store(name, &plan)?;
    let Some(seen) = place.inspect(name)? else {
        return Err(Error::stop(format!("nothing is saved in {}: the next run reads everything anyway", place.place())));
    };
    // A data directory is locked by its run; a database would let this take its place.
    if let (_, Some(process)) = seen.started()
        && place.letters(name)?.notice().is_some()
        && std::path::Path::new(&format!("/proc/{process}")).exists()
    {
        return Err(Error::stop(format!("the pipeline runs (process {process}): stop it first")));
    }
    drop(seen);
    let OpenStore { mut store, lease, .. } = place.open(name, Seat::ALONE)?;
    let restored = store.restore()?;
    let Some(last) = restored.checkpoint else {
        return Err(Error::stop("nothing is saved yet: the next run reads everything anyway"));
    };
    let mut save = Save { number: last.number + 1, state: Vec::new(), forgotten: Vec::new(), ended: false, ..last };
    let mut anew = Vec::new();
    for source in plan.sources.values() {
        for (partition, token) in &mut save.mark {
            let known = restored.partitions.get(partition).map(String::as_str).unwrap_or_default();
            // Each source knows its own partitions by their tokens' form.
            if let Some(changed) = source.read_anew(known, token, tables)? {
                *token = changed;
                anew.push(known.to_owned());
            }
        }
    }
    if anew.is_empty() {
        return Err(Error::stop("the pipeline has no source that can be read anew"));
    }
    store.commit(&Group { save: Some(save), ..Group::default() })?;
    lease.give_back(GivenBack::InOrder);
    drop(store);
    let what = if tables.is_empty() { "all tables".to_owned() } else { tables.join(", ") };
    say!("{what} of {} will be read anew by the next run", anew.join(", "));
    Ok(())
}
