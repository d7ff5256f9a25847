//! `parked`: what was set aside, and what is to become of it.
//!
//! A running pipeline is asked through its monitor's port, with the token that stands in its notice. Where none answers, the
//! checkpoint store is read, and what is to be done is left there as a request for the run that is there or for the next one:
//! only the worker that owns a key knows the order of its changes.

mod bulk;
mod edit;
#[cfg(feature = "postgres")]
pub(crate) mod queue;
mod show;
mod source;
mod which;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use highwater_operators::checkpoint::store::ParkedId;
use highwater_operators::{Error, Result};

use self::source::Source;
use crate::commands::with_store;

pub(crate) fn command(name: &str) -> Command {
    let about = "Lists, shows, retries, edits and drops changes that were set aside";
    let later = "A stopped pipeline does it when it is run next.";
    with_verbs(Command::new("parked").about(about), &with_store, &format!("{name} parked"), later)
}

/// Adds what can be done with parked records. `place` adds the flags that say where they are, `call` is how the command is called.
fn with_verbs(command: Command, place: &dyn Fn(Command) -> Command, call: &str, later: &str) -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let json = || flag("json", "Print JSON, one record a line");
    let id =
        || Arg::new("id").value_name("ID").required(true).value_parser(value_parser!(ParkedId)).help("The record, by number");
    let bulk = |command: Command, verb: &str, done: &str| {
        which::add(place(command))
            .arg(flag("all", "All records"))
            .arg(flag("dry-run", "Only say how many records are meant"))
            .arg(Arg::new("yes").long("yes").short('y').action(ArgAction::SetTrue).help("Do not ask before many records"))
            .after_help(format!(
                "Example: {call} {verb} --action receipt --error 503 --older-than 1h --yes\n{}",
                [done, later].join(" ").trim()
            ))
    };
    command
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help(format!(
            "Examples:\n  {call} list --action receipt --error 422\n  {call} show 17\n  {call} retry 17 18\n  \
             {call} edit 17 --row '{{\"amount\":10}}' --retry\n  {call} drop --older-than 30d --yes"
        ))
        .subcommand(
            which::add(place(Command::new("list")))
                .about("Lists what is parked")
                .arg(
                    Arg::new("limit")
                        .long("limit")
                        .value_name("N")
                        .default_value("50")
                        .value_parser(value_parser!(usize))
                        .help("At most so many"),
                )
                .arg(json())
                .after_help(format!("Example: {call} list --cause failed --newer-than 1h")),
        )
        .subcommand(
            place(Command::new("show"))
                .about("Shows one record whole: cause, attempts, response, change")
                .arg(id())
                .arg(json())
                .after_help(format!("Example: {call} show 17")),
        )
        .subcommand(bulk(
            Command::new("retry").about("Tries records again"),
            "retry",
            "Records that come back by themselves (overflow, held) and lines that are no changes are left out.",
        ))
        .subcommand(
            place(Command::new("edit"))
                .about("Gives the change of a record another row, a JSON object; its id, key and place stay")
                .arg(id())
                .arg(Arg::new("row").long("row").value_name("JSON").conflicts_with("file").help("The row"))
                .arg(Arg::new("file").long("file").value_name("FILE").help("The file that holds the row; - is standard input"))
                .arg(flag("retry", "Try it again at once"))
                .after_help(format!(
                    "Without --row or --file the row opens in $VISUAL or $EDITOR.\nExamples:\n  {call} edit 17\n  {call} edit 17 \
                     --row '{{\"amount\":10}}' --retry"
                )),
        )
        .subcommand(bulk(
            Command::new("drop").about("Gives records up"),
            "drop",
            "Dropped records are gone; the books count them as dropped.",
        ))
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(()) };
    carry_out(verb, matches, &Source::find(name, matches)?)
}

fn carry_out(verb: &str, matches: &ArgMatches, source: &Source) -> Result {
    let id = || matches.get_one::<ParkedId>("id").copied().unwrap_or_default();
    match verb {
        "list" => show::list(matches, source),
        "show" => show::one(source, id(), matches.get_flag("json")),
        "edit" => edit::edit(matches, source, id()),
        verb => bulk::carry_out(verb, matches, source),
    }
}

fn unknown(command: &str, id: ParkedId) -> Error {
    Error::stop(format!("nothing is parked under {id}; `{command} list` shows what is"))
}
