//! Reads a change log while twenty writers do to it what writers do, and while reader, connection and server are killed, frozen and cut off.
//!
//! In the end every row that was committed must stand in the output exactly once, and nothing else. The reader is the example
//! `change_log`, a process of its own; the kill is a real SIGKILL; the server is a real Postgres.
//!
//! `HIGHWATER_ROWS` and `HIGHWATER_KILLS` set the size of the proof, `HIGHWATER_SEED` repeats its decisions (not its moments).

mod writers;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater::testing::postgres::{Database, Proxy, Server};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;
use writers::Writers;

const LOG: &str = "tb_entity_change_log";

#[test]
fn late_commits_are_read_once_however_often_the_reader_is_killed() {
    let rows: u64 = setting("HIGHWATER_ROWS", || 4000);
    let kills: u64 = setting("HIGHWATER_KILLS", || 3);
    let seed = seed();
    println!("HIGHWATER_SEED={seed} HIGHWATER_ROWS={rows} HIGHWATER_KILLS={kills}");
    println!("| ids drawn at once | rows | ids never used | kills | that met work | read after a larger id | lost | repeated |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let server = highwater::testing::postgres::Settings::default().fast().start().unwrap();
    for cache in [1, 20] {
        let database = server.database().unwrap();
        writers::make_log(&database, LOG, cache);
        let folder = tempfile::tempdir().unwrap();
        let example = Example::built("change_log", folder.path());
        let source = url(&database);
        let mut dice = Dice::new(seed ^ cache);
        let (met, used) = thread::scope(|scope| {
            let writers = Writers::start(scope, &database, LOG, seed ^ cache, rows);
            let (mut met, mut before) = (0, 0);
            for kill in 0..kills {
                let mut reader = start(&example, &source, &mut dice);
                // Each reader has its share of the writing, and is killed at any moment of it, or before it has read anything.
                writers.allow(rows * (kill + 1) / (kills + 1));
                let pause = Duration::from_millis(dice.below(300));
                if kill % 4 != 3 {
                    reader.wait_until("something is read", |_| ids(&folder.path().join("out")).len() > before);
                }
                thread::sleep(pause);
                reader.signal("KILL");
                assert!(!reader.wait().status.success(), "it was killed");
                let now = ids(&folder.path().join("out")).len();
                met += u64::from(now > before);
                before = now;
            }
            (met, writers.finish())
        });
        let report = read_on(&example, &source, &[]);
        let found = Found::compare(&database, &folder.path().join("out"));
        let Found { rows, late, lost, repeated } = found;
        println!("| {cache} | {rows} | {} | {kills} | {met} | {late} | {lost} | {repeated} |", used - rows);
        assert_eq!((lost, repeated), (0, 0), "seed {seed}");
        assert_eq!(report.actions["all"].delivered, rows, "seed {seed}: the books say otherwise");
        assert!(late > 0 && (met > 0 || kills == 0), "seed {seed}: nothing came late, or no kill met work: this shows nothing");
    }
}

#[test]
fn a_database_that_fails_in_every_way_costs_time_and_nothing_else() {
    let rows: u64 = setting("HIGHWATER_ROWS", || 4000);
    let seed = seed();
    println!("HIGHWATER_SEED={seed} HIGHWATER_ROWS={rows}");
    let server = Server::start().unwrap();
    let proxy = Proxy::to_server(&server).unwrap();
    let database = server.database().unwrap();
    writers::make_log(&database, LOG, 1);
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("change_log", folder.path());
    let source = format!("{}?sslmode=disable&connect_timeout=3", proxy.url(database.url()));
    let mut dice = Dice::new(seed);
    let mut reader = start(&example, &source, &mut dice);
    let out = folder.path().join("out");
    database.sql(&format!("insert into {LOG} (object_type, modification_type) values ('Order', 'INSERT')")).unwrap();
    reader.wait_until("it has begun", |_| !ids(&out).is_empty());
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'highwater change log%'";
    let faults: [(&str, &dyn Fn()); 7] = [
        ("its connection ended", &|| drop(database.sql(terminate).unwrap())),
        ("its connection ended once more", &|| drop(database.sql(terminate).unwrap())),
        ("the server restarted", &|| server.restart().unwrap()),
        ("the server killed", &|| {
            server.kill().unwrap();
            thread::sleep(Duration::from_millis(300));
            server.start_again().unwrap();
        }),
        ("the server frozen", &|| {
            server.freeze().unwrap();
            thread::sleep(Duration::from_secs(4));
            server.thaw().unwrap();
        }),
        ("the line cut", &|| {
            proxy.cut();
            thread::sleep(Duration::from_millis(500));
            proxy.mend();
        }),
        ("the line silent", &|| {
            proxy.silence();
            thread::sleep(Duration::from_secs(5));
            proxy.mend();
        }),
    ];
    for (number, (fault, strike)) in faults.iter().enumerate() {
        let expected: usize = database.one(&format!("select count(*) from {LOG}")).unwrap().parse().unwrap();
        thread::scope(|scope| {
            // The writers do not outlive a server's end; these are told to go on with what is left.
            let writers = Writers::start(scope, &database, LOG, seed ^ number as u64, rows / 7);
            writers.allow(u64::MAX);
            reader.wait_until(fault, |_| writers.written() >= rows / 14);
            strike();
            writers.finish();
        });
        let there: usize = database.one(&format!("select count(*) from {LOG}")).unwrap().parse().unwrap();
        assert!(there > expected, "{fault}: nothing was written");
        reader.wait_until(fault, |_| ids(&out).len() >= there);
    }
    reader.signal("TERM");
    assert!(reader.wait().status.success());
    let report = read_on(&example, &source, &[]);
    let found = Found::compare(&database, &out);
    assert_eq!((found.lost, found.repeated), (0, 0), "seed {seed}");
    let books = &report.actions["all"];
    assert_eq!(
        (report.read, books.delivered, books.parked),
        (found.rows, found.rows, 0),
        "seed {seed}: the books do not balance"
    );
}

fn start(example: &Example, source: &str, dice: &mut Dice) -> Running {
    let workers = dice.pick(&["1", "2", "4"]);
    let size = dice.pick(&["1", "100", "10000"]);
    let mut arguments = arguments(source);
    arguments.extend(["--report", "none", "--workers", workers, "--checkpoint-batch-size", size]);
    example.start(&arguments)
}

/// Reads what is left, until there is nothing.
fn read_on(example: &Example, source: &str, more: &[&str]) -> Report {
    let mut arguments = arguments(source);
    arguments.extend(["--until-idle", "2", "--report", "json"]);
    arguments.extend(more);
    let printed = example.succeed(&arguments);
    Report::parse(printed.lines().last().unwrap_or_default()).unwrap()
}

fn arguments(source: &str) -> Vec<&str> {
    vec!["--source", source, "--table", LOG, "--out", "out", "--checkpoint", "state"]
}

/// A superuser's URL, as one types it.
fn url(database: &Database) -> String {
    format!("{}?sslmode=disable", database.url())
}

/// How the output compares with the table.
struct Found {
    rows: u64,
    /// Rows that stand after one of a larger id.
    late: u64,
    lost: u64,
    repeated: u64,
}

impl Found {
    fn compare(database: &Database, out: &Path) -> Found {
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for row in database.sql(&format!("select id from {LOG}")).unwrap() {
            times.insert(row[0].as_deref().unwrap().parse().unwrap(), 0);
        }
        let (mut late, mut highest) = (0, 0);
        for id in ids(out) {
            *times.get_mut(&id).unwrap_or_else(|| panic!("{id} is in the output, and was never committed")) += 1;
            late += u64::from(id < highest);
            highest = highest.max(id);
        }
        let count = |holds: fn(u64) -> bool| times.values().filter(|times| holds(**times)).count() as u64;
        Found { rows: times.len() as u64, late, lost: count(|times| times == 0), repeated: count(|times| times > 1) }
    }
}

/// The ids in the output, file by file in the order in which they were written.
fn ids(out: &Path) -> Vec<u64> {
    let Ok(files) = fs::read_dir(out) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
    let id = |line: &str| line.strip_prefix("{\"id\":\"")?.split('"').next()?.parse().ok();
    text.lines().filter(|line| line.ends_with('}')).filter_map(id).collect()
}

fn seed() -> u64 {
    setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(default)
}
