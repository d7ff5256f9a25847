//! Runs the bare loop that the pipeline is compared with, and prints its changes per second.

use std::io;
use std::path::PathBuf;

use clap::Parser;
use highwater_benches::floor;

/// Reads, parses, keeps a set and a map and writes the main example's files, in a bare loop of two threads.
#[derive(Parser)]
struct Flags {
    /// The changes.
    #[arg(long)]
    input: PathBuf,
    /// The customers.
    #[arg(long)]
    customers: PathBuf,
    /// Where `all/floor.jsonl` and `paid/floor.jsonl` go.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let done = floor::run(&flags.input, &flags.customers, &flags.out)?;
    let floor::Done { read, duplicate, paid, seconds } = done;
    println!("read {read}, duplicate {duplicate}, paid {paid}, {seconds:.3} s, {:.0} changes/s", read as f64 / seconds);
    Ok(())
}
