//! Lookups whose origin is slow: how many changes pass beside a loop that waits for each row, and at a steady rate, how large batches are and how long changes wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::config::Listen;
use highwater::operators::change::Parts;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, Partition, Read, Reader, Source};
use highwater::operators::{Position, ResumeToken};
use highwater::prelude::*;
use highwater::run::{Build, Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, median, thousands};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Runs each as often as asked and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Changes of a run at full speed
    #[arg(long, default_value_t = 200_000)]
    changes: u64,
    /// Seconds of a run at a steady rate
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Changes per second of such a run
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Of a hundred changes so many find their row in the cache
    #[arg(long, default_value_t = 80)]
    hits: u64,
    /// How often each is run
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Workers
    #[arg(long, default_value_t = 2)]
    workers: u64,
}

/// Keys that are in the cache all along.
const HOT: u64 = 1_000;

fn main() -> Outcome {
    let flags = Flags::parse();
    let slow = Duration::from_millis(200);
    let loop_rate = sequential(&flags, slow);
    let mut rates = Vec::new();
    for _ in 0..flags.repetitions {
        rates.push(pipeline(&flags, Origin { takes: slow, per_key: Duration::ZERO }, None)?.rate);
    }
    println!(
        "an origin that takes 200 ms, {} % hits: a loop that waits for each row {loop_rate:.0} changes/s, the pipeline {} ({:.0} times as many)",
        flags.hits,
        thousands(median(&rates)),
        median(&rates) / loop_rate
    );
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header([
        "origin takes",
        "keys per batch",
        "utilisation, %",
        "change waits, median ms",
        "95 of 100, ms",
        "adaptations",
    ]);
    for takes in [5, 20, 100] {
        let origin = Origin { takes: Duration::from_millis(takes), per_key: Duration::from_micros(20) };
        let runs = (0..flags.repetitions).map(|_| pipeline(&flags, origin, Some(flags.rate))).collect::<Outcome<Vec<Seen>>>()?;
        let of = |figure: fn(&Seen) -> f64| median(&runs.iter().map(figure).collect::<Vec<f64>>());
        table.add_row([
            format!("{takes} ms + 20 us per key"),
            format!("{:.0}", of(|seen| seen.batch_mean)),
            format!("{:.0}", 100.0 * of(|seen| seen.utilisation)),
            format!("{:.1}", of(|seen| seen.median_ms)),
            format!("{:.1}", of(|seen| seen.p95_ms)),
            format!("{:.0}", of(|seen| seen.adaptations)),
        ]);
    }
    println!(
        "{} changes/s, {} % hits, adaptive, {} s, medians of {}",
        thousands(flags.rate as f64),
        flags.hits,
        flags.seconds,
        flags.repetitions
    );
    println!("{table}");
    Ok(())
}

/// How long an origin takes for a batch.
#[derive(Clone, Copy)]
struct Origin {
    takes: Duration,
    per_key: Duration,
}

/// What was seen of a run.
struct Seen {
    rate: f64,
    batch_mean: f64,
    utilisation: f64,
    median_ms: f64,
    p95_ms: f64,
    adaptations: f64,
}

/// One change after the other, each miss waited for; changes a second.
fn sequential(flags: &Flags, takes: Duration) -> f64 {
    let mut dice = SmallRng::seed_from_u64(1);
    let began = Instant::now();
    const CHANGES: u32 = 100;
    for _ in 0..CHANGES {
        if dice.random_range(0..100) >= flags.hits {
            std::thread::sleep(takes);
        }
    }
    f64::from(CHANGES) / began.elapsed().as_secs_f64()
}

