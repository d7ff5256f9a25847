//! `checkpoint show`: what the last checkpoint holds. Reads beside a running pipeline too.

use clap::{ArgMatches, Command};
use comfy_table::CellAlignment;
use highwater_operators::Result;
use highwater_operators::checkpoint::place::Inspect;

use crate::commands::{counted, inspect, table, with_store};
use crate::report::count;

pub(crate) fn command() -> Command {
    Command::new("checkpoint")
        .about("Shows what is saved")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_store(Command::new("show").about("Shows the last checkpoint")))
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result {
    let Some(("show", matches)) = matches.subcommand() else { return Ok(()) };
    let (_, inspection) = inspect(name, matches)?;
    show(&*inspection);
    Ok(())
}

/// Prints what is saved.
pub(crate) fn show(inspection: &dyn Inspect) {
    say!("pipeline   {}\ngeneration {}", inspection.pipeline(), inspection.generation());
    say!("kept in    {}", inspection.medium());
    say!("ledger     {}", counted(inspection.notes() as u64, "outcome above the mark", "outcomes above the mark"));
    say!("parked     {}", counted(inspection.parked_count(), "change", "changes"));
    let Some(save) = inspection.checkpoint() else {
        say!("save       none yet: the next run begins at the beginning, and skips what the ledger holds");
        return;
    };
    let ended = if save.ended { ", all sources had ended" } else { "" };
    let at = inspection.saved_at_ms().map(|at| std::time::UNIX_EPOCH + std::time::Duration::from_millis(at));
    let at = at.map(|at| format!(", {}", humantime::format_rfc3339_millis(at))).unwrap_or_default();
    say!("save       {} at epoch {}{at}{ended}", count(save.number), save.epoch);
    let mut mark = table(["partition", "continues at"]);
    for (number, token) in &save.mark {
        let partition = inspection.partitions().get(number).cloned().unwrap_or_default();
        mark.add_row([partition, count(token.order)]);
    }
    let mut books = table(["line", "count"]);
    for (line, n) in &save.books {
        books.add_row([line.clone(), count(*n)]);
    }
    let mut files = table(["action", "file", "bytes"]);
    for file in &save.files {
        files.add_row([file.action.clone(), file.path.clone(), count(file.length)]);
    }
    for (table, number) in [(&mut mark, 1), (&mut books, 1), (&mut files, 2)] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say!("\n{mark}\n\n{books}");
    if !save.files.is_empty() {
        say!("\n{files}");
    }
}
