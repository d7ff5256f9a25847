//! `parked`: what was set aside, and what is to become of it.
//!
//! `retry` and `drop` leave requests in the data directory. A running pipeline takes them up within a second, a stopped one
//! when it is run next: only the worker that owns a key knows the order of its changes.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use comfy_table::{Table, presets};
use highwater_operators::checkpoint::embedded::EmbeddedStore;
use highwater_operators::checkpoint::requests::{Request, leave_request};
use highwater_operators::checkpoint::store::{Cause, Parked, ParkedHead};
use highwater_operators::{Error, Result};

use crate::commands::{data_arg, data_of};

pub(crate) fn command() -> Command {
    let which = |command: Command| {
        command
            .arg(Arg::new("id").value_name("ID").num_args(0..).value_parser(value_parser!(u64)).help("Records, by number"))
            .arg(Arg::new("action").long("action").value_name("NAME").help("All records of an action"))
            .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("All records"))
            .arg(data_arg())
    };
    Command::new("parked")
        .about("Shows, retries or drops changes that were set aside")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help("Examples:\n  parked list\n  parked show 17\n  parked retry 17 18\n  parked drop --action receipt")
        .subcommand(
            Command::new("list")
                .about("Lists what is parked")
                .arg(Arg::new("action").long("action").value_name("NAME").help("Only records of an action"))
                .arg(
                    Arg::new("limit").long("limit").value_name("N").default_value("50").value_parser(value_parser!(usize)).help("At most so many"),
                )
                .arg(data_arg()),
        )
        .subcommand(
            Command::new("show")
                .about("Shows one record whole")
                .arg(Arg::new("id").value_name("ID").required(true).value_parser(value_parser!(u64)))
                .arg(data_arg()),
        )
        .subcommand(which(Command::new("retry").about("Has the running pipeline, or its next run, try again")))
        .subcommand(which(Command::new("drop").about("Has the running pipeline, or its next run, give up")))
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(()) };
    let directory = data_of(name, matches);
    let inspection = EmbeddedStore::inspect(&directory)?;
    match verb {
        "list" => {
            let action = matches.get_one::<String>("action");
            let limit = matches.get_one::<usize>("limit").copied().unwrap_or(50);
            let heads: Vec<&ParkedHead> = inspection.parked_heads().filter(|head| action.is_none_or(|action| head.action == *action)).collect();
            if heads.is_empty() {
                println!("nothing is parked");
                return Ok(());
            }
            let mut table = Table::new();
            table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(["id", "action", "cause", "change", "key", "attempts", "error"]);
            for head in heads.iter().take(limit) {
                if let Some(parked) = inspection.parked(head.id)? {
                    table.add_row(row(&parked));
                }
            }
            println!("{table}");
            if heads.len() > limit {
                println!("and {} more; --limit {} shows them", heads.len() - limit, heads.len());
            }
        }
        "show" => {
            let id = matches.get_one::<u64>("id").copied().unwrap_or_default();
            let parked = inspection.parked(id)?.ok_or_else(|| Error::stop(format!("nothing is parked under {id}; `parked list` shows what is")))?;
            show(&parked);
        }
        _ => leave(verb, matches, &inspection, &directory)?,
    }
    Ok(())
}

fn leave(
    verb: &str,
    matches: &ArgMatches,
    inspection: &highwater_operators::checkpoint::embedded::Inspection,
    directory: &std::path::Path,
) -> Result {
    let ids: Vec<u64> = matches.get_many::<u64>("id").unwrap_or_default().copied().collect();
    let action = matches.get_one::<String>("action");
    let all = matches.get_flag("all");
    if ids.is_empty() && action.is_none() && !all {
        return Err(Error::stop(format!("say which: `parked {verb} ID..`, `parked {verb} --action NAME` or `parked {verb} --all`")));
    }
    let wanted = |head: &&ParkedHead| all || ids.contains(&head.id) || action.is_some_and(|action| head.action == *action);
    let heads: Vec<&ParkedHead> = inspection.parked_heads().filter(wanted).collect();
    if let Some(unknown) = ids.iter().find(|id| !heads.iter().any(|head| head.id == **id)) {
        return Err(Error::stop(format!("nothing is parked under {unknown}; `parked list` shows what is")));
    }
    if verb == "retry"
        && let Some(rejected) = heads.iter().find(|head| head.cause == Cause::Rejected)
    {
        return Err(Error::stop(format!(
            "{} is no change and cannot be tried again; mend it in the source, where it is read as a new line, and drop it here",
            rejected.id
        )));
    }
    for head in &heads {
        let request = if verb == "retry" { Request::Retry { id: head.id } } else { Request::Drop { id: head.id } };
        leave_request(directory, request)?;
    }
    println!("asked to {verb} {}; a running pipeline does it within a second, a stopped one when it is run next", heads.len());
    Ok(())
}

fn row(parked: &Parked) -> [String; 7] {
    let change = &parked.change;
    let error: String = parked.error.chars().take(80).collect();
    [
        parked.id.to_string(),
        parked.action.clone(),
        format!("{:?}", parked.cause).to_lowercase(),
        change.id().to_owned(),
        change.key().to_owned(),
        parked.attempts.to_string(),
        error,
    ]
}

fn show(parked: &Parked) {
    let change = &parked.change;
    println!("id        {}", parked.id);
    println!("action    {}", parked.action);
    println!("cause     {}", format!("{:?}", parked.cause).to_lowercase());
    println!("error     {}", parked.error);
    println!("attempts  {}", parked.attempts);
    println!("parked    {} ms since 1970", parked.parked_at_ms);
    println!("change    {} {} in {:?}, key {}", change.operation().as_str(), change.id(), change.table(), change.key());
    println!("position  {:?}", change.position());
    println!("before    {}", change.before().raw_json().unwrap_or("none"));
    println!("after     {}", change.after().raw_json().unwrap_or("none"));
    for found in change.attachments() {
        println!("lookup    {} {:?}", found.stage(), change.found(found.stage()));
    }
}
