//! A slot as a source, on a private server, in turns, in one run: catching up and following, each beside `pg_recvlogical` on the same log; rows that were
//! there, beside `psql` that copies the table to nowhere.
//! `scripts/prove replication-speed`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use comfy_table::{Table, presets};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::{Batch, Partition, Read, Source};
use highwater::operators::testing::postgres::{Database, Server, Settings};
use highwater::sources::{PostgresReplication, Snapshot};
use highwater_benches::measure::{Outcome, median, range, thousands};

/// Reads one log, and one table, in every way and prints the medians.
#[derive(Parser)]
struct Flags {
    /// Rows that are written, and read in each run
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Rows of a transaction
    #[arg(long, default_value_t = 100)]
    transaction: u64,
    /// How often each is run
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Only `catching-up`, `following` or `snapshot`
    #[arg(long)]
    only: Option<String>,
}

fn main() -> Outcome {
    let flags = Flags::parse();
    let server = Settings::default().set("max_wal_size", "16GB").set("checkpoint_timeout", "1h").start().map_err(said)?;
    let database = server.database().map_err(said)?;
    write(&database, &flags)?;
    let end = database.one("select pg_current_wal_insert_lsn()").map_err(said)?;
    let does = |what: &str| flags.only.as_deref().is_none_or(|only| only == what);
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(["", "beside", "its rows/s", "this, rows/s", "times"]);
    for (what, how) in [("catching up", How::CatchesUp), ("following", How::Follows), ("snapshot", How::Snapshot)] {
        if !does(&what.replace(' ', "-")) {
            continue;
        }
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..flags.repetitions {
            let took = if how == How::Snapshot { copied(&server, &database)? } else { recvlogical(&server, &database, &end)? };
            theirs.push(flags.rows as f64 / took);
            ours.push(flags.rows as f64 / source(&database, flags.rows, how)?);
        }
        let beside = if how == How::Snapshot { "copy to stdout" } else { "pg_recvlogical" };
        let shown = |rates: &[f64]| format!("{} {}", thousands(median(rates)), range(rates, 0));
        let times = format!("{:.2}", median(&ours) / median(&theirs));
        table.add_row([what.to_owned(), beside.to_owned(), shown(&theirs), shown(&ours), times]);
    }
    println!("{table}");
    println!(
        "{} rows of some 200 bytes, {} a transaction, {} repetitions in turns; median (least-most)",
        flags.rows, flags.transaction, flags.repetitions
    );
    Ok(())
}

/// How rows are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    CatchesUp,
    Follows,
    Snapshot,
}

fn said(error: highwater::Error) -> String {
    error.to_string()
}

/// Writes the log that all read.
fn write(database: &Database, flags: &Flags) -> Outcome {
    let (rows, transaction) = (flags.rows, flags.transaction);
    let all = [
        "create table orders(id bigint primary key, customer text, status text, amount numeric, placed timestamptz, note text)"
            .to_owned(),
        "create publication all_orders for table orders".to_owned(),
        "select pg_create_logical_replication_slot('origin', 'pgoutput')".to_owned(),
        format!(
            "create procedure fill() language plpgsql as $$ begin for part in 0..{rows} / {transaction} - 1 loop \
             insert into orders select part * {transaction} + n, 'customer-' || n % 1000, 'paid', n * 1.25, now(), repeat('x', 120) \
             from generate_series(1, {transaction}) n; commit; end loop; end $$"
        ),
        "call fill()".to_owned(),
        "checkpoint".to_owned(),
    ];
    for statement in all {
        database.sql(&statement).map_err(said)?;
    }
    Ok(())
}

/// A slot at the beginning of the log.
fn copy(database: &Database) -> Outcome {
    let _ = database
        .sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'turn' and not active");
    database.sql("select pg_copy_logical_replication_slot('origin', 'turn')").map_err(said)?;
    Ok(())
}

/// Seconds until `pg_recvlogical` has written all of the log to nowhere.
fn recvlogical(server: &Server, database: &Database, end: &str) -> Result<f64, Box<dyn std::error::Error>> {
    copy(database)?;
    let began = Instant::now();
    let status = Command::new(program()?)
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "postgres", "-d", database.name(), "-S", "turn"])
        .args(["--start", "--no-loop", "--endpos", end, "-f", "-", "-o", "proto_version=1", "-o", "publication_names=all_orders"])
        .stdout(Stdio::null())
        .status()?;
    let took = began.elapsed().as_secs_f64();
    released(database)?;
    if status.success() { Ok(took) } else { Err("pg_recvlogical has failed".into()) }
}

/// Seconds until `psql` has copied the table to nowhere.
fn copied(server: &Server, database: &Database) -> Result<f64, Box<dyn std::error::Error>> {
    let began = Instant::now();
    let status = Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", "postgres", "-d", database.name(), "-X", "-q"])
        .args(["-c", "copy orders to stdout"])
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(began.elapsed().as_secs_f64()) } else { Err("psql has failed".into()) }
}

fn program() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/pg_recvlogical")))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| "there is no pg_recvlogical: install Debian's package `postgresql`".into())
}

/// Seconds until the source has read all of the log, or of the table.
fn source(database: &Database, rows: u64, how: How) -> Result<f64, Box<dyn std::error::Error>> {
    copy(database)?;
    let source = PostgresReplication::at(database.url(), "turn").publication("all_orders");
    let source = match how {
        How::CatchesUp => source.snapshot(Snapshot::Never),
        How::Follows => source.snapshot(Snapshot::Never).only_follow(),
        How::Snapshot => {
            // With a slot that has nothing before its rows.
            database.sql("select pg_replication_slot_advance('turn', pg_current_wal_flush_lsn())").map_err(said)?;
            source
        }
    };
    let partition = Partition { id: 0, name: source.partitions().map_err(said)?.remove(0).name };
    let window = InFlight::new(u64::MAX, 64 << 20);
    let began = Instant::now();
    let mut reader = source.open(&partition, None, &window).map_err(said)?;
    let mut read = 0;
    while read < rows {
        let mut batch = Batch::default();
        if reader.read(&mut batch).map_err(said)? == Read::Some {
            read += batch.changes.len() as u64;
        }
    }
    let took = began.elapsed().as_secs_f64();
    assert_eq!(read, rows);
    drop(reader);
    released(database)?;
    Ok(took)
}

/// Waits until nobody holds the slot.
fn released(database: &Database) -> Outcome {
    while database.one("select count(*) from pg_replication_slots where slot_name = 'turn' and active").map_err(said)? != "0" {
        std::thread::yield_now();
    }
    Ok(())
}
