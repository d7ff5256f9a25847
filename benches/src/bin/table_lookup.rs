//! Lookups in a table that is kept from its own changes, beside a bare loop that applies the same changes in order to a map and looks up in it.
//!
//! Both hold so many rows before the clock starts; then come orders, each of which looks a row up, and now and then a change of a row.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use clap::Parser;
use comfy_table::{Table, presets};
use hashbrown::HashMap;
use highwater::operators::change::Parts;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, OrderOf, Partition, Read, Reader, Source};
use highwater::operators::{Order, Position, ResumeToken};
use highwater::prelude::*;
use highwater::run::{Build, Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, median, range, thousands};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Runs both in turns and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Rows of the table
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Changes after them
    #[arg(long, default_value_t = 2_000_000)]
    changes: u64,
    /// Of so many changes one is of a row of the table
    #[arg(long, default_value_t = 10)]
    one_in: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Numbers of workers
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<u64>,
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let log = Arc::new(Log::make(&flags));
    let mut runs: Vec<(String, Vec<f64>)> = vec![("bare loop".to_owned(), Vec::new())];
    runs.extend(flags.workers.iter().map(|workers| (format!("pipeline, {workers} workers"), Vec::new())));
    for repetition in 1..=flags.repetitions {
        runs[0].1.push(bare(&log));
        for (workers, (_, runs)) in flags.workers.iter().zip(&mut runs[1..]) {
            runs.push(pipeline(&log, *workers)?);
        }
        eprintln!("{repetition} of {}", flags.repetitions);
    }
    let floor = median(&runs[0].1);
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "changes/s", "range, M/s", "share of the bare loop"]);
    for (what, rates) in &runs {
        let millions: Vec<f64> = rates.iter().map(|rate| rate / 1e6).collect();
        table.add_row([what.clone(), thousands(median(rates)), range(&millions, 2), format!("{:.2}", median(rates) / floor)]);
    }
    println!("{} rows, {} changes, medians of {}, in turns", flags.rows, flags.changes, flags.repetitions);
    println!("{table}");
    Ok(())
}

/// Rows, then changes, in the order of one log.
struct Log {
    changes: Vec<Change>,
    rows: usize,
    orders: u64,
}

impl Log {
    fn make(flags: &Flags) -> Log {
        let mut dice = SmallRng::seed_from_u64(1);
        let mut orders = 0;
        let changes = (0..flags.rows + flags.changes).map(|at| {
            let position = Position { partition: 0, at, within: 0 };
            let id = format!("{at:012}");
            let customer = if at < flags.rows { at } else { dice.random_range(0..flags.rows) };
            let customer = format!("c-{customer:010}");
            let is_order = at >= flags.rows && dice.random_range(0..flags.one_in) > 0;
            orders += u64::from(is_order);
            let row = match is_order {
                true => format!(r#"{{"customer_id":"{customer}","status":"paid","amount":"{at}.50","note":"left at the door"}}"#),
                false => format!(r#"{{"id":"{customer}","name":"Customer {customer}","city":"Ulm","version":{at}}}"#),
            };
            let parts = Parts {
                id: &id,
                table: if is_order { "orders" } else { "customers" },
                key: Some(if is_order { &id } else { &customer }),
                operation: if is_order { Operation::Insert } else { Operation::Update },
                time_ms: 1_700_000_000_000,
                before: None,
                after: Some(&row),
            };
            Change::new(Default::default(), position, parts).expect("the pieces are short")
        });
        let changes = changes.collect();
        Log { changes, rows: flags.rows as usize, orders }
    }
}

/// Applies rows to a map and looks orders up in it, in order; changes a second.
fn bare(log: &Log) -> f64 {
    let mut rows: HashMap<String, String> = HashMap::new();
    let put = |rows: &mut HashMap<String, String>, change: &Change| {
        rows.insert(change.key().to_owned(), change.after().raw_json().unwrap_or_default().to_owned());
    };
    log.changes[..log.rows].iter().for_each(|change| put(&mut rows, change));
    let began = Instant::now();
    let mut found = 0;
    for change in &log.changes[log.rows..] {
        if change.table() == "customers" {
            put(&mut rows, change);
        } else if let Some(row) = change.after().str("customer_id").and_then(|key| rows.get(&*key)) {
            found += row.len();
        }
    }
    std::hint::black_box(found);
    (log.changes.len() - log.rows) as f64 / began.elapsed().as_secs_f64()
}

/// The same by a pipeline: from the first order that an action is called for to the last.
fn pipeline(log: &Arc<Log>, workers: u64) -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let (began, calls, found) = (Arc::new(OnceLock::new()), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let build: Build = {
        let (log, began, calls, found) = (log.clone(), began.clone(), calls.clone(), found.clone());
        Arc::new(move |flow: &Flow<'_>| {
            let changes = flow.source(InLog(log.clone()));
            let customers = changes.table("customers");
            let (began, calls, found) = (began.clone(), calls.clone(), found.clone());
            let count = batch(move |changes| {
                began.get_or_init(Instant::now);
                let rows = changes.iter().filter(|change| change.found("customer").is_present()).count();
                found.fetch_add(rows as u64, Ordering::Relaxed);
                calls.fetch_add(changes.len() as u64, Ordering::Relaxed);
                async move { changes.iter().map(|_| Ok(())).collect() }
            });
            changes
                .filter(|change| change.table() == "orders")
                .lookup_table("customer", &customers, TableLookup::by("customer_id"))
                .fan_out([action("count", count).max_parallelism(8_192).batch_max(1_000).repeatable()])
                .checkpoint(Checkpoint::every(millis(200)).batch_size(u64::MAX));
            Ok(())
        })
    };
    let settings = Settings { data: Some(folder.path().join("data")), workers: Some(workers), ..Settings::default() };
    let control = Control::default();
    let watched = {
        let (calls, orders) = (calls.clone(), log.orders);
        std::thread::spawn(move || {
            while calls.load(Ordering::Relaxed) < orders {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            Instant::now()
        })
    };
    run_pipeline("table-lookup", &settings, &build, &control).map_err(|error| error.to_string())?;
    let ended = watched.join().map_err(|_| "watching the end failed")?;
    if found.load(Ordering::Relaxed) != log.orders {
        return Err(format!("{} of {} orders found their row", found.load(Ordering::Relaxed), log.orders).into());
    }
    let began = began.get().ok_or("no order came")?;
    Ok((log.changes.len() - log.rows) as f64 / (ended - *began).as_secs_f64())
}

/// The log as a source.
struct InLog(Arc<Log>);

/// Changes handed over at once: as many as a block of lines has.
const AT_ONCE: usize = 1024;

impl Source for InLog {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "log".to_owned(), bytes: None }])
    }

    fn open(&self, _: &Partition, from: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Handing { log: self.0.clone(), next: from.map_or(0, |token| token.order as usize) }))
    }

    fn order(&self) -> Option<OrderOf> {
        Some(|change| Order::of_place(change.position()))
    }
}

struct Handing {
    log: Arc<Log>,
    next: usize,
}

impl Reader for Handing {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let changes = &self.log.changes;
        if self.next == changes.len() {
            return Ok(Read::End);
        }
        let end = changes.len().min(self.next + AT_ONCE);
        batch.changes.extend_from_slice(&changes[self.next..end]);
        self.next = end;
        batch.token = ResumeToken { order: end as u64, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}
