//! The commands about parked changes beside a program that runs, is killed (kill -9), and runs again.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use highwater_examples::built::{Example, Running};

/// How long anything is waited for.
const DEADLINE: Duration = Duration::from_secs(60);

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "never came: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts the program with a monitor, and waits until that is there.
fn start(example: &Example, data: &Path) -> Running {
    let notice = data.join("monitor.json");
    // One that a killed run has left would be taken for that of this one.
    let _ = fs::remove_file(&notice);
    let running = example.start(&["--log", "app.log", "--out", "out", "--listen", "127.0.0.1:0"]);
    until("the notice of the monitor", || notice.exists().then_some(()));
    running
}

fn listed(example: &Example) -> usize {
    example.succeed(&["parked", "list", "--json"]).lines().count()
}

/// Goal: the same commands do the same whether the program runs, was killed, or is not there; and of what they have said is done nothing
/// comes back after a kill.
#[test]
fn commands_do_the_same_beside_a_program_that_runs_and_one_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..60)
        .map(|n| match n % 2 {
            0 => format!("{{\"id\":{n},\"op\":\"insert\",\"key\":\"k{n}\",\"after\":{{\"state\":\"open\"}}}}\n"),
            _ => format!("{{\"id\":{n},\"op\":\"upsert {n}\"}}\n"),
        })
        .collect();
    fs::write(folder.path().join("app.log"), lines).unwrap();
    let example = Example::built("follow", folder.path());
    let data = folder.path().join("data/follow");

    let running = start(&example, &data);
    until("all broken lines are parked", || (listed(&example) == 30).then_some(()));
    assert_eq!(example.succeed(&["parked", "list", "--error", "UPSERT 7", "--json"]).lines().count(), 1);
    let first = example.succeed(&["parked", "list", "--limit", "1", "--json"]);
    let id = first.split("\"id\":").nth(1).and_then(|rest| rest.split(',').next()).unwrap().to_owned();
    assert!(example.succeed(&["parked", "drop", &id]).contains("dropped 1 record"));
    assert!(example.fail(1, &["parked", "drop", "--all"]).contains("this would drop 29 records; say --yes"));
    assert!(example.succeed(&["parked", "drop", "--error", "upsert 1", "--yes"]).contains("dropped 5 records"));
    let left = listed(&example);
    // A broken line that is read again stands parked again: from here on none is.
    until("a checkpoint behind all lines", || {
        let status = example.succeed(&["status", "--json"]);
        (status.contains("\"state\":\"idle\"") && !status.contains("\"saves\":0,")).then_some(())
    });
    // Killed: its notice hangs there, and nobody answers.
    drop(running);
    assert!(data.join("monitor.json").exists());
    assert_eq!(listed(&example), left, "what was said to be dropped is durable");
    let said = example.succeed(&["parked", "drop", "--error", "upsert 3", "--yes"]);
    assert!(said.contains("asked to drop") && said.contains("when it is run next"), "{said}");
    assert!(example.succeed(&["parked", "list"]).contains("rejected, drop asked"));

    let running = start(&example, &data);
    let meant = || example.succeed(&["parked", "list", "--error", "upsert 3", "--json"]).lines().count();
    until("the next run has dropped them", || (meant() == 0).then_some(()));
    let left = listed(&example);
    assert!((1..24).contains(&left), "{left}");
    assert!(example.succeed(&["parked", "drop", "--all", "--yes"]).contains(&format!("dropped {left} records")));
    drop(running);
    assert!(example.succeed(&["parked", "list"]).contains("nothing is parked"));
}
