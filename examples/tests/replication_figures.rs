//! What following costs and how soon it is: memory while one transaction of any size is read, the time from a commit to an action, the time from a
//! kill to the first new change. What is a figure is printed, not asserted; what is a bound is asserted.
//!
//! `HIGHWATER_ROWS`, `HIGHWATER_RATE` (rows a second) and `HIGHWATER_SECONDS` set the size.

use std::env;
use std::fs;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater::operators::postgres::Connection;
use highwater::prelude::*;
use highwater::settings::Settings as RunSettings;
use highwater::testing::postgres::{Database, Server, Settings};
use highwater_examples::built::Example;
use highwater_examples::orders::Report;

/// What one transaction may cost in memory, however large it is.
const RESIDENT: u64 = 400 << 20;

fn shop(server: &Server) -> Database {
    let database = server.database().unwrap();
    database.sql("create table orders (id bigint primary key, customer int, status text, note text)").unwrap();
    database
}

fn insert(from: u64, rows: u64) -> String {
    let to = from + rows - 1;
    format!(
        "insert into orders select n, n % 1000, 'paid', md5(n::text) || md5((n + 1)::text) from generate_series({from}, {to}) n"
    )
}

fn arguments<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--source", url, "--sink", "none", "--tables", "orders", "--slot", "figures", "--checkpoint", "state"];
    [&fixed[..], more].concat()
}

#[test]
fn a_transaction_of_any_size_is_read_in_bounded_memory() {
    let rows: u64 = setting("HIGHWATER_ROWS", || 100_000);
    let server = Settings::default().fast().set("max_wal_size", "8GB").start().unwrap();
    let database = shop(&server);
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("replication", folder.path());
    let url = database.url().reveal();
    println!("| one transaction of | read | resident at most |");
    println!("| ---: | --- | ---: |");
    // As it is committed while somebody follows, and as it is found later.
    for (number, how) in ["following", "catching up"].into_iter().enumerate() {
        if number == 0 {
            example.succeed(&arguments(url, &["--until-idle", "1", "--report", "none"]));
        } else {
            database.sql(&insert(number as u64 * rows + 1, rows)).unwrap();
        }
        let began = Instant::now();
        // Until the transaction is committed there is nothing to follow.
        let end: &[&str] = if number == 0 { &["--report", "json"] } else { &["--until-idle", "3", "--report", "json"] };
        let mut running = example.start(&arguments(url, end));
        if number == 0 {
            let follows = "select count(*) from pg_stat_replication";
            running.wait_until("it follows", |_| database.one(follows).is_ok_and(|count| count == "1"));
            database.sql(&insert(1, rows)).unwrap();
        }
        let written = database.one("select pg_current_wal_lsn()").unwrap();
        let confirmed =
            format!("select confirmed_flush_lsn >= '{written}' from pg_replication_slots where slot_name = 'figures'");
        let (mut most, mut is_told) = (0, false);
        while !running.has_ended() {
            most = most.max(resident(running.pid()));
            if number == 0 && !is_told && database.one(&confirmed).is_ok_and(|is| is == "t") {
                is_told = true;
                running.signal("TERM");
            }
            assert!(began.elapsed() < Duration::from_secs(600), "{}", running.stderr());
            thread::sleep(Duration::from_millis(20));
        }
        let ended = running.wait();
        let report = Report::parse(ended.stdout.lines().last().unwrap_or_default()).unwrap();
        assert_eq!(report.read, rows * (number as u64 + 1), "{}", ended.stderr);
        println!("| {rows} rows | {how} | {} MB |", most >> 20);
        assert!(most < RESIDENT, "{how}: {} MB", most >> 20);
    }
}

/// The most memory that a process had, in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or_default() << 10
}

