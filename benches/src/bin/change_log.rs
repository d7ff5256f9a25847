//! The change log as a source, on a private server: beside a bare client that pages the same rows, with a transaction open throughout, and with
//! a long history behind it. Each pair in turns, in one run. `scripts/prove change-log-speed`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::operators::ResumeToken;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::{Batch, Partition, Read, Source};
use highwater::operators::postgres::Connection;
use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::settings::Settings;
use highwater::sources::postgres::change_log::Init;
use highwater_benches::measure::{Outcome, median, range, thousands};

/// Reads logs and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Rows that are read in each run
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Rows that were read before, where there is a history
    #[arg(long, default_value_t = 5_000_000)]
    history: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Rows of a page
    #[arg(long, default_value_t = 4096)]
    page: u32,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: u64,
    /// Only `speed`, `open` or `history`
    #[arg(long)]
    only: Option<String>,
}

/// Rows of the bare client's pages.
const BARE_PAGE: i64 = 10_000;

fn main() -> Outcome {
    let flags = Flags::parse();
    let server = Server::start().map_err(said)?;
    let database = server.database().map_err(said)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let does = |what: &str| flags.only.as_deref().is_none_or(|only| only == what);
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["", "without, rows/s", "with, rows/s", "with / without"]);
    let mut add = |what: &str, pairs: &[(f64, f64)]| {
        let (without, with): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let shown = |rates: &[f64]| format!("{} {}", thousands(median(rates)), range(rates, 0));
        table.add_row([what.to_owned(), shown(&without), shown(&with), format!("{:.2}", median(&with) / median(&without))]);
    };
    let rows = flags.rows;
    if does("speed") || does("open") {
        make(&database, "log")?;
        fill(&database, "log", rows)?;
    }
    if does("speed") {
        let mut pairs = Vec::new();
        for _ in 0..flags.repetitions {
            let bare = runtime.block_on(bare(&database, rows))?;
            pairs.push((rows as f64 / bare, rows as f64 / pipeline(&database, &flags)?));
        }
        add("a bare client | the pipeline, to an action that does nothing", &pairs);
    }
    if does("open") {
        // The id 1 was never committed: as long as anybody who might is there, it is open.
        let mut pairs = Vec::new();
        for _ in 0..flags.repetitions {
            let without = read(&database, "log", None, rows)?.0;
            let holder = runtime.block_on(hold(&database))?;
            let with = read(&database, "log", None, rows)?.0;
            drop(holder);
            until_alone(&database)?;
            pairs.push((rows as f64 / without, rows as f64 / with));
        }
        add("the source alone | with one transaction open throughout", &pairs);
    }
    if does("history") {
        let new = rows / 2;
        make(&database, "short")?;
        fill(&database, "short", new)?;
        make(&database, "long")?;
        fill_history(&database, flags.history)?;
        let (_, end) = read(&database, "long", None, flags.history)?;
        fill(&database, "long", new)?;
        let mut pairs = Vec::new();
        for _ in 0..flags.repetitions {
            let without = read(&database, "short", None, new)?.0;
            let with = read(&database, "long", end.as_ref(), new)?.0;
            pairs.push((new as f64 / without, new as f64 / with));
        }
        add(&format!("the source alone | behind {} rows of history", thousands(flags.history as f64)), &pairs);
    }
    println!("{table}");
    println!(
        "{rows} rows with 200 bytes of jsonb, {} repetitions in turns, pages of {} rows; median (least-most)",
        flags.repetitions, flags.page
    );
    Ok(())
}

fn said(error: highwater::Error) -> String {
    error.to_string()
}

fn make(database: &Database, name: &str) -> Outcome {
    Init::table(name).and_then(|init| init.apply(database.url())).map_err(said)?;
    // An id that was drawn and never used: a gap for ever.
    database
        .sql(&format!("begin; insert into {name} (object_type, modification_type) values ('a', 'b'); rollback"))
        .map_err(said)?;
    Ok(())
}

fn fill(database: &Database, name: &str, rows: u64) -> Outcome {
    let sql = format!(
        "insert into {name} (object_type, object_id, modification_type, object_data) \
         select 'Order', 'order-' || n % 100000, 'UPDATE', \
                jsonb_build_object('number', n, 'status', 'paid', 'amount', n % 997, 'note', repeat('x', 130)) \
         from generate_series(1, {rows}) n; vacuum analyze {name}"
    );
    run_each(database, &sql)
}

