//! The engine alone, with changes that are in memory, beside a graph of the same shape in plain timely.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::prelude::*;
use highwater::run::{Build, Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::in_memory::{Changes, Customers, InMemory, Shape};
use highwater_benches::measure::{Outcome, Took, median, range, thousands};
use highwater_benches::timely_graph;
use serde::Serialize;

/// Runs the plain graph and the engine in turns, on the same kind of changes, and prints the medians. Each run's books are
/// checked.
#[derive(Parser)]
struct Flags {
    /// Changes in each run
    #[arg(long, default_value_t = 2_000_000)]
    changes: u64,
    /// Changes in each run of an action whose outcomes are noted
    #[arg(long, default_value_t = 1_000_000)]
    noted_changes: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Numbers of workers
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<usize>,
    /// Only these rows: timely, engine, closure, batch, closure-noted, batch-noted
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<What>,
    /// Calls of an action under way at once
    #[arg(long, default_value_t = 8_192)]
    max_parallelism: usize,
    /// Largest batch of an action called by batches
    #[arg(long, default_value_t = 1_000)]
    batch_max: usize,
    /// Changes under way at once. Default: the engine's own
    #[arg(long)]
    in_flight_changes: Option<u64>,
    /// Where folders for the checkpoint store are made, and removed at the end. Default: the system's temporary folder
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// The graph in plain timely.
    Timely,
    /// Dedup, lookup, a batch action that does nothing, checkpoints.
    Engine,
    /// An async closure that does nothing, repeatable; neither dedup nor lookup.
    Closure,
    /// The same by batches.
    Batch,
    /// An async closure that does nothing, each outcome noted.
    ClosureNoted,
    /// The same by batches.
    BatchNoted,
}

impl What {
    const ALL: [What; 6] = [What::Timely, What::Engine, What::Closure, What::Batch, What::ClosureNoted, What::BatchNoted];

    fn about(self) -> &'static str {
        match self {
            What::Timely => "plain timely: exchange, set, LRU, epochs",
            What::Engine => "engine: dedup, lookup, batch action, checkpoints",
            What::Closure => "async closure, repeatable",
            What::Batch => "batch closure, repeatable",
            What::ClosureNoted => "async closure, outcomes noted",
            What::BatchNoted => "batch closure, outcomes noted",
        }
    }

    fn is_noted(self) -> bool {
        matches!(self, What::ClosureNoted | What::BatchNoted)
    }
}

/// The runs of one thing on one number of workers.
struct Row {
    what: What,
    workers: usize,
    changes: u64,
    runs: Vec<Took>,
    hit_rate: f64,
    saves: u64,
}

/// A row as it is told.
#[derive(Serialize)]
struct Told {
    what: What,
    workers: usize,
    changes: u64,
    changes_per_second: f64,
    least: f64,
    most: f64,
    cpu_us_per_change: f64,
    share_of_timely: Option<f64>,
    hit_rate: f64,
    saves: u64,
}

impl Row {
    fn rates(&self) -> Vec<f64> {
        self.runs.iter().map(|took| self.changes as f64 / took.seconds).collect()
    }

