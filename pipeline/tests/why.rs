//! Who holds the mark: in each staged stall the true holder is named, and soon.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater::operators::change::Change;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::stats::ReaderState;
use highwater::operators::ingest::{Batch, Partition, Read, Reader, Source};
use highwater::operators::testing::failpoint;
use highwater::operators::why::{Held, HolderKind, State, Why};
use highwater::operators::{Position, ResumeToken};
use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use support::Started;
use support::input::{Input, Item, Script};
use tokio::sync::Semaphore;

/// Within this time the holder must be named.
const SOON: Duration = Duration::from_secs(2);

/// A run whose holder is asked for.
struct Stalled {
    started: Option<Started>,
    door: Arc<Semaphore>,
    _folder: tempfile::TempDir,
}

impl Stalled {
    fn start(door: &Arc<Semaphore>, change: impl FnOnce(&mut Settings), build: &Build) -> Self {
        let folder = support::folder();
        let mut settings = support::settings(folder.path().join("data"), 2);
        change(&mut settings);
        let started = support::start(&settings, build, Control::default());
        Stalled { started: Some(started), door: door.clone(), _folder: folder }
    }

    fn control(&self) -> &Control {
        &self.started.as_ref().expect("it runs").control
    }

    /// Asks until an answer is as expected; it must come soon.
    #[track_caller]
    fn expect(&self, what: &str, is_it: impl Fn(&Why) -> bool) -> Why {
        let began = Instant::now();
        loop {
            let why = self.control().why(Duration::from_millis(200));
            match why {
                Some(why) if is_it(&why) => return why,
                why => assert!(began.elapsed() < SOON, "{what} was not named within {SOON:?}, but: {why:?}"),
            }
        }
    }

    #[track_caller]
    fn expect_held(&self, what: &str, is_it: impl Fn(&Held) -> bool) -> Held {
        let why = self.expect(what, |why| why.state == State::Held && why.held_by.as_ref().is_some_and(&is_it));
        why.held_by.expect("it is held")
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let Some(started) = self.started.take() else { return };
        self.door.add_permits(1_000_000);
        started.control.stall_at(None);
        started.control.stop();
        started.control.stop();
        if !std::thread::panicking() {
            started.end().expect("a run that is stopped ends without an error");
        }
    }
}

fn changes(n: u64) -> Script {
    let items = (0..n).map(|n| Item { customer: Some(format!("u{n}")), ..Item::good(format!("c{n}"), format!("k{n}")) });
    Script { input: Arc::new(Input::of(items)), seed: 1 }
}

