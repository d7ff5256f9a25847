//! How runs end, and what the next one makes of it: stops, drains that take too long, panics, refusals, new actions.

mod support;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater::operators::checkpoint::requests::{Request, leave_request};
use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use support::input::{Input, Item, Script};
use support::record::{Record, Recorder};
use support::{books, oracle};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use tokio::sync::Semaphore;

fn items(count: u64) -> Arc<Input> {
    Arc::new(Input::of((0..count).map(|n| Item::good(format!("c{n}"), format!("k{}", n % 20)))))
}

/// A pipeline of one recording action of this name, whose calls wait at a door.
fn behind_a_door(input: &Arc<Input>, record: &Record, door: &Arc<Semaphore>) -> Build {
    let (input, record, door) = (input.clone(), record.clone(), door.clone());
    support::build(move |flow| {
        let (record, door) = (record.clone(), door.clone());
        let act = run(move |change| {
            let (record, door) = (record.clone(), door.clone());
            async move {
                door.acquire().await?.forget();
                record.act("act", &change, None, None).await
            }
        });
        flow.source(Script { input: input.clone(), seed: 2 })
            .fan_out([action("act", act).max_parallelism(4)])
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    })
}

/// A pipeline of recording actions of these names.
fn recording(input: &Arc<Input>, record: &Record, names: &'static [&'static str]) -> Build {
    let (input, record) = (input.clone(), record.clone());
    support::build(move |flow| {
        flow.source(Script { input: input.clone(), seed: 2 })
            .fan_out(names.iter().map(|name| action(*name, Recorder { name, record: record.clone() })))
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    })
}

fn refusal(settings: &Settings, build: &Build) -> String {
    support::run(settings, build).expect_err("the run is refused").to_string()
}

#[test]
fn a_stop_drains_and_saves_and_the_next_run_reads_nothing_again() {
    for workers in [1, 2, 4] {
        let (folder, record, door, input) = (support::folder(), Record::default(), Arc::new(Semaphore::new(0)), items(3_000));
        let settings = Settings { in_flight_changes: 50, ..support::settings(folder.path().join("data"), workers) };
        let build = behind_a_door(&input, &record, &door);
        let started = support::start(&settings, &build, Control::default());
        door.add_permits(200);
        support::until("some were delivered", || record.of("act").len() == 200);
        started.control.stop();
        door.add_permits(5_000);
        let first = started.end().unwrap();
        let done = record.of("act").len() as u64;
        assert!(!first.ended && done < 3_000, "stopped after {done}");
        assert_eq!((first.actions["act"].delivered, first.actions["act"].in_flight), (done, 0));
        let second = support::run(&settings, &build).unwrap();
        assert_eq!((second.resumed_from, second.read_now, second.replayed), (Some(done), 3_000 - done, 0));
        assert_eq!(record.times("act").values().max(), Some(&1));
        books::check_order(&record, "act");
        let third = support::run(&settings, &build).unwrap();
        assert_eq!((third.ended, third.read_now, third.actions["act"].delivered), (true, 0, 3_000));
    }
}

#[test]
fn a_drain_that_takes_too_long_is_cut_off_and_the_rest_comes_in_the_next_run() {
    let (folder, record, door, input) = (support::folder(), Record::default(), Arc::new(Semaphore::new(0)), items(100));
    let settings = Settings { drain_timeout: 0, ..support::settings(folder.path().join("data"), 2) };
    let build = behind_a_door(&input, &record, &door);
    let started = support::start(&settings, &build, Control::default());
    door.add_permits(10);
    support::until("some were delivered", || record.of("act").len() == 10);
    started.control.stop();
    let report = started.end().unwrap();
    assert!(!report.ended && report.actions["act"].in_flight > 0);
    door.add_permits(5_000);
    record.next_run();
    assert!(support::run(&settings, &build).unwrap().ended);
    let times = record.times("act");
    let repeats: usize = times.values().map(|times| times - 1).sum();
    assert!(times.len() == 100 && repeats <= 4, "{} delivered, {repeats} repeats", times.len());
    books::check_order(&record, "act");
}

