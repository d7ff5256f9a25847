//! Changes to orders, in tables of Postgres exactly once: the orders as they stand, and a history with a row for each change.
//!
//! Without arguments it shows that: it starts a private server (Debian has it as `postgresql`), starts itself against it, kills itself with
//! `kill -9` five times on the way, and holds both tables against a plain program that reads the same file. With `--target URL` it is that
//! pipeline; make the tables first:
//!
//! ```sql
//! create table orders (id text primary key, status text not null, amount numeric, note text, change bigint not null);
//! create table history (change text not null, id text not null, what text not null, at timestamptz not null);
//! ```

use std::collections::HashMap;
use std::process::{Command, Stdio, exit};

use highwater::operators::testing::postgres::{Database, Server};
use highwater::prelude::*;
use highwater_examples::page;

const INPUT: &str = "data/exactly_once/changes.jsonl";
const TABLES: &str =
    "create table orders (id text primary key, status text not null, amount numeric, note text, change bigint not null);
    create table history (change text not null, id text not null, what text not null, at timestamptz not null);";

#[derive(clap::Args, Clone)]
struct Args {
    /// The database with the tables `orders` and `history`
    #[arg(long, value_name = "URL", default_value = "postgres://localhost/shop")]
    target: String,
    /// The changes
    #[arg(long, value_name = "FILE", default_value = INPUT)]
    input: String,
}

fn main() -> highwater::Exit {
    if std::env::args().len() == 1 {
        exit(show().map_or_else(
            |error| {
                eprintln!("{error}");
                1
            },
            |()| 0,
        ));
    }
    highwater::program("exactly_once")
        .about("Orders and their history in Postgres, exactly once")
        .prepare(|args: &Args| if args.input == INPUT { Ok(page::make(INPUT, lines())?) } else { Ok(()) })
        .main_with(|flow, args: &Args| {
            let history = [("change", "@id"), ("id", "@key"), ("what", "@operation"), ("at", "@time")];
            flow.source(JsonLines::file(&args.input))
                .dedup(Dedup::within(hours(1)))
                .fan_out([
                    action("orders", PostgresTable::upsert(&args.target, "orders").key(["id"])),
                    action("history", PostgresTable::append(&args.target, "history").columns(history)),
                ])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// Kills the pipeline five times and looks what is in the tables.
fn show() -> Result {
    page::make(INPUT, lines())?;
    let _ = std::fs::remove_dir_all("data/exactly_once/kept");
    let server = Server::start()?;
    let database = server.database()?;
    database.sql(TABLES)?;
    let mut runs = 0;
    loop {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "--target",
            database.url().reveal(),
            "--data",
            "data/exactly_once/kept",
            "--listen",
            "none",
            "--report",
            "none",
        ]);
        let mut pipeline = command.stderr(Stdio::null()).spawn()?;
        runs += 1;
        // Each run but the last is killed when it has written some more.
        let enough = count(&database)? + 2_500;
        while runs <= 5 && count(&database)? < enough && pipeline.try_wait()?.is_none() {}
        if runs <= 5 {
            pipeline.kill()?;
        }
        let killed = !pipeline.wait()?.success();
        println!(
            "run {runs} {}; {} rows in the history",
            if killed { "was killed" } else { "came to its end" },
            count(&database)?
        );
        if !killed {
            break;
        }
    }
    let right = replay();
    let rows = database.sql("select id, status, amount::text from orders")?;
    let same = rows
        .iter()
        .filter(|row| right.get(row[0].as_deref().unwrap_or_default()).is_some_and(|order| order[..] == row[1..]))
        .count();
    let history = database.one("select count(*) || ' rows of ' || count(distinct change) || ' changes' from history")?;
    println!("orders: {} rows, {same} of them as a plain program has them, which has {}", rows.len(), right.len());
    println!("history: {history}, of {CHANGES}");
    Ok(())
}

fn count(database: &Database) -> Result<u64> {
    Ok(database.one("select count(*) from history")?.parse()?)
}

const CHANGES: u64 = 30_000;

/// What becomes of change `n`: its order, whether that goes, its status and amount.
fn change(n: u64) -> (String, bool, &'static str, u64) {
    let key = format!("o-{}", n * n % 1009);
    (key, n.is_multiple_of(17), ["new", "paid", "shipped"][n as usize % 3], n * 7 % 1000)
}

fn lines() -> String {
    let line = |n| match change(n) {
        (id, true, ..) => format!("{{\"id\":{n},\"op\":\"delete\",\"key\":\"{id}\",\"before\":{{\"id\":\"{id}\"}}}}\n"),
        (id, false, status, amount) => format!(
            "{{\"id\":{n},\"op\":\"update\",\"key\":\"{id}\",\"after\":{{\"id\":\"{id}\",\"status\":\"{status}\",\"amount\":{amount},\"change\":{n}}}}}\n"
        ),
    };
    (1..=CHANGES).map(line).collect()
}

/// The plain program: the orders after all changes, with status and amount.
fn replay() -> HashMap<String, [Option<String>; 2]> {
    let mut orders = HashMap::new();
    for n in 1..=CHANGES {
        match change(n) {
            (id, true, ..) => drop(orders.remove(&id)),
            (id, false, status, amount) => drop(orders.insert(id, [Some(status.to_owned()), Some(amount.to_string())])),
        }
    }
    orders
}
