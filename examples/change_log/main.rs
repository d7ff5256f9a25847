//! A table that programs write their changes to, read as it grows: nothing that commits late is missed, and each change is in `--out` once.
//!
//! Without `--source` it starts a Postgres of its own, which ends with it, and shows what makes a change log hard: `order-1` is written first
//! and committed last. With one, kill it when you like, even with `kill -9`, and start it again with the same arguments:
//!
//! ```sh
//! highwater init change-log --apply postgres://postgres@localhost/shop
//! change_log --source postgres://postgres@localhost/shop --out out/change_log
//! ```

mod private;

use std::path::PathBuf;

use highwater::operators::action::NamedAction;
use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Args {
    /// The database that the log is in [default: a private one, with some orders]
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// The log
    #[arg(long, value_name = "NAME", default_value = "tb_entity_change_log")]
    table: String,
    /// Listen on this channel instead of looking often
    #[arg(long, value_name = "CHANNEL")]
    notify: Option<String>,
    /// Write changes to files of JSON lines [default: print them]
    #[arg(long, value_name = "DIR", group = "to")]
    out: Option<PathBuf>,
    /// `none`: do nothing with them
    #[arg(long, value_name = "KIND", value_parser = ["none"], group = "to")]
    sink: Option<String>,
}

fn main() -> highwater::Exit {
    highwater::program("change_log").about("Reads a change log in Postgres as it grows").prepare(private::prepare).main_with(
        |flow, args: &Args| {
            let (url, checkpoint) = match &args.source {
                Some(url) => (url.clone(), Checkpoint::every(millis(200))),
                None => (private::url()?, Checkpoint::every(millis(200)).in_store(private::store()?)),
            };
            let mut log = PostgresChangeLog::table(url, &args.table);
            if let Some(channel) = &args.notify {
                log = log.notify(channel);
            }
            flow.source(log).fan_out([args.action()]).checkpoint(checkpoint);
            Ok(())
        },
    )
}

impl Args {
    fn action(&self) -> NamedAction {
        match (&self.out, &self.sink) {
            (Some(out), _) => action("all", JsonLines::append(out)),
            (_, Some(_)) => action("none", run(|_| async { Ok(()) })).repeatable(),
            _ => action("print", Stdout::json_lines()),
        }
    }
}
