//! Streams as a source, on a private server: a pipeline to an action that does nothing, beside a bare client that reads the same entries with `XREAD`
//! over the same kind of connection. In turns, in one run. `scripts/prove redis-stream-speed`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::Known;
use highwater::operators::ingest::{Batch, Partition, Read, Source};
use highwater::operators::redis::BlockingConnection;
use highwater::operators::testing::redis::Server;
use highwater::prelude::*;
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, median, range, thousands};
use redis::{Value, cmd, pipe};

/// Reads streams and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Entries that are read in each run
    #[arg(long, default_value_t = 500_000)]
    entries: u64,
    /// Streams they are in
    #[arg(long, default_value_t = 1)]
    streams: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Entries of an answer
    #[arg(long, default_value_t = 2048)]
    count: u32,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: u64,
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let server = Server::start().map_err(said)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let names: Vec<String> = (0..flags.streams).map(|number| format!("orders-{number}")).collect();
    runtime.block_on(fill(&server, &names, flags.entries))?;
    let entries = flags.entries as f64;
    let (mut bare_rates, mut source_rates, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..flags.repetitions {
        bare_rates.push(entries / runtime.block_on(bare(&server, &names, &flags))?);
        source_rates.push(entries / alone(&server, &names, &flags)?);
        rates.push(entries / pipeline(&server, &names, &flags)?);
    }
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["", "entries/s", "of the bare client"]);
    for (what, measured) in [
        ("a bare client, XREAD", &bare_rates),
        ("the source alone", &source_rates),
        ("a pipeline to an action that does nothing", &rates),
    ] {
        let shown = format!("{} {}", thousands(median(measured)), range(measured, 0));
        table.add_row([what.to_owned(), shown, format!("{:.2}", median(measured) / median(&bare_rates))]);
    }
    println!("{table}");
    println!(
        "{} entries of about 250 bytes in {} streams, answers of {} entries, {} workers, {} repetitions in turns; median (least-most)",
        flags.entries, flags.streams, flags.count, flags.workers, flags.repetitions
    );
    Ok(())
}

fn said(error: highwater::Error) -> String {
    error.to_string()
}

async fn fill(server: &Server, names: &[String], entries: u64) -> Outcome {
    let mut connection = BlockingConnection::open(&server.url(), "fill").await.map_err(said)?;
    let line = connection.line().await.map_err(said)?;
    let note = "x".repeat(110);
    for first in (0..entries).step_by(1000) {
        let mut adds = pipe();
        for number in first..entries.min(first + 1000) {
            let change = format!(
                r#"{{"id":"c-{number}","table":"orders","op":"update","key":"o-{}","ts":1700000000000,"after":{{"status":"paid","amount":{},"note":"{note}"}}}}"#,
                number % 100_000,
                number % 997
            );
            let stream = &names[(number % names.len() as u64) as usize];
            adds.cmd("XADD").arg(stream).arg("*").arg("change").arg(change);
        }
        line.pipeline("filling", &adds).await.map_err(said)?;
    }
    Ok(())
}

/// Seconds of a bare client that touches every value.
async fn bare(server: &Server, names: &[String], flags: &Flags) -> Result<f64, Box<dyn std::error::Error>> {
    let mut connection = BlockingConnection::open(&server.url(), "bare").await.map_err(said)?;
    let line = connection.line().await.map_err(said)?;
    let began = Instant::now();
    let (mut behind, mut read, mut touched) = (vec!["0".to_owned(); names.len()], 0, 0);
    while read < flags.entries {
        let mut reads = cmd("XREAD");
        reads.arg("COUNT").arg(flags.count).arg("STREAMS").arg(names).arg(&behind);
        let answer: Value = line.query("reading", &reads).await.map_err(said)?;
        let Value::Array(streams) = answer else { break };
        for stream in streams {
            let Value::Array(pair) = stream else { continue };
            let (Value::BulkString(name), Value::Array(entries)) = (&pair[0], &pair[1]) else { continue };
            let at = names.iter().position(|known| known.as_bytes() == name).unwrap_or_default();
            read += entries.len() as u64;
            for entry in entries {
                let Value::Array(pair) = entry else { continue };
                let (Value::BulkString(id), Value::Array(fields)) = (&pair[0], &pair[1]) else { continue };
                touched += id.len()
                    + fields.iter().map(|field| if let Value::BulkString(text) = field { text.len() } else { 0 }).sum::<usize>();
            }
            if let Some(Value::Array(last)) = entries.last()
                && let Value::BulkString(id) = &last[0]
            {
                behind[at] = String::from_utf8_lossy(id).into_owned();
            }
        }
    }
    assert_eq!(read, flags.entries);
    std::hint::black_box(touched);
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds until the source alone has made changes of all.
fn alone(server: &Server, names: &[String], flags: &Flags) -> Result<f64, Box<dyn std::error::Error>> {
    let streams = RedisStreams::at(&server.url(), names.to_vec()).count(flags.count);
    let began = Instant::now();
    let source = streams.bind(&Vec::<Known>::new()).map_err(said)?.ok_or("streams are bound to a run")?;
    let window = InFlight::new(u64::MAX, u64::MAX);
    let mut readers = Vec::new();
    for (id, name) in (0..).zip(source.partitions().map_err(said)?) {
        readers.push(source.open(&Partition { id, name: name.name }, None, &window).map_err(said)?);
    }
    let mut read = 0;
    while read < flags.entries {
        for reader in &mut readers {
            let mut batch = Batch::default();
            if reader.read(&mut batch).map_err(said)? == Read::Some {
                read += batch.changes.len() as u64;
            }
        }
    }
    assert_eq!(read, flags.entries);
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds until a pipeline has called its action for every entry.
fn pipeline(server: &Server, names: &[String], flags: &Flags) -> Result<f64, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let settings = Settings { data: Some(folder.path().join("state")), workers: Some(flags.workers), ..Settings::default() };
    let done = Arc::new(AtomicU64::new(0));
    let (streams, counted) = (RedisStreams::at(&server.url(), names.to_vec()).count(flags.count), done.clone());
    let began = Instant::now();
    let pipeline = highwater::start("redis_stream", &settings, move |flow| {
        let counted = counted.clone();
        let nothing = run(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        flow.source(streams.clone())
            .fan_out([action("nothing", nothing).repeatable()])
            .checkpoint(Checkpoint::every(millis(200)));
    })
    .map_err(said)?;
    while done.load(Ordering::Relaxed) < flags.entries && !pipeline.has_ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed().as_secs_f64();
    pipeline.stop();
    let report = pipeline.wait().map_err(said)?;
    assert_eq!(report.actions["nothing"].delivered, flags.entries);
    Ok(took)
}
