//! Real processes on loopback, over a real Postgres: one of them is killed again and again, with other numbers of processes and
//! workers from launch to launch; and one is frozen.
//!
//! In the end every change must be in the files exactly once, called at least once and repeated no more often than calls were under
//! way at the kills, in the order of its key, and the books must balance. `HIGHWATER_KILLS` sets the size of the proof,
//! `HIGHWATER_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use highwater::operators::testing::postgres::Server;
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::dice::Dice;

/// Calls under way at once in the example.
const CALLS_AT_ONCE: u64 = 20;
/// Launches end after so many kills, and the next one has other numbers of processes and workers.
const KILLS_PER_LAUNCH: u64 = 3;
/// A file of lines, and how many there are.
const LINES: u64 = 2_000;
const FILES: u64 = 3;

fn setting(name: &str, default: impl FnOnce() -> u64) -> u64 {
    env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// One call that the example has noted.
struct Call {
    at_ns: u128,
    id: String,
    key: String,
    place: (u32, u64),
    pid: u32,
}

struct Bench {
    example: Example,
    url: String,
    changes: u64,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(changes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("data/processes");
        fs::create_dir_all(&input).unwrap();
        for file in 0..FILES {
            let line = |n| {
                format!(
                    "{{\"id\":\"f{file}-{n}\",\"key\":\"l{}\",\"table\":\"t\",\"op\":\"c\",\"ts_ms\":{n},\"after\":{{}}}}\n",
                    n % 50
                )
            };
            let text: String = (0..LINES).map(line).collect();
            fs::write(input.join(format!("{file}.jsonl")), text).unwrap();
        }
        let url = Server::shared().database().unwrap().url().reveal().to_owned();
        Bench { example: Example::built("processes", folder.path()), url, changes, _folder: folder }
    }

    fn arguments<'a>(&'a self, rest: &[&'a str], changes: &'a str) -> Vec<&'a str> {
        [rest, &["--checkpoint", &self.url, "--changes", changes, "--report", "json"]].concat()
    }

    fn launch(&self, processes: u64, workers: u64, rate: u64) -> Running {
        let (processes, workers, rate) = (processes.to_string(), workers.to_string(), rate.to_string());
        let changes = self.changes.to_string();
        let flags = ["launch", "-n", &processes, "-w", &workers, "--rate", &rate];
        self.example.start(&self.arguments(&flags, &changes))
    }

    fn out(&self, folder: &str) -> std::path::PathBuf {
        self.example.folder().join("out/processes").join(folder)
    }

    /// Every call so far.
    fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        for file in fs::read_dir(self.out("calls")).into_iter().flatten().flatten() {
            let pid = file.path().file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("a file per process");
            // The last line may be written right now.
            let text = fs::read_to_string(file.path()).unwrap();
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let mut words = line.split_whitespace();
                let mut word = || words.next().expect("five words a line").to_owned();
                let (at_ns, id, key) = (word().parse().unwrap(), word(), word());
                calls.push(Call { at_ns, id, key, place: (word().parse().unwrap(), word().parse().unwrap()), pid });
            }
        }
        calls
    }

    /// When a process that is none of these first called after a moment, waiting for it.
    fn processing_again(&self, known: &BTreeSet<u32>, since_ns: u128, launched: &mut Running) -> Duration {
        let began = Instant::now();
        loop {
            let first = self.calls().into_iter().filter(|call| !known.contains(&call.pid)).map(|call| call.at_ns).min();
            if let Some(first) = first {
                return Duration::from_nanos(first.saturating_sub(since_ns) as u64);
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it is not processing again\n{}", launched.stderr());
            launched.wait_until("it is looked at again", |_| true);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What must hold once all is done.
    fn check(&self, kills: u64) -> (u64, u64) {
        let mut times: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        let mut calls = self.calls();
        calls.sort_by_key(|call| call.at_ns);
        let mut last: BTreeMap<(String, u32), u64> = BTreeMap::new();
        for call in &calls {
            let seen = times.entry(call.place).or_default();
            *seen += 1;
            if *seen == 1 {
                let before = last.insert((call.key.clone(), call.place.0), call.place.1);
                assert!(
                    before.is_none_or(|before| before < call.place.1),
                    "{} came before an earlier change of {}",
                    call.id,
                    call.key
                );
            }
        }
        let lost = self.changes - times.len() as u64;
        let repeated: u64 = times.values().map(|times| times - 1).sum();
        assert!(repeated <= CALLS_AT_ONCE * kills, "{repeated} calls were repeated in {kills} kills");
        for (folder, expected) in [("file", self.changes), ("lines", LINES * FILES)] {
            let mut ids: Vec<String> = lines_below(&self.out(folder));
            let all = ids.len() as u64;
            ids.sort();
            ids.dedup();
            assert_eq!((ids.len() as u64, all), (expected, expected), "{folder}: distinct lines, and lines");
        }
        (lost, repeated)
    }
}

fn lines_below(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path().is_dir() {
            true => lines.extend(lines_below(&entry.path())),
            false => lines.extend(fs::read_to_string(entry.path()).unwrap().lines().map(str::to_owned)),
        }
    }
    lines
}

/// The processes that a process has started.
fn children(parent: u32) -> BTreeSet<u32> {
    let mut children = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name stands in brackets and may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        if fields.get(1).and_then(|field| field.parse().ok()) == Some(parent) && fields.first() != Some(&"Z") {
            children.insert(pid);
        }
    }
    children
}