/// A pipeline whose one action waits at a door.
fn with_a_door(door: &Arc<Semaphore>, source: impl Source + Clone) -> Build {
    let door = door.clone();
    support::build(move |flow| {
        let door = door.clone();
        let slow = run(move |_| {
            let door = door.clone();
            async move {
                door.acquire().await?.forget();
                Ok(())
            }
        });
        flow.source(source.clone()).fan_out([action("slow", slow)]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    })
}

#[test]
fn a_slow_action_is_named_with_the_change_it_is_called_for() {
    let door = Arc::new(Semaphore::new(3));
    let stalled = Stalled::start(&door, |_| {}, &with_a_door(&door, changes(4)));
    let held = stalled.expect_held("the slow action", |held| held.kind == HolderKind::Call);
    assert_eq!((held.operator.as_str(), held.action.as_deref(), held.attempt), ("action slow", Some("slow"), Some(1)));
    assert!(held.key.is_some() && held.change.is_some() && held.since > 0);
    let json = serde_json::to_value(stalled.control().why(SOON)).unwrap();
    for field in ["kind", "operator", "worker", "action", "key", "change", "attempt", "next_try"] {
        assert!(json["held_by"].get(field).is_some(), "{field} is missing in {json}");
    }
    assert!(json["frontier"].is_u64() && json["since"].is_u64(), "{json}");
}

#[test]
fn an_action_that_fails_is_named_with_its_next_try() {
    let door = Arc::new(Semaphore::new(0));
    let build = support::build(|flow| {
        let fails = run(|change| async move {
            match change.id() {
                "c2" => Err(Error::retry("no answer from the receiver")),
                _ => Ok(()),
            }
        });
        let fails = action("fails", fails).attempts(50).backoff(minutes(10), minutes(10));
        flow.source(changes(5)).fan_out([fails]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    let stalled = Stalled::start(&door, |_| {}, &build);
    let held = stalled.expect_held("the failing action", |held| held.kind == HolderKind::Retry);
    assert_eq!((held.action.as_deref(), held.change.as_deref(), held.attempt), (Some("fails"), Some("c2"), Some(1)));
    assert_eq!((held.key.as_deref(), held.attempts), (Some("k2"), Some(50)));
    assert!(held.next_try.is_some_and(|at| at > held.epoch.unwrap()), "{held:?}");
}

#[test]
fn a_full_window_is_named_as_what_pauses_the_source_and_the_action_as_what_fills_it() {
    let door = Arc::new(Semaphore::new(0));
    let stalled = Stalled::start(&door, |settings| settings.in_flight_changes = 10, &with_a_door(&door, changes(500)));
    let why = stalled.expect("the paused source", |why| !why.paused.is_empty() && why.held_by.is_some());
    let paused = &why.paused[0];
    assert_eq!((paused.source.as_str(), paused.by.as_str(), paused.limit), ("script", "changes", 10));
    assert!(paused.in_flight >= 10, "{paused:?}");
    assert_eq!(why.held_by.as_ref().and_then(|held| held.action.as_deref()), Some("slow"));
    assert!(why.to_string().contains("source script (worker 0) has been paused for "), "{why}");
}

#[test]
fn a_store_that_does_not_answer_is_named() {
    let door = Arc::new(Semaphore::new(2));
    let stalled = Stalled::start(&door, |_| {}, &with_a_door(&door, changes(9)));
    stalled.expect_held("the slow action", |held| held.kind == HolderKind::Call);
    stalled.control().stall_at(Some(failpoint::GROUP_BEFORE_COMMIT));
    // All of them: a call that still waited at the door would rightly be named instead.
    door.add_permits(7);
    // Which of the two it is that waits, an outcome's note or a save, is chance; the store is what both wait for.
    let held = stalled.expect_held("the store", |held| held.kind == HolderKind::Store);
    assert!(held.to_string().starts_with("the checkpoint store has been "), "{held}");
}

#[test]
fn a_lookup_that_waits_is_named_and_so_is_one_that_is_tried_again() {
    for fails in [false, true] {
        let door = Arc::new(Semaphore::new(0));
        let shut = door.clone();
        let build = support::build(move |flow| {
            let door = shut.clone();
            let customers = Lookup::by("customer")
                .from(load(move |keys: Vec<String>| {
                    let door = door.clone();
                    async move {
                        if fails {
                            return Err(Error::retry("the origin is away"));
                        }
                        door.acquire().await?.forget();
                        Ok(vec![None; keys.len()])
                    }
                }))
                .attempts(9)
                .backoff(minutes(10), minutes(10));
            flow.source(changes(3))
                .lookup("customer", customers)
                .fan_out([action("all", run(|_| async { Ok(()) }))])
                .checkpoint(Checkpoint::every(millis(5)));
            Ok(())
        });
        let stalled = Stalled::start(&door, |_| {}, &build);
        let kind = if fails { HolderKind::LookupRetry } else { HolderKind::Lookup };
        let held = stalled.expect_held("the lookup", |held| held.kind == kind && held.attempt.is_some());
        assert_eq!((held.operator.as_str(), held.action.as_deref()), ("lookup customer", None));
        assert_eq!((held.attempt, held.attempts, held.next_try.is_some()), (Some(1), Some(9), fails));
        assert!(held.change.is_some() && held.key.is_some());
    }
}

/// A source that gives one change and then nothing, and does not end.
#[derive(Clone)]
struct Silent;

impl Source for Silent {
    fn kind(&self) -> &'static str {
        "silent"
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "only".to_owned(), bytes: None }])
    }

    fn open(&self, partition: &Partition, _from: Option<&ResumeToken>, _window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        Ok(Box::new(SilentReader { partition: partition.id, given: false }))
    }
}

struct SilentReader {
    partition: u32,
    given: bool,
}

impl Reader for SilentReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(Read::Idle(Duration::from_millis(20)));
        }
        let parts = highwater::operators::change::Parts {
            id: "c0",
            table: "",
            key: None,
            operation: Operation::Insert,
            time_ms: 0,
            before: None,
            after: None,
        };
        let position = Position { partition: self.partition, at: 0, within: 0 };
        batch.changes.push(Change::new(Default::default(), position, parts).expect("the pieces are short"));
        batch.token = ResumeToken { order: 1, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

#[test]
fn a_silent_source_is_named_and_the_pipeline_is_idle() {
    let door = Arc::new(Semaphore::new(1));
    let stalled = Stalled::start(&door, |_| {}, &with_a_door(&door, Silent));
    let why = stalled.expect("the silent source", |why| {
        let silent = |source: &highwater::operators::why::SourceState| source.state == ReaderState::Waiting;
        why.state == State::Idle && why.sources.iter().any(|source| silent(source) && source.last_read.is_some())
    });
    assert!(why.held_by.is_none() && why.paused.is_empty(), "{why:?}");
    assert!(why.to_string().starts_with("idle: nothing is under way"), "{why}");
}

#[test]
fn a_closure_that_blocks_its_worker_is_named() {
    let door = Arc::new(Semaphore::new(0));
    let shut = door.clone();
    let build = support::build(move |flow| {
        let door = shut.clone();
        let blocks = move |_: &Change| {
            while door.available_permits() == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            true
        };
        flow.source(changes(3))
            .fan_out([action("all", run(|_| async { Ok(()) })).when(blocks)])
            .checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    let stalled = Stalled::start(&door, |_| {}, &build);
    let held = stalled.expect_held("the worker", |held| held.kind == HolderKind::Worker);
    assert!(held.to_string().contains("busy inside a closure"), "{held}");
}
