//! The main example against the floor: the same input, the same files written, in turns, in the same minutes.

use std::path::Path;
use std::process::Command;

use clap::Parser;
use comfy_table::Table;
use highwater_benches::job::Job;
use highwater_benches::measure::{Outcome, built_beside, median, range, thousands};
use highwater_examples::orders::{Ended, Orders, Run};

/// Runs the bare loop and the main example in turns on one input and prints the medians.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    job: Job,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Checkpoint batch size of the main example. Default: its own choice
    #[arg(long)]
    checkpoint_batch_size: Option<u64>,
}

/// What is measured of one program.
#[derive(Default)]
struct Measured {
    seconds: Vec<f64>,
    resident_mb: Vec<f64>,
}

impl Measured {
    fn add(&mut self, ended: &Ended) {
        self.seconds.push(ended.seconds);
        self.resident_mb.push(ended.resident_kb_max as f64 / 1024.0);
    }
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let floor = built_beside("floor")?;
    let (folder, orders) = flags.job.prepare("orders-speed-")?;
    let events = flags.job.events;

    let (mut floors, mut pipelines) = (Measured::default(), Measured::default());
    let mut reported = Vec::new();
    for repetition in 1..=flags.repetitions {
        // Each goes first as often as the other: what the disk still has to write is a burden to who comes second.
        for is_floor in [repetition % 2 == 1, repetition % 2 == 0] {
            orders.wipe()?;
            if is_floor {
                let ended = run_floor(&floor, &orders, folder.path())?;
                eprintln!("{repetition}: floor {:.2} s", ended.seconds);
                floors.add(&ended);
            } else {
                let ended = orders.start(flags.job.workers, flags.checkpoint_batch_size)?.wait()?;
                let report = ended.report()?;
                eprintln!(
                    "{repetition}: orders {:.2} s, {} changes/s by its report",
                    ended.seconds,
                    thousands(report.events_per_second)
                );
                pipelines.add(&ended);
                reported.push(report.events_per_second);
            }
            // Fast and wrong does not count.
            let verdict = orders.verify()?;
            if !verdict.is_clean() || verdict.read != events {
                return Err(format!("the output is wrong: {verdict}").into());
            }
        }
    }

    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["program", "median s", "range s", "changes/s", "share of the floor", "peak resident MB"]);
    let floor_seconds = median(&floors.seconds);
    for (name, measured) in [("floor", &floors), ("orders", &pipelines)] {
        let seconds = median(&measured.seconds);
        table.add_row([
            name.to_owned(),
            format!("{seconds:.3}"),
            range(&measured.seconds, 2),
            thousands(events as f64 / seconds),
            format!("{:.2}", floor_seconds / seconds),
            format!("{:.0}", measured.resident_mb.iter().copied().fold(0.0, f64::max)),
        ]);
    }
    println!("{} changes, {} runs of each in turns, times of whole processes", thousands(events as f64), flags.repetitions);
    println!("{table}");
    println!("orders by its own report: {} changes/s (median)", thousands(median(&reported)));
    Ok(())
}

fn run_floor(floor: &Path, orders: &Orders, folder: &Path) -> Result<Ended, Box<dyn std::error::Error>> {
    let mut command = Command::new(floor);
    command.arg("--input").arg(orders.input()).arg("--customers").arg(orders.customers()).arg("--out").arg(orders.out());
    let ended = Run::start(command, folder)?.wait()?;
    if ended.status.success() { Ok(ended) } else { Err(format!("the floor failed: {}", ended.stderr).into()) }
}
