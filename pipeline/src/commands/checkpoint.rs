//! `checkpoint show`: what the last checkpoint holds. Reads beside a running pipeline too.

use clap::{ArgMatches, Command};
use comfy_table::{Table, presets};
use highwater_operators::Result;
use highwater_operators::checkpoint::embedded::EmbeddedStore;

use crate::commands::{data_arg, data_of};
use crate::report::count;

pub(crate) fn command() -> Command {
    Command::new("checkpoint")
        .about("Shows what is saved")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("show").about("Shows the last checkpoint").arg(data_arg()))
}

pub(crate) fn run(name: &str, matches: &ArgMatches) -> Result {
    let Some(("show", matches)) = matches.subcommand() else { return Ok(()) };
    let directory = data_of(name, matches);
    let inspection = EmbeddedStore::inspect(&directory)?;
    let (journal, live) = inspection.journal_bytes();
    println!("pipeline   {}\ngeneration {}", inspection.pipeline(), inspection.generation());
    println!("journal    {} ({} bytes, {} alive)", inspection.journal().display(), count(journal), count(live));
    println!("ledger     {} outcomes above the mark", count(inspection.notes() as u64));
    println!("parked     {}", count(inspection.parked_heads().len() as u64));
    let Some(save) = inspection.checkpoint() else {
        println!("no checkpoint was saved yet");
        return Ok(());
    };
    println!("save       {} at epoch {}{}", save.number, save.epoch, if save.ended { ", all sources had ended" } else { "" });
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
    println!("\n{mark}\n\n{books}\n\n{files}");
    Ok(())
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}
