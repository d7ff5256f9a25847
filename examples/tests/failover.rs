//! Runs that take over from each other as real processes, with checkpoints in Postgres and a receiver that asks for no generation.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use highwater::operators::testing::postgres::{Database, Server};
use highwater_examples::built::{Example, Running};

/// The receiver: who has sent what, in the order of arrival.
struct Receiver {
    socket: UdpSocket,
    got: Vec<(u32, String)>,
}

impl Receiver {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Receiver { socket, got: Vec::new() }
    }

    /// Takes what has arrived.
    fn take(&mut self) {
        let mut message = [0; 200];
        while let Ok(length) = self.socket.recv(&mut message) {
            let (pid, id) = std::str::from_utf8(&message[..length]).unwrap().split_once(' ').unwrap();
            self.got.push((pid.parse().unwrap(), id.to_owned()));
        }
    }

    /// Takes until something holds.
    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&[(u32, String)]) -> bool) {
        let began = Instant::now();
        while !holds(&self.got) {
            assert!(began.elapsed() < Duration::from_secs(60), "never came: {what}; {} messages", self.got.len());
            self.take();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn of(&self, pid: u32) -> usize {
        self.got.iter().filter(|(from, _)| *from == pid).count()
    }

    fn times(&self) -> BTreeMap<&str, u32> {
        let mut times = BTreeMap::new();
        self.got.iter().for_each(|(_, id)| *times.entry(id.as_str()).or_default() += 1);
        times
    }
}

fn start(example: &Example, database: &Database, receiver: &Receiver, changes: &str) -> Running {
    let to = receiver.socket.local_addr().unwrap().to_string();
    let url = database.url().reveal();
    example.start(&["--checkpoint", url, "--to", &to, "--changes", changes, "--rate", "1000", "--report", "none"])
}

/// Goal: a run that was frozen until it was replaced, and thawed, acts no more; and the run that replaces it acts only once it cannot any
/// more. Repeats: at most what was sent and not yet noted when the first was frozen.
#[test]
fn a_run_that_was_frozen_until_it_was_replaced_acts_no_more() {
    let (folder, mut receiver) = (tempfile::tempdir().unwrap(), Receiver::new());
    let database = Server::shared().database().unwrap();
    let example = Example::built("failover", folder.path());
    let first = start(&example, &database, &receiver, "4000");
    let first_pid = first.pid();
    receiver.until("the first run sends", |got| got.len() > 300);
    first.signal("STOP");
    let frozen_at = Instant::now();
    receiver.take();
    let before = receiver.of(first_pid);
    let second = start(&example, &database, &receiver, "4000");
    let second_pid = second.pid();
    receiver.until("the second run sends", |got| got.iter().any(|(pid, _)| *pid == second_pid));
    assert!(
        frozen_at.elapsed() >= Duration::from_millis(2_000),
        "it acted after {:?}: the first one's lease was alive",
        frozen_at.elapsed()
    );
    first.signal("CONT");
    let ended = first.wait();
    assert!(!ended.status.success() && ended.stderr.contains("was replaced by run 2"), "{}", ended.stderr);
    let ended = second.wait();
    assert!(ended.status.success(), "{}", ended.stderr);
    receiver.take();
    // What was on its way when the process was frozen may still arrive; what it would have sent after its thaw may not.
    assert!(receiver.of(first_pid) <= before, "{} messages before, {} in the end", before, receiver.of(first_pid));
    let times = receiver.times();
    let repeated: u32 = times.values().map(|times| times - 1).sum();
    assert_eq!(times.len(), 4_000, "changes whose message never came");
    assert!(repeated <= 8, "{repeated} repeated");
}

/// Goal: after a kill on the same machine nobody waits for a lease: the next run is at work in well under three seconds.
#[test]
fn a_run_after_a_kill_does_not_wait_for_the_lease() {
    let (folder, mut receiver) = (tempfile::tempdir().unwrap(), Receiver::new());
    let database = Server::shared().database().unwrap();
    let example = Example::built("failover", folder.path());
    let mut waited = Vec::new();
    let mut running = start(&example, &database, &receiver, "1500");
    for _ in 0..3 {
        let pid = running.pid();
        receiver.until("the run sends", |got| got.iter().filter(|(from, _)| *from == pid).count() > 50);
        running.signal("KILL");
        let killed_at = Instant::now();
        running.wait();
        running = start(&example, &database, &receiver, "1500");
        let pid = running.pid();
        receiver.until("the next run sends", |got| got.iter().any(|(from, _)| *from == pid));
        waited.push(killed_at.elapsed());
    }
    let ended = running.wait();
    assert!(ended.status.success(), "{}", ended.stderr);
    receiver.take();
    println!("from kill to the next message: {waited:?}");
    assert!(waited.iter().all(|waited| *waited < Duration::from_secs(3)), "{waited:?}");
    let times = receiver.times();
    let repeated: u32 = times.values().map(|times| times - 1).sum();
    assert_eq!(times.len(), 1_500, "changes whose message never came");
    assert!(repeated <= 3 * 8, "{repeated} repeated");
}
