//! The seen-set and the cache tier in Redis, each beside the same commands sent bare over one connection, in turns, on a private server.

use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::operators::change::Found;
use highwater::operators::redis::{Connection, Url};
use highwater::operators::testing::redis::{Keeps, Settings as RedisSettings};
use highwater::prelude::*;
use highwater::run::{Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::in_memory::{Changes, InMemory, Shape};
use highwater_benches::measure::{Outcome, median, range, thousands};
use redis::{Pipeline, Value, cmd};
use tokio::runtime::Runtime;

/// Asks a private Redis for ids by a pipeline with a dedup, and by bare pipelines of `SET NX GET`; for rows by the cache tier of a lookup, and by bare
/// `MGET`; and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Changes in each run of the seen-set
    #[arg(long, default_value_t = 1_000_000)]
    changes: u64,
    /// Rows in the cache
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Keys of one MGET
    #[arg(long, default_value_t = 500)]
    batch: usize,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: u64,
}

/// Commands in a bare pipeline, and pipelines under way at once: as the seen-set has them at most.
const TOGETHER: usize = 1_000;
const UNDER_WAY: usize = 4;

fn main() -> Outcome {
    let flags = Flags::parse();
    let runtime = Runtime::new()?;
    let server = RedisSettings::default().keeps(Keeps::Nothing).start().map_err(|error| error.to_string())?;
    let url = server.url();
    let shape = Shape { duplicates: 0.1, ..Shape::default() };
    let changes = Arc::new(Changes::make(flags.changes, 1, shape));
    let rows = Rows::new(&runtime, &url, flags.rows)?;
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..flags.repetitions {
        let flush = || server.flush().map_err(|error| error.to_string());
        flush()?;
        rates[0].push(flags.changes as f64 / bare_seen(&runtime, &url, flags.changes)?);
        flush()?;
        rates[1].push(flags.changes as f64 / seen(&flags, &url, &changes)?);
        flush()?;
        rows.fill(&runtime)?;
        rates[2].push(rows.keys.len() as f64 / rows.bare(&runtime, &url, flags.batch)?);
        rates[3].push(rows.keys.len() as f64 / rows.tier(&runtime, flags.batch)?);
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "per second", "(least-most), thousands", "of bare"]);
    let names = ["bare SET NX GET, ids", "seen-set in a pipeline, changes", "bare MGET, keys", "cache tier, rows"];
    for (at, name) in names.into_iter().enumerate() {
        let share = median(&rates[at]) / median(&rates[at - at % 2]);
        let in_thousands: Vec<f64> = rates[at].iter().map(|rate| rate / 1_000.0).collect();
        table.add_row([name.to_owned(), thousands(median(&rates[at])), range(&in_thousands, 0), format!("{share:.2}")]);
    }
    println!(
        "medians of {} runs each, in turns; {} worker(s), Redis on the same machine\n{table}",
        flags.repetitions, flags.workers
    );
    Ok(())
}

/// Seconds that a pipeline takes whose dedup is in Redis.
fn seen(flags: &Flags, url: &Url, changes: &Arc<Changes>) -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let (source, url) = (InMemory(changes.clone()), url.clone());
    let build: highwater::run::Build = Arc::new(move |flow: &Flow<'_>| {
        let nothing = action(
            "nothing",
            batch(|changes: Vec<Delivery>| {
                let done = changes.iter().map(|_| Ok(())).collect();
                async move { done }
            }),
        );
        flow.source(source.clone())
            .dedup(Dedup::within(hours(1)).in_redis(url.reveal()))
            .fan_out([nothing.repeatable().max_parallelism(65_536).batch_max(4_096)])
            .checkpoint(Checkpoint::every(millis(200)).batch_size(u64::MAX));
        Ok(())
    });
    let settings = Settings { data: Some(folder.path().join("data")), workers: Some(flags.workers), ..Settings::default() };
    let began = Instant::now();
    let report = run_pipeline("redis", &settings, &build, &Control::default()).map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    let books = &report.actions["nothing"];
    if (books.duplicate, books.delivered) != (changes.duplicates, changes.count() - changes.duplicates) {
        return Err(format!("{} duplicates and {} delivered", books.duplicate, books.delivered).into());
    }
    Ok(seconds)
}

