//! Whole pipelines with their checkpoints in Postgres: crashes at every named place, and a server that is killed, frozen, cut off,
//! full, or loses its connections. At the end everything is held against the sequential oracle.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use highwater::Result;
use highwater::operators::checkpoint::place::{Inspect, StorePlace};
use highwater::operators::checkpoint::postgres::PostgresCheckpointStore;
use highwater::operators::postgres::Url;
use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::{Database, Proxy, Server};
use highwater::report::Report;
use highwater::run::Control;
use highwater::settings::Settings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, Shape};
use support::whole::Whole;
use support::{Started, books};

/// A pipeline, and the database of its checkpoints.
struct Case {
    whole: Whole,
    database: Database,
    rng: StdRng,
}

impl Case {
    fn new(seed: u64, items: usize, server: &Server) -> Self {
        eprintln!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let partitions = rng.random_range(2..=4);
        let shape = Shape { partitions, items: items / partitions, keys: rng.random_range(2..6), trouble: true };
        Case { whole: Whole::new(seed, Input::seeded(seed, shape), None), database: server.database().unwrap(), rng }
    }

    fn settings(&mut self, url: &Url) -> Settings {
        Settings {
            checkpoint: Some(url.reveal().into()),
            in_flight_changes: self.rng.random_range(4..80),
            checkpoint_batch_size: Some([1, 10, 1_000][self.rng.random_range(0..3)]),
            checkpoint_interval: Some(self.rng.random_range(1..5)),
            ..support::settings(self.whole.data(), [1, 2, 4][self.rng.random_range(0..3)])
        }
    }

    fn start(&mut self, url: &Url) -> Started {
        let settings = self.settings(url);
        support::start(&settings, &self.whole.build(), Control::default())
    }

    fn inspect(&self) -> Box<dyn Inspect> {
        let place = PostgresCheckpointStore::at(self.database.url().reveal());
        place.inspect("test").unwrap().expect("a run was there")
    }

    /// Nothing was lost and, as the process lived on, nothing repeated.
    fn check(&self, report: &Report, crashes: usize) {
        self.whole.check_with(report, crashes, &*self.inspect());
        assert!(!self.whole.data().exists(), "there is no data directory beside the database");
    }
}

/// Goal: whatever place the process dies at, the next run loses nothing, and repeats what the ledger allows.
#[test]
fn a_crash_at_every_named_place_loses_nothing() {
    let seeds = support::only_seed().map_or(0..support::seeds(1), |seed| seed..seed + 1);
    for seed in seeds {
        for failpoint in failpoint::ALL {
            eprintln!("{failpoint}");
            let mut case = Case::new(seed, 60, Server::shared());
            let (build, url) = (case.whole.build(), case.database.url().clone());
            let mut crashes = 0;
            for _ in 0..2 {
                let passage = case.rng.random_range(1..8);
                let report = support::run_and_crash(&case.settings(&url), &build, failpoint, passage).expect("no error");
                crashes += usize::from(!report.ended);
                case.whole.record.next_run();
                let mark = books::mark(&*case.inspect());
                assert!(mark.values().all(|order| *order <= 1_000_000), "{mark:?}");
            }
            let report = support::run(&case.settings(&url), &build).expect("no error");
            case.check(&report, crashes);
        }
    }
}

/// A run during which something happens to its store again and again, so often at most. Returns how often it happened before the
/// run had ended.
fn under_fire(case: &mut Case, url: &Url, most: u32, mut strike: impl FnMut(&Database) + Send) -> (Result<Report>, u32) {
    let started = case.start(url);
    let (over, struck) = (AtomicBool::new(false), AtomicU32::new(0));
    let database = &case.database;
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            // A store that is away at the start is waited for as long as a connection may take; here it is to be met at work.
            support::until("the run writes", || {
                database.one("select max(group_number) > 0 from observer_processes").is_ok_and(|writes| writes == "t")
            });
            while !over.load(Ordering::Acquire) && struck.load(Ordering::Acquire) < most {
                strike(database);
                struck.fetch_add(1, Ordering::AcqRel);
            }
        });
        let report = started.end();
        over.store(true, Ordering::Release);
        report
    });
    (report, struck.into_inner())
}

/// Goal: the server may die between commits and in the midst of one. Whether a group was written is then known by its number.
#[test]
fn a_server_that_is_killed_again_and_again_loses_and_repeats_nothing() {
    let server = Server::start().unwrap();
    let mut case = Case::new(11, 400, &server);
    let url = case.database.url().clone();
    let mut rng = StdRng::seed_from_u64(11);
    let (report, kills) = under_fire(&mut case, &url, 5, |_| {
        server.kill().unwrap();
        server.start_again().unwrap();
        thread::sleep(Duration::from_millis(rng.random_range(0..300)));
    });
    case.check(&report.expect("it goes on by itself"), 0);
    assert!(kills >= 2, "the server was killed {kills} times");
}

/// Goal: every connection may be ended, in turn, at any moment.
#[test]
fn connections_that_are_terminated_in_turn_lose_and_repeat_nothing() {
    let mut case = Case::new(12, 400, Server::shared());
    let url = case.database.url().clone();
    let mut turn = 0;
    let (report, _) = under_fire(&mut case, &url, 60, |database| {
        let pids = database
            .sql("select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() order by pid")
            .unwrap();
        if let Some(pid) = pids.get(turn % pids.len().max(1)).and_then(|row| row[0].clone()) {
            database.sql(&format!("select pg_terminate_backend({pid})")).unwrap();
        }
        turn += 1;
        thread::sleep(Duration::from_millis(20));
    });
    case.check(&report.expect("it goes on by itself"), 0);
    assert!(turn >= 5, "{turn} connections were ended");
}

