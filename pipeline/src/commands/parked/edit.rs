//! `edit`: another row for the change of a record.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgMatches;
use highwater_operators::checkpoint::store::ParkedId;
use highwater_operators::parked::Filter;
use highwater_operators::{Error, Result};

use super::source::Source;
use super::unknown;
use crate::clerk::ask::Ask;
use crate::monitor::parked::REQUEST_MAX;

/// Gives a record another row, and has it tried again if that was asked for.
pub(super) fn edit(matches: &ArgMatches, source: &Source, id: ParkedId) -> Result {
    let record = source.record(id)?;
    let row = match (matches.get_one::<String>("row"), matches.get_one::<String>("file")) {
        (Some(row), _) => row.clone(),
        (None, Some(file)) if file == "-" => from_input()?,
        (None, Some(file)) => read(Path::new(file))?,
        (None, None) if !std::io::stdin().is_terminal() => from_input()?,
        (None, None) => {
            let now = record.change.after.as_ref().map_or("{}", |row| row.get());
            match in_editor(id, now)? {
                Some(row) => row,
                None => {
                    say!("the row is as it was; nothing was done");
                    return Ok(());
                }
            }
        }
    };
    if row.len() > REQUEST_MAX / 2 {
        return Err(Error::stop(format!("the row has {} bytes; at most {} can be taken", row.len(), REQUEST_MAX / 2)));
    }
    let answer = source.ask(&Ask::Edit { id, row })?;
    if let Some(why) = answer.refused {
        return Err(Error::stop(format!("record {id} stays as it was: {why}")));
    }
    match answer {
        answer if answer.meant == 0 => return Err(unknown(source.command(), id)),
        answer if answer.ended > 0 => {
            return Err(Error::stop(format!(
                "record {id} stays as it was: its source is read to its end in this run; ask again when it is run next"
            )));
        }
        answer if answer.under_way > 0 => {
            return Err(Error::stop(format!("record {id} is being tried just now and stays as it was; ask again in a moment")));
        }
        _ => {}
    }
    let is_retried = matches.get_flag("retry");
    if is_retried {
        source.ask(&Ask::Retry { filter: Filter::of([id]), after: 0 })?;
    }
    match (source.is_running(), is_retried) {
        (true, false) => say!("record {id} has its new row; `{} retry {id}` tries it again", source.command()),
        (true, true) => say!("record {id} has its new row and is tried again"),
        (false, _) => {
            let then = if is_retried { ", then retried" } else { "" };
            say!(
                "asked to edit record {id}{then}; a running pipeline does it within a second, a stopped one when it is run next"
            );
        }
    }
    Ok(())
}

fn from_input() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(REQUEST_MAX as u64).read_to_string(&mut text);
    read.map_err(|error| Error::stop("the row cannot be read from standard input").because(error))?;
    Ok(text)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::stop(format!("cannot read {}", path.display())).because(error))
}

/// The row as somebody leaves it in an editor; `None` if it is as it was. The file is its owner's alone, and is removed.
fn in_editor(id: ParkedId, row: &str) -> Result<Option<String>> {
    let set = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let Some(editor) = set("VISUAL").or_else(|| set("EDITOR")) else {
        return Err(Error::stop("no editor is set ($VISUAL or $EDITOR); give the row with --row JSON or --file FILE"));
    };
    let pretty = serde_json::from_str::<serde_json::Value>(row).ok().and_then(|row| serde_json::to_string_pretty(&row).ok());
    let before = pretty.unwrap_or_else(|| row.to_owned()) + "\n";
    let file = Draft::make(id, &before)?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let ended = Command::new(program).args(words).arg(&file.0).status();
    let ended = ended.map_err(|error| Error::stop(format!("the editor {program} cannot be started")).because(error))?;
    if !ended.success() {
        return Err(Error::stop(format!("the editor ended with {ended}; nothing was done")));
    }
    let after = read(&file.0)?;
    Ok((after != before).then_some(after))
}

/// A file that goes when this does.
struct Draft(PathBuf);

impl Draft {
    fn make(id: ParkedId, text: &str) -> Result<Draft> {
        let path = std::env::temp_dir().join(format!("parked-{id}-{:016x}.json", rand::random::<u64>()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| Error::stop(format!("cannot write {}", path.display())).because(error))?;
        Ok(Draft(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
