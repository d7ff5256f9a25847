//! A queue of jobs as an action of pipelines that crash: exactly one job for each change, in the order of its key. And `highwater jobs`.

mod support;

use std::collections::HashMap;
use std::fmt::Write;
use std::process::Command;

use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::testing::{postgres, redis};
use notes::Noted;
use serde_json::{Value, json};

const CHANGES: u64 = 80;
const KEYS: u64 = 6;
const CRASHES: [&str; 5] = [
    failpoint::ACTION_DISPATCHED,
    failpoint::ACTION_ANSWERED,
    failpoint::GROUP_BEFORE_COMMIT,
    failpoint::GROUP_COMMITTED,
    failpoint::ACTION_ANSWERED,
];

/// What the workers have done, in order.
mod notes {
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    pub struct Noted(Arc<Mutex<Vec<(String, u64)>>>);

    impl Noted {
        pub fn add(&self, key: &str, n: u64) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key.to_owned(), n));
        }

        pub fn all(&self) -> Vec<(String, u64)> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }
}

fn places() -> [(&'static str, JobQueue); 2] {
    let database = postgres::Server::shared().database().unwrap();
    let server = Box::leak(Box::new(redis::Server::start().unwrap()));
    [
        ("Postgres", PostgresJobQueue::with_workers(database.url().reveal(), 4).name("changes").ordered()),
        ("Redis", RedisJobQueue::with_workers(server.url().reveal(), 4).name("changes").ordered()),
    ]
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Pipelines crash between what they enqueue and what they note; some jobs are done meanwhile, so that they are enqueued again after they are done.
#[test]
fn each_change_is_one_job_whatever_crashes() {
    for (place, queue) in places() {
        for seed in support::only_seed().map_or_else(|| (0..support::seeds(3)).collect(), |seed| vec![seed]) {
            let queue = queue.clone().name(format!("changes-{seed}"));
            let folder = support::folder();
            let line = |mut lines: String, n: u64| {
                let key = format!("k-{}", n * n % KEYS);
                writeln!(lines, "{}", json!({"id": n.to_string(), "op": "update", "key": key, "after": {"n": n}})).unwrap();
                lines
            };
            let input = folder.path().join("in.jsonl");
            std::fs::write(&input, (1..=CHANGES).fold(String::new(), line)).unwrap();
            let noted = Noted::default();
            let acts = queue.clone();
            let build = support::build(move |flow| {
                // One of its own for each run, as each process would have.
                let act = action("enqueue", acts.clone().delay(millis(0))).max_parallelism(8).backoff(millis(1), millis(10));
                flow.source(JsonLines::file(&input)).fan_out([act]).checkpoint(Checkpoint::every(millis(5)).batch_size(20));
                Ok(())
            });
            let settings = || support::settings(folder.path().join("data"), 1 + seed % 2);
            let mut crashes = 0;
            for failpoint in CRASHES {
                let report = support::run_and_crash(&settings(), &build, failpoint, 1 + seed % 3).unwrap();
                crashes += usize::from(!report.ended);
                work(&queue, &noted);
            }
            let report = support::run(&settings(), &build).unwrap();
            work(&queue, &noted);
            assert!(crashes > 0, "{place}, seed {seed}: every run ended before it crashed");
            let books = &report.actions["enqueue"];
            assert_eq!((books.delivered, books.parked), (CHANGES, 0), "{place}, seed {seed}");
            let all = noted.all();
            let mut latest: HashMap<&str, u64> = HashMap::new();
            for (key, n) in &all {
                let latest = latest.entry(key).or_default();
                assert!(*latest < *n, "{place}, seed {seed}: job {n} of {key} after {latest}");
                *latest = *n;
            }
            assert_eq!(all.len() as u64, CHANGES, "{place}, seed {seed}: one job for each change");
        }
    }
}

/// Does all that is in the queue.
fn work(queue: &JobQueue, noted: &Noted) {
    let noted = noted.clone();
    let workers = queue.clone().delay(millis(0)).work(run(move |change| {
        noted.add(change.key(), change.after().parse("n").unwrap_or_default());
        async { Ok(()) }
    }));
    wait(workers.until_empty().until(std::future::pending())).unwrap();
}

struct Tool {
    url: String,
}

impl Tool {
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let ended = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(["jobs", "--queue", &self.url, "--name", "receipts"])
            .args(arguments)
            .output()
            .unwrap();
        (ended.status.success(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned())
    }

    #[track_caller]
    fn says(&self, arguments: &[&str], parts: &[&str]) -> String {
        let (is_good, said) = self.run(arguments);
        assert!(is_good && parts.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
        said
    }
}

#[test]
fn parked_jobs_are_seen_and_settled_by_the_commands_for_parked_changes() {
    let server = redis::Server::start().unwrap();
    let database = postgres::Server::shared().database().unwrap();
    let (redis, postgres) = (server.url().reveal().to_owned(), database.url().reveal().to_owned());
    for (url, queue) in
        [(redis.clone(), RedisJobQueue::with_workers(redis, 2)), (postgres.clone(), PostgresJobQueue::with_workers(postgres, 2))]
    {
        let queue = queue.name("receipts").attempts(1);
        let tool = Tool { url };
        tool.says(&["list"], &["nothing is parked"]);
        let noted = Noted::default();
        let change =
            |n: u64| Change::builder(format!("c-{n}")).key(format!("k-{}", n % 3)).after(&json!({"n": n})).build().unwrap();
        wait(queue.enqueue_all((1..=6).map(|n| (format!("job {n}"), change(n))))).unwrap();
        // All fail whose number is below ten.
        let work = || {
            let noted = noted.clone();
            let workers = queue.clone().delay(millis(0)).work(run(move |change| {
                let n: u64 = change.after().parse("n").unwrap_or_default();
                let noted = noted.clone();
                async move {
                    if n < 10 {
                        return Err(Error::retry(format!("422: {n} is too small")).with_response("what they said"));
                    }
                    noted.add(change.key(), n);
                    Ok(())
                }
            }));
            wait(workers.until_empty().until(std::future::pending())).unwrap();
        };
        work();
        let listed = tool.says(&["list", "--error", "too SMALL"], &["c-1", "c-6", "failed", "highwater jobs show ID --queue "]);
        assert!(!listed.contains("parked show"), "{listed}");
        let records: Vec<Value> =
            tool.says(&["list", "--json"], &[]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 6);
        let id = |n: usize| records[n - 1]["id"].to_string();
        tool.says(&["show", &id(2)], &["422: 2 is too small", "what they said", "key k-2", "{\"n\":2}", "after 1 attempt"]);
        tool.says(&["edit", &id(2), "--row", "{\"n\":20}", "--retry"], &["new row", "tried again"]);
        let (is_good, said) = tool.run(&["edit", &id(3), "--row", "[]"]);
        assert!(!is_good && said.contains("a list"), "{said}");
        tool.says(&["retry", &id(1)], &["1 record in the queue again; `jobs list` shows"]);
        tool.says(&["status"], &["ready      2", "parked     4"]);
        work();
        assert_eq!(noted.all(), [("k-2".to_owned(), 20)]);
        let (is_good, said) = tool.run(&["drop"]);
        assert!(!is_good && said.contains("`jobs drop --all`"), "{said}");
        tool.says(&["drop", "--key", "k-0", "--yes"], &["dropped 2 records"]);
        tool.says(&["drop", "--all", "--dry-run"], &["3 records meant"]);
        let status: Value = serde_json::from_str(tool.says(&["status", "--json"], &[]).trim()).unwrap();
        assert_eq!((&status["parked"], &status["ready"]), (&json!(3), &json!(0)));
        let (is_good, said) = tool.run(&["show", &id(2)]);
        assert!(!is_good && said.contains("nothing is parked under"), "{said}");
    }
    let (is_good, said) = Tool { url: "mysql://x".to_owned() }.run(&["list"]);
    assert!(!is_good && said.contains("redis://"), "{said}");
}
