//! What a checkpoint in Postgres costs by its batch size: a generator, and three actions that do nothing.

use std::sync::Arc;

use clap::Parser;
use comfy_table::Table;
use highwater::operators::postgres::PoolConfig;
use highwater::operators::testing::postgres::Server;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::{Build, Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, median, range, thousands};

/// Runs generated changes past three actions that do nothing, with checkpoints in Postgres at several batch sizes, in turns.
#[derive(Parser)]
struct Flags {
    /// Changes of each run
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// Checkpoint batch sizes to compare
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    sizes: Vec<u64>,
    /// Runs at each size, in turns
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Workers. Default: one per core but one
    #[arg(long)]
    workers: Option<u64>,
    /// The database, if not one of a private server that is started for this
    #[arg(long)]
    url: Option<String>,
}

/// What is measured at one batch size.
#[derive(Default)]
struct Size {
    rates: Vec<f64>,
    saves: Vec<f64>,
    replayed_max: u64,
    lost: u64,
}

const ACTIONS: [&str; 3] = ["one", "two", "three"];

impl Size {
    fn take(&mut self, report: &Report, changes: u64) -> Outcome {
        if !report.ended || report.read != changes {
            return Err(format!("{} of {changes} changes were read", report.read).into());
        }
        for books in report.actions.values() {
            let settled = books.duplicate + books.rejected + books.filtered + books.delivered + books.parked;
            if books.read != settled + books.in_flight {
                return Err(format!("the books do not balance: {books:?}").into());
            }
            self.lost += changes - books.delivered;
        }
        self.rates.push(report.read as f64 / report.seconds);
        self.saves.push(report.saves as f64);
        self.replayed_max = self.replayed_max.max(report.replayed_max);
        Ok(())
    }
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let said = |error: highwater::Error| error.to_string();
    let server = flags.url.is_none().then(Server::start).transpose().map_err(said)?;
    let mut sizes: Vec<(u64, Size)> = flags.sizes.iter().map(|size| (*size, Size::default())).collect();
    for repetition in 0..flags.repetitions {
        // In turns, and there and back: what the machine does meanwhile falls upon all sizes alike.
        if repetition % 2 == 1 {
            sizes.reverse();
        }
        for (size, measured) in &mut sizes {
            let database = server.as_ref().map(Server::database).transpose().map_err(said)?;
            let url = database.as_ref().map_or(flags.url.as_deref(), |database| Some(database.url().reveal()));
            let report = run_once(&flags, *size, repetition, url.ok_or("no database")?)?;
            measured.take(&report, flags.changes)?;
            eprintln!("size {size}: {} changes/s, {} saves", thousands(report.events_per_second), report.saves);
        }
    }
    sizes.sort_by_key(|(size, _)| *size);
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["checkpoint_batch_size", "changes/s", "range", "saves", "replayed_max", "lost"]);
    for (size, measured) in &sizes {
        table.add_row([
            thousands(*size as f64),
            thousands(median(&measured.rates)),
            range(&measured.rates, 0),
            thousands(median(&measured.saves)),
            thousands(measured.replayed_max as f64),
            measured.lost.to_string(),
        ]);
    }
    let medians: Vec<f64> = sizes.iter().map(|(_, measured)| median(&measured.rates)).collect();
    let (best, worst) = (medians.iter().copied().fold(0.0, f64::max), medians.iter().copied().fold(f64::INFINITY, f64::min));
    println!("{} changes, three actions, medians of {} runs each, in turns", thousands(flags.changes as f64), flags.repetitions);
    println!("{table}\nbest / worst: {:.2}", best / worst);
    match sizes.iter().any(|(_, measured)| measured.lost > 0) {
        true => Err("something was lost".into()),
        false => Ok(()),
    }
}

/// One run, from its start to its end.
fn run_once(flags: &Flags, size: u64, repetition: u32, url: &str) -> Outcome<Report> {
    let (changes, url) = (flags.changes, url.to_owned());
    let build: Build = Arc::new(move |flow: &Flow<'_>| {
        let store = PostgresCheckpointStore::with_pool_config(
            &url,
            PoolConfig { min_connections: 2, max_connections: 10, connection_timeout: seconds(30), idle_timeout: minutes(5) },
        );
        flow.source(Generator::new(7).changes(changes).keys(10_000))
            .fan_out(ACTIONS.map(|name| action(name, run(|_| async { Ok(()) })).max_parallelism(8_192)))
            .checkpoint(Checkpoint::every(millis(200)).batch_size(size).in_store(store));
        Ok(())
    });
    let settings = Settings { workers: flags.workers, ..Settings::default() };
    let report = run_pipeline(&format!("table-{size}-{repetition}"), &settings, &build, &Control::default());
    Ok(report.map_err(|error| error.to_string())?)
}