/// Seconds that as many bare commands take.
fn bare_seen(runtime: &Runtime, url: &Url, ids: u64) -> Outcome<f64> {
    let asked = async {
        let connection = Connection::open(url, "bare").await?;
        let value = [7; 29];
        let mut under_way = std::collections::VecDeque::new();
        let began = Instant::now();
        for from in (0..ids).step_by(TOGETHER) {
            let mut commands = Pipeline::with_capacity(TOGETHER);
            for id in from..(from + TOGETHER as u64).min(ids) {
                let key = format!("highwater:seen:0123456789abcdef:{id:032x}");
                commands.cmd("SET").arg(key).arg(&value).arg("NX").arg("GET").arg("PX").arg(7_200_000);
            }
            let connection = connection.clone();
            under_way.push_back(tokio::spawn(async move { connection.pipeline("asking", &commands).await }));
            if under_way.len() >= UNDER_WAY
                && let Some(first) = under_way.pop_front()
            {
                std::hint::black_box(first.await??);
            }
        }
        for last in under_way {
            std::hint::black_box(last.await??);
        }
        Ok::<f64, highwater::Error>(began.elapsed().as_secs_f64())
    };
    Ok(runtime.block_on(asked).map_err(|error| error.to_string())?)
}

/// Rows of some 60 bytes, and the tier that keeps them.
struct Rows {
    keys: Vec<String>,
    found: Vec<(String, Arc<Found>)>,
    tier: highwater::operators::lookup::RedisTier,
}

impl Rows {
    fn new(runtime: &Runtime, url: &Url, rows: usize) -> Outcome<Rows> {
        let _inside = runtime.enter();
        let keys: Vec<String> = (0..rows).map(|n| format!("c-{n:010}")).collect();
        let found = keys.iter().enumerate().map(|(n, key)| {
            let (name, tier) = (format!("customer number {n}"), format!("tier-{}", n % 5));
            let fields = [("id", key.as_str()), ("name", &name), ("tier", &tier), ("country", "de")];
            let row = Fields::new(fields.map(|(field, value)| (field, Some(value))));
            (key.clone(), Arc::new(Found::row_of("customer".into(), row)))
        });
        let cache = RedisCache::at(url.reveal()).prefix("bench").ttl(hours(1)).patience(seconds(5));
        Ok(Rows { found: found.collect(), tier: cache.open("bench", "customer").map_err(|error| error.to_string())?, keys })
    }

    fn fill(&self, runtime: &Runtime) -> Outcome {
        for found in self.found.chunks(TOGETHER) {
            runtime.block_on(self.tier.put(found));
        }
        Ok(())
    }

    fn bare(&self, runtime: &Runtime, url: &Url, batch: usize) -> Outcome<f64> {
        let asked = async {
            let connection = Connection::open(url, "bare").await?;
            let began = Instant::now();
            for keys in self.keys.chunks(batch) {
                let mut mget = cmd("MGET");
                for key in keys {
                    mget.arg(format!("highwater:cache:bench:{key}"));
                }
                let values: Vec<Value> = connection.query("asking", &mget).await?;
                if values.len() != keys.len() || values.contains(&Value::Nil) {
                    return Err(highwater::Error::stop("a row is missing"));
                }
                std::hint::black_box(values);
            }
            Ok::<f64, highwater::Error>(began.elapsed().as_secs_f64())
        };
        Ok(runtime.block_on(asked).map_err(|error| error.to_string())?)
    }

    fn tier(&self, runtime: &Runtime, batch: usize) -> Outcome<f64> {
        let stage: Arc<str> = "customer".into();
        let batches: Vec<Vec<String>> = self.keys.chunks(batch).map(<[String]>::to_vec).collect();
        runtime.block_on(async {
            let began = Instant::now();
            for keys in batches {
                let (found, missing) = self.tier.get(&stage, keys).await;
                if !missing.is_empty() {
                    return Err(format!("{} rows are missing", missing.len()).into());
                }
                std::hint::black_box(found);
            }
            Ok(began.elapsed().as_secs_f64())
        })
    }
}
