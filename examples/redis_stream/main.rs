//! Streams of Redis that programs add entries to, read as they grow: each change is in `--out` once, and a consumer group shows how far that is.
//!
//! Without `--source` it starts a Redis of its own, which ends with it, where another program has left work behind in the group: that is read
//! first. With one, kill it when you like, even with `kill -9`, and start it again with the same arguments:
//!
//! ```sh
//! redis-cli XADD orders '*' change '{"id":"c-1","table":"orders","op":"insert","key":"o-1","after":{"status":"new"}}'
//! redis_stream --source redis://localhost:6379/0 --stream orders --stream payments --out out/redis_stream
//! redis-cli XINFO GROUPS orders
//! ```

mod private;

use std::path::PathBuf;

use highwater::operators::action::NamedAction;
use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Args {
    /// The server that the streams are in [default: a private one, with some orders]
    #[arg(long, value_name = "URL")]
    source: Option<String>,
    /// A stream; several by saying it several times
    #[arg(long = "stream", value_name = "NAME", default_value = "orders")]
    streams: Vec<String>,
    /// Tell this consumer group how far is done; `none`: write nothing to the server
    #[arg(long, value_name = "NAME", default_value = "highwater")]
    group: String,
    /// The entries' fields are rows, with this one as their key [default: one field holds a change as JSON]
    #[arg(long, value_name = "FIELD")]
    rows_by: Option<String>,
    /// Write changes to files of JSON lines [default: print them]
    #[arg(long, value_name = "DIR", group = "to")]
    out: Option<PathBuf>,
    /// `none`: do nothing with them
    #[arg(long, value_name = "KIND", value_parser = ["none"], group = "to")]
    sink: Option<String>,
}

fn main() -> highwater::Exit {
    highwater::program("redis_stream").about("Reads streams of Redis as they grow").prepare(private::prepare).main_with(
        |flow, args: &Args| {
            let (url, checkpoint) = match &args.source {
                Some(url) => (url.clone(), Checkpoint::every(millis(200))),
                None => (private::url()?, Checkpoint::every(millis(200)).in_store(private::store()?)),
            };
            let mut streams = RedisStreams::streams(url, args.streams.clone());
            if args.group != "none" {
                streams = streams.group(&args.group);
            }
            if let Some(key) = &args.rows_by {
                streams = streams.entries(Entries::rows().key(key));
            }
            flow.source(streams).fan_out([args.action()]).checkpoint(checkpoint);
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
