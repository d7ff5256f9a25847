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
use std::path::{Path, PathBuf};
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
    println!(
        "| to | ids drawn at once | rows | ids never used | kills | that met work | read after a larger id | lost | repeated |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let server = highwater::testing::postgres::Settings::default().fast().start().unwrap();
    for (to, cache) in [(To::Files, 1), (To::Files, 20), (To::Table, 1), (To::Table, 20)] {
        let database = server.database().unwrap();
        writers::make_log(&database, LOG, cache);
        let folder = tempfile::tempdir().unwrap();
        let example = Example::built("change_log", folder.path());
        let source = url(&database);
        let output = Output::new(to, server.database().unwrap(), folder.path());
        let mut dice = Dice::new(seed ^ cache);
        let (met, used) = thread::scope(|scope| {
            let writers = Writers::start(scope, &database, LOG, seed ^ cache, rows);
            let (mut met, mut before) = (0, 0);
            for kill in 0..kills {
                let mut reader = start(&example, &source, &output, &mut dice);
                // Each reader has its share of the writing, and is killed at any moment of it, or before it has read anything.
                writers.allow(rows * (kill + 1) / (kills + 1));
                let pause = Duration::from_millis(dice.below(300));
                if kill % 4 != 3 {
                    reader.wait_until("something is read", |_| output.count() > before);
                }
                thread::sleep(pause);
                reader.signal("KILL");
                assert!(!reader.wait().status.success(), "it was killed");
                let now = output.count();
                met += u64::from(now > before);
                before = now;
            }
            (met, writers.finish())
        });
        let report = read_on(&example, &source, &output);
        let found = Found::compare(&database, &output);
        let Found { rows, late, lost, repeated } = found;
        // Transactions side by side do not tell in what order rows were read.
        let shown = if to == To::Files { late.to_string() } else { String::new() };
        println!("| {to:?} | {cache} | {rows} | {} | {kills} | {met} | {shown} | {lost} | {repeated} |", used - rows);
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
    let out = Output::new(To::Files, database.clone(), folder.path());
    let mut reader = start(&example, &source, &out, &mut dice);
    database.sql(&format!("insert into {LOG} (object_type, modification_type) values ('Order', 'INSERT')")).unwrap();
    reader.wait_until("it has begun", |_| out.count() > 0);
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
        reader.wait_until(fault, |_| out.count() >= there);
    }
    reader.signal("TERM");
    assert!(reader.wait().status.success());
    let report = read_on(&example, &source, &out);
    let found = Found::compare(&database, &out);
    assert_eq!((found.lost, found.repeated), (0, 0), "seed {seed}");
    let books = &report.actions["all"];
    assert_eq!(
        (report.read, books.delivered, books.parked),
        (found.rows, found.rows, 0),
        "seed {seed}: the books do not balance"
    );
}

/// Where changes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Files,
    Table,
}

/// What came of them.
struct Output {
    to: To,
    files: PathBuf,
    target: Database,
    url: String,
}

impl Output {
    fn new(to: To, target: Database, folder: &Path) -> Self {
        Output { to, files: folder.join("out"), url: url(&target), target }
    }

    fn arguments(&self) -> [&str; 2] {
        match self.to {
            To::Files => ["--out", "out"],
            To::Table => ["--target", &self.url],
        }
    }

    /// The ids, in the order in which they were written, as far as that can be told.
    fn ids(&self) -> Vec<u64> {
        match self.to {
            To::Files => ids(&self.files),
            To::Table => {
                let rows = self.target.sql("select change_id from change_log_copy order by ctid").unwrap();
                rows.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
            }
        }
    }

    fn count(&self) -> usize {
        match self.to {
            To::Files => self.ids().len(),
            // Before the first reader has made it there is none.
            To::Table => self.target.one("select count(*) from change_log_copy").map_or(0, |count| count.parse().unwrap()),
        }
    }
}

fn start(example: &Example, source: &str, output: &Output, dice: &mut Dice) -> Running {
    let workers = dice.pick(&["1", "2", "4"]);
    let size = dice.pick(&["1", "100", "10000"]);
    let mut arguments = arguments(source, output);
    arguments.extend(["--report", "none", "--workers", workers, "--checkpoint-batch-size", size]);
    example.start(&arguments)
}

/// Reads what is left, until there is nothing.
fn read_on(example: &Example, source: &str, output: &Output) -> Report {
    let mut arguments = arguments(source, output);
    arguments.extend(["--until-idle", "2", "--report", "json"]);
    let printed = example.succeed(&arguments);
    Report::parse(printed.lines().last().unwrap_or_default()).unwrap()
}

fn arguments<'a>(source: &'a str, output: &'a Output) -> Vec<&'a str> {
    [&["--source", source, "--table", LOG, "--checkpoint", "state"][..], &output.arguments()].concat()
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
    fn compare(database: &Database, output: &Output) -> Found {
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for row in database.sql(&format!("select id from {LOG}")).unwrap() {
            times.insert(row[0].as_deref().unwrap().parse().unwrap(), 0);
        }
        let (mut late, mut highest) = (0, 0);
        for id in output.ids() {
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