fn fill_history(database: &Database, rows: u64) -> Outcome {
    let sql = format!(
        "insert into long (object_type, object_id, modification_type, object_data) \
         select 'Order', 'order-' || n % 100000, 'UPDATE', '{{}}' from generate_series(1, {rows}) n; vacuum analyze long"
    );
    run_each(database, &sql)
}

/// Each statement by itself: a vacuum takes no part in a transaction.
fn run_each(database: &Database, sql: &str) -> Outcome {
    for statement in sql.split("; ") {
        database.sql(statement).map_err(said)?;
    }
    Ok(())
}

/// A bare client: pages by the primary key through a prepared statement, and touches every value.
async fn bare(database: &Database, rows: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let connection = Connection::open(database.url(), "bare").await.map_err(said)?;
    let sql = "select id, object_type, object_id, modification_type, object_data::text, created_at::text from log where id > $1 order by id limit $2";
    let page = connection.prepare(sql).await?;
    let began = Instant::now();
    let (mut after, mut read, mut touched) = (0_i64, 0, 0);
    loop {
        let got = connection.query(&page, &[&after, &BARE_PAGE]).await?;
        let Some(last) = got.last() else { break };
        after = last.get(0);
        read += got.len() as u64;
        for row in &got {
            touched += (1..6).map(|column| row.get::<_, &str>(column).len()).sum::<usize>();
        }
    }
    assert_eq!(read, rows);
    std::hint::black_box(touched);
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds until a pipeline has called its action for every row.
fn pipeline(database: &Database, flags: &Flags) -> Result<f64, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let settings = Settings { data: Some(folder.path().join("state")), workers: Some(flags.workers), ..Settings::default() };
    let done = Arc::new(AtomicU64::new(0));
    let (log, counted) = (PostgresChangeLog::at(database.url(), "log").page(flags.page), done.clone());
    let began = Instant::now();
    let pipeline = highwater::start("change_log", &settings, move |flow| {
        let counted = counted.clone();
        let nothing = run(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        flow.source(log.clone()).fan_out([action("nothing", nothing).repeatable()]).checkpoint(Checkpoint::every(millis(200)));
    })
    .map_err(said)?;
    while done.load(Ordering::Relaxed) < flags.rows && !pipeline.has_ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = began.elapsed().as_secs_f64();
    pipeline.stop();
    let report = pipeline.wait().map_err(said)?;
    assert_eq!(report.actions["nothing"].delivered, flags.rows);
    Ok(took)
}

/// Seconds that the source alone takes for so many rows, and where it has come.
fn read(
    database: &Database,
    name: &str,
    from: Option<&ResumeToken>,
    rows: u64,
) -> Result<(f64, Option<ResumeToken>), Box<dyn std::error::Error>> {
    let log = PostgresChangeLog::at(database.url(), name);
    let partition = Partition { id: 0, name: log.partitions().map_err(said)?.remove(0).name };
    let window = InFlight::new(u64::MAX, 64 << 20);
    let began = Instant::now();
    let mut reader = log.open(&partition, from, &window).map_err(said)?;
    let (mut read, mut token) = (0, None);
    while read < rows {
        let mut batch = Batch::default();
        if reader.read(&mut batch).map_err(said)? == Read::Some {
            read += batch.changes.len() as u64;
            token = Some(batch.token);
        }
    }
    assert_eq!(read, rows);
    Ok((began.elapsed().as_secs_f64(), token))
}

/// A transaction that may write the log, for as long as it is open.
async fn hold(database: &Database) -> Result<Connection, Box<dyn std::error::Error>> {
    let connection = Connection::open(database.url(), "holder").await.map_err(said)?;
    connection.batch_execute("begin; lock table log in row exclusive mode").await?;
    Ok(connection)
}

/// Waits until nobody holds the log any more.
fn until_alone(database: &Database) -> Outcome {
    let holders = "select count(*) from pg_locks where relation = 'log'::regclass and mode = 'RowExclusiveLock'";
    while database.one(holders).map_err(said)? != "0" {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
