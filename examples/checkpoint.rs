//! The batch size of the checkpoint decides how much is read again after a crash, never how much is lost.
//!
//! Run it with `--crash-after 30000`, which dies as if it were killed, and then without: "replayed" counts what was read again,
//! and the last line what the receiver got twice: at most `max_parallelism` calls, each with the key of the first. Remove
//! `data/checkpoint` and `out/checkpoint` and try both runs with `--checkpoint-batch-size 40000`, or with 100. What is in flight
//! is read again in any case; `--in-flight-changes 1000` makes it little.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/checkpoint.jsonl";
const CHANGES: u64 = 40_000;
const RECEIVED: &str = "out/checkpoint/received.txt";

#[derive(clap::Args, Clone)]
struct Args {
    /// Die at this call
    #[arg(long, value_name = "CALLS", default_value_t = u64::MAX, hide_default_value = true)]
    crash_after: u64,
}

fn main() -> highwater::Exit {
    let exit = highwater::program("checkpoint")
        .about("What a crash reads again, and what it repeats")
        .prepare(|_| {
            let line =
                |n| format!(r#"{{"id":{n},"op":"insert","key":"k-{}","after":{{"n":{n},"pad":"{:200}"}}}}"#, n % 1_000, "");
            page::make(RECEIVED, "")?;
            Ok(page::make(INPUT, (1..=CHANGES).map(|n| line(n) + "\n").collect::<String>())?)
        })
        .main_with(|flow, args: &Args| {
            flow.source(JsonLines::file(INPUT))
                .fan_out([action("send", Receiver { crash_after: args.crash_after }).max_parallelism(50)])
                .checkpoint(Checkpoint::every(seconds(5)).batch_size(1_000));
        });
    let keys = fs::read_to_string(RECEIVED).unwrap_or_default();
    let known: HashSet<&str> = keys.lines().collect();
    println!("received: {} changes, {} of them twice", known.len(), keys.lines().count() - known.len());
    exit
}

/// Stands for a service that notes the key of every call before it answers.
struct Receiver {
    crash_after: u64,
}

static NOTES: LazyLock<Mutex<File>> =
    LazyLock::new(|| Mutex::new(OpenOptions::new().append(true).open(RECEIVED).expect("it was made above")));
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Action for Receiver {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            // One write, so that a crash leaves no half line.
            NOTES.lock().expect("nobody panics here").write_all(format!("{}\n", delivery.idempotency_key()).as_bytes())?;
            if CALLS.fetch_add(1, Ordering::Relaxed) + 1 == self.crash_after {
                std::process::abort();
            }
            Ok(())
        })
    }
}