/// Goal: a network that is cut, and one that swallows everything, are outlived.
#[test]
fn a_network_that_is_cut_loses_and_repeats_nothing() {
    let server = Server::shared();
    let mut case = Case::new(13, 400, server);
    let proxy = Proxy::to_server(server).unwrap();
    let url = proxy.url(case.database.url());
    let mut rng = StdRng::seed_from_u64(13);
    let (report, cuts) = under_fire(&mut case, &url, 12, |_| {
        thread::sleep(Duration::from_millis(rng.random_range(20..300)));
        proxy.cut();
        thread::sleep(Duration::from_millis(rng.random_range(0..100)));
        proxy.mend();
    });
    case.check(&report.expect("it goes on by itself"), 0);
    assert!(cuts >= 2, "the network was cut {cuts} times");
}

/// A run that is held where its next group is about to be written, while the store gets into trouble; then it goes on.
fn in_trouble(case: &mut Case, url: &Url, trouble: impl FnOnce(&Case), end: impl FnOnce(&Case)) -> Result<Report> {
    let started = case.start(url);
    let control = started.control.clone();
    support::until("the run has begun", || control.books().is_some());
    control.stall_at(Some(failpoint::GROUP_BEFORE_COMMIT));
    trouble(case);
    control.stall_at(None);
    // The run waits for its store, and says so.
    support::until("`why` names the store", || {
        control.why(Duration::from_secs(1)).is_some_and(|why| why.to_string().contains("store"))
    });
    end(case);
    started.end()
}

/// Goal: a frozen server is waited for.
#[test]
fn a_frozen_server_is_waited_for() {
    let server = Server::start().unwrap();
    let mut case = Case::new(14, 1_200, &server);
    let url = case.database.url().clone();
    let report = in_trouble(&mut case, &url, |_| server.freeze().unwrap(), |_| server.thaw().unwrap());
    case.check(&report.expect("it goes on by itself"), 0);
}

/// Goal: a full disk at the store is waited for. The server's own error for it is raised by a trigger: mounting a small file system needs rights that
/// a test has not everywhere.
#[test]
fn a_full_disk_at_the_store_is_waited_for() {
    let mut case = Case::new(15, 1_200, Server::shared());
    let url = case.database.url().clone();
    let full = "create function full_disk() returns trigger language plpgsql as \
        $$ begin raise exception using errcode = '53100', message = 'could not extend file: No space left on device'; end $$; \
        create trigger full_disk before insert on observer_ledger execute function full_disk()";
    let report = in_trouble(
        &mut case,
        &url,
        |case| drop(case.database.sql(full).unwrap()),
        |case| drop(case.database.sql("drop trigger full_disk on observer_ledger").unwrap()),
    );
    case.check(&report.expect("it goes on by itself"), 0);
}

/// Goal: a run that was replaced writes nothing more, and says by which.
#[test]
fn a_run_that_was_replaced_ends_with_a_sentence() {
    let mut case = Case::new(16, 1_200, Server::shared());
    let url = case.database.url().clone();
    let first = case.start(&url);
    support::until("the first run has begun to write", || {
        case.database.one("select coalesce(max(group_number), 0) from observer_processes").is_ok_and(|number| number != "0")
    });
    first.control.stall_at(Some(failpoint::GROUP_BEFORE_COMMIT));
    let place = PostgresCheckpointStore::at(url.reveal());
    let second = place.open_store("test", highwater::operators::checkpoint::place::Seat::ALONE).unwrap();
    let rows = || case.database.sql("select * from observer_checkpoints, observer_processes, observer_resolved").unwrap();
    let before = rows();
    first.control.stall_at(None);
    let error = first.end().unwrap_err().to_string();
    assert!(error.contains("run 1 of test was replaced by run 2"), "{error}");
    assert_eq!(rows(), before);
    drop(second);
    let report = support::run(&case.settings(&url), &case.whole.build()).expect("the next run goes on");
    case.check(&report, 1);
}

/// Goal: what people ask of parked changes reaches a run through the store, and the notice of its monitor reaches people.
#[test]
fn requests_and_the_notice_go_by_the_store() {
    use highwater::operators::checkpoint::requests::Request;
    let mut case = Case::new(17, 60, Server::shared());
    let url = case.database.url().clone();
    let report = support::run(&case.settings(&url), &case.whole.build()).unwrap();
    case.check(&report, 0);
    let place: Arc<dyn StorePlace> = Arc::new(PostgresCheckpointStore::at(url.reveal()));
    let parked: Vec<u64> = case.inspect().parked_heads().iter().map(|head| head.id).collect();
    assert!(!parked.is_empty(), "this seed parks something");
    let letters = place.letters("test").unwrap();
    assert!(letters.notice().is_none(), "nothing runs");
    for id in &parked {
        letters.leave(Request::Drop { id: *id }).unwrap();
    }
    assert_eq!(letters.pending().unwrap().len(), parked.len());
    support::run(&case.settings(&url), &case.whole.build()).unwrap();
    assert_eq!(case.inspect().parked_heads(), Vec::<&_>::new());
    assert_eq!(letters.pending().unwrap(), []);
}