/// A pipeline with that lookup, at full speed or at a rate.
fn pipeline(flags: &Flags, origin: Origin, rate: Option<u64>) -> Outcome<Seen> {
    let folder = tempfile::tempdir()?;
    let total = rate.map_or(flags.changes, |rate| rate * flags.seconds);
    let paced = Paced { total, rate, hits: flags.hits, began: Arc::default(), ended: Arc::default() };
    let (calls, waits) = (Arc::new(AtomicU64::new(0)), Arc::<Mutex<Vec<Duration>>>::default());
    let build: Build = {
        let (paced, calls, waits) = (paced.clone(), calls.clone(), waits.clone());
        Arc::new(move |flow: &Flow<'_>| {
            let (paced, calls, waits) = (paced.clone(), calls.clone(), waits.clone());
            let rows = load(move |keys: Vec<String>| async move {
                tokio::time::sleep(origin.takes + origin.per_key * keys.len() as u32).await;
                Ok(keys
                    .into_iter()
                    .map(|key| Some(Fields::new([("id", Some(key)), ("tier", Some("gold".to_owned()))])))
                    .collect())
            });
            let lookup = Lookup::by("customer").from(rows).cache(Cache::entries(100_000));
            let lookup = match rate {
                None => lookup.batch(5_000, millis(1)),
                Some(_) => lookup.batch(500, millis(50)).adaptive(Adaptive { max_latency: millis(180), ..Adaptive::default() }),
            };
            let source = paced.clone();
            let count = batch(move |changes| {
                if let Some((began, rate)) = paced.began.lock().zip(paced.rate) {
                    let waited = |change: &highwater::operators::action::Delivery| {
                        began.elapsed().saturating_sub(Duration::from_secs_f64(change.position().at as f64 / rate as f64))
                    };
                    // What comes while everything begins says nothing of the rate.
                    let settled = changes.iter().filter(|change| change.position().at >= rate);
                    waits.lock().extend(settled.map(waited));
                }
                calls.fetch_add(changes.len() as u64, Ordering::Relaxed);
                async move { changes.iter().map(|_| Ok(())).collect() }
            });
            flow.source(source)
                .lookup("customer", lookup)
                .fan_out([action("count", count).max_parallelism(20_000).batch_max(1_000).repeatable()])
                .checkpoint(Checkpoint::every(millis(200)).batch_size(u64::MAX));
            Ok(())
        })
    };
    let settings = Settings {
        data: Some(folder.path().join("data")),
        workers: Some(flags.workers),
        in_flight_changes: 100_000,
        listen: Listen::At(([127, 0, 0, 1], 0).into()),
        ..Settings::default()
    };
    let control = Control::default();
    let watched = {
        let (calls, ended, data) = (calls.clone(), paced.ended.clone(), folder.path().join("data"));
        std::thread::spawn(move || {
            while calls.load(Ordering::Relaxed) < total {
                std::thread::sleep(Duration::from_millis(1));
            }
            let at = Instant::now();
            let metrics = metrics(&data);
            ended.store(true, Ordering::Release);
            (at, metrics)
        })
    };
    run_pipeline("lookup-loads", &settings, &build, &control).map_err(|error| error.to_string())?;
    let (at, metrics) = watched.join().map_err(|_| "watching the end failed")?;
    let began = paced.began.lock().ok_or("nothing was read")?;
    let mut waits = std::mem::take(&mut *waits.lock());
    waits.sort_unstable();
    let wait_ms = |share: usize| waits.get(waits.len() * share / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
    let figure = |name: &str| metrics.get(name).copied().unwrap_or_default();
    Ok(Seen {
        rate: total as f64 / (at - began).as_secs_f64(),
        batch_mean: figure("highwater_lookup_batch_keys_mean"),
        utilisation: figure("highwater_lookup_batch_utilisation"),
        median_ms: wait_ms(50),
        p95_ms: wait_ms(95),
        adaptations: figure("highwater_lookup_adaptations_total"),
    })
}

/// What the monitor of the run says.
fn metrics(data: &std::path::Path) -> BTreeMap<String, f64> {
    let notice = std::fs::read(data.join("monitor.json")).unwrap_or_default();
    let notice: serde_json::Value = serde_json::from_slice(&notice).unwrap_or_default();
    let url = format!("{}/metrics", notice["url"].as_str().unwrap_or_default().trim_end_matches('/'));
    let text = ureq::get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string()).unwrap_or_default();
    let figure = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.split('{').next()?.to_owned(), value.parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

/// Changes that come at a rate, or as fast as they are taken: most look up a customer of a few, the others one who never comes again.
#[derive(Clone)]
struct Paced {
    total: u64,
    rate: Option<u64>,
    hits: u64,
    began: Arc<Mutex<Option<Instant>>>,
    ended: Arc<AtomicBool>,
}

impl Source for Paced {
    fn kind(&self) -> &'static str {
        "paced"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "paced".to_owned(), bytes: None }])
    }

    fn open(&self, _: &Partition, _: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Pacing { paced: self.clone(), dice: SmallRng::seed_from_u64(1), next: 0 }))
    }
}

struct Pacing {
    paced: Paced,
    dice: SmallRng,
    next: u64,
}

impl Reader for Pacing {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let began = *self.paced.began.lock().get_or_insert_with(Instant::now);
        if self.next == self.paced.total {
            return Ok(if self.paced.ended.load(Ordering::Acquire) { Read::End } else { Read::Idle(millis(1)) });
        }
        let due = self.paced.rate.map_or(u64::MAX, |rate| (began.elapsed().as_secs_f64() * rate as f64) as u64);
        let end = due.min(self.next + 1_024).min(self.paced.total);
        for at in self.next..end {
            let is_hit = self.dice.random_range(0..100) < self.paced.hits;
            let customer = if is_hit { self.dice.random_range(0..HOT) } else { HOT + at };
            let (id, row) = (format!("{at:012}"), format!(r#"{{"customer":"c-{customer}","status":"paid"}}"#));
            let parts = Parts {
                id: &id,
                table: "orders",
                key: Some(&id),
                operation: Operation::Insert,
                time_ms: 1_700_000_000_000,
                before: None,
                after: Some(&row),
            };
            let position = Position { partition: 0, at, within: 0 };
            batch.changes.push(Change::new(Default::default(), position, parts).expect("the pieces are short"));
        }
        if end == self.next {
            return Ok(Read::Idle(millis(1)));
        }
        self.next = end;
        batch.token = ResumeToken { order: end, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}