#[test]
fn a_change_is_soon_at_its_action() {
    let rate: u64 = setting("HIGHWATER_RATE", || 1000);
    let seconds: u64 = setting("HIGHWATER_SECONDS", || 2);
    let server = Settings::default().fast().start().unwrap();
    let database = shop(&server);
    let folder = tempfile::tempdir().unwrap();
    let lags: Arc<Vec<AtomicU64>> = Arc::new((0..10_000).map(|_| AtomicU64::new(0)).collect());
    let (url, seen) = (database.url().clone(), lags.clone());
    let settings = RunSettings { data: Some(folder.path().join("state")), workers: Some(1), ..RunSettings::default() };
    let pipeline = highwater::start("lag", &settings, move |flow| {
        let seen = seen.clone();
        let note = run(move |change| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
            let lag = (now - change.time_ms()).clamp(0, 9_999) as usize;
            seen[lag].fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        let source = PostgresReplication::at(&url, "lag").tables(["orders"]).snapshot(Snapshot::Never);
        flow.source(source).fan_out([action("note", note).repeatable()]).checkpoint(Checkpoint::every(millis(200)));
    })
    .unwrap();
    until("it follows", || database.one("select count(*) from pg_stat_replication").is_ok_and(|count| count == "1"));
    let transactions = rate * seconds / 10;
    let wrote = write_evenly(&database, transactions, rate);
    let count = || lags.iter().map(|lag| lag.load(Ordering::Relaxed)).sum::<u64>();
    until("all are there", || count() == transactions * 10);
    pipeline.stop();
    assert_eq!(pipeline.wait().unwrap().read, transactions * 10);
    let at = |share: f64| {
        let wanted = (transactions as f64 * 10.0 * share).ceil() as u64;
        let mut sum = 0;
        lags.iter().position(|lag| {
            sum += lag.load(Ordering::Relaxed);
            sum >= wanted
        })
    };
    let (median, p99, most) = (at(0.5).unwrap(), at(0.99).unwrap(), at(1.0).unwrap());
    println!("| rows/s | from commit to action, median | 99 % | all |");
    println!("| ---: | ---: | ---: | ---: |");
    println!("| {:.0} | {median} ms | {p99} ms | {most} ms |", (transactions * 10) as f64 / wrote.as_secs_f64());
}

/// Writes transactions of ten rows, so many rows a second, on several connections: what one cannot do in time another does. Says how long that took.
fn write_evenly(database: &Database, transactions: u64, rate: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let writer = async || {
        let connection = Connection::open(database.url(), "writer").await.unwrap();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= transactions {
                return;
            }
            let due = Duration::from_micros(number * 10_000_000 / rate).saturating_sub(began.elapsed());
            if !due.is_zero() {
                tokio::time::sleep(due).await;
            }
            connection.batch_execute(&insert(number * 10 + 1, 10)).await.unwrap();
        }
    };
    runtime.block_on(async { tokio::join!(writer(), writer(), writer(), writer()) });
    began.elapsed()
}

#[test]
fn after_a_kill_the_first_new_change_comes_soon() {
    let server = Settings::default().fast().start().unwrap();
    let database = shop(&server);
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("replication", folder.path());
    let url = database.url().reveal();
    let mut times = Vec::new();
    for number in 0..setting("HIGHWATER_KILLS", || 3) {
        let mut running = example.start(&arguments(url, &["--report", "none"]));
        let follows = "select count(*) from pg_stat_replication";
        running.wait_until("it follows", |_| database.one(follows).is_ok_and(|count| count == "1"));
        running.signal("KILL");
        running.wait();
        database.sql(&insert(number * 10 + 1, 10)).unwrap();
        let printed = example.succeed(&arguments(url, &["--until-idle", "1", "--report", "json"]));
        let report = Report::parse(printed.lines().last().unwrap_or_default()).unwrap();
        assert_eq!(report.read, number * 10 + 10);
        times.push(report.first_new_seconds.unwrap());
    }
    times.sort_by(f64::total_cmp);
    println!("| kills | from the start to the first new change, median | longest |");
    println!("| ---: | ---: | ---: |");
    println!("| {} | {:.2} s | {:.2} s |", times.len(), times[times.len() / 2], times[times.len() - 1]);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited too long for this: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(default)
}