    fn told(&self, rows: &[Row]) -> Told {
        let rates = self.rates();
        let timely = rows.iter().find(|row| row.what == What::Timely && row.workers == self.workers);
        let cpu: Vec<f64> = self.runs.iter().map(|took| took.cpu_seconds * 1e6 / self.changes as f64).collect();
        Told {
            what: self.what,
            workers: self.workers,
            changes: self.changes,
            changes_per_second: median(&rates),
            least: rates.iter().copied().fold(f64::INFINITY, f64::min),
            most: rates.iter().copied().fold(0.0, f64::max),
            cpu_us_per_change: median(&cpu),
            share_of_timely: timely.map(|timely| median(&rates) / median(&timely.rates())),
            hit_rate: self.hit_rate,
            saves: self.saves,
        }
    }
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let shape = Shape::default();
    let mut rows = Vec::new();
    for workers in &flags.workers {
        for what in What::ALL.into_iter().filter(|what| flags.only.is_empty() || flags.only.contains(what)) {
            let changes = if what.is_noted() { flags.noted_changes } else { flags.changes };
            // As many on each worker.
            let changes = changes / *workers as u64 * *workers as u64;
            rows.push(Row { what, workers: *workers, changes, runs: Vec::new(), hit_rate: 0.0, saves: 0 });
        }
    }
    let mut input: Option<Arc<Changes>> = None;
    for repetition in 1..=flags.repetitions {
        for row in &mut rows {
            let took = if row.what == What::Timely {
                let graphed = timely_graph::run(row.changes, row.workers, shape)?;
                row.hit_rate = graphed.hits as f64 / graphed.passed as f64;
                graphed.took
            } else {
                if !input.as_ref().is_some_and(|input| input.fits(row.changes, row.workers)) {
                    // Let go of first, for both are large.
                    drop(input.take());
                    input = Some(Arc::new(Changes::make(row.changes, row.workers, shape)));
                }
                let input = input.clone().ok_or("the input was made above")?;
                let report = run_engine(&flags, row.what, row.workers, input, shape)?;
                let lookups = report.0.cache.hits + report.0.cache.misses;
                row.hit_rate = if lookups == 0 { 0.0 } else { report.0.cache.hits as f64 / lookups as f64 };
                row.saves = report.0.saves;
                report.1
            };
            eprintln!(
                "{repetition}: {} on {}: {} changes/s",
                row.what.about(),
                row.workers,
                thousands(row.changes as f64 / took.seconds)
            );
            row.runs.push(took);
        }
    }
    let told: Vec<Told> = rows.iter().map(|row| row.told(&rows)).collect();
    if flags.json {
        println!("{}", serde_json::to_string(&told)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "workers", "changes/s", "range, M/s", "cpu us/change", "share of timely", "hits", "saves"]);
    for (row, told) in rows.iter().zip(&told) {
        let millions: Vec<f64> = row.rates().iter().map(|rate| rate / 1e6).collect();
        table.add_row([
            row.what.about().to_owned(),
            row.workers.to_string(),
            thousands(told.changes_per_second),
            range(&millions, 2),
            format!("{:.2}", told.cpu_us_per_change),
            told.share_of_timely.map(|share| format!("{share:.2}")).unwrap_or_default(),
            if told.hit_rate > 0.0 { format!("{:.3}", told.hit_rate) } else { String::new() },
            if row.what == What::Timely { String::new() } else { told.saves.to_string() },
        ]);
    }
    println!("medians of {} runs each, in turns", flags.repetitions);
    println!("{table}");
    Ok(())
}

/// One run of a pipeline, from its opening to its end; its books must say that every change was delivered, and none twice.
fn run_engine(
    flags: &Flags,
    what: What,
    workers: usize,
    input: Arc<Changes>,
    shape: Shape,
) -> Outcome<(highwater::report::Report, Took)> {
    let folder =
        tempfile::Builder::new().prefix("engine-").tempdir_in(flags.folder.clone().unwrap_or_else(std::env::temp_dir))?;
    let calls = Arc::new(AtomicU64::new(0));
    let (called, source, max_parallelism, batch_max) =
        (calls.clone(), InMemory(input.clone()), flags.max_parallelism, flags.batch_max);
    let build: Build = Arc::new(move |flow: &Flow<'_>| {
        let mut changes = flow.source(source.clone());
        if what == What::Engine {
            let customers = Lookup::by("customer_id").from(Customers::default()).cache(Cache::entries(shape.cached));
            changes = changes.dedup(Dedup::latest(shape.ids)).lookup("customer", customers);
        }
        let called = called.clone();
        let mut nothing = match what {
            What::Closure | What::ClosureNoted => action(
                "nothing",
                run(move |change| {
                    called.fetch_add(1, Ordering::Relaxed);
                    std::hint::black_box(change);
                    async { Ok(()) }
                }),
            ),
            _ => action(
                "nothing",
                batch(move |changes| {
                    called.fetch_add(changes.len() as u64, Ordering::Relaxed);
                    async move { changes.iter().map(|_| Ok(())).collect() }
                }),
            ),
        };
        nothing = nothing.max_parallelism(max_parallelism).batch_max(batch_max);
        if !what.is_noted() {
            nothing = nothing.repeatable();
        }
        changes.fan_out([nothing]).checkpoint(Checkpoint::every(millis(200)).batch_size(u64::MAX));
        Ok(())
    });
    let mut settings = Settings { data: Some(folder.path().join("data")), workers: Some(workers as u64), ..Settings::default() };
    settings.in_flight_changes = flags.in_flight_changes.unwrap_or(settings.in_flight_changes);
    let watch = highwater_benches::measure::Stopwatch::start();
    let report = run_pipeline("engine", &settings, &build, &Control::default()).map_err(|error| error.to_string())?;
    let took = watch.took();

    let books = &report.actions["nothing"];
    let duplicates = if what == What::Engine { input.duplicates } else { 0 };
    let expected = input.count() - duplicates;
    let calls = calls.load(Ordering::Relaxed);
    let found = [books.read, books.duplicate, books.delivered, books.parked, books.in_flight, calls];
    if !report.ended || found != [input.count(), duplicates, expected, 0, 0, expected] {
        return Err(format!("the books are wrong: {books:?}, {calls} calls; {expected} of {} expected", input.count()).into());
    }
    Ok((report, took))
}
