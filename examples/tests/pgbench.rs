//! A bank that is open: `pgbench` moves money while its four tables are copied and followed into another database, and while the pipeline and the
//! server are killed. In the end the tables are equal row by row, and the balances agree.
//!
//! `HIGHWATER_KILLS`, `HIGHWATER_RESTARTS`, `HIGHWATER_SCALE` and `HIGHWATER_RATE` (transactions a second) set the size of the proof, `HIGHWATER_SEED`
//! repeats its decisions (not its moments).

use std::collections::HashSet;
use std::env;
use std::fs;
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater::testing::postgres::{Database, Server, Settings};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;

const TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"];

/// No wait of the proof is longer.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn a_bank_that_is_copied_while_all_is_killed_has_every_penny() {
    let (kills, restarts) = (setting("HIGHWATER_KILLS", || 4), setting("HIGHWATER_RESTARTS", || 1));
    prove("one process", kills, restarts, false);
}

#[test]
fn so_it_has_with_two_processes() {
    prove("2 processes x 2 workers", setting("HIGHWATER_KILLS", || 2), 0, true);
}

fn prove(what: &str, kills: u64, restarts: u64, launched: bool) {
    let scale: u64 = setting("HIGHWATER_SCALE", || 1);
    let rate: u64 = setting("HIGHWATER_RATE", || 100);
    let seed = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!(
        "{what}: HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_RESTARTS={restarts} HIGHWATER_SCALE={scale} HIGHWATER_RATE={rate}"
    );
    let began = Instant::now();
    let proof = Proof::new(scale, launched);
    let (server, bank, doors) = (&proof.server, &proof.bank, Bank::default());
    let (mut met, mut restarted) = (0, 0);
    thread::scope(|scope| {
        doors.serve(scope, server, bank, rate);
        let _closes = Closes(&doors);
        for kill in 0..kills {
            let before = proof.copied();
            let mut pipeline = proof.start(&mut Dice::new(seed ^ kill), &[]);
            // A slot is seen before it has found the point it begins at, and what is sold until then is told to nobody: the history has no key,
            // so its rows are not read as they are.
            let stands =
                "select count(*) from pg_replication_slots where slot_name = 'bench' and confirmed_flush_lsn is not null";
            pipeline.wait_until("the bank is open", |_| bank.one(stands).is_ok_and(|n| n != "0"));
            doors.is_open.store(true, Ordering::Relaxed);
            // One in four is killed at any moment, the others when they have done something.
            if kill % 4 != 3 {
                pipeline.wait_until("something is copied", |_| proof.copied() > before);
            }
            let mut dice = Dice::new(seed.wrapping_mul(31) ^ kill);
            thread::sleep(Duration::from_millis(dice.below(400)));
            if restarted < restarts && kill % (kills / (restarts + 1)).max(1) == 1 {
                restarted += 1;
                server.kill().unwrap();
                server.start_again().unwrap();
                let then = proof.copied();
                pipeline.wait_until("it goes on after the server was killed", |_| proof.copied() > then);
            }
            met += u64::from(proof.copied() > before);
            proof.kill(pipeline, &mut dice);
        }
    });
    let report = proof.finish();
    let rows = proof.compare(&report);
    let transactions = rows[3];
    println!(
        "| {what} | {kills} | {met} | {restarted} | {} | {transactions} | 0 | {:.0} |",
        rows.iter().sum::<u64>(),
        began.elapsed().as_secs_f64()
    );
    let parked: u64 = report.actions.values().map(|books| books.parked).sum();
    assert_eq!(parked, 0, "seed {seed}");
    assert!(
        transactions > 0 && (met > 0 || kills == 0),
        "seed {seed}: nothing was sold, or no kill met work: this shows nothing"
    );
}

struct Proof {
    server: Server,
    bank: Database,
    copy: Database,
    state: Database,
    example: Example,
    launched: bool,
    _folder: tempfile::TempDir,
}

