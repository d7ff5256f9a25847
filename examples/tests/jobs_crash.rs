//! Kills (`kill -9`) and freezes the example `job_worker` at random, kills its Redis, and asks the receiver what came: every job at least once, those
//! of an ordered key in order, and no job from a worker that had lost it.
//!
//! Redis logs each write before it answers (`appendfsync always`), so what it acknowledged is there again. The receiver is a process of its own,
//! which has a request in its file before it answers. Each job is posted with the fencing number of its lease in the query.
//!
//! `HIGHWATER_JOBS` and `HIGHWATER_KILLS` set the size of the proof, `HIGHWATER_SEED` repeats one.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use highwater::prelude::*;
use highwater::testing::redis::{Keeps, Server, Settings};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::dice::Dice;
use highwater_examples::receiver::{Receiver, Request};

const PROCESSES: usize = 3;
const WORKERS: usize = 8;
const KEYS: u64 = 60;
const LEASE: Duration = Duration::from_secs(1);
const QUEUE: &str = "proof";
/// Jobs that go in at once, as an action would put them.
const BATCH: u64 = 100;

/// What was done to whom.
#[derive(Default)]
struct Blows {
    kills: u64,
    freezes: u64,
    servers: u64,
}

#[test]
fn every_job_is_done_whoever_is_killed_or_frozen() {
    let jobs: u64 = setting("HIGHWATER_JOBS", || 3_000);
    let blows: u64 = setting("HIGHWATER_KILLS", || 12);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={blows} HIGHWATER_JOBS={jobs}");
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Settings::default().keeps(Keeps::All).start().unwrap());
    let mut receiver = Receiver::start(env!("CARGO_BIN_EXE_receiver"), folder.path().join("received"));
    receiver.slow(5);
    let began = Instant::now();
    let put = Putting::start(&server, jobs);
    let example = Example::built("job_worker", folder.path());
    let url = receiver.url("/jobs?fence={found.job.fence}");
    let redis = server.url().reveal().to_owned();
    let (workers, lease) = (WORKERS.to_string(), LEASE.as_secs().to_string());
    let start = || {
        let arguments = ["--redis", &redis, "--queue", QUEUE, "--workers", &workers, "--url", &url, "--lease", &lease];
        example.start(&[&arguments[..], &["--attempts", "1000", "--backoff", "1", "--report", "json"]].concat())
    };
    let mut running: Vec<Running> = (0..PROCESSES).map(|_| start()).collect();
    let made = strike(&server, &mut running, &start, &put, &mut receiver, jobs, blows, &mut Dice::new(seed));
    put.end(&server, &mut running);
    let mut reports = Vec::new();
    for worker in running {
        worker.signal("INT");
        let printed = worker.wait();
        assert!(printed.status.success(), "{}", printed.stderr);
        reports.push(printed.stdout.lines().last().unwrap_or_default().to_owned());
    }
    let took = began.elapsed();
    receiver.settle();
    let came = receiver.came();
    let found = check(&came, jobs);
    println!("{}", table(jobs, &made, &found, took));
    println!("what the last workers say: {}", reports.join(" "));
    assert!(found.late <= made.freezes * WORKERS as u64, "{} came from workers that had lost their job", found.late);
    assert!(made.kills > 0 && made.freezes > 0 && made.servers > 0, "jobs were done too soon: set HIGHWATER_JOBS higher");
}

/// Kills and freezes for as long as jobs are left, at even distances of what has come.
#[expect(clippy::too_many_arguments, reason = "it is the body of the test")]
fn strike(
    server: &Server,
    running: &mut [Running],
    start: &dyn Fn() -> Running,
    put: &Putting,
    receiver: &mut Receiver,
    jobs: u64,
    blows: u64,
    dice: &mut Dice,
) -> Blows {
    let mut made = Blows::default();
    let mut frozen: HashMap<usize, Instant> = HashMap::new();
    let every = jobs / (blows + 1);
    let deadline = Instant::now() + Duration::from_secs(3_000);
    for n in 1..=blows {
        while receiver.counts().requests < n * every {
            assert!(
                Instant::now() < deadline,
                "no more comes: {} jobs are in, {} came",
                put.done.load(Ordering::Relaxed),
                receiver.counts().requests
            );
            thaw(running, &mut frozen);
            thread::sleep(Duration::from_millis(2));
        }
        let slot = dice.below(PROCESSES as u64) as usize;
        match n % 4 {
            0 => {
                server.kill().unwrap();
                thread::sleep(Duration::from_millis(dice.below(300)));
                server.start_again().unwrap();
                made.servers += 1;
            }
            1 | 3 if !frozen.contains_key(&slot) => {
                running[slot].signal("KILL");
                let killed = std::mem::replace(&mut running[slot], start());
                drop(killed);
                made.kills += 1;
            }
            _ if frozen.is_empty() => {
                running[slot].signal("STOP");
                // Sometimes shorter than the lease, mostly longer.
                frozen.insert(slot, Instant::now() + LEASE.mul_f64(0.5 + 2.0 * dice.unit()));
                made.freezes += 1;
            }
            _ => {}
        }
    }
    while !frozen.is_empty() {
        thaw(running, &mut frozen);
        thread::sleep(Duration::from_millis(2));
    }
    made
}

