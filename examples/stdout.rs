//! Changes as lines on standard output, for people or for the next program of a pipe.
//!
//! Twenty changes are printed, as text or, with `--json`, in the envelope they came in. Try
//! `cargo run --example stdout -- --report none --json > changes.jsonl`: nothing but changes stands in the file. What is printed
//! cannot be taken back: after a crash up to `max_parallelism` lines are printed once more. `JsonLines::append` repeats none.
//! With `--stdin` it prints what comes by standard input; what was under way in a crash is then lost, for it cannot be read again.

use highwater::prelude::*;
use highwater_examples::orders::dice::Dice;
use highwater_examples::page;

const INPUT: &str = "data/stdout.jsonl";

#[derive(clap::Args, Clone)]
struct Args {
    /// Print changes as JSON lines
    #[arg(long)]
    json: bool,
    /// Read standard input
    #[arg(long)]
    stdin: bool,
}

fn main() -> highwater::Exit {
    highwater::program("stdout").about("Prints a line per change").prepare(|_| Ok(page::make(INPUT, lines(1))?)).main_with(
        |flow, args: &Args| {
            let print = match args.json {
                true => Stdout::json_lines(),
                false => Stdout::lines(|change| {
                    format!("{:>3}  {} is {}", change.id(), change.key(), change.row().str("state").unwrap_or_default())
                }),
            };
            let input = if args.stdin { JsonLines::stdin() } else { JsonLines::file(INPUT) };
            flow.source(input).fan_out([action("print", print)]).checkpoint(Checkpoint::every(millis(200)));
        },
    )
}

/// The lamps of a street, switched at random; the same seed switches the same ones.
fn lines(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let line = |n| {
        let (lamp, state) = (dice.below(4), dice.pick(&["on", "off"]));
        let row = format!("{{\"state\":\"{state}\"}}");
        format!("{{\"id\":{n},\"table\":\"lamps\",\"op\":\"update\",\"key\":\"lamp-{lamp}\",\"ts\":{n},\"after\":{row}}}\n")
    };
    (1..=20).map(line).collect()
}
