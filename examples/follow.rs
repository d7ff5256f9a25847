//! A log that grows and is rotated, followed until Ctrl-C; each of its lines is in `out/follow` once, whatever happens.
//!
//! Run it, and in another terminal make the log grow, or rotate it; kill the program, even with `kill -9`, and start it again:
//!
//! ```sh
//! echo '{"id":4,"op":"insert","key":"door-2","after":{"state":"open"}}' >> data/follow/app.log
//! mv data/follow/app.log data/follow/app.log.1 && gzip data/follow/app.log.1
//! ```
//!
//! A partition is what a log says, not where it stands: `app.log.1.gz` is the log that `app.log` was. What was read whole may be
//! deleted. What is written and truncated before it was read is lost to everybody, so whoever truncates makes a copy first.

use highwater::prelude::*;
use highwater_examples::page;

const LOG: &str = "data/follow/app.log";

#[derive(clap::Args, Clone)]
struct Args {
    /// The log
    #[arg(long, value_name = "FILE", default_value = LOG)]
    log: String,
    /// Where lines go
    #[arg(long, value_name = "DIR", default_value = "out/follow")]
    out: String,
}

fn main() -> highwater::Exit {
    highwater::program("follow")
        .about("Follows a log through its rotations, until Ctrl-C")
        .prepare(|args: &Args| if args.log == LOG { Ok(page::make(LOG, lines())?) } else { Ok(()) })
        .main_with(|flow, args: &Args| {
            flow.source(JsonLines::file(&args.log).follow().settled_after(seconds(1)))
                .fan_out([
                    action("all", JsonLines::append(&args.out)),
                    action(
                        "print",
                        Stdout::lines(|change| format!("{} is {}", change.key(), change.row().str("state").unwrap_or_default())),
                    ),
                ])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// The doors of a house.
fn lines() -> String {
    let line = |n| {
        let state = if n % 2 == 0 { "open" } else { "shut" };
        format!("{{\"id\":{n},\"op\":\"insert\",\"key\":\"door-{n}\",\"after\":{{\"state\":\"{state}\"}}}}\n")
    };
    (1..=3).map(line).collect()
}
