//! Records as tables for people, and as lines of JSON for programs.

use clap::ArgMatches;
use highwater_operators::checkpoint::store::{Cause, ParkedId};
use highwater_operators::{Error, Result};

use super::source::Source;
use super::which;
use crate::clerk::ask::{Ask, LISTED_MAX, Record};
use crate::commands::{counted, shorten, table};
use crate::report::count;

/// Tables are not wider than this, for keys and ids of usual length.
const WIDTH: usize = 108;

pub(super) fn list(matches: &ArgMatches, source: &Source) -> Result {
    let filter = which::filter(matches);
    let is_json = matches.get_flag("json");
    let limit = matches.get_one::<usize>("limit").copied().unwrap_or(50);
    let (mut shown, mut next) = (Vec::new(), Some(0));
    let mut listed = 0;
    while let Some(after) = next.filter(|_| listed < limit) {
        let most = (limit - listed).min(LISTED_MAX);
        let answer = source.ask(&Ask::List { filter: filter.clone(), after, most, whole: is_json })?;
        listed += answer.records.len();
        next = answer.next;
        match is_json {
            true => answer.records.iter().try_for_each(print)?,
            false => shown.extend(answer.records),
        }
    }
    if is_json {
        return Ok(());
    }
    if shown.is_empty() {
        match filter.is_all() {
            true => say!("nothing is parked"),
            false => say!("nothing that is parked is meant by this; `{} list` alone shows all", source.command()),
        }
        return Ok(());
    }
    print_table(&shown);
    if next.is_some() {
        let (mut all, mut next) = (0, Some(0));
        while let Some(after) = next {
            let answer = source.ask(&Ask::Count { filter: filter.clone(), after })?;
            all += answer.meant;
            next = answer.next;
        }
        if all > listed as u64 {
            say!("and {} more; --limit {all} shows them", count(all - listed as u64));
        }
    }
    let call = source.call(matches);
    say!("`{call}` shows one whole; `retry`, `edit` and `drop` settle it");
    Ok(())
}

fn print(record: &Record) -> Result {
    let line = serde_json::to_string(record).map_err(|error| Error::stop("a record could not be written").because(error))?;
    say!("{line}");
    Ok(())
}

fn print_table(records: &[Record]) {
    let has_schedule = records.iter().any(|record| record.next_try.is_some());
    let header: Vec<&str> = ["id", "action", "cause", "change", "key", "attempts"]
        .into_iter()
        .chain(has_schedule.then_some("next try"))
        .chain(["error"])
        .collect();
    let rows: Vec<Vec<String>> = records.iter().map(|record| row(record, has_schedule)).collect();
    // The last column has what the others leave.
    let last = header.len() - 1;
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default() + 3
    };
    let taken: usize = (0..last).map(widest).sum();
    let mut table = table(header.clone());
    for mut row in rows {
        row[last] = shorten(&row[last], WIDTH.saturating_sub(taken).max(24));
        table.add_row(row);
    }
    say!("{table}");
}

fn row(record: &Record, has_schedule: bool) -> Vec<String> {
    // A line that is no change has no id and no key; where it stands, its error says.
    let [id, key] =
        [&record.change.id, &record.change.key].map(|text| if record.is_rejected() { "-".to_owned() } else { shorten(text, 36) });
    let cause = match &record.asked {
        Some(asked) => format!("{}, {asked} asked", record.cause),
        None => record.cause.clone(),
    };
    let next = has_schedule.then(|| record.next_try.clone().unwrap_or_else(|| "-".to_owned()));
    [record.id.to_string(), shorten(&record.action, 24), cause, id, key, record.attempts.to_string()]
        .into_iter()
        .chain(next)
        .chain([record.error.clone()])
        .collect()
}

/// What a cause means, and what becomes of the record.
fn meaning(record: &Record) -> &'static str {
    match Cause::of(&record.cause) {
        Some(Cause::Failed) => "the action failed, finally or as often as it may",
        Some(Cause::Panicked) => "a closure of the pipeline panicked on it",
        Some(Cause::Lookup) => "a lookup could not be answered",
        Some(Cause::Rejected) => "the line is no change; append it mended to the source, and drop it here",
        Some(Cause::Overflow) => "the action did not keep up; it is taken up again by itself",
        Some(Cause::Held) => "an earlier change of its key is parked; it is taken up after that one",
        None => "",
    }
}

pub(super) fn one(source: &Source, id: ParkedId, is_json: bool) -> Result {
    let record = source.record(id)?;
    if is_json {
        return print(&record);
    }
    let change = &record.change;
    say!("id        {id}{}", record.asked.as_ref().map(|asked| format!(" (asked to {asked})")).unwrap_or_default());
    say!("{}    {}", if record.is_rejected() { "source" } else { "action" }, record.action);
    say!("cause     {}: {}", record.cause, meaning(&record));
    if !record.error.is_empty() {
        say!("error     {}", record.error);
    }
    if let Some(response) = &record.response {
        say!("response  {response}");
    }
    say!("parked    {}, after {}", record.parked_at, counted(record.attempts.into(), "attempt", "attempts"));
    if let Some(at) = &record.retried_at {
        say!("retried   {at}");
    }
    if let Some(at) = &record.next_try {
        say!("next try  {at}");
    }
    let text =
        |row: &Option<Box<serde_json::value::RawValue>>| row.as_ref().map_or("none".to_owned(), |row| row.get().to_owned());
    if record.is_rejected() {
        // The line stands there as a JSON string.
        let line = text(&change.after);
        say!("line      {}", serde_json::from_str::<String>(&line).unwrap_or(line));
        return Ok(());
    }
    let table = if change.table.is_empty() { String::new() } else { format!(" in {}", change.table) };
    say!("change    {} {}{table}, key {}", change.op, change.id, change.key);
    let (partition, at, within) = change.position;
    say!("position  {partition}/{at}/{within} (partition, place, within)");
    say!("before    {}", text(&change.before));
    say!("after     {}", text(&change.after));
    for (lookup, found) in &change.found {
        say!("lookup    {lookup} {}", found.as_str().unwrap_or_default());
    }
    Ok(())
}
