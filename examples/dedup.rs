//! A change that comes a second time is dropped; a change that is read a second time is not.
//!
//! Of six lines two are copies: four changes are printed. Then remove `data/dedup`, run it with `--crash`, which dies at the
//! last change as if it were killed, and run it once more without: all lines are read again ("replayed 6"), but no change is
//! taken for a copy of itself. The one that was not done is printed, and the books say the same as without a crash.

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/dedup.jsonl";

const LINES: &str = r#"{"id":"c-1","op":"insert","key":"o-1","ts":1760000000000,"after":{"status":"new"}}
{"id":"c-2","op":"update","key":"o-1","ts":1760000001000,"before":{"status":"new"},"after":{"status":"paid"}}
{"id":"c-1","op":"insert","key":"o-1","ts":1760000000000,"after":{"status":"new"}}
{"id":"c-3","op":"update","key":"o-1","ts":1760000002000,"before":{"status":"paid"},"after":{"status":"shipped"}}
{"id":"c-3","op":"update","key":"o-1","ts":1760000002000,"before":{"status":"paid"},"after":{"status":"shipped"}}
{"id":"c-4","op":"delete","key":"o-1","ts":1760000003000,"before":{"status":"shipped"}}
"#;

#[derive(clap::Args, Clone)]
struct Args {
    /// Die at the last change
    #[arg(long)]
    crash: bool,
}

fn main() -> highwater::Exit {
    highwater::program("dedup")
        .about("Drops copies of a change, and never the change itself")
        .prepare(|_| Ok(page::make(INPUT, LINES)?))
        .main_with(|flow, args: &Args| {
            let crash = args.crash;
            flow.source(JsonLines::file(INPUT))
                // Ids are remembered for ten minutes, in the changes' own time.
                .dedup(Dedup::within(minutes(10)))
                .fan_out([action(
                    "print",
                    run(move |change| async move {
                        if crash && change.id() == "c-4" {
                            std::process::abort();
                        }
                        println!("{} {} of {}", change.id(), change.operation().as_str(), change.key());
                        Ok(())
                    }),
                )])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}
