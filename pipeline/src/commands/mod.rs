//! The commands of a pipeline's program beside `run`.

/// Prints a line. A reader that has seen enough and closed the pipe is no error, as `println!` would have it.
macro_rules! say {
    ($($part:tt)*) => { $crate::commands::print_line(format_args!($($part)*)) };
}

pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod graph;
pub(crate) mod monitor;
pub(crate) mod parked;
pub(crate) mod resnapshot;
pub(crate) mod settings;
#[cfg(feature = "postgres")]
pub(crate) mod slots;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::sync::Arc;

use clap::{ArgMatches, Command};
use comfy_table::{Table, TableComponent, presets};
use highwater_operators::checkpoint::place::{Inspect, StorePlace};
use highwater_operators::{Error, Result};

use crate::config::flags::{self, Taken};
use crate::config::resolve;
use crate::plan::Plan;
use crate::store::StoreName;

pub(crate) use say;

pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => eprintln!("error: cannot print: {error}"),
        _ => {}
    }
}

/// Adds the flags that say where checkpoints are kept.
fn with_store(command: Command) -> Command {
    flags::add(command, Some(resolve::OF_STORE), &Taken::new())
}

/// The store that flags, variables or the file of settings name, or the usual one.
fn store_of(name: &str, matches: &ArgMatches) -> Result<Arc<dyn StorePlace>> {
    resolve::named_store(matches)?.store(name, &Plan::default())
}

/// The flags with which another command finds the same store.
fn same_store(matches: &ArgMatches) -> String {
    let named = |flag: &str| Some((flag.to_owned(), matches.get_one::<String>(&format!("setting {flag}"))?.clone()));
    let shown = |(flag, value): (String, String)| format!(" --{flag} {}", StoreName::from(value.as_str()));
    named("checkpoint").or_else(|| named("data")).map(shown).unwrap_or_default()
}

/// Looks into the store that was named, or the usual one.
fn inspect(name: &str, matches: &ArgMatches) -> Result<(Arc<dyn StorePlace>, Box<dyn Inspect>)> {
    let place = store_of(name, matches)?;
    let seen = place.inspect(name)?.ok_or_else(|| {
        Error::stop(format!(
            "nothing is saved in {}; run the pipeline first, or say with --data DIR or --checkpoint URL where it keeps its state",
            place.place()
        ))
    })?;
    Ok((place, seen))
}

/// A table with one line per row.
fn table<'h>(header: impl IntoIterator<Item = &'h str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections).set_header(header.into_iter().collect::<Vec<_>>());
    table
}

/// A count and what is counted, in the singular or the plural.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", crate::report::count(n), if n == 1 { one } else { many })
}

/// Text on one line, cut if it is longer than so many characters.
fn shorten(text: &str, longest: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.chars().count() > longest {
        true => line.chars().take(longest.saturating_sub(1)).chain(['…']).collect(),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(shorten("a\nb", 3), "a b");
        assert_eq!(shorten("für Käthe", 5), "für …");
    }
}
