//! The commands of a pipeline's program beside `run`.

pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod graph;
pub(crate) mod parked;

use std::path::PathBuf;

use clap::{Arg, ArgMatches, value_parser};

/// The flag that says where the data directory is.
fn data_arg() -> Arg {
    Arg::new("data")
        .long("data")
        .value_name("DIR")
        .env("HIGHWATER_DATA")
        .value_parser(value_parser!(PathBuf))
        .help("The data directory [default: data/NAME]")
}

fn data_of(name: &str, matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("data").cloned().unwrap_or_else(|| PathBuf::from("data").join(name))
}