#[test]
fn a_panic_in_an_operator_of_the_users_ends_the_run_with_an_error_and_loses_nothing() {
    for workers in [1, 2] {
        let (folder, record, input) = (support::folder(), Record::default(), items(500));
        let settings = Settings { in_flight_changes: 40, ..support::settings(folder.path().join("data"), workers) };
        let broken = Arc::new(AtomicBool::new(true));
        let (own, read, flag) = (record.clone(), input.clone(), broken.clone());
        let build = support::build(move |flow| {
            let broken = flag.clone();
            let through = flow.source(Script { input: read.clone(), seed: 2 }).stream();
            let through = through.unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, "Own", move |_, _| {
                move |input, output| {
                    input.for_each(|capability, batch| {
                        let here = batch.iter().any(|change| change.position().at == 300);
                        assert!(!(here && broken.load(Ordering::SeqCst)), "an operator of the user's own is broken");
                        output.session(&capability).give_container(batch);
                    });
                }
            });
            flow.from_stream(through)
                .fan_out([action("act", Recorder { name: "act", record: own.clone() }).max_parallelism(5)])
                .checkpoint(Checkpoint::every(millis(1)));
            Ok(())
        });
        let error = refusal(&settings, &build);
        assert!(error.contains("a worker panicked: an operator of the user's own is broken"), "{error}");
        broken.store(false, Ordering::SeqCst);
        record.next_run();
        let report = support::run(&settings, &build).unwrap();
        assert_eq!((report.actions["act"].delivered, report.actions["act"].in_flight), (500, 0));
        books::check_delivered(&record, "act", &oracle::expect(&input, None).outcomes(|_| true, &[]), 5);
        books::check_order(&record, "act");
    }
}

#[test]
fn an_error_of_kind_stop_ends_the_run_with_the_actions_name_and_loses_nothing() {
    let (folder, record, input) = (support::folder(), Record::default(), items(200));
    let settings = support::settings(folder.path().join("data"), 2);
    let full = Arc::new(AtomicBool::new(true));
    let (own, read, flag) = (record.clone(), input.clone(), full.clone());
    let build = support::build(move |flow| {
        let (own, flag) = (own.clone(), flag.clone());
        let act = run(move |change| {
            let (own, full) = (own.clone(), flag.load(Ordering::SeqCst) && change.position().at == 120);
            async move { if full { Err(Error::stop("the account is closed")) } else { own.act("act", &change, None, None).await } }
        });
        flow.source(Script { input: read.clone(), seed: 2 })
            .fan_out([action("act", act).max_parallelism(6)])
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    });
    let error = refusal(&settings, &build);
    assert!(error.contains("action \"act\": the account is closed"), "{error}");
    full.store(false, Ordering::SeqCst);
    record.next_run();
    assert!(support::run(&settings, &build).unwrap().ended);
    books::check_delivered(&record, "act", &oracle::expect(&input, None).outcomes(|_| true, &[]), 6);
    books::check_order(&record, "act");
}

#[test]
fn a_second_run_on_one_data_directory_is_refused() {
    let (folder, record, door, input) = (support::folder(), Record::default(), Arc::new(Semaphore::new(0)), items(50));
    let settings = support::settings(folder.path().join("data"), 1);
    let build = behind_a_door(&input, &record, &door);
    let started = support::start(&settings, &build, Control::default());
    door.add_permits(1);
    support::until("the first run is at work", || record.of("act").len() == 1);
    let error = refusal(&settings, &build);
    assert!(error.contains("is in use by process") && error.contains("two runs of one pipeline"), "{error}");
    door.add_permits(100);
    assert_eq!(started.end().unwrap().actions["act"].delivered, 50);
}

#[test]
fn a_partition_that_is_gone_is_refused_by_name() {
    let (folder, record) = (support::folder(), Record::default());
    let settings = support::settings(folder.path().join("data"), 2);
    let two = Input { partitions: vec![items(10).partitions[0].clone(), items(10).partitions[0].clone()], follows: false };
    support::run(&settings, &recording(&Arc::new(two), &record, &["act"])).unwrap();
    let error = refusal(&settings, &recording(&items(10), &record, &["act"]));
    assert!(error.contains("continues partition script/part-1") && error.contains("found: script/part-0"), "{error}");
}

/// Lines of the default envelope.
fn write_lines(path: &Path, count: u64) {
    let mut file = File::create(path).unwrap();
    for n in 0..count {
        let line = format!(r#"{{"id":"c{n}","table":"t","op":"insert","key":"k{n}","ts":{n},"after":{{"n":{n}}}}}"#);
        writeln!(file, "{line}").unwrap();
    }
}

#[test]
fn a_file_that_was_cut_short_or_changed_before_the_mark_is_refused() {
    let (folder, record) = (support::folder(), Record::default());
    let settings = support::settings(folder.path().join("data"), 1);
    let path: PathBuf = folder.path().join("in.jsonl");
    write_lines(&path, 100);
    let (own, read) = (record.clone(), path.clone());
    let build = support::build(move |flow| {
        flow.source(JsonLines::file(&read))
            .fan_out([action("act", Recorder { name: "act", record: own.clone() })])
            .checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    });
    assert_eq!(support::run(&settings, &build).unwrap().actions["act"].delivered, 100);
    write_lines(&path, 90);
    let error = refusal(&settings, &build);
    assert!(error.contains("the file was cut short"), "{error}");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"n\":89", "\"n\":77") + &"\n".repeat(2_000)).unwrap();
    let error = refusal(&settings, &build);
    assert!(error.contains("was changed before byte"), "{error}");
    write_lines(&path, 130);
    let report = support::run(&settings, &build).unwrap();
    assert_eq!((report.read_now, report.actions["act"].delivered), (30, 130));
}

