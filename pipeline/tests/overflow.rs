//! What an action cannot do now: set aside for lack of room and taken up again, held behind a parked change, retried,
//! dropped.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use highwater::operators::checkpoint::embedded::{DataDirectory, EmbeddedStore, Inspection};
use highwater::operators::checkpoint::place::{Inspect, Letters, OpenStore, Seat, StorePlace};
use highwater::operators::checkpoint::requests::{Request, leave_request};
use highwater::operators::checkpoint::store::{Cause, CheckpointStore, Group, Parked, ParkedId, Restored};
use highwater::operators::parked::{Filter, Page};
use highwater::operators::testing::failpoint;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use support::books;
use support::input::{Input, Item, Script};
use support::record::{Place, Record, Recorder};
use tempfile::TempDir;
use tokio::sync::Semaphore;

const ITEMS: u64 = 300;

/// A fast action and a slow one, whose calls wait at a door.
struct Beside {
    folder: TempDir,
    record: Record,
    door: Arc<Semaphore>,
    /// With few keys nearly every change stands behind one whose call hangs at the door.
    keys: u64,
    /// The hold budget of the slow action.
    budget: Duration,
    window: u64,
    /// Whether the source goes on looking when it has nothing more.
    follows: bool,
    /// How long a call of the slow action takes once it is through the door.
    takes: Duration,
}

