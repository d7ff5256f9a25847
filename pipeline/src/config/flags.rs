//! Flags, made from the list.

use std::collections::BTreeSet;

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::resolve::{Said, is_switch};
use super::{Kind, Origin, SETTINGS, Setting, Usual};

/// Names of the pipeline's own flags, which come first: a setting of the same name is then for variables and files alone.
pub(crate) type Taken = BTreeSet<String>;

/// The names of the pipeline's own flags.
pub(crate) fn taken<A: clap::Args>() -> Taken {
    let own = A::augment_args(Command::new("own"));
    let names = |arg: &Arg| -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect()
    };
    own.get_arguments().flat_map(names).collect()
}

/// Adds the flags of settings to a command: of all, or of those named.
pub(crate) fn add(mut command: Command, only: Option<&[&str]>, taken: &Taken) -> Command {
    let is_free = |long: &str| !taken.contains(long);
    for setting in SETTINGS.iter().filter(|setting| only.is_none_or(|only| only.contains(&setting.name))) {
        if is_free(&setting.flag()[2..]) {
            command = command.arg(arg(setting));
        }
    }
    if only.is_none() && is_free("set") {
        let set = Arg::new("setting set").long("set").value_name("NAME=VALUE").action(ArgAction::Append);
        command = command.arg(set.help_heading("Running").help("Any setting, also of one part: action.receipt.timeout=10s"));
    }
    command
}

fn id(setting: &Setting) -> String {
    format!("setting {}", setting.name)
}

fn arg(setting: &'static Setting) -> Arg {
    let usual = match setting.usual {
        Usual::Is(_) if is_switch(setting) => String::new(),
        // Told once, in the heading.
        Usual::Told(_) if setting.part.is_some() => String::new(),
        Usual::Is(value) | Usual::Told(value) => format!(" [default: {value}]"),
    };
    let heading = match setting.part {
        Some(_) => format!("{}, in place of what the pipeline says", setting.heading),
        None => setting.heading.to_owned(),
    };
    let arg = Arg::new(id(setting)).long(setting.flag()[2..].to_owned()).help_heading(heading);
    let arg = arg.help(format!("{}{usual}", setting.meaning));
    match setting.kind {
        Kind::Switch => arg.action(ArgAction::SetTrue),
        Kind::Word(words) => {
            let words: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
            arg.value_name(setting.kind.value_name()).value_parser(PossibleValuesParser::new(words)).hide_possible_values(true)
        }
        kind => {
            let name = if matches!(setting.name, "data") {
                "DIR"
            } else if setting.name == "config" {
                "FILE"
            } else {
                kind.value_name()
            };
            // What clap refuses it prints, and a URL may hold a password: it is read later.
            let parse = move |text: &str| match kind {
                Kind::Store => Ok(text.to_owned()),
                kind => kind.parse(text).map(|_| text.to_owned()),
            };
            arg.value_name(name).value_parser(ValueParser::new(parse))
        }
    }
}

/// What the flags say, and what is wrong with it beyond what clap has refused.
pub(crate) fn said(matches: &ArgMatches) -> (Vec<Said>, Vec<String>) {
    let mut said = Vec::new();
    let mut problems = Vec::new();
    let mut take = |parsed: Result<Said, String>| match parsed {
        Ok(one) => said.push(one),
        Err(problem) => problems.push(problem),
    };
    for setting in SETTINGS {
        let text = match is_switch(setting) {
            // A command without this flag answers with an error, which is no concern here.
            true => matches.try_get_one::<bool>(&id(setting)).ok().flatten().filter(|on| **on).map(bool::to_string),
            false => matches.try_get_one::<String>(&id(setting)).ok().flatten().cloned(),
        };
        if let Some(text) = text {
            take(Said::parse(None, setting.name, &text, Origin::Flag(setting.flag())));
        }
    }
    for text in matches.try_get_many::<String>("setting set").ok().flatten().into_iter().flatten() {
        let shown = if text.contains("://") { text.split('=').next().unwrap_or_default() } else { text };
        take(Said::parse_assignment(text, Origin::Flag(format!("--set {shown}"))));
    }
    (said, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Args)]
    struct Own {
        #[arg(long)]
        timeout: Option<String>,
        #[arg(long, alias = "set")]
        list: Option<String>,
    }

    #[test]
    fn flags_of_the_pipelines_own_come_first() {
        let taken = taken::<Own>();
        let command = <Own as clap::Args>::augment_args(add(Command::new("test"), None, &taken));
        command.clone().debug_assert();
        let matches = command.get_matches_from(["test", "--timeout", "mine", "--set", "mine", "--attempts", "3"]);
        let (said, problems) = said(&matches);
        assert_eq!((said.len(), said[0].name, problems.len()), (1, "attempts", 0));
    }
}