#[test]
fn an_action_with_parked_changes_is_not_to_be_removed_and_one_without_is() {
    let (folder, record) = (support::folder(), Record::default());
    let settings = support::settings(folder.path().join("data"), 2);
    let poisoned = Arc::new(Input::of([Item::good("c0", "a"), Item::good("c1", "b").fate("poison")]));
    support::run(&settings, &recording(&poisoned, &record, &["one", "two"])).unwrap();
    let error = refusal(&settings, &recording(&poisoned, &record, &["one"]));
    assert!(error.contains("action \"two\" is no longer in the pipeline, but 1 changes are parked for it"), "{error}");
    // The way out that it names.
    let data = settings.data.clone().unwrap();
    let parked: Vec<u64> = books::inspect(&data).parked_heads().filter(|head| head.action == "two").map(|head| head.id).collect();
    leave_request(&data, Request::Drop { id: parked[0] }).unwrap();
    let report = support::run(&settings, &recording(&poisoned, &record, &["one"])).unwrap();
    assert_eq!((report.actions["one"].delivered, report.actions["one"].parked), (1, 1));

    let folder = support::folder();
    let settings = support::settings(folder.path().join("data"), 2);
    support::run(&settings, &recording(&items(10), &record, &["one", "two"])).unwrap();
    let report = support::run(&settings, &recording(&items(30), &record, &["one"])).unwrap();
    assert_eq!((report.actions["one"].delivered, report.actions["one"].in_flight), (30, 0));
}

/// Goal: what is kept of dedup stays bounded, also if one worker has no key at all. Method: one key, two workers, a window of
/// a hundred ids, and runs that each read three thousand more.
#[test]
fn state_that_no_longer_counts_is_forgotten_even_if_a_worker_has_nothing() {
    let folder = support::folder();
    let settings = support::settings(folder.path().join("data"), 2);
    let mut kept = Vec::new();
    for run in 1..=4 {
        let input = Arc::new(Input::of((0..run * 3_000).map(|n| Item::good(format!("c{n}"), "k"))));
        let build = support::build(move |flow| {
            flow.source(Script { input: input.clone(), seed: 2 })
                .dedup(Dedup::latest(200))
                .fan_out([action("act", batch(|batch| async move { batch.iter().map(|_| Ok(())).collect() })).repeatable()])
                .checkpoint(Checkpoint::every(millis(1)));
            Ok(())
        });
        assert_eq!(support::run(&settings, &build).unwrap().actions["act"].delivered, run * 3_000);
        let inspection = books::inspect(settings.data.as_ref().unwrap());
        kept.push(inspection.state().get("dedup").map_or(0, |(_, bytes)| *bytes));
    }
    // At most the segments of the last run and the one before, 45 bytes an id.
    assert!(kept.iter().all(|bytes| *bytes > 0 && *bytes <= 2 * 3_000 * 45), "{kept:?}");
}

#[test]
fn a_new_action_sees_only_what_lies_above_the_mark_and_so_does_one_that_was_away() {
    let (folder, record) = (support::folder(), Record::default());
    let settings = support::settings(folder.path().join("data"), 2);
    support::run(&settings, &recording(&items(10), &record, &["old"])).unwrap();
    let report = support::run(&settings, &recording(&items(25), &record, &["old", "new"])).unwrap();
    assert_eq!(record.times("new").into_keys().collect::<Vec<_>>(), (10..25).map(|at| (0, at)).collect::<Vec<_>>());
    let [old, new] = ["old", "new"].map(|action| &report.actions[action]);
    assert_eq!((old.read, old.delivered, old.in_flight), (25, 25, 0));
    assert_eq!((new.read, new.delivered, new.in_flight), (15, 15, 0));
    // Away for one run, and back.
    support::run(&settings, &recording(&items(40), &record, &["old"])).unwrap();
    let report = support::run(&settings, &recording(&items(50), &record, &["old", "new"])).unwrap();
    let seen: Vec<_> = record.times("new").into_keys().map(|(_, at)| at).collect();
    assert_eq!(seen, (10..25).chain(40..50).collect::<Vec<_>>());
    let [old, new] = ["old", "new"].map(|action| &report.actions[action]);
    assert_eq!((old.delivered, new.delivered, new.in_flight), (50, 25, 0));
}