impl Beside {
    fn new(keys: u64) -> Self {
        let (record, door) = (Record::default(), Arc::new(Semaphore::new(0)));
        Beside {
            folder: support::folder(),
            record,
            door,
            keys,
            budget: minutes(5),
            window: 16,
            follows: false,
            takes: Duration::ZERO,
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn settings(&self, workers: u64) -> Settings {
        Settings { in_flight_changes: self.window, ..support::settings(self.data(), workers) }
    }

    fn build(&self) -> Build {
        let (keys, budget, takes) = (self.keys, self.budget, self.takes);
        let items = (0..ITEMS).map(|n| Item::good(format!("c{n}"), format!("k{}", n % keys)));
        let input = Arc::new(Input { follows: self.follows, ..Input::of(items) });
        let (record, door) = (self.record.clone(), self.door.clone());
        support::build(move |flow| {
            let (slow, door) = (record.clone(), door.clone());
            flow.source(Script { input: input.clone(), seed: 1 })
                .dedup(Dedup::latest(10_000))
                .fan_out([
                    action("fast", Recorder { name: "fast", record: record.clone() }),
                    action(
                        "slow",
                        run(move |change| {
                            let (record, door) = (slow.clone(), door.clone());
                            async move {
                                drop(door.acquire().await?);
                                tokio::time::sleep(takes).await;
                                record.act("slow", &change, None, None).await
                            }
                        }),
                    )
                    .max_parallelism(2)
                    .hold_budget(budget),
                ])
                .checkpoint(Checkpoint::every(millis(2)));
            Ok(())
        })
    }

    /// Everything was delivered to both, in order, the slow one's excess by way of the parked ones.
    fn check(&self, report: &Report, repeats: usize) {
        assert!(report.ended);
        for action in ["fast", "slow"] {
            let times = self.record.times(action);
            assert_eq!(times.keys().copied().collect::<Vec<_>>(), (0..ITEMS).map(|at| (0, at)).collect::<Vec<_>>(), "{action}");
            let repeated: usize = times.values().map(|times| times - 1).sum();
            assert!(repeated <= repeats, "{action}: {repeated} repeats");
            books::check_order(&self.record, action);
            let books = &report.actions[action];
            assert_eq!((books.delivered, books.parked, books.in_flight), (ITEMS, 0, 0), "{action}");
        }
        assert_eq!(books::parked(&books::inspect(&self.data()), "slow"), []);
    }
}

/// A run that is to end when there is nothing to do has much to do while what was set aside waits for its action.
#[test]
fn a_run_until_idle_takes_up_again_what_was_set_aside_before_it_ends() {
    let mut beside = Beside::new(100);
    (beside.follows, beside.takes) = (true, Duration::from_millis(3));
    let until_idle = Some(Duration::from_millis(50));
    let settings = Settings { until_idle, ..beside.settings(2) };
    let started = support::start(&settings, &beside.build(), Control::default());
    support::until("the fast action has had everything", || beside.record.of("fast").len() as u64 == ITEMS);
    support::until("the excess is parked", || books::parked(&books::inspect(&beside.data()), "slow").len() as u64 > ITEMS / 2);
    // All of it takes much longer than the run would have to be idle.
    beside.door.add_permits(1);
    let report = started.end().unwrap();
    beside.check(&Report { ended: true, ..report }, 0);
}

#[test]
fn a_slow_action_does_not_stop_a_fast_one_and_gets_the_rest_in_order() {
    for (workers, keys) in [(1, 100), (2, 100), (1, 3), (2, 3), (4, 1)] {
        let beside = Beside::new(keys);
        let started = support::start(&beside.settings(workers), &beside.build(), Control::default());
        support::until("the fast action has had everything", || beside.record.of("fast").len() as u64 == ITEMS);
        assert_eq!(beside.record.of("slow"), []);
        support::until("the excess is parked", || {
            books::parked(&books::inspect(&beside.data()), "slow").len() as u64 > ITEMS / 2
        });
        let parked = books::parked(&books::inspect(&beside.data()), "slow");
        assert!(parked.iter().all(|(_, cause)| *cause == Cause::Overflow), "{parked:?}");
        beside.door.add_permits(Semaphore::MAX_PERMITS);
        beside.check(&started.end().unwrap(), 0);
    }
}

#[test]
fn a_call_that_hangs_holds_the_mark_no_longer_than_its_budget() {
    let beside = Beside { budget: millis(20), window: 100_000, ..Beside::new(3) };
    let started = support::start(&beside.settings(2), &beside.build(), Control::default());
    // Nothing of the slow action has been answered, and yet all that was read is below the mark: set aside, calls included.
    let all_below = |seen: Inspection| seen.checkpoint().is_some_and(|save| save.books.get("parked slow") == Some(&ITEMS));
    support::until("the mark has passed everything", || EmbeddedStore::inspect(&beside.data()).is_ok_and(all_below));
    assert_eq!(beside.record.of("slow"), []);
    beside.door.add_permits(Semaphore::MAX_PERMITS);
    beside.check(&started.end().unwrap(), 0);
}

#[test]
fn what_overflowed_is_taken_up_in_order_after_a_crash() {
    for (workers, passage, keys) in [(1, 40, 100), (2, 60, 100), (4, 80, 100), (1, 25, 3), (2, 40, 3), (1, 60, 1), (4, 90, 2)] {
        let beside = Beside::new(keys);
        let control = Control::default();
        control.crash_at(failpoint::GROUP_COMMITTED, passage);
        let started = support::start(&beside.settings(workers), &beside.build(), control);
        // The crash comes before the door is opened, or while the parked are taken up again.
        let overflowed = |seen: Inspection| !books::parked(&seen, "slow").is_empty();
        support::until("something is parked", || EmbeddedStore::inspect(&beside.data()).is_ok_and(overflowed));
        beside.door.add_permits(Semaphore::MAX_PERMITS);
        assert!(!started.end().unwrap().ended);
        beside.record.next_run();
        // And once more, on another number of workers.
        let again = support::run_and_crash(&beside.settings(3 - workers % 2), &beside.build(), failpoint::GROUP_COMMITTED, 12);
        let crashes = 1 + usize::from(!again.unwrap().ended);
        beside.record.next_run();
        let report = support::run(&beside.settings(2), &beside.build()).unwrap();
        // Two calls of the slow action at once, a hundred of the fast one.
        let slow: usize = beside.record.times("slow").values().map(|times| times - 1).sum();
        assert!(slow <= 2 * crashes, "{slow} repeats");
        beside.check(&report, 100 * crashes);
    }
}

/// A store whose groups take their time, and what was set aside in them.
#[derive(Clone)]
struct SlowStore {
    place: DataDirectory,
    set_aside: Arc<AtomicUsize>,
}

struct Slowly {
    store: Box<dyn CheckpointStore>,
    set_aside: Arc<AtomicUsize>,
}

impl StorePlace for SlowStore {
    fn place(&self) -> String {
        self.place.place()
    }

    fn takes_several_processes(&self) -> Result {
        self.place.takes_several_processes()
    }

    fn check(&self) -> Result {
        self.place.check()
    }

    fn open(&self, pipeline: &str, seat: Seat) -> Result<OpenStore> {
        let open = self.place.open(pipeline, seat)?;
        Ok(OpenStore { store: Box::new(Slowly { store: open.store, set_aside: self.set_aside.clone() }), ..open })
    }

    fn join(&self, pipeline: &str, generation: u64, seat: Seat) -> Result<OpenStore> {
        self.place.join(pipeline, generation, seat)
    }

    fn inspect(&self, pipeline: &str) -> Result<Option<Box<dyn Inspect>>> {
        self.place.inspect(pipeline)
    }

    fn letters(&self, pipeline: &str) -> Result<Arc<dyn Letters>> {
        self.place.letters(pipeline)
    }
}

impl CheckpointStore for Slowly {
    fn restore(&mut self) -> Result<Restored> {
        self.store.restore()
    }

    fn action(&mut self, name: &str) -> Result<u16> {
        self.store.action(name)
    }

    fn commit(&mut self, group: &Group) -> Result {
        self.set_aside.fetch_add(group.parked.len(), Ordering::SeqCst);
        std::thread::sleep(millis(3));
        self.store.commit(group)
    }

    fn parked(&mut self, id: ParkedId) -> Result<Option<Parked>> {
        self.store.parked(id)
    }

    fn parked_page(&mut self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        self.store.parked_page(filter, after, most)
    }
}

/// Goal: actions whose changes wait for the store are not slow, and nothing of theirs is set aside: the store would only be asked for
/// more. Method: three that answer at once, a window that is always full, few keys, and groups of the store that take 3 ms.
#[test]
fn what_waits_for_the_store_is_not_set_aside() {
    const CHANGES: u64 = 3000;
    let (folder, set_aside) = (support::folder(), Arc::new(AtomicUsize::new(0)));
    let store = SlowStore { place: DataDirectory::at(folder.path().join("data")), set_aside: set_aside.clone() };
    let build = support::build(move |flow| {
        flow.source(Generator::new(3).changes(CHANGES).keys(100))
            .fan_out(["one", "two", "three"].map(|name| action(name, run(|_| async { Ok(()) })).max_parallelism(64)))
            .checkpoint(Checkpoint::every(millis(20)).in_store(store.clone()));
        Ok(())
    });
    let settings = Settings { in_flight_changes: 64, ..support::settings(folder.path().join("data"), 1) };
    let report = support::run(&settings, &build).unwrap();
    assert!(report.ended && report.actions.values().all(|books| books.delivered == CHANGES), "{report:?}");
    assert_eq!(set_aside.load(Ordering::SeqCst), 0);
}

/// An action that fails for fragile changes until it is mended.
struct Fragile {
    record: Record,
    mended: Arc<AtomicBool>,
}

impl Action for Fragile {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            if delivery.row().str("fate").as_deref() == Some("fragile") && !self.mended.load(Ordering::SeqCst) {
                return Err(Error::park("it is not mended"));
            }
            self.record.act("act", delivery.change(), None, None).await
        })
    }
}

