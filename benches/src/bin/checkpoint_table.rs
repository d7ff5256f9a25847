//! The table the project exists for: what a checkpoint costs by its batch size, and what a kill costs.

use std::time::Duration;

use clap::Parser;
use comfy_table::Table;
use highwater_benches::job::Job;
use highwater_benches::measure::{Outcome, median, range, thousands};
use highwater_examples::orders::{Orders, Report};

/// Runs the main example at several checkpoint batch sizes, whole and killed half-way, and prints what each costs.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    job: Job,
    /// Checkpoint batch sizes to compare
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    sizes: Vec<u64>,
    /// Whole runs at each size, in turns
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Runs killed half-way and resumed, at each size
    #[arg(long, default_value_t = 3)]
    kills: u32,
}

/// What is measured at one batch size.
struct Size {
    size: u64,
    seconds: Vec<f64>,
    rates: Vec<f64>,
    saves: Vec<f64>,
    kills: u32,
    replayed_max: u64,
    first_new_seconds_max: Option<f64>,
    lost: u64,
    repeated: u64,
}

impl Size {
    fn new(size: u64) -> Self {
        let (seconds, rates, saves) = (Vec::new(), Vec::new(), Vec::new());
        Size { size, seconds, rates, saves, kills: 0, replayed_max: 0, first_new_seconds_max: None, lost: 0, repeated: 0 }
    }

    fn run_whole(&mut self, orders: &Orders, workers: Option<usize>) -> Outcome {
        orders.wipe()?;
        let ended = orders.start(workers, Some(self.size))?.wait()?;
        let report = ended.report()?;
        self.seconds.push(ended.seconds);
        // By the clock of the one who waits, not by the report: starting and stopping belong to a run.
        let rate = report.read as f64 / ended.seconds;
        self.rates.push(rate);
        self.saves.push(report.saves as f64);
        eprintln!("size {}: {} changes/s, {} saves", self.size, thousands(rate), report.saves);
        self.judge(orders, &report)
    }

    fn run_killed(&mut self, orders: &Orders, workers: Option<usize>) -> Outcome {
        let half = median(&self.seconds) / 2.0;
        // A run may be faster than the others were and end before it is killed: then the next is killed earlier.
        for share in [1.0, 0.8, 0.6, 0.4] {
            orders.wipe()?;
            let killed = orders.start(workers, Some(self.size))?.kill_after(Duration::from_secs_f64(half * share))?;
            if !killed.was_killed() {
                killed.report()?;
                continue;
            }
            let report = orders.start(workers, Some(self.size))?.wait()?.report()?;
            self.kills += 1;
            self.replayed_max = self.replayed_max.max(report.replayed).max(report.replayed_max);
            self.first_new_seconds_max = self.first_new_seconds_max.into_iter().chain(report.first_new_seconds).reduce(f64::max);
            eprintln!("size {}: killed after {:.2} s, {} replayed", self.size, killed.seconds, report.replayed);
            return self.judge(orders, &report);
        }
        Err(format!("no run at size {} lived long enough to be killed", self.size).into())
    }

    fn judge(&mut self, orders: &Orders, report: &Report) -> Outcome {
        let unbalanced = report.unbalanced();
        if !unbalanced.is_empty() {
            return Err(format!("size {}: {}", self.size, unbalanced.join("; ")).into());
        }
        let verdict = orders.verify()?;
        self.lost += verdict.lost;
        self.repeated += verdict.repeated;
        if verdict.wrong + verdict.out_of_order > 0 {
            return Err(format!("size {}: {verdict}", self.size).into());
        }
        Ok(())
    }
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let (_folder, orders) = flags.job.prepare("checkpoint-table-")?;
    let events = flags.job.events;

    let mut sizes: Vec<Size> = flags.sizes.iter().copied().map(Size::new).collect();
    for repetition in 0..flags.repetitions {
        // In turns, and there and back: what the machine does meanwhile falls upon all sizes alike.
        let forward = repetition % 2 == 0;
        for place in 0..sizes.len() {
            let place = if forward { place } else { sizes.len() - 1 - place };
            sizes[place].run_whole(&orders, flags.job.workers)?;
        }
    }
    for size in &mut sizes {
        for _ in 0..flags.kills {
            size.run_killed(&orders, flags.job.workers)?;
        }
    }

    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "checkpoint_batch_size",
        "changes/s",
        "range",
        "saves",
        "kills",
        "replayed_max",
        "first new change s, max",
        "lost",
        "repeated",
    ]);
    for size in &sizes {
        table.add_row([
            thousands(size.size as f64),
            thousands(median(&size.rates)),
            range(&size.rates, 0),
            thousands(median(&size.saves)),
            size.kills.to_string(),
            thousands(size.replayed_max as f64),
            size.first_new_seconds_max.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.3}")),
            size.lost.to_string(),
            size.repeated.to_string(),
        ]);
    }
    let medians: Vec<f64> = sizes.iter().map(|size| median(&size.rates)).collect();
    let best = medians.iter().copied().fold(0.0, f64::max);
    let worst = medians.iter().copied().fold(f64::INFINITY, f64::min);
    println!("{} changes, medians of {} runs each, in turns", thousands(events as f64), flags.repetitions);
    println!("{table}");
    println!("best / worst: {:.2}", best / worst);
    if sizes.iter().any(|size| size.lost + size.repeated > 0) {
        return Err("something was lost or repeated".into());
    }
    Ok(())
}
