//! The public test support, tried on pipelines that use everything it turns, fails and crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater::operators::checkpoint::store::Cause;
use highwater::prelude::*;
use highwater::testing::{Answer, Pipeline, change};
use serde_json::json;

/// An action that always succeeds, and a checkpoint every minute.
fn receipts() -> Pipeline {
    Pipeline::new(|flow, input| {
        flow.source(input)
            .dedup(Dedup::within(minutes(10)))
            .fan_out([action("receipt", run(|_| async { Ok(()) }))
                .when(|change| change.became("status", "paid"))
                .attempts(4)
                .backoff(seconds(1), minutes(1))])
            .checkpoint(Checkpoint::every(minutes(1)));
    })
}

fn paid(id: &str) -> highwater::operators::change::ChangeBuilder {
    change(id).table("orders").key(id).after(&json!({"status": "paid"}))
}

#[test]
fn outcomes_are_there_once_all_has_settled() {
    for workers in [1, 3] {
        let mut t = receipts().workers(workers);
        t.feed((0..500).map(|n| paid(&n.to_string())));
        t.feed([paid("7"), change("new").after(&json!({"status": "new"}))]);
        t.settle();
        let mut delivered: Vec<u32> = t.delivered("receipt").iter().map(|id| id.parse().unwrap()).collect();
        delivered.sort_unstable();
        assert_eq!(delivered, (0..500).collect::<Vec<_>>());
        let books = t.books("receipt");
        assert_eq!((books.read, books.duplicate, books.filtered, books.delivered, books.in_flight), (502, 1, 1, 500, 0));
    }
}

#[test]
fn a_failed_call_waits_for_the_clock() {
    let mut t = receipts();
    t.fail("receipt", 2, Error::retry("503"));
    t.feed([paid("1"), paid("2"), paid("3")]);
    t.settle();
    assert_eq!((t.delivered("receipt").len(), t.books("receipt").in_flight), (1, 2));
    t.settle();
    assert_eq!(t.calls("receipt").len(), 3, "no time passes by itself");
    t.advance(seconds(1));
    assert_eq!((t.delivered("receipt").len(), t.books("receipt").in_flight), (3, 0));
    let failed: Vec<_> = t.calls("receipt").into_iter().filter(|call| call.answer != Answer::Done).collect();
    assert_eq!(
        failed.iter().map(|call| (&call.answer, call.attempt)).collect::<Vec<_>>(),
        [(&Answer::Failed("503".into()), 1); 2]
    );
}

#[test]
fn what_fails_too_often_is_parked_within_one_turn() {
    let mut t = receipts();
    t.fail("receipt", 4, Error::retry("503"));
    t.fail("receipt", 1, Error::park("no such address"));
    t.feed([paid("1")]);
    t.advance(minutes(5));
    t.feed([paid("2")]);
    t.settle();
    let parked: Vec<_> =
        t.parked().into_iter().map(|parked| (parked.change.id().to_owned(), parked.error, parked.attempts)).collect();
    assert_eq!(parked, [("1".to_owned(), "503".to_owned(), 4), ("2".to_owned(), "no such address".to_owned(), 1)]);
    assert_eq!(t.books("receipt").parked, 2);
}

#[test]
fn a_call_that_hangs_waits_for_its_timeout() {
    let mut t = receipts();
    t.hang("receipt", 1);
    t.feed([paid("1")]);
    t.settle();
    assert_eq!(t.calls("receipt"), []);
    t.advance(seconds(29));
    assert_eq!(t.calls("receipt"), []);
    t.advance(seconds(3));
    assert_eq!(t.delivered("receipt"), ["1"]);
    assert_eq!(t.calls("receipt")[0].attempt, 2);
}

#[test]
fn a_crash_reads_again_what_lies_above_the_mark_and_repeats_nothing_that_was_noted() {
    let mut t = receipts();
    t.feed((0..10).map(|n| paid(&n.to_string())));
    t.settle();
    assert_eq!(t.saved(), 0, "the interval has not passed");
    t.advance(minutes(1));
    assert_eq!(t.saved(), 10);
    t.feed((10..15).map(|n| paid(&n.to_string())));
    t.settle();
    t.crash();
    assert_eq!((t.saved(), t.delivered("receipt").len()), (10, 15));
    t.set_workers(2);
    t.resume();
    t.settle();
    assert_eq!((t.replayed(), t.delivered("receipt").len()), (5, 15));
    assert_eq!(t.books("receipt").delivered, 15);
}

#[test]
fn a_crash_between_attempts_begins_anew_with_the_same_key() {
    let mut t = receipts();
    t.fail("receipt", 1, Error::retry("503"));
    t.feed([paid("1")]);
    t.settle();
    t.crash();
    t.resume();
    t.settle();
    assert_eq!(t.delivered("receipt"), ["1"]);
    let calls = t.calls("receipt");
    assert_eq!((calls.len(), &calls[0].idempotency_key), (2, &calls[1].idempotency_key));
    assert!(t.stop().is_ok());
    assert_eq!(t.books("receipt").delivered, 1);
}