/// One action over keys `a` and `b`, where the second change of `a` is fragile.
struct Held {
    folder: TempDir,
    record: Record,
    mended: Arc<AtomicBool>,
    hold: bool,
}

/// Places of `a`: the fragile one is the second; `b` stands between.
const A: [u64; 4] = [0, 2, 4, 6];
const B: [u64; 4] = [1, 3, 5, 7];

impl Held {
    /// After a first run, in which the fragile change failed.
    fn after_a_failure(hold: bool) -> Self {
        let held = Held { folder: support::folder(), record: Record::default(), mended: Arc::default(), hold };
        let report = held.run();
        let delivered = if hold { 5 } else { 7 };
        assert_eq!((report.actions["act"].delivered, report.actions["act"].parked), (delivered, 8 - delivered));
        held.mended.store(true, Ordering::SeqCst);
        held.record.next_run();
        held
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self) -> Report {
        let items = (0..8).map(|at| {
            let item = Item::good(format!("c{at}"), if at % 2 == 0 { "a" } else { "b" });
            if at == A[1] { item.fate("fragile") } else { item }
        });
        let (input, record, mended, hold) = (Arc::new(Input::of(items)), self.record.clone(), self.mended.clone(), self.hold);
        let build = support::build(move |flow| {
            let act = action("act", Fragile { record: record.clone(), mended: mended.clone() });
            flow.source(Script { input: input.clone(), seed: 3 })
                .fan_out([if hold { act.hold() } else { act }])
                .checkpoint(Checkpoint::every(millis(1)));
            Ok(())
        });
        support::run(&support::settings(self.data(), 2), &build).unwrap()
    }

    fn delivered(&self, of: [u64; 4]) -> Vec<u64> {
        self.record.of("act").into_iter().map(|effect| effect.place.1).filter(|at| of.contains(at)).collect()
    }

    fn parked(&self) -> Vec<(Place, Cause)> {
        books::parked(&books::inspect(&self.data()), "act")
    }

