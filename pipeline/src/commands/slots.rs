//! `highwater slots`: how far the replication slots of a server are behind, and when what they keep will be too much.

use std::path::Path;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use comfy_table::CellAlignment;
use highwater_operators::checkpoint::embedded::EmbeddedStore;
use highwater_operators::postgres::Url;
use highwater_operators::{Error, Result};
use highwater_sources::postgres::slots::{Slot, Slots, partitions_at};

use crate::commands::table;
use crate::store::StoreName;

pub(crate) fn command() -> Command {
    Command::new("slots")
        .about("Shows the replication slots of a Postgres server: how far behind each is, what it keeps, when that is too much")
        .arg(Arg::new("url").value_name("URL").required(true).help("The server, with any of its databases"))
        .arg(
            Arg::new("measure")
                .long("measure")
                .value_name("SECONDS")
                .default_value("2")
                .value_parser(value_parser!(f64))
                .help("Look for so long how fast the log grows; 0: do not"),
        )
        .arg(
            Arg::new("free")
                .long("free")
                .value_name("SIZE")
                .value_parser(size)
                .help("What the server's disk has left (20GB): the server does not tell"),
        )
        .arg(Arg::new("checkpoint").long("checkpoint").value_name("DIR_OR_URL").action(ArgAction::Append).help(
            "Where pipelines keep checkpoints, to name those that read [default: the database of URL, and the directory data]",
        ))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print it as JSON"))
        .after_help(
            "Examples:\n  highwater slots postgres://postgres@db.example/shop\n  \
             highwater slots postgres://postgres@db.example/shop --free 20GB --checkpoint data/shop --json",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result {
    let url = Url::parse(matches.get_one::<String>("url").map(String::as_str).unwrap_or_default())?;
    let seconds = matches.get_one::<f64>("measure").copied().unwrap_or_default();
    let measure = Duration::try_from_secs_f64(seconds).map_err(|_| Error::stop(format!("{seconds} is no time to measure")))?;
    let mut slots = Slots::look(&url, measure, matches.get_one::<u64>("free").copied())?;
    let stores = matches.get_many::<String>("checkpoint").unwrap_or_default();
    for store in stores {
        slots.belong_to(&match StoreName::from(store.as_str()).is_url() {
            true => partitions_at(&Url::parse(store)?)?,
            false => partitions_in(Path::new(store)),
        });
    }
    slots.belong_to(&partitions_in(Path::new("data")));
    if matches.get_flag("json") {
        let text = serde_json::to_string_pretty(&slots).map_err(|error| Error::stop("cannot write JSON").because(error))?;
        say!("{text}");
        return Ok(());
    }
    show(&slots);
    Ok(())
}

/// The partitions in a data directory, or in those right below it.
fn partitions_in(directory: &Path) -> Vec<(String, String)> {
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for directory in below.chain([directory.to_owned()]).filter(|path| path.is_dir()) {
        // Most folders are none.
        let Ok(seen) = EmbeddedStore::inspect(&directory) else { continue };
        found.extend(seen.partitions().values().map(|name| (name.clone(), seen.pipeline().to_owned())));
    }
    found
}

const HEADER: [&str; 10] =
    ["slot", "plugin", "database", "read by", "confirmed", "lag", "retained", "status", "safe", "minutes to full"];

fn show(slots: &Slots) {
    if slots.slots.is_empty() {
        say!("there are no slots");
        return;
    }
    let mut shown = table(HEADER);
    for slot in &slots.slots {
        shown.add_row(row(slot));
    }
    for number in [5, 6, 8, 9] {
        if let Some(column) = shown.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    say!("{shown}");
    let grows = slots.wal_bytes_per_second.map_or_else(|| "not measured".to_owned(), |rate| format!("{}/s", bytes(rate as i64)));
    let keeps = slots.keep_at_most_bytes.map_or_else(
        || "a slot may fill the disk (max_slot_wal_keep_size = -1)".to_owned(),
        |most| format!("a slot is lost that keeps more than {} (max_slot_wal_keep_size)", bytes(most)),
    );
    say!("the log grows by {grows}; {keeps}");
}

fn row(slot: &Slot) -> [String; 10] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let size = |bytes_: Option<i64>| bytes_.map_or_else(|| "-".to_owned(), bytes);
    let reader = slot.active_pid.map_or_else(|| "nobody".to_owned(), |pid| format!("pid {pid}"));
    let reader = match &slot.pipeline {
        Some(pipeline) => format!("{reader}, \"{pipeline}\""),
        None => reader,
    };
    [
        if slot.temporary { format!("{} (temporary)", slot.slot) } else { slot.slot.clone() },
        or_none(&slot.plugin),
        or_none(&slot.database),
        reader,
        or_none(&slot.confirmed),
        size(slot.lag_bytes),
        size(slot.retained_bytes),
        or_none(&slot.wal_status),
        size(slot.safe_wal_size),
        slot.minutes_until_full.map_or_else(|| "-".to_owned(), |minutes| format!("{minutes:.0}")),
    ]
}

const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];

/// Bytes as Postgres writes them: in powers of 1,024.
fn bytes(bytes: i64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value.abs() >= 10_240.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.0} {}", UNITS[unit])
}

/// Reads a size as Postgres does.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = UNITS.iter().position(|known| known.eq_ignore_ascii_case(unit.trim())).or(unit.is_empty().then_some(0));
    let size = number.parse::<u64>().ok().zip(power).and_then(|(number, power)| number.checked_mul(1 << (10 * power)));
    size.ok_or_else(|| "it is no size: write 500MB, 20GB or bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_as_postgres_does() {
        for (text, read) in [("17", Some(17)), ("20GB", Some(20 << 30)), ("3 mb", Some(3 << 20)), ("x", None), ("9XB", None)] {
            assert_eq!(size(text).ok(), read, "{text}");
        }
        for (number, text) in [(17, "17 B"), (10_240, "10 kB"), (-5, "-5 B"), (16 << 20, "16 MB"), (i64::MAX, "8388608 TB")] {
            assert_eq!(bytes(number), text);
        }
    }
}
