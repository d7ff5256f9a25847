//! `status`, `why` and `metrics`: what the running pipeline tells.

use clap::{ArgMatches, Command};
use highwater_operators::Result;

pub(crate) fn add(command: Command) -> Command {
    command
}
pub(crate) fn run(_name: &str, _command: &str, _matches: &ArgMatches) -> Result<u8> {
    Ok(0)
}