    /// Leaves a request for the parked change at a place.
    fn ask(&self, at: u64, request: impl Fn(u64) -> Request) {
        let inspection = books::inspect(&self.data());
        let id = inspection.parked_heads().find(|head| head.position.at == at).expect("it is parked").id;
        leave_request(&self.data(), request(id)).unwrap();
    }
}

#[test]
fn a_held_key_goes_on_in_order_once_its_parked_change_is_delivered() {
    let held = Held::after_a_failure(true);
    assert_eq!((held.delivered(A), held.delivered(B)), (vec![A[0]], B.to_vec()));
    assert_eq!(held.parked(), [((0, A[1]), Cause::Failed), ((0, A[2]), Cause::Held), ((0, A[3]), Cause::Held)]);
    held.ask(A[1], |id| Request::Retry { id });
    let report = held.run();
    assert_eq!((held.delivered(A), held.parked()), (A.to_vec(), vec![]));
    assert_eq!((report.actions["act"].delivered, report.actions["act"].parked), (8, 0));
}

#[test]
fn a_held_key_goes_on_once_its_parked_change_is_dropped() {
    let held = Held::after_a_failure(true);
    held.ask(A[1], |id| Request::Drop { id });
    let report = held.run();
    assert_eq!((held.delivered(A), held.parked()), (vec![A[0], A[2], A[3]], vec![]));
    assert_eq!((report.actions["act"].delivered, report.actions["act"].parked, report.actions["act"].dropped), (7, 1, 1));
}

#[test]
fn to_drop_a_change_that_waits_behind_a_held_key_frees_nothing() {
    let held = Held::after_a_failure(true);
    held.ask(A[2], |id| Request::Drop { id });
    held.run();
    assert_eq!(held.delivered(A), [A[0]]);
    assert_eq!(held.parked(), [((0, A[1]), Cause::Failed), ((0, A[3]), Cause::Held)]);
    held.ask(A[1], |id| Request::Retry { id });
    held.run();
    assert_eq!((held.delivered(A), held.parked()), (vec![A[0], A[1], A[3]], vec![]));
}

#[test]
fn a_retry_that_fails_again_keeps_its_key_held() {
    let held = Held::after_a_failure(true);
    held.mended.store(false, Ordering::SeqCst);
    held.ask(A[1], |id| Request::Retry { id });
    held.run();
    assert_eq!((held.delivered(A), held.parked().len()), (vec![A[0]], 3));
    held.mended.store(true, Ordering::SeqCst);
    held.ask(A[1], |id| Request::Retry { id });
    held.run();
    assert_eq!((held.delivered(A), held.parked()), (A.to_vec(), vec![]));
}

#[test]
fn released_keys_go_on_past_a_parked_change_and_a_retry_delivers_it_once() {
    let held = Held::after_a_failure(false);
    assert_eq!((held.delivered(A), held.parked()), (vec![A[0], A[2], A[3]], vec![((0, A[1]), Cause::Failed)]));
    // Asked twice, done once.
    held.ask(A[1], |id| Request::Retry { id });
    held.ask(A[1], |id| Request::Retry { id });
    let report = held.run();
    assert_eq!((held.delivered(A), held.parked()), (vec![A[0], A[2], A[3], A[1]], vec![]));
    assert_eq!((report.actions["act"].delivered, report.actions["act"].parked), (8, 0));
    held.run();
    assert_eq!(held.delivered(A).len(), 4);
}

#[test]
fn what_stands_before_a_change_that_cannot_be_judged_is_not_held_behind_it() {
    let (folder, record) = (support::folder(), Record::default());
    let items = (0..40).map(|at| Item::good(format!("c{at}"), "a").fate(if at == 30 { "panic" } else { "good" }));
    let (input, own) = (Arc::new(Input::of(items)), record.clone());
    let build = support::build(move |flow| {
        let judged = |change: &Change| match change.row().str("fate").as_deref() {
            Some("panic") => panic!("cannot be judged"),
            _ => true,
        };
        flow.source(Script { input: input.clone(), seed: 3 })
            .fan_out([action("act", Recorder { name: "act", record: own.clone() }).when(judged).hold()])
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    });
    support::run(&support::settings(folder.path().join("data"), 1), &build).unwrap();
    let delivered: BTreeSet<u64> = record.times("act").into_keys().map(|(_, at)| at).collect();
    assert_eq!(delivered, (0..30).collect());
    let parked = books::parked(&books::inspect(&folder.path().join("data")), "act");
    assert_eq!(parked.iter().map(|((_, at), _)| *at).collect::<Vec<_>>(), (30..40).collect::<Vec<_>>());
    assert_eq!((parked[0].1, parked[1].1), (Cause::Panicked, Cause::Held));
}
