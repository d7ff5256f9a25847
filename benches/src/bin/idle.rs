//! What a pipeline costs that waits for changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use highwater::prelude::*;
use highwater::run::{Build, Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::in_memory::{Changes, Customers, Shape, Waiting};
use highwater_benches::measure::{Outcome, Stopwatch};

/// Runs a pipeline whose source gives some changes and then waits, and prints what share of a core it uses while it waits.
#[derive(Parser)]
struct Flags {
    /// Seconds of waiting
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Workers
    #[arg(long, default_value_t = 2)]
    workers: u64,
    /// After how many milliseconds the source wants to be asked again
    #[arg(long, default_value_t = 100)]
    patience: u64,
    /// An action is called meanwhile and does not answer
    #[arg(long)]
    calling: bool,
    /// Print one JSON object instead of a sentence
    #[arg(long)]
    json: bool,
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let folder = tempfile::tempdir()?;
    let first = Arc::new(Changes::make(1_000, flags.workers as usize, Shape::default()));
    let waiting = Duration::from_secs(flags.seconds);
    let source =
        Waiting { first: first.clone(), until: Instant::now() + waiting, patience: Duration::from_millis(flags.patience) };
    let calling = flags.calling.then_some(waiting);
    let build: Build = Arc::new(move |flow: &Flow<'_>| {
        flow.source(source.clone())
            .dedup(Dedup::within(minutes(10)))
            .lookup("customer", Lookup::by("customer_id").from(Customers::default()))
            .fan_out([
                action("nothing", batch(|changes| async move { changes.iter().map(|_| Ok(())).collect() })),
                action(
                    "slow",
                    run(move |_| async move {
                        if let Some(waiting) = calling {
                            tokio::time::sleep(waiting).await;
                        }
                        Ok(())
                    }),
                )
                .when(|change| change.id().ends_with("0000000007"))
                .timeout(hours(1)),
            ])
            .checkpoint(Checkpoint::every(millis(200)));
        Ok(())
    });
    let settings = Settings { data: Some(folder.path().join("data")), workers: Some(flags.workers), ..Settings::default() };
    let watch = Stopwatch::start();
    let report = run_pipeline("idle", &settings, &build, &Control::default()).map_err(|error| error.to_string())?;
    let took = watch.took();
    if !report.ended || report.read != first.count() {
        return Err(format!("{} of {} changes were read", report.read, first.count()).into());
    }
    let percent = 100.0 * took.cpu_seconds / took.seconds;
    if flags.json {
        println!(r#"{{"seconds":{:.2},"cpu_seconds":{:.2},"percent_of_a_core":{percent:.2}}}"#, took.seconds, took.cpu_seconds);
    } else {
        println!("{percent:.2} % of a core, start and end included: {:.2} s of {:.2} s", took.cpu_seconds, took.seconds);
    }
    Ok(())
}
