//! `parked`: what was set aside, and what is to become of it.
//!
//! `retry` and `drop` leave requests in the checkpoint store. A running pipeline takes them up within a second, a stopped one
//! when it is run next: only the worker that owns a key knows the order of its changes.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use highwater_operators::checkpoint::place::{Inspect, Letters};
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{Cause, Parked, ParkedHead, ParkedId};
use highwater_operators::{Error, Result};

use crate::commands::{counted, inspect, same_store, shorten, table, with_store};

/// Tables are not wider than this, for keys and ids of usual length.
const WIDTH: usize = 108;

pub(crate) fn command(name: &str) -> Command {
    let which = |command: Command| {
        with_store(command)
            .arg(Arg::new("id").value_name("ID").num_args(0..).value_parser(value_parser!(u64)).help("Records, by number"))
            .arg(Arg::new("action").long("action").value_name("NAME").help("All records of an action"))
            .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("All records"))
    };
    Command::new("parked")
        .about("Shows, retries or drops changes that were set aside")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(format!(
            "Examples:\n  {name} parked list\n  {name} parked show 17\n  {name} parked retry 17 18\n  {name} parked drop --action receipt"
        ))
        .subcommand(
            with_store(Command::new("list"))
                .about("Lists what is parked")
                .arg(Arg::new("action").long("action").value_name("NAME").help("Only records of an action"))
                .arg(
                    Arg::new("limit").long("limit").value_name("N").default_value("50").value_parser(value_parser!(usize)).help("At most so many"),
                ),
        )
        .subcommand(
            with_store(Command::new("show"))
                .about("Shows one record whole")
                .arg(Arg::new("id").value_name("ID").required(true).value_parser(value_parser!(u64)).help("The record, by number")),
        )
        .subcommand(which(Command::new("retry").about("Has the running pipeline, or its next run, try again")))
        .subcommand(which(Command::new("drop").about("Has the running pipeline, or its next run, give up")))
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(()) };
    let (place, inspection) = inspect(name, matches)?;
    let letters = place.letters(name)?;
    match verb {
        "list" => {
            let action = matches.get_one::<String>("action");
            let limit = matches.get_one::<usize>("limit").copied().unwrap_or(50);
            let heads: Vec<&ParkedHead> =
                inspection.parked_heads().into_iter().filter(|head| action.is_none_or(|action| head.action == *action)).collect();
            if heads.is_empty() {
                say!("nothing is parked");
                return Ok(());
            }
            let asked = asked(&*letters)?;
            let mut rows = Vec::new();
            for head in heads.iter().take(limit) {
                if let Some(parked) = inspection.parked(head.id)? {
                    rows.push(row(&parked, asked.get(&head.id).copied()));
                }
            }
            // The last column has what the others leave.
            let widest = |column: usize, title: &str| {
                let cells = rows.iter().map(|row: &[String; 7]| row[column].chars().count());
                cells.chain([title.len()]).max().unwrap_or_default() + 3
            };
            let taken: usize = HEADER.iter().enumerate().take(6).map(|(column, title)| widest(column, title)).sum();
            let mut table = table(HEADER);
            for mut row in rows {
                row[6] = shorten(&row[6], WIDTH.saturating_sub(taken).max(24));
                table.add_row(row);
            }
            say!("{table}");
            if heads.len() > limit {
                say!("and {} more; --limit {} shows them", heads.len() - limit, heads.len());
            }
            let at = same_store(matches);
            say!("`{name} parked show ID{at}` shows one whole; `retry` tries again, `drop` gives up");
        }
        "show" => {
            let id = matches.get_one::<u64>("id").copied().unwrap_or_default();
            let parked = inspection.parked(id)?.ok_or_else(|| unknown(id))?;
            show(&parked, asked(&*letters)?.get(&id).copied());
        }
        _ => leave(verb, matches, &*inspection, &*letters)?,
    }
    Ok(())
}

fn unknown(id: ParkedId) -> Error {
    Error::stop(format!("nothing is parked under {id}; `parked list` shows what is"))
}

/// What was asked for and is not done yet, by record: the pipeline does it, or its next run.
fn asked(letters: &dyn Letters) -> Result<BTreeMap<ParkedId, &'static str>> {
    let by_id = |request| match request {
        Request::Retry { id } => (id, "retry"),
        Request::Drop { id } => (id, "drop"),
    };
    Ok(letters.pending()?.into_iter().map(|(_, request)| by_id(request)).collect())
}