#[test]
fn the_age_of_cached_rows_and_the_waits_of_loads_go_by_the_clock() {
    let (loads, failing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (asked, fails) = (loads.clone(), failing.clone());
    let mut t = Pipeline::new(move |flow, input| {
        let (asked, fails) = (asked.clone(), fails.clone());
        let origin = load(move |keys: Vec<String>| {
            let (asked, fails) = (asked.clone(), fails.clone());
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                if fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                    return Err(Error::retry("the origin is away"));
                }
                Ok(keys.iter().map(|_| Some(Fields::new([("tier", Some("gold"))]))).collect())
            }
        });
        flow.source(input)
            .lookup("customer", Lookup::by("customer").from(origin).cache(Cache::entries(10).ttl(minutes(5))))
            .fan_out([action(
                "all",
                run(|change| async move {
                    assert_eq!(change.found("customer").str("tier").as_deref(), Some("gold"));
                    Ok(())
                }),
            )])
            .checkpoint(Checkpoint::every(minutes(1)));
    });
    let order = |id: &str| change(id).after(&json!({"customer": "u-1"}));
    for (id, wait, expected) in [("1", Duration::ZERO, 1), ("2", minutes(4), 1), ("3", minutes(2), 2)] {
        t.advance(wait);
        t.feed([order(id)]);
        t.settle();
        assert_eq!(loads.load(Ordering::SeqCst), expected, "change {id}");
    }
    failing.store(2, Ordering::SeqCst);
    t.advance(minutes(10));
    t.feed([order("4")]);
    t.settle();
    assert_eq!((t.delivered("all").len(), loads.load(Ordering::SeqCst)), (3, 3));
    t.advance(minutes(1));
    assert_eq!((t.delivered("all").len(), loads.load(Ordering::SeqCst)), (4, 5));
}

#[test]
fn what_waits_beyond_its_hold_budget_is_set_aside() {
    let mut t = Pipeline::new(|flow, input| {
        let slow = action("slow", run(|_| async { Ok(()) })).timeout(hours(2)).hold_budget(minutes(5));
        flow.source(input).fan_out([slow]).checkpoint(Checkpoint::every(minutes(1)));
    });
    t.hang("slow", 1);
    t.feed([change("1").key("k"), change("2").key("k")]);
    t.settle();
    assert_eq!(t.parked().len(), 0);
    t.advance(minutes(4));
    assert_eq!((t.parked().len(), t.saved()), (0, 0));
    t.advance(minutes(3));
    let parked = t.parked();
    assert!(!parked.is_empty() && parked.iter().all(|parked| parked.cause == Cause::Overflow), "{parked:?}");
    assert_eq!(t.saved(), 2, "the mark moves on");
}

#[test]
fn files_are_cut_back_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let path = out.clone();
    let mut t = Pipeline::new(move |flow, input| {
        flow.source(input).fan_out([action("file", JsonLines::append(&path))]).checkpoint(Checkpoint::every(minutes(1)));
    });
    t.feed((0..20).map(|n| paid(&n.to_string())));
    t.advance(minutes(2));
    t.feed((20..30).map(|n| paid(&n.to_string())));
    t.settle();
    t.crash();
    t.resume();
    t.advance(minutes(2));
    t.stop().unwrap();
    let files = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let lines: usize = files.map(|file| std::fs::read_to_string(file).unwrap().lines().count()).sum();
    assert_eq!(lines, 30);
}

#[test]
#[should_panic(expected = "the pipeline does not start")]
fn a_pipeline_that_is_not_complete_is_told() {
    let mut t = Pipeline::new(|flow, input| {
        flow.source(input).fan_out([action("a", run(|_| async { Ok(()) }))]);
    });
    t.settle();
}

#[test]
fn what_was_not_asked_uses_up_no_attempt_and_is_told() {
    let mut t = receipts();
    t.fail("receipt", 30, Error::not_asked("the bank's breaker is open", seconds(10)));
    t.feed([paid("1")]);
    t.settle();
    assert_eq!(t.books("receipt").in_flight, 1);
    let why = t.why().to_string();
    assert!(why.contains("action receipt (worker 0) has not got through with change 1"), "{why}");
    assert!(why.ends_with(": the bank's breaker is open"), "{why}");
    t.advance(seconds(10 * 29));
    assert_eq!((t.books("receipt").in_flight, t.calls("receipt").len()), (1, 30));
    assert!(t.calls("receipt").iter().all(|call| call.attempt == 1));
    t.advance(seconds(10));
    assert_eq!((t.delivered("receipt"), t.books("receipt").retried), (vec!["1".to_owned()], 0));
}

#[test]
fn a_time_to_try_again_takes_the_place_of_the_back_off() {
    let mut t = receipts();
    t.fail("receipt", 3, Error::retry("429").retry_after(minutes(3)));
    t.feed([paid("1")]);
    t.advance(minutes(8));
    assert_eq!((t.calls("receipt").len(), t.delivered("receipt").len()), (3, 0));
    t.advance(minutes(1));
    assert_eq!((t.delivered("receipt").len(), t.books("receipt").retried), (1, 3));
}

#[test]
fn what_is_not_asked_for_longer_than_the_budget_is_set_aside_in_order_and_comes_back() {
    let mut t = receipts();
    t.fail("receipt", 40, Error::not_asked("the bank's breaker is open", seconds(10)));
    t.feed([paid("a").key("k"), paid("b").key("k"), paid("other")]);
    t.advance(minutes(6));
    let books = t.books("receipt");
    assert_eq!((books.parked + books.delivered, books.in_flight), (3, 0), "the mark moves on");
    t.advance(minutes(6));
    let (books, delivered) = (t.books("receipt"), t.delivered("receipt"));
    assert_eq!((books.delivered, books.parked), (3, 0));
    let place = |id: &str| delivered.iter().position(|one| one == id).unwrap();
    assert!(place("a") < place("b"), "{delivered:?}");
}
