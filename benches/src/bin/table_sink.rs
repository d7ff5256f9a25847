//! The table sink beside a bare `copy` of the same rows into an equal table, in turns, on a private server.

use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets};
use highwater::operators::postgres::Connection;
use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater::run::{Control, run as run_pipeline};
use highwater::settings::Settings;
use highwater_benches::measure::{Outcome, median, range, thousands};
use tokio::runtime::Runtime;

/// Fills a table by a bare `copy` from memory and by a pipeline from seeded changes, and prints the medians. The first table of
/// each kind is held against the one that was copied.
#[derive(Parser)]
struct Flags {
    /// Rows in each run
    #[arg(long, default_value_t = 1_500_000)]
    rows: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Bytes of padding in each row
    #[arg(long, default_value_t = 60)]
    payload: usize,
    /// Workers
    #[arg(long, default_value_t = 1)]
    workers: u64,
    /// Transactions under way at once
    #[arg(long, default_value_t = 3)]
    transactions: usize,
    /// Changes in one transaction
    #[arg(long, default_value_t = 8_000)]
    batch_max: usize,
    /// Changes under way at once
    #[arg(long, default_value_t = 65_536)]
    in_flight_changes: u64,
    /// Only appends, or only upserts
    #[arg(long)]
    only: Option<String>,
}

const COLUMNS: &str = "number bigint, key text, status text, amount numeric, pad text";

/// What a table is like, and how it is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Append,
    Upsert,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Append => "append",
            Kind::Upsert => "upsert",
        }
    }

    fn create(self, table: &str) -> String {
        let key = if self == Kind::Upsert { ", primary key (number)" } else { "" };
        format!("drop table if exists {table}; create table {table} ({COLUMNS}{key}); checkpoint")
    }
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let said = |error: highwater::Error| error.to_string();
    let server = Server::start().map_err(said)?;
    let database = server.database().map_err(said)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The rows once by the sink: what it writes is what is copied, byte by byte as the server tells it.
    database.sql(&Kind::Append.create("rows")).map_err(said)?;
    fill(&flags, Kind::Append, &database, "rows")?;
    let pieces = runtime.block_on(copied(&database))?;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["table", "bare copy, rows/s", "sink, rows/s", "sink / copy"]);
    for kind in [Kind::Append, Kind::Upsert] {
        if flags.only.as_deref().is_some_and(|only| only != kind.name()) {
            continue;
        }
        let (mut bare, mut sink) = (Vec::new(), Vec::new());
        for _ in 0..flags.repetitions {
            database.sql(&kind.create("bare")).map_err(said)?;
            bare.push(flags.rows as f64 / copy(&runtime, &database, &pieces)?);
            database.sql(&kind.create("filled")).map_err(said)?;
            sink.push(flags.rows as f64 / fill(&flags, kind, &database, "filled")?);
            if sink.len() > 1 {
                continue;
            }
            let differ =
                "select count(*) from ((table bare except all table filled) union all (table filled except all table bare)) d";
            assert_eq!(database.one(differ).map_err(said)?, "0", "the tables differ");
        }
        let told = |rates: &[f64]| format!("{} {}", thousands(median(rates)), range(rates, 0));
        table.add_row([kind.name().to_owned(), told(&bare), told(&sink), format!("{:.2}", median(&sink) / median(&bare))]);
    }
    println!("{table}");
    Ok(())
}

/// The rows as lines of a `copy`.
async fn copied(database: &Database) -> Outcome<Vec<Bytes>> {
    use futures_util::TryStreamExt;
    let connection = Connection::open(database.url(), "bench").await.map_err(|error| error.to_string())?;
    let lines = connection.copy_out("copy rows to stdout").await?;
    let lines: Vec<Bytes> = lines.try_collect().await?;
    let mut pieces = Vec::new();
    for lines in lines.chunks(700) {
        pieces.push(Bytes::from(lines.concat()));
    }
    Ok(pieces)
}

/// One bare `copy`, in one transaction. Returns its seconds.
fn copy(runtime: &Runtime, database: &Database, pieces: &[Bytes]) -> Outcome<f64> {
    use futures_util::SinkExt;
    runtime.block_on(async {
        let connection = Connection::open(database.url(), "bench").await.map_err(|error| error.to_string())?;
        let began = Instant::now();
        let mut copy = Box::pin(connection.copy_in("copy bare from stdin").await?);
        for piece in pieces {
            copy.feed(piece.clone()).await?;
        }
        copy.as_mut().finish().await?;
        Ok(began.elapsed().as_secs_f64())
    })
}

/// One run of a pipeline, from its start to its end. Returns its seconds.
fn fill(flags: &Flags, kind: Kind, database: &Database, table: &'static str) -> Outcome<f64> {
    let folder = tempfile::tempdir()?;
    let mut settings = Settings { data: Some(folder.path().join("data")), workers: Some(flags.workers), ..Settings::default() };
    settings.in_flight_changes = flags.in_flight_changes;
    let (rows, payload, transactions, batch_max) = (flags.rows, flags.payload, flags.transactions, flags.batch_max);
    let url = database.url().reveal().to_owned();
    let name = format!("{}-{}", kind.name(), folder.path().file_name().unwrap_or_default().display());
    let build: highwater::run::Build = std::sync::Arc::new(move |flow: &Flow<'_>| {
        let sink = match kind {
            Kind::Append => PostgresTable::append(&url, table),
            Kind::Upsert => PostgresTable::upsert(&url, table).key(["number"]),
        };
        let mut sink = action("table", sink);
        sink = sink.max_parallelism(transactions).batch_max(batch_max);
        flow.source(Generator::new(7).changes(rows).keys(100_000).payload(payload))
            .fan_out([sink])
            .checkpoint(Checkpoint::every(millis(200)).batch_size(1_000_000));
        Ok(())
    });
    let began = Instant::now();
    let report = run_pipeline(&name, &settings, &build, &Control::default()).map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(report.actions["table"].delivered, rows);
    Ok(seconds)
}