fn leave(verb: &str, matches: &ArgMatches, inspection: &dyn Inspect, letters: &dyn Letters) -> Result {
    let ids: Vec<u64> = matches.get_many::<u64>("id").unwrap_or_default().copied().collect();
    let action = matches.get_one::<String>("action");
    let all = matches.get_flag("all");
    if ids.is_empty() && action.is_none() && !all {
        return Err(Error::stop(format!(
            "say which: `parked {verb} ID..`, `parked {verb} --action NAME` or `parked {verb} --all`"
        )));
    }
    let wanted = |head: &&ParkedHead| all || ids.contains(&head.id) || action.is_some_and(|action| head.action == *action);
    let mut heads: Vec<&ParkedHead> = inspection.parked_heads().into_iter().filter(wanted).collect();
    if let Some(id) = ids.iter().find(|id| !heads.iter().any(|head| head.id == **id)) {
        return Err(unknown(*id));
    }
    if verb == "retry" {
        let is_rejected = |head: &&ParkedHead| head.cause == Cause::Rejected;
        if let Some(rejected) = heads.iter().find(|head| is_rejected(head) && ids.contains(&head.id)) {
            return Err(Error::stop(format!(
                "record {} is a line that is no change, and cannot be tried again; append it mended to the source, and drop it \
                 here with `parked drop {}`",
                rejected.id, rejected.id
            )));
        }
        let found = heads.len();
        heads.retain(|head| !is_rejected(head));
        if found > heads.len() {
            say!("left out: {} that are no changes", counted((found - heads.len()) as u64, "line", "lines"));
        }
    }
    if heads.is_empty() {
        let of = action.filter(|_| !all).map(|action| format!(" for \"{action}\"")).unwrap_or_default();
        say!("nothing to {verb}{of}; `parked list` shows what is parked");
        return Ok(());
    }
    for head in &heads {
        let request = if verb == "retry" { Request::Retry { id: head.id } } else { Request::Drop { id: head.id } };
        letters.leave(request)?;
    }
    let records = counted(heads.len() as u64, "record", "records");
    say!("asked to {verb} {records}; a running pipeline does it within a second, a stopped one when it is run next");
    Ok(())
}

const HEADER: [&str; 7] = ["id", "action", "cause", "change", "key", "attempts", "error"];

fn row(parked: &Parked, asked: Option<&str>) -> [String; 7] {
    let change = &parked.change;
    // A line that is no change has no id and no key; where it stands, its error says.
    let [id, key] =
        [change.id(), change.key()].map(|text| if parked.cause == Cause::Rejected { "-".to_owned() } else { shorten(text, 36) });
    [
        parked.id.to_string(),
        shorten(&parked.action, 24),
        asked.map_or_else(|| parked.cause.word().to_owned(), |asked| format!("{}, {asked} asked", parked.cause.word())),
        id,
        key,
        parked.attempts.to_string(),
        parked.error.clone(),
    ]
}

/// What a cause means, and what becomes of the record.
fn meaning(parked: &Parked) -> &'static str {
    match parked.cause {
        Cause::Failed => "the action failed, finally or as often as it may",
        Cause::Panicked => "a closure of the pipeline panicked on it",
        Cause::Lookup => "a lookup could not be answered",
        Cause::Rejected => "the line is no change; append it mended to the source, and drop it here",
        Cause::Overflow => "the action did not keep up; it is taken up again by itself",
        Cause::Held => "an earlier change of its key is parked; it is taken up after that one",
    }
}

fn show(parked: &Parked, asked: Option<&str>) {
    let change = &parked.change;
    say!("id        {}{}", parked.id, asked.map(|asked| format!(" (asked to {asked})")).unwrap_or_default());
    say!("{}    {}", if parked.cause == Cause::Rejected { "source" } else { "action" }, parked.action);
    say!("cause     {}: {}", parked.cause.word(), meaning(parked));
    if !parked.error.is_empty() {
        say!("error     {}", parked.error);
    }
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(parked.parked_at_ms);
    say!("parked    {}, after {}", humantime::format_rfc3339_seconds(at), counted(parked.attempts.into(), "attempt", "attempts"));
    if parked.cause == Cause::Rejected {
        // The line stands there as a JSON string.
        let line = change.after().raw_json().unwrap_or_default();
        say!("line      {}", serde_json::from_str::<String>(line).unwrap_or_else(|_| line.to_owned()));
        return;
    }
    let table = if change.table().is_empty() { String::new() } else { format!(" in {}", change.table()) };
    say!("change    {} {}{table}, key {}", change.operation().as_str(), change.id(), change.key());
    let position = change.position();
    say!("position  {}/{}/{} (partition, place, within)", position.partition, position.at, position.within);
    say!("before    {}", change.before().raw_json().unwrap_or("none"));
    say!("after     {}", change.after().raw_json().unwrap_or("none"));
    for found in change.attachments() {
        match found.failure() {
            None => say!("lookup    {} {:?}", found.stage(), change.found(found.stage())),
            Some(failure) => say!("lookup    {} failed: {failure}", found.stage()),
        }
    }
}