fn thaw(running: &[Running], frozen: &mut HashMap<usize, Instant>) {
    frozen.retain(|slot, until| {
        let is_over = Instant::now() >= *until;
        if is_over {
            running[*slot].signal("CONT");
        }
        !is_over
    });
}

/// Puts jobs in, on a thread of its own: those of odd numbers ordered by key. What fails is put in once more.
struct Putting {
    thread: thread::JoinHandle<()>,
    done: Arc<AtomicU64>,
}

impl Putting {
    fn start(server: &Arc<Server>, jobs: u64) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let (count, url) = (done.clone(), server.url().reveal().to_owned());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let plain = RedisJobQueue::with_workers(url, 1).name(QUEUE);
                let ordered = plain.clone().ordered();
                for from in (0..jobs).step_by(BATCH as usize) {
                    let to = (from + BATCH).min(jobs);
                    for (queue, rest) in [(&plain, 0), (&ordered, 1)] {
                        let some: Vec<_> = (from..to).filter(|n| n % 2 == rest).map(job).collect();
                        while !all_in(queue, &some).await {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    count.store(to, Ordering::Relaxed);
                }
            });
        });
        Putting { thread, done }
    }

    /// Waits until all are in and nothing is left of them.
    fn end(self, server: &Server, running: &mut [Running]) {
        self.thread.join().unwrap();
        let queue = RedisJobQueue::with_workers(server.url().reveal(), 1).name(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let is_over = AtomicBool::new(false);
        running[0].wait_until("all jobs are done", |_| {
            if let Ok(counts) = runtime.block_on(queue.counts()) {
                assert_eq!(counts.parked, 0);
                is_over.store(counts.ready + counts.later + counts.behind + counts.in_flight == 0, Ordering::Relaxed);
            }
            is_over.load(Ordering::Relaxed)
        });
    }
}

async fn all_in(queue: &JobQueue, jobs: &[(String, Change)]) -> bool {
    queue.enqueue_all(jobs.to_vec()).await.is_ok_and(|enqueued| enqueued.iter().all(Result::is_ok))
}

fn job(n: u64) -> (String, Change) {
    let change = Change::builder(n.to_string()).key(format!("k-{}", n % KEYS)).after(&serde_json::json!({"n": n})).build();
    (format!("job {n}"), change.unwrap())
}

/// What the receiver has seen.
#[derive(Default)]
struct Found {
    repeats: u64,
    /// Requests under a lease, after one under a later lease of the same job.
    late: u64,
}

/// Every job came, under its own id; those of each ordered key in order.
fn check(came: &[Request], jobs: u64) -> Found {
    let mut found = Found::default();
    let mut fences: BTreeMap<u64, u64> = BTreeMap::new();
    let mut latest: HashMap<u64, u64> = HashMap::new();
    for request in came {
        let n: u64 = request.body["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(request.idempotency_key, format!("job {n}"));
        let fence: u64 = request.path.split_once("fence=").unwrap().1.parse().unwrap();
        match fences.get(&n).copied() {
            None => {
                let key = latest.entry(n % KEYS).or_default();
                assert!(n.is_multiple_of(2) || *key <= n, "job {n} came first after job {key} of its key");
                if n % 2 == 1 {
                    *key = n;
                }
            }
            Some(before) => {
                found.repeats += 1;
                found.late += u64::from(fence < before);
                // Once a later job of its key has come, it was done, and is not given out again.
                found.late += u64::from(n % 2 == 1 && latest[&(n % KEYS)] > n);
            }
        }
        let newest = fences.entry(n).or_default();
        *newest = fence.max(*newest);
    }
    assert_eq!(fences.len() as u64, jobs, "lost");
    found
}

fn table(jobs: u64, made: &Blows, found: &Found, took: Duration) -> Table {
    let mut table = Table::new();
    let header = ["jobs", "workers killed", "workers frozen", "Redis killed", "lost", "repeats", "from a lost lease", "seconds"];
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    let figures = [jobs, made.kills, made.freezes, made.servers, 0, found.repeats, found.late, took.as_secs()];
    table.add_row(figures.map(|figure| figure.to_string()));
    for column in 0..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn setting<T: std::str::FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn alone_it_shows_itself_on_a_redis_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let said = Example::built("job_worker", folder.path()).succeed(&["--report", "json"]);
    let (jobs, report): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("job "));
    assert_eq!(jobs.len(), 200);
    assert!(report.len() == 1 && report[0].contains(r#""finished":200"#), "{report:?}");
}
