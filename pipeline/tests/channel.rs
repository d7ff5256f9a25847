//! The channel into a pipeline: receipts come true below a saved mark, and never before; what a crash leaves open is unknown.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater::prelude::*;
use highwater::run::Control;
use highwater::settings::Settings;
use highwater::sources::channel::{Receipt, Unknown};
use support::books;

fn change(n: usize) -> Change {
    Change::builder(format!("c{n}")).key(format!("k{}", n % 7)).build().unwrap()
}

#[test]
fn a_run_that_is_to_end_when_idle_ends_once_nothing_came_for_so_long() {
    let folder = tempfile::tempdir().unwrap();
    let idle = Some(Duration::from_millis(300));
    let settings = Settings { data: Some(folder.path().into()), workers: Some(2), until_idle: idle, ..Settings::default() };
    let (feed, source) = Channel::bounded(10);
    feed.blocking_send(Change::builder("c-1").build().unwrap()).unwrap();
    let pipeline = highwater::start("idle", &settings, move |flow| {
        let slow = run(|_| async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(())
        });
        flow.source(source.clone()).fan_out([action("slow", slow)]).checkpoint(Checkpoint::every(millis(50)));
    })
    .unwrap();
    let report = pipeline.wait().unwrap();
    // What is under way is no rest, however long it takes.
    assert_eq!((report.actions["slow"].delivered, report.actions["slow"].in_flight, report.ended), (1, 0, false));
    assert!(report.seconds >= 0.8, "{}", report.seconds);
    drop(feed);
}

/// Goal: whatever a receipt was given for has its outcome in the data directory. Method: runs that crash at the store's failpoints,
/// with changes sent one by one; what came true is held against the mark that was saved.
#[test]
fn receipts_come_true_only_below_the_saved_mark() {
    for passage in 1..12 {
        let folder = support::folder();
        let settings = support::settings(folder.path().join("data"), 1);
        let (feed, source) = Channel::bounded(16);
        let done = Arc::new(AtomicU64::new(0));
        let count = done.clone();
        let build = support::build(move |flow| {
            let count = count.clone();
            let call = run(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            });
            flow.source(source.clone()).fan_out([action("count", call)]).checkpoint(Checkpoint::every(millis(1)).batch_size(3));
            Ok(())
        });
        let control = Control::default();
        control.crash_at("save.committed", passage);
        let run = support::start(&settings, &build, control);
        let mut receipts: Vec<Receipt> = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for n in 0..200 {
            match runtime.block_on(feed.send_for_receipt(change(n))) {
                Ok(receipt) => receipts.push(receipt),
                Err(_) => break,
            }
        }
        drop(feed);
        let report = run.end().unwrap();
        let told: Vec<Result<(), Unknown>> = receipts.into_iter().map(Receipt::blocking_wait).collect();
        let came_true = told.iter().take_while(|told| told.is_ok()).count();
        assert!(told[came_true..].iter().all(Result::is_err), "receipts come true in order");
        assert!(came_true as u64 <= done.load(Ordering::SeqCst));
        // With the mark stand the counts of what lies below it.
        let seen = books::inspect(&settings.data("test"));
        let below = seen.checkpoint().map_or(0, |save| save.books["read channel"]);
        assert!(came_true as u64 <= below, "{came_true} receipts came true, {below} changes lie below the mark");
        assert!(!report.ended || came_true == 200, "without a crash all come true");
    }
}

#[test]
fn a_started_pipeline_takes_what_is_sent_and_ends_with_its_feed() {
    let folder = support::folder();
    let (feed, source) = Channel::bounded(4);
    let pipeline = highwater::start("test", &support::settings(folder.path().join("data"), 2), move |flow| {
        let print = action("act", run(|_| async { Ok(()) }));
        flow.source(source.clone()).dedup(Dedup::latest(100)).fan_out([print]).checkpoint(Checkpoint::every(millis(5)));
    })
    .unwrap();
    feed.blocking_send_all((0..100).map(change).collect()).unwrap();
    feed.blocking_send(change(5)).unwrap();
    drop(feed);
    let report = pipeline.wait().unwrap();
    assert_eq!((report.read, report.duplicate, report.actions["act"].delivered, report.ended), (101, 1, 100, true));
}

#[test]
fn a_pipeline_that_ended_gives_changes_back() {
    let folder = support::folder();
    let (feed, source) = Channel::bounded(4);
    let pipeline = highwater::start("test", &support::settings(folder.path().join("data"), 1), move |flow| {
        let stop = action("stop", run(|_| async { Err(Error::stop("the disk is gone")) }));
        flow.source(source.clone()).fan_out([stop]).checkpoint(Checkpoint::every(millis(5)));
    })
    .unwrap();
    feed.blocking_send(change(0)).unwrap();
    let error = pipeline.wait().unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
    assert_eq!(feed.blocking_send(change(1)).unwrap_err().0.id(), "c1");
    let incomplete = highwater::start("test", &support::settings(folder.path().join("data"), 1), |_| {}).unwrap_err();
    assert!(incomplete.to_string().contains("there is no source"), "{incomplete}");
}
