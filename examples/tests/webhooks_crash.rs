//! Kills the example `webhooks` again and again, and asks its receiver what came: every change at least once at each URL, few repeats, each
//! with the key it had before, and none after a later change of its key.
//!
//! The receiver is a process of its own as seen from the one that is killed: this one. It has a request on disk before it answers.
//! `HIGHWATER_KILLS` and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_examples::built::Example;
use highwater_examples::orders::Report;
use highwater_examples::orders::dice::Dice;
use serde_json::Value;

const PATHS: [&str; 2] = ["/one", "/two"];
const MAX_PARALLELISM: usize = 20;
const KEYS: u64 = 150;
const BATCH_SIZES: [u64; 5] = [1, 10, 100, 1_000, 10_000];

/// A request that was answered, or is about to be.
#[derive(Clone)]
struct Came {
    path: String,
    key: String,
    change: u64,
    idempotency_key: String,
}

/// What came, in order. It is in the file before it is answered.
struct Receiver {
    came: Mutex<(Vec<Came>, File)>,
}

impl Receiver {
    fn start(file: File) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = Arc::new(Receiver { came: Mutex::new((Vec::new(), file)) });
        let receives = receiver.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let receiver = receives.clone();
                thread::spawn(move || receiver.serve(stream));
            }
        });
        (receiver, port)
    }

    /// Answers until the other side goes away.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut line, mut headers) = (String::new(), HashMap::new());
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let path = line.split(' ').nth(1)?.to_owned();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                headers.insert(name.to_lowercase(), value.to_owned());
            }
            let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
            reader.read_exact(&mut body).ok()?;
            let json: Value = serde_json::from_slice(&body).ok()?;
            let change = json["id"].as_str()?.parse().ok()?;
            let key = json["key"].as_str()?.to_owned();
            {
                let mut came = self.came.lock().unwrap();
                came.1.write_all(&body).ok()?;
                came.1.write_all(b"\n").ok()?;
                came.0.push(Came { path, key, change, idempotency_key: headers.get("webhook-id")?.clone() });
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
        }
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().0.clone()
    }
}

#[test]
fn webhooks_killed_at_any_moment_lose_nothing_and_repeat_what_was_under_way() {
    let kills: usize = setting("HIGHWATER_KILLS", || 6);
    let events: u64 = setting("HIGHWATER_EVENTS", || 4_000);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_EVENTS={events}");
    let folder = tempfile::tempdir().unwrap();
    let mut input = File::create(folder.path().join("in.jsonl")).unwrap();
    for n in 0..events {
        writeln!(input, r#"{{"id":"{n}","op":"update","key":"k-{}","after":{{"n":{n}}}}}"#, n * n % KEYS).unwrap();
    }
    let log = OpenOptions::new().create(true).append(true).open(folder.path().join("received")).unwrap();
    let (receiver, port) = Receiver::start(log);
    let example = Example::built("webhooks", folder.path());
    let urls = PATHS.map(|path| format!("http://127.0.0.1:{port}{path}"));
    let mut dice = Dice::new(seed);
    let (mut starts, mut killed) = (vec![0], 0);
    let mut report = None;
    while report.is_none() {
        let (size, parallel) = (dice.pick(&BATCH_SIZES).to_string(), MAX_PARALLELISM.to_string());
        let mut arguments = vec!["--input", "in.jsonl", "--data", "data", "--allow-private", "--report", "json"];
        arguments.extend(["--max-parallelism", &parallel, "--checkpoint-batch-size", &size]);
        arguments.extend(urls.iter().flat_map(|url| ["--url", url]));
        let mut run = example.start(&arguments);
        if killed < kills {
            // When so many more have come, of what is left on average, and a moment of any length within a call.
            let came = receiver.came().len();
            let left = (2 * events as usize).saturating_sub(came) / (kills - killed + 1);
            let enough = came + 1 + (left as f64 * 1.5 * dice.unit()) as usize;
            while receiver.came().len() < enough && !run.has_ended() {
                thread::sleep(Duration::from_micros(200));
            }
            run.signal("KILL");
        }
        let printed = run.wait();
        if printed.status.success() {
            let line = printed.stdout.lines().rfind(|line| line.starts_with('{')).expect("a report");
            report = Some(Report::parse(line).unwrap());
        } else {
            killed += 1;
            assert!(killed <= kills, "it fails by itself: {}", printed.stderr);
            starts.push(receiver.came().len());
        }
    }
    let came = receiver.came();
    let repeats = PATHS.map(|path| repeats_by_kill(&came, path, &starts));
    println!("{killed} kills; repeats at each URL by the kill that made them: {repeats:?}");
    assert!(killed > 0, "every run ended before it could be killed: set HIGHWATER_EVENTS higher");
    assert!(repeats.iter().flatten().all(|repeats| *repeats <= MAX_PARALLELISM), "more repeats than calls under way");
    for path in PATHS {
        let mut keys: BTreeMap<u64, &str> = BTreeMap::new();
        let mut latest: HashMap<&str, u64> = HashMap::new();
        for came in came.iter().filter(|came| came.path == path) {
            assert_eq!(*keys.entry(came.change).or_insert(&came.idempotency_key), came.idempotency_key, "{}", came.change);
            let latest = latest.entry(&came.key).or_default();
            assert!(*latest <= came.change, "{path}: change {} of {} came after change {latest}", came.change, came.key);
            *latest = came.change;
        }
        assert_eq!(keys.len() as u64, events, "{path}: lost");
    }
    for (action, books) in report.unwrap().actions {
        assert_eq!((books.delivered, books.parked), (events, 0), "{action}");
    }
}

/// For each run, how much of what was under way at its end came once more. Not what came again *within* each run: one that is killed
/// early leaves some of what was under way before it to the run after it.
fn repeats_by_kill(came: &[Came], path: &str, starts: &[usize]) -> Vec<usize> {
    let mut by_kill = vec![0; starts.len()];
    let mut last: HashMap<u64, usize> = HashMap::new();
    for (at, came) in came.iter().enumerate().filter(|(_, came)| came.path == path) {
        let run = starts.iter().rposition(|start| *start <= at).unwrap_or(0);
        if let Some(before) = last.insert(came.change, run) {
            // What the kernel had taken from a run before its end may have come after the next one had begun.
            by_kill[if before == run { run.saturating_sub(1) } else { before }] += 1;
        }
    }
    by_kill
}

fn setting<T: std::str::FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).map_or_else(|_| default(), |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
