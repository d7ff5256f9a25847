//! Runs that take over from each other as real processes, with checkpoints in Postgres and a receiver that asks for no generation.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater::operators::testing::postgres::{Database, Server};
use highwater_examples::built::{Example, Running};

/// The receiver: who has sent what, in the order of arrival. A thread takes it, for what nobody takes in time is dropped.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<(u32, String)>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (address, got) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let over = Arc::new(AtomicBool::new(false));
        let (taken, ends) = (got.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut message = [0; 200];
            loop {
                match socket.recv(&mut message) {
                    Ok(length) => {
                        let (pid, id) = std::str::from_utf8(&message[..length]).unwrap().split_once(' ').unwrap();
                        taken.lock().unwrap().push((pid.parse().unwrap(), id.to_owned()));
                    }
                    // Only once nothing more is there.
                    Err(_) if ends.load(Ordering::Acquire) => return,
                    Err(_) => {}
                }
            }
        });
        Receiver { address, got, over, thread: Some(thread) }
    }

    /// Waits until something holds.
    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut(&[(u32, String)]) -> bool) {
        let began = Instant::now();
        while !holds(&self.got.lock().unwrap()) {
            assert!(began.elapsed() < Duration::from_secs(60), "never came: {what}; {} messages", self.got.lock().unwrap().len());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All that has come, once nothing more is there.
    fn end(mut self) -> Vec<(u32, String)> {
        self.over.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.got.lock().unwrap())
    }
}

fn count(got: &[(u32, String)], pid: u32) -> usize {
    got.iter().filter(|(from, _)| *from == pid).count()
}

/// How many changes have come, and how many messages more than once.
fn times(got: &[(u32, String)]) -> (usize, usize) {
    let ids: BTreeSet<&str> = got.iter().map(|(_, id)| id.as_str()).collect();
    (ids.len(), got.len() - ids.len())
}

fn start(example: &Example, database: &Database, receiver: &Receiver, changes: &str) -> Running {
    let to = receiver.address.to_string();
    let url = database.url().reveal();
    example.start(&["--checkpoint", url, "--to", &to, "--changes", changes, "--rate", "1000", "--report", "none"])
}

/// Goal: a run that was frozen until it was replaced, and thawed, acts no more; and the run that replaces it acts only once it cannot any
/// more. Repeats: at most what was sent and not yet noted when the first was frozen.
#[test]
fn a_run_that_was_frozen_until_it_was_replaced_acts_no_more() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::new());
    let database = Server::shared().database().unwrap();
    let example = Example::built("failover", folder.path());
    let first = start(&example, &database, &receiver, "4000");
    let first_pid = first.pid();
    receiver.until("the first run sends", |got| got.len() > 300);
    first.signal("STOP");
    let frozen_at = Instant::now();
    let second = start(&example, &database, &receiver, "4000");
    let second_pid = second.pid();
    receiver.until("the second run sends", |got| got.iter().any(|(pid, _)| *pid == second_pid));
    assert!(
        frozen_at.elapsed() >= Duration::from_millis(2_000),
        "it acted after {:?}: the first one's lease was alive",
        frozen_at.elapsed()
    );
    // Two seconds later, all that was on its way when it was frozen has come.
    let before = count(&receiver.got.lock().unwrap(), first_pid);
    first.signal("CONT");
    let ended = first.wait();
    assert!(!ended.status.success() && ended.stderr.contains("was replaced by run 2"), "{}", ended.stderr);
    let ended = second.wait();
    assert!(ended.status.success(), "{}", ended.stderr);
    let got = receiver.end();
    assert_eq!(count(&got, first_pid), before, "it sent nothing after its thaw");
    let (changes, repeated) = times(&got);
    assert_eq!(changes, 4_000, "changes whose message came");
    assert!(repeated <= 8, "{repeated} repeated");
}

/// Goal: after a kill on the same machine nobody waits for a lease: the next run is at work in well under three seconds.
#[test]
fn a_run_after_a_kill_does_not_wait_for_the_lease() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::new());
    let database = Server::shared().database().unwrap();
    let example = Example::built("failover", folder.path());
    let mut waited = Vec::new();
    let mut running = start(&example, &database, &receiver, "1500");
    for _ in 0..3 {
        let pid = running.pid();
        receiver.until("the run sends", |got| count(got, pid) > 50);
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
    println!("from kill to the next message: {waited:?}");
    assert!(waited.iter().all(|waited| *waited < Duration::from_secs(3)), "{waited:?}");
    let (changes, repeated) = times(&receiver.end());
    assert_eq!(changes, 1_500, "changes whose message came");
    assert!(repeated <= 3 * 8, "{repeated} repeated");
}