fn signal(name: &str, pid: u32) {
    // One that has ended meanwhile is no matter.
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn processes_that_are_killed_lose_nothing_and_are_soon_at_work_again() {
    let kills = setting("HIGHWATER_KILLS", || 4);
    let seed = setting("HIGHWATER_SEED", || now_ns() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills}");
    let mut dice = Dice::new(seed);
    let bench = Bench::new(4_000 + kills * 900);
    let (mut done, mut times, mut shapes) = (0, Vec::new(), Vec::new());
    let mut known: BTreeSet<u32> = BTreeSet::new();
    let pids = |bench: &Bench| bench.calls().into_iter().map(|call| call.pid).collect::<BTreeSet<u32>>();
    while done < kills {
        let shape = dice.pick(
            &[(3, 2), (2, 2), (3, 1), (4, 1), (2, 1)]
                .into_iter()
                .filter(|shape| shapes.last() != Some(shape))
                .collect::<Vec<_>>(),
        );
        // The shape of the proof's title first.
        let shape = if shapes.is_empty() { (3, 2) } else { shape };
        shapes.push(shape);
        let mut launched = bench.launch(shape.0, shape.1, 1_000);
        let started = now_ns();
        bench.processing_again(&known, started, &mut launched);
        for _ in 0..KILLS_PER_LAUNCH.min(kills - done) {
            // At work, each of them; and then for a random while.
            launched.wait_until("all processes are at work", |running| {
                let at_work = pids(&bench);
                children(running.id()).iter().filter(|child| at_work.contains(child)).count() as u64 == shape.0
            });
            std::thread::sleep(Duration::from_millis((dice.unit() * 700.0) as u64));
            known.extend(pids(&bench));
            let victims: Vec<u32> = children(launched.id()).into_iter().collect();
            let killed_ns = now_ns();
            signal("KILL", dice.pick(&victims));
            done += 1;
            known.extend(victims);
            times.push(bench.processing_again(&known, killed_ns, &mut launched));
        }
        known.extend(pids(&bench));
        launched.signal("TERM");
        let ended = launched.wait();
        assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    }
    let ended = bench.launch(3, 2, 0).wait();
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    let (lost, repeated) = bench.check(done);
    check_books(&ended.stdout, &bench);
    let half = median(times.clone());
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(["what", "how many"]);
    let shapes: Vec<String> = shapes.iter().map(|(processes, workers)| format!("{processes} x {workers}")).collect();
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    for (what, much) in [
        ("kills (kill -9 of a random process)", done.to_string()),
        ("processes x workers", shapes.join(", ")),
        ("changes", (bench.changes + LINES * FILES).to_string()),
        ("from the kill to processing again, median", seconds(half)),
        ("from the kill to processing again, longest", seconds(times.into_iter().max().unwrap_or_default())),
        ("lost", lost.to_string()),
        ("calls repeated", format!("{repeated}, of {} that may be", CALLS_AT_ONCE * done)),
        ("lines repeated in files", "0".to_owned()),
    ] {
        table.add_row([what.to_owned(), much]);
    }
    println!("{table}");
    assert_eq!(lost, 0);
    assert!(half < Duration::from_secs(3), "the median time from a kill to processing again is {half:?}");
}

/// The report is of all processes, and it is printed once.
fn check_books(stdout: &str, bench: &Bench) {
    let reports: Vec<&str> = stdout.lines().filter(|line| line.starts_with("{\"pipeline\"")).collect();
    assert_eq!(reports.len(), 1, "{stdout}");
    let report: serde_json::Value = serde_json::from_str(reports[0]).unwrap();
    for (action, expected) in [("calls", bench.changes), ("file", bench.changes), ("lines", LINES * FILES)] {
        let books = &report["actions"][action];
        for line in ["read", "delivered"] {
            assert_eq!(books[line].as_u64(), Some(expected), "{action}: {line} in {books}");
        }
        assert_eq!(books["in_flight"].as_u64(), Some(0), "{action}");
    }
}

#[test]
fn a_process_that_is_frozen_is_noticed_in_time_and_replaced() {
    let bench = Bench::new(1_000_000);
    for which in [0, 1] {
        let mut known: BTreeSet<u32> = bench.calls().into_iter().map(|call| call.pid).collect();
        let mut launched = bench.launch(3, 1, 2_000);
        let started = now_ns();
        bench.processing_again(&known, started, &mut launched);
        let victims: Vec<u32> = children(launched.id()).into_iter().collect();
        // In the order of their numbers: the first leads.
        let frozen = victims[which];
        known.extend(&victims);
        let began = Instant::now();
        signal("STOP", frozen);
        launched.wait_until("somebody says that it is silent", |running| running.stderr().contains("has been silent for"));
        let noticed = began.elapsed();
        assert!(noticed < Duration::from_secs(5), "noticed after {noticed:?}");
        bench.processing_again(&known, now_ns(), &mut launched);
        assert!(!Path::new(&format!("/proc/{frozen}")).exists(), "the frozen one is gone");
        launched.signal("TERM");
        let ended = launched.wait();
        assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    }
}

#[test]
fn a_launch_that_cannot_succeed_says_so_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("processes", folder.path());
    let said = example.fail(1, &["launch", "-n", "3"]);
    assert!(said.contains("written by one process alone") && !said.contains("[0]"), "{said}");
    let said = example.fail(2, &["launch", "-n", "3", "--hostfile", "hosts"]);
    assert!(said.contains("--hostfile and --process are for those started by hand"), "{said}");
}

/// Processor time that a process has had.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
    // In hundredths of a second, on every Linux there is.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

#[test]
fn processes_that_have_little_to_do_cost_little() {
    let bench = Bench::new(1_000_000);
    let mut launched = bench.launch(3, 2, 1);
    launched.wait_until("changes pass", |_| bench.calls().len() > 2);
    let pids = children(launched.id());
    let used = || pids.iter().map(|pid| processor_time(*pid)).sum::<Duration>();
    let (before, began) = (used(), Instant::now());
    launched.wait_until("five seconds have passed", |_| {
        std::thread::sleep(Duration::from_millis(50));
        began.elapsed() > Duration::from_secs(5)
    });
    let share = (used() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("one change a second through 3 x 2 workers: {:.1} % of a core in all", share * 100.0);
    assert!(share < 0.3, "{:.1} % of a core", share * 100.0);
    launched.signal("TERM");
    assert!(launched.wait().status.success());
}
