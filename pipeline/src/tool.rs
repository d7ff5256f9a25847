//! The tool `highwater`, for what is done before there is a pipeline.

use clap::{Arg, ArgMatches, Command};
use highwater_operators::ingest::Source;
use highwater_operators::postgres::Url;
use highwater_operators::{Error, Result};
use highwater_sources::PostgresChangeLog;
use highwater_sources::postgres::change_log::Init;

use crate::Exit;
use crate::commands::{parked::queue, say, slots};

const EXAMPLE: &str = "Examples:\n  highwater init change-log > change_log.sql\n  \
                       highwater init change-log --table audit.changes --notify changes --role highwater_reader\n  \
                       highwater init change-log --apply postgres://admin@db.example/shop\n\n\
                       A program then writes\n  \
                       insert into tb_entity_change_log (object_type, object_id, modification_type, object_data)\n  \
                       values ('Order', 'order-1', 'INSERT', '{\"status\": \"new\"}');\n\
                       in the transaction that changes the order, and a pipeline reads\n  \
                       PostgresChangeLog::table(\"postgres://highwater_reader@db.example/shop\", \"tb_entity_change_log\")";

/// Runs the tool with the arguments of this process.
pub fn main() -> Exit {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return Exit::with(error.exit_code() as u8);
        }
    };
    match run(&matches) {
        Ok(()) => Exit::with(0),
        Err(error) => {
            eprintln!("error: {error}");
            Exit::with(1)
        }
    }
}

fn command() -> Command {
    let change_log = Command::new("change-log")
        .about("Prints, or applies, the SQL that makes a table of changes: sequence, trigger and a role that reads it")
        .arg(
            Arg::new("table")
                .long("table")
                .value_name("NAME")
                .default_value("tb_entity_change_log")
                .help("The table, with its schema or without"),
        )
        .arg(
            Arg::new("notify")
                .long("notify")
                .value_name("CHANNEL")
                .num_args(0..=1)
                .default_missing_value("")
                .help("With a trigger that wakes readers by NOTIFY on this channel [if none is named: the table's name]"),
        )
        .arg(Arg::new("role").long("role").value_name("NAME").help("With a role that may read the log and nothing else"))
        .arg(Arg::new("apply").long("apply").value_name("URL").help("Make it in this database, and look whether it can be read"))
        .after_help(EXAMPLE);
    Command::new("highwater")
        .about("Prepares what pipelines need, and looks at what they leave")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("init")
                .about("Prepares a database")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(change_log),
        )
        .subcommand(queue::command())
        .subcommand(slots::command())
}

fn run(matches: &ArgMatches) -> Result {
    match matches.subcommand() {
        Some(("jobs", own)) => return queue::run(own),
        Some(("slots", own)) => return slots::run(own),
        _ => {}
    }
    let Some(("change-log", own)) = matches.subcommand().and_then(|(_, init)| init.subcommand()) else { return Ok(()) };
    let named = |name: &str| own.get_one::<String>(name).map(String::as_str);
    let table = named("table").unwrap_or_default();
    let mut init = Init::table(table)?;
    if let Some(channel) = named("notify") {
        init = init.notify(if channel.is_empty() { table } else { channel });
    }
    if let Some(role) = named("role") {
        init = init.role(role);
    }
    let Some(url) = named("apply") else {
        say!("{}", init.sql().trim_end());
        return Ok(());
    };
    let url = Url::parse(url)?;
    init.apply(&url)?;
    // A table that was there before may be of another shape.
    let log = PostgresChangeLog::at(&url, table);
    log.partitions()
        .map_err(|error| Error::stop(format!("the SQL was applied, but the log cannot be read as it is: {error}")))?;
    say!("{} is there and can be read", log.place());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let matches = command().get_matches_from(["highwater", "init", "change-log", "--notify", "--role", "r"]);
        assert!(run(&matches).is_ok());
    }
}