impl Proof {
    fn new(scale: u64, launched: bool) -> Self {
        let server = Settings::default().fast().start().unwrap();
        let [bank, copy, state] = [(); 3].map(|()| server.database().unwrap());
        let mut init = server.command("pgbench");
        init.args(["-i", "-q", "-s", &scale.to_string(), bank.name()]);
        let made =
            init.output().unwrap_or_else(|error| panic!("pgbench (of Debian's package postgresql) cannot be run: {error}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let folder = tempfile::tempdir().unwrap();
        let example = Example::built("replication", folder.path());
        Proof { server, bank, copy, state, example, launched, _folder: folder }
    }

    /// Rows in the copy that come with money that moves, and with the first reading.
    fn copied(&self) -> u64 {
        let count = "select (select count(*) from pgbench_history) + (select count(*) from pgbench_accounts)";
        // Before the first run there are no tables, and while the server is away nobody answers.
        self.copy.one(count).map_or(0, |count| count.parse().unwrap())
    }

    fn start(&self, dice: &mut Dice, more: &[&str]) -> Running {
        let tables = TABLES.join(",");
        let (source, target) = (self.bank.url().reveal(), self.copy.url().reveal());
        let fixed =
            ["--source", source, "--target", target, "--tables", &tables, "--slot", "bench", "--publication", "bench_tables"];
        let workers = dice.pick(&["1", "2", "4"]);
        let size = dice.pick(&["1", "100", "10000"]);
        let shape = match self.launched {
            true => vec!["launch", "-n", "2", "-w", "2", "--checkpoint", self.state.url().reveal()],
            false => vec!["--workers", workers, "--checkpoint", "state"],
        };
        let sizes = ["--checkpoint-batch-size", size];
        let report: &[&str] = if more.is_empty() { &["--report", "none"] } else { more };
        self.example.start(&[&shape[..], &fixed, &sizes, report].concat())
    }

    /// Kills it; of several processes any, then the launcher, and waits until nobody of them is left.
    fn kill(&self, pipeline: Running, dice: &mut Dice) {
        if self.launched {
            let all: Vec<u32> = children(pipeline.id());
            if !all.is_empty() {
                signal("KILL", dice.pick(&all));
            }
            pipeline.signal("KILL");
            assert!(!pipeline.wait().status.success(), "it was killed");
            let end = Instant::now() + DEADLINE;
            while all.iter().any(|pid| lives(*pid)) {
                assert!(Instant::now() < end, "processes outlive their launcher");
                thread::sleep(Duration::from_millis(5));
            }
        } else {
            pipeline.signal("KILL");
            assert!(!pipeline.wait().status.success(), "it was killed");
        }
    }

    /// Reads what is left, until there is nothing.
    fn finish(&self) -> Report {
        let ended = self.start(&mut Dice::new(1), &["--until-idle", "2", "--report", "json"]).wait();
        assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
        let line = ended.stdout.lines().find(|line| line.starts_with("{\"pipeline\"")).unwrap_or_default();
        Report::parse(line).unwrap()
    }

    /// Holds the tables against each other, and gives the numbers of their rows.
    fn compare(&self, report: &Report) -> Vec<u64> {
        for table in TABLES {
            let rows = |database: &Database| {
                let rows = database.sql(&format!("select t::text from {table} t order by 1")).unwrap();
                rows.into_iter().map(|row| row[0].clone().unwrap()).collect::<Vec<_>>()
            };
            let (right, found) = (rows(&self.bank), rows(&self.copy));
            if right != found {
                let only = |these: &[String], others: &[String]| -> Vec<String> {
                    let others: HashSet<&String> = others.iter().collect();
                    these
                        .iter()
                        .filter(|row| !others.contains(row))
                        .map(|row| row.trim_end_matches([' ', '"', ')']).to_owned())
                        .collect()
                };
                let (missing, strange) = (only(&right, &found), only(&found, &right));
                panic!(
                    "{table}: {} rows, not {}; {} missing or other: {:?} ..; {} strange: {:?} ..\n{report:#?}",
                    found.len(),
                    right.len(),
                    missing.len(),
                    &missing[..missing.len().min(5)],
                    strange.len(),
                    &strange[..strange.len().min(5)]
                );
            }
        }
        let sums = "select concat_ws(' ', (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), \
                    (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history))";
        let sums = self.copy.one(sums).unwrap();
        let all: Vec<&str> = sums.split(' ').collect();
        assert!(all.len() == 4 && all.iter().all(|sum| *sum == all[0]), "the balances do not agree: {sums}");
        let count = |table: &&str| self.copy.one(&format!("select count(*) from {table}")).unwrap().parse().unwrap();
        TABLES.iter().map(count).collect()
    }
}

/// Whether money moves.
#[derive(Default)]
struct Bank {
    is_open: AtomicBool,
    is_closed: AtomicBool,
}

/// Closes the bank, also when something fails.
struct Closes<'a>(&'a Bank);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
    }
}

impl Bank {
    /// Customers come to its eight counters when it is open; those whose server was killed come again.
    fn serve<'s>(&'s self, scope: &'s Scope<'s, '_>, server: &'s Server, bank: &Database, rate: u64) {
        let (name, rate) = (bank.name().to_owned(), rate.to_string());
        scope.spawn(move || {
            while !self.is_closed.load(Ordering::Relaxed) {
                if !self.is_open.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                let mut command = server.command("pgbench");
                command.args(["-c", "8", "-n", "-T", "3600", "-R", &rate, &name]).stdout(Stdio::null()).stderr(Stdio::null());
                let mut running = command.spawn().unwrap();
                while running.try_wait().unwrap().is_none() {
                    if self.is_closed.load(Ordering::Relaxed) {
                        end(&mut running);
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
    }
}

fn end(running: &mut Child) {
    // One that has ended meanwhile is no matter.
    let _ = running.kill();
}

/// The processes that this one has started and that live.
fn children(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(state, parent)| parent == of && state != "Z")).collect()
}

fn lives(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// State and parent. The name before may hold anything.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn signal(name: &str, pid: u32) {
    // One that has ended meanwhile is no matter.
    let _ = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(default)
}
