//! Reads two streams that producers write to, while the reader is killed (`kill -9`) again and again and begins anew with other worker counts.
//!
//! In the end every entry must stand in the output exactly once, and nothing else. The reader is the example `redis_stream`, a process of its own; the
//! server is a real Redis.
//!
//! `HIGHWATER_ENTRIES` and `HIGHWATER_KILLS` set the size of the proof, `HIGHWATER_SEED` repeats its decisions (not its moments).

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater::operators::redis::BlockingConnection;
use highwater::testing::redis::{Keeps, Server, Settings};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;

const STREAMS: [&str; 2] = ["orders", "payments"];
const PRODUCERS: u64 = 4;

#[test]
fn entries_are_read_once_however_often_the_reader_is_killed() {
    let entries: u64 = setting("HIGHWATER_ENTRIES", || 8000);
    let kills: u64 = setting("HIGHWATER_KILLS", || 4);
    let seed = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_ENTRIES={entries} HIGHWATER_KILLS={kills}");
    let server = Settings::default().keeps(Keeps::Log).start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("redis_stream", folder.path());
    let (url, out, mut dice) = (server.url().reveal().to_owned(), folder.path().join("out"), Dice::new(seed));
    let producers = Producers { entries, allowed: AtomicU64::new(0), written: AtomicU64::new(0) };
    let met = thread::scope(|scope| {
        for number in 0..PRODUCERS {
            let (producers, server) = (&producers, &server);
            scope.spawn(move || producers.write(server, number));
        }
        let (mut met, mut before) = (0, 0);
        for kill in 0..kills {
            let mut reader = start(&example, &url, &mut dice);
            // Each reader has its share of the writing, and is killed at any moment of it, or before it has read anything.
            producers.allow(entries * (kill + 1) / (kills + 1));
            let pause = Duration::from_millis(dice.below(300));
            if kill % 4 != 3 {
                reader.wait_until("something is read", |_| written(&out) > before);
            }
            thread::sleep(pause);
            reader.signal("KILL");
            assert!(!reader.wait().status.success(), "it was killed");
            let now = written(&out);
            met += u64::from(now > before);
            before = now;
        }
        producers.allow(u64::MAX);
        met
    });
    let mut arguments = arguments(&url);
    arguments.extend(["--until-idle", "2", "--report", "json"]);
    let printed = example.start(&arguments).wait_for(Duration::from_secs(600));
    assert!(printed.status.success(), "{}", printed.stderr);
    let report = Report::parse(printed.stdout.lines().last().unwrap_or_default()).unwrap();
    let (lost, repeated) = compare(&out, entries);
    println!("| entries | streams | kills | that met work | lost | repeated | read again |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    println!("| {entries} | {} | {kills} | {met} | {lost} | {repeated} | {} |", STREAMS.len(), report.replayed_max);
    assert_eq!((lost, repeated), (0, 0), "seed {seed}");
    let books = &report.actions["all"];
    assert_eq!((report.read, books.delivered, books.parked), (entries, entries, 0), "seed {seed}: the books say otherwise");
    for stream in STREAMS {
        let groups = server.ask(&["XINFO", "GROUPS", stream]).unwrap();
        assert!(groups.ends_with("lag\n0"), "the group of {stream} was not told: {groups}");
    }
    assert!(met > 0 || kills == 0, "seed {seed}: no kill met work: this shows nothing");
}

/// Those who write.
struct Producers {
    entries: u64,
    allowed: AtomicU64,
    written: AtomicU64,
}

impl Producers {
    fn allow(&self, entries: u64) {
        self.allowed.fetch_max(entries, Ordering::Relaxed);
    }

    /// Writes its part: the numbers that it draws, each to one of the streams.
    fn write(&self, server: &Server, producer: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut connection = BlockingConnection::open(&server.url(), "producer").await.unwrap();
            let line = connection.line().await.unwrap();
            let mut dice = Dice::new(producer);
            loop {
                let size = 1 + dice.below(50);
                let allowed = self.allowed.load(Ordering::Relaxed);
                if allowed < self.entries && self.written.load(Ordering::Relaxed) + size > allowed {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                let first = self.written.fetch_add(size, Ordering::Relaxed);
                if first >= self.entries {
                    return;
                }
                let mut adds = redis::pipe();
                for number in first..self.entries.min(first + size) {
                    let change = format!(
                        r#"{{"id":"c-{number}","table":"orders","op":"update","key":"o-{}","ts":1700000000000,"after":{{"number":{number},"note":"{:0>120}"}}}}"#,
                        dice.below(1000),
                        number
                    );
                    let stream = STREAMS[(number % 3 / 2) as usize];
                    adds.cmd("XADD").arg(stream).arg("*").arg("change").arg(change);
                }
                for answer in line.pipeline("adding", &adds).await.unwrap() {
                    line.answer::<String>("adding", answer).unwrap();
                }
            }
        });
    }
}

fn start(example: &Example, url: &str, dice: &mut Dice) -> Running {
    let workers = dice.pick(&["1", "2", "4"]);
    let size = dice.pick(&["1", "100", "10000"]);
    let mut arguments = arguments(url);
    arguments.extend(["--report", "none", "--workers", workers, "--checkpoint-batch-size", size]);
    example.start(&arguments)
}

fn arguments(url: &str) -> Vec<&str> {
    ["--source", url, "--stream", STREAMS[0], "--stream", STREAMS[1], "--checkpoint", "state", "--out", "out"].into()
}

/// Bytes in the output.
fn written(out: &Path) -> u64 {
    let Ok(files) = fs::read_dir(out) else { return 0 };
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

/// How many entries are not in the output, and how many are in it more than once.
fn compare(out: &Path, entries: u64) -> (u64, u64) {
    let mut times: HashMap<u64, u64> = (0..entries).map(|number| (number, 0)).collect();
    for file in fs::read_dir(out).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let number = line.strip_prefix("{\"id\":\"c-").and_then(|rest| rest.split('"').next()?.parse::<u64>().ok());
            let number = number.unwrap_or_else(|| panic!("no change: {line}"));
            *times.get_mut(&number).unwrap_or_else(|| panic!("{number} is in the output, and was never added")) += 1;
        }
    }
    let count = |holds: fn(u64) -> bool| times.values().filter(|times| holds(**times)).count() as u64;
    (count(|times| times == 0), count(|times| times > 1))
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(default)
}
