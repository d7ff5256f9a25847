//! One pipeline in several processes: each reads some of the partitions, and owns some of the keys.
//!
//!     processes launch --processes 3 --workers 2 --checkpoint postgres://user@localhost/db
//!
//! Kill one of them (`kill -9`): the others notice and end, all are started again, and the run goes on from the last checkpoint.
//! `calls` tells which process did what; `file` and `lines` hold each change exactly once. With one process no Postgres is needed:
//! leave `launch` and `--checkpoint` away.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Args {
    /// Changes to make
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    changes: u64,
    /// Changes to make per second; 0: as many as can be done
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    rate: u64,
    /// A directory of files of JSON lines, read besides
    #[arg(long, value_name = "DIR", default_value = "data/processes")]
    input: PathBuf,
    /// Where the output goes
    #[arg(long, value_name = "DIR", default_value = "out/processes")]
    out: PathBuf,
}

fn main() -> highwater::Exit {
    highwater::program("processes")
        .about("One pipeline in several processes")
        .prepare(|args: &Args| Ok(fs::create_dir_all(&args.input)?))
        .main_with(|flow, args: &Args| {
            let made = Generator::new(7).changes(args.changes).partitions(12).keys(500);
            let made = if args.rate > 0 { made.rate(args.rate) } else { made };
            let calls = Arc::new(Calls { folder: args.out.join("calls"), file: OnceLock::new() });
            let of_generator = flow.source(made).fan_out([
                action(
                    "calls",
                    run(move |change| {
                        let calls = calls.clone();
                        async move { calls.note(&change) }
                    }),
                )
                .max_parallelism(20),
                action("file", JsonLines::append(args.out.join("file")).with(line)),
            ]);
            flow.source(JsonLines::dir(&args.input))
                .fan_out([action("lines", JsonLines::append(args.out.join("lines")).with(line))])
                .and(of_generator)
                .checkpoint(Checkpoint::every(millis(100)));
        })
}

fn line(change: &Change, line: &mut Line<'_>) {
    let position = change.position();
    line.field("id", change.id()).field("key", change.key()).field("partition", &position.partition).field("at", &position.at);
}

/// What was done, in a file per process: when, and what.
struct Calls {
    folder: PathBuf,
    file: OnceLock<fs::File>,
}

impl Calls {
    fn note(&self, change: &Change) -> Result {
        if self.file.get().is_none() {
            let _ = self.file.set(open(&self.folder)?);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        let position = change.position();
        let line = format!("{now} {} {} {} {}\n", change.id(), change.key(), position.partition, position.at);
        Ok(self.file.get().expect("opened above").write_all(line.as_bytes())?)
    }
}

fn open(folder: &Path) -> Result<fs::File> {
    fs::create_dir_all(folder)?;
    Ok(OpenOptions::new().append(true).create(true).open(folder.join(format!("{}.log", std::process::id())))?)
}
