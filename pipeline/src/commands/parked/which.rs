//! The flags that say which records are meant.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use highwater_operators::checkpoint::store::{Cause, ParkedId};
use highwater_operators::epoch::unix_ms;
use highwater_operators::parked::Filter;

pub(super) fn add(command: Command) -> Command {
    let text =
        |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    let time = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TIME").value_parser(humantime::parse_duration).help(help)
    };
    let cause = PossibleValuesParser::new(Cause::ALL.map(Cause::word));
    command
        .arg(Arg::new("id").value_name("ID").num_args(0..).value_parser(value_parser!(ParkedId)).help("Records, by number"))
        .arg(text("action", "NAME", "Records of an action"))
        .arg(text("cause", "CAUSE", "Records parked for this cause").value_parser(cause))
        .arg(text("key", "KEY", "Records of a key"))
        .arg(text("error", "TEXT", "Records whose error holds this text"))
        .arg(time("older-than", "Records parked, or tried last, longer ago than this: 30m, 12h, 7d"))
        .arg(time("newer-than", "Records parked, or tried last, since then"))
}

/// What they say.
pub(super) fn filter(matches: &ArgMatches) -> Filter {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let ago = |name: &str| {
        let ago = matches.get_one::<Duration>(name)?;
        Some(unix_ms().saturating_sub(ago.as_millis() as u64))
    };
    Filter {
        ids: matches.get_many::<ParkedId>("id").unwrap_or_default().copied().collect(),
        action: text("action"),
        cause: text("cause").and_then(|word| Cause::of(&word)),
        key: text("key"),
        error: text("error"),
        since_ms: ago("newer-than"),
        until_ms: ago("older-than"),
    }
}

/// Whether records are named by number and by nothing else.
pub(super) fn is_by_number(filter: &Filter) -> bool {
    !filter.ids.is_empty() && *filter == Filter::of(filter.ids.iter().copied())
}
