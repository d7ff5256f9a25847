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
pub(crate) mod settings;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::{ArgMatches, Command};
use comfy_table::{Table, TableComponent, presets};
use highwater_operators::checkpoint::embedded::{EmbeddedStore, Inspection};
use highwater_operators::{Error, Result};

use crate::config::flags::{self, Taken};
use crate::config::resolve;

pub(crate) use say;

pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => eprintln!("error: cannot print: {error}"),
        _ => {}
    }
}

/// Adds the flags that say where the data directory is.
fn with_data(command: Command) -> Command {
    flags::add(command, Some(&["config", "data"]), &Taken::new())
}

/// The data directory that flags, variables or the file of settings name, or the usual one.
fn data_of(name: &str, matches: &ArgMatches) -> Result<PathBuf> {
    resolve::data(name, matches).map(|(data, _)| data)
}

/// Looks into the data directory that was named, or the usual one.
fn inspect(name: &str, matches: &ArgMatches) -> Result<(PathBuf, Inspection)> {
    let directory = data_of(name, matches)?;
    if !directory.exists() {
        return Err(Error::stop(format!(
            "nothing is saved in {}: there is no such directory; run the pipeline first, or say with --data DIR where it keeps \
             its state",
            directory.display()
        )));
    }
    let inspection = EmbeddedStore::inspect(&directory)?;
    Ok((directory, inspection))
}

/// A table with one line per row.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).remove_style(TableComponent::HorizontalLines);
    table.remove_style(TableComponent::MiddleIntersections).set_header(header);
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
