//! Jobs from end to end, put in, taken, done by a handler that does nothing, and finished, beside bare pipelined `LPUSH` and `LMOVE` of the same
//! bytes, in turns, on private servers.

use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use highwater::operators::redis::Connection;
use highwater::operators::testing::postgres::Server as Postgres;
use highwater::operators::testing::redis::{Keeps, Server as Redis, Settings};
use highwater::prelude::*;
use highwater::sinks::jobs::job::{Content, encode};
use highwater_benches::measure::{Outcome, median, range, thousands};

/// Puts jobs in and does them at the same time, and prints the medians of jobs a second.
#[derive(Parser)]
struct Flags {
    /// Jobs in each run
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Bytes of padding in each job
    #[arg(long, default_value_t = 200)]
    payload: usize,
    /// Workers
    #[arg(long, default_value_t = 16)]
    workers: usize,
    /// Keys, where jobs are ordered
    #[arg(long, default_value_t = 5_000)]
    keys: usize,
}

/// What is measured.
struct Measured {
    name: &'static str,
    rates: Vec<f64>,
}

const PIPELINE: usize = 1_000;

#[tokio::main]
async fn main() -> Outcome {
    let flags = Flags::parse();
    let forgetful = Redis::start().map_err(|error| error.to_string())?;
    let logged = Settings::default().keeps(Keeps::Log).start().map_err(|error| error.to_string())?;
    let synced = Settings::default().keeps(Keeps::All).start().map_err(|error| error.to_string())?;
    let database = Postgres::shared().database().map_err(|error| error.to_string())?;
    let names = [
        "LPUSH and LMOVE, no log",
        "queue in Redis, no log",
        "queue in Redis, appendfsync everysec",
        "queue in Redis, appendfsync always",
        "queue in Redis, ordered by key, no log",
        "queue in Postgres",
    ];
    let mut all = names.map(|name| Measured { name, rates: Vec::new() });
    for round in 0..flags.repetitions {
        let redis = |server: &Redis, what: &str| {
            RedisJobQueue::with_workers(server.url().reveal(), flags.workers).name(format!("{what}{round}"))
        };
        let seconds = [
            bare(&forgetful, &flags).await,
            through(redis(&forgetful, "plain"), &flags).await,
            through(redis(&logged, "logged"), &flags).await,
            through(redis(&synced, "synced"), &flags).await,
            through(redis(&forgetful, "ordered").ordered(), &flags).await,
            through(PostgresJobQueue::with_workers(database.url().reveal(), flags.workers).name(format!("p{round}")), &flags)
                .await,
        ];
        for (measured, seconds) in all.iter_mut().zip(seconds) {
            measured.rates.push(flags.jobs as f64 / seconds.map_err(|error| error.to_string())?.as_secs_f64());
        }
        for server in [&forgetful, &logged, &synced] {
            server.flush().map_err(|error| error.to_string())?;
        }
    }
    println!("{}", table(&all));
    Ok(())
}

fn change(n: usize, flags: &Flags) -> Result<Change> {
    let (key, pad) = (format!("k-{}", n % flags.keys), "x".repeat(flags.payload));
    Change::builder(format!("c-{n}")).table("orders").key(key).after(&serde_json::json!({"n": n, "pad": pad})).build()
}

/// Puts all in while they are done.
async fn through(queue: JobQueue, flags: &Flags) -> Result<Duration> {
    let changes: Vec<Change> = (0..flags.jobs).map(|n| change(n, flags)).collect::<Result<_>>()?;
    queue.store().await?;
    let began = Instant::now();
    let (puts, mut jobs) = (queue.clone(), changes.into_iter().enumerate());
    let putting = tokio::spawn(async move {
        loop {
            let some: Vec<_> = jobs.by_ref().take(PIPELINE).map(|(n, change)| (format!("{n:032x}"), change)).collect();
            if some.is_empty() {
                return Ok::<(), Error>(());
            }
            puts.enqueue_all(some).await?.into_iter().try_for_each(|enqueued| enqueued.map(drop))?;
        }
    });
    let (most, finished) = (flags.jobs, queue.clone());
    let workers = queue.work(handle(|_| async { Ok(()) }));
    let done = workers
        .until(async move {
            // The counts are the store's: what is gone from it is finished.
            drop(putting.await);
            while finished.counts().await.is_ok_and(|counts| counts.ready + counts.later + counts.behind + counts.in_flight > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await?;
    let took = began.elapsed();
    if done.finished != most as u64 {
        return Err(Error::stop(format!("{} of {most} jobs were finished", done.finished)));
    }
    Ok(took)
}

/// The same bytes into one list and from there into another one, in pipelines.
async fn bare(server: &Redis, flags: &Flags) -> Result<Duration> {
    let body = |n: usize| -> Result<Vec<u8>> {
        let change = change(n, flags)?;
        Ok(encode(&Content { id: format!("{n:032x}"), action: String::new(), lane: None, enqueued_ms: 0, change })?.to_vec())
    };
    let bodies: Vec<Vec<u8>> = (0..flags.jobs).map(body).collect::<Result<_>>()?;
    let connection = Connection::open(&server.url(), "bare").await?;
    let began = Instant::now();
    for some in bodies.chunks(PIPELINE) {
        let mut pushes = redis::pipe();
        for body in some {
            pushes.cmd("LPUSH").arg("from").arg(&body[..]);
        }
        connection.pipeline("pushing", &pushes).await?;
        let mut moves = redis::pipe();
        for _ in some {
            moves.cmd("LMOVE").arg("from").arg("to").arg("RIGHT").arg("LEFT");
        }
        connection.pipeline("moving", &moves).await?;
    }
    Ok(began.elapsed())
}

fn table(all: &[Measured]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["what", "jobs/s (median)", "range", "of bare"]);
    let bare = median(&all[0].rates);
    for Measured { name, rates } in all {
        let rate = median(rates);
        table.add_row([(*name).to_owned(), thousands(rate), range(rates, 0), format!("{:.2}", rate / bare)]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
