//! `retry` and `drop`: of some records by number, or of all that a filter means, slice by slice.

use std::io::{IsTerminal, Write};

use clap::ArgMatches;
use highwater_operators::checkpoint::store::ParkedId;
use highwater_operators::parked::Filter;
use highwater_operators::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::source::Source;
use super::{unknown, which};
use crate::clerk::ask::{Answer, Ask, LISTED_MAX};
use crate::commands::counted;

/// Retries or drops what the flags say.
pub(super) fn carry_out(verb: &str, matches: &ArgMatches, source: &Source) -> Result {
    let (filter, call) = (which::filter(matches), source.command());
    if filter.is_all() && !matches.get_flag("all") {
        return Err(Error::stop(format!(
            "say which: `{call} {verb} ID..`, `{call} {verb} --action NAME` (or --cause, --key, --error, --older-than, --newer-than), \
             or `{call} {verb} --all`"
        )));
    }
    let by_number = which::is_by_number(&filter);
    let meant = if by_number { named(verb, &filter, source)? } else { count(&filter, source)? };
    if meant == 0 {
        let of = filter.action.as_ref().map(|action| format!(" for \"{action}\"")).unwrap_or_default();
        say!("nothing to {verb}{of}; `{call} list` shows what is parked");
        return Ok(());
    }
    let records = counted(meant, "record", "records");
    if matches.get_flag("dry-run") {
        say!("{records} meant; without --dry-run they would be {}", if verb == "retry" { "retried" } else { "dropped" });
        return Ok(());
    }
    if !by_number && !matches.get_flag("yes") && !confirmed(verb, &records)? {
        say!("nothing was done");
        return Ok(());
    }
    tell(verb, &work(verb, &filter, meant, source)?, source);
    Ok(())
}

/// Looks at records that are named by number.
fn named(verb: &str, filter: &Filter, source: &Source) -> Result<u64> {
    let mut found: Vec<ParkedId> = Vec::new();
    let mut next = Some(0);
    while let Some(after) = next {
        let answer = source.ask(&Ask::List { filter: filter.clone(), after, most: LISTED_MAX, whole: false })?;
        next = answer.next;
        if let Some(rejected) = answer.records.iter().find(|record| verb == "retry" && record.is_rejected()) {
            return Err(Error::stop(format!(
                "record {} is a line that is no change, and cannot be tried again; append it mended to the source, and drop it \
                 here with `parked drop {}`",
                rejected.id, rejected.id
            )));
        }
        found.extend(answer.records.iter().map(|record| record.id));
    }
    match filter.ids.iter().find(|id| !found.contains(id)) {
        Some(id) => Err(unknown(source.command(), *id)),
        None => Ok(found.len() as u64),
    }
}

fn count(filter: &Filter, source: &Source) -> Result<u64> {
    let (mut meant, mut next) = (0, Some(0));
    let bar = spinner();
    while let Some(after) = next {
        let answer = source.ask(&Ask::Count { filter: filter.clone(), after })?;
        meant += answer.meant;
        next = answer.next;
        bar.set_message(format!("{} so far", counted(meant, "record", "records")));
        bar.tick();
    }
    bar.finish_and_clear();
    Ok(meant)
}

fn confirmed(verb: &str, records: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::stop(format!("this would {verb} {records}; say --yes to do it, or --dry-run to know how many")));
    }
    eprint!("{verb} {records}? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut said = String::new();
    std::io::stdin().read_line(&mut said).map_err(|error| Error::stop("no answer can be read").because(error))?;
    Ok(matches!(said.trim(), "y" | "Y" | "yes"))
}

/// Asks slice by slice, until all is passed on.
fn work(verb: &str, filter: &Filter, meant: u64, source: &Source) -> Result<Answer> {
    let bar = match meant > 1_000 && source.is_running() {
        true => ProgressBar::new(meant),
        false => ProgressBar::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {human_pos} of {human_len}  {per_sec}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut all = Answer { next: Some(0), ..Answer::default() };
    while let Some(after) = all.next {
        let filter = filter.clone();
        let ask = if verb == "retry" { Ask::Retry { filter, after } } else { Ask::Drop { filter, after } };
        let so_far = all.meant;
        let answer = source.ask(&ask).map_err(|error| {
            error.context(format!("after {} the command ends; the rest stays parked", counted(so_far, "record", "records")))
        })?;
        all = all.and(answer);
        bar.set_position(all.meant);
    }
    bar.finish_and_clear();
    Ok(all)
}

fn tell(verb: &str, answer: &Answer, source: &Source) {
    let records = counted(answer.done, "record", "records");
    match (source.is_running(), verb) {
        _ if answer.done == 0 => say!("nothing to {verb}"),
        (true, "retry") => say!("{records} {}; `{} list` shows what fails again", source.on_the_way(), source.command()),
        (true, _) => say!("dropped {records}"),
        (false, _) => {
            say!("asked to {verb} {records}; a running pipeline does it within a second, a stopped one when it is run next");
        }
    }
    let left_out = [
        (answer.comes_back, ["record", "records"], "in line already, taken up in order by the pipeline itself"),
        (answer.under_way, ["record", "records"], "being tried just then"),
        (answer.ended, ["record", "records"], "whose source is read to its end in this run; ask again when it is run next"),
        (answer.rejected, ["line", "lines"], "no change at all"),
    ];
    for (n, [one, many], why) in left_out.into_iter().filter(|(n, ..)| *n > 0) {
        say!("left out: {}, {why}", counted(n, one, many));
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}
