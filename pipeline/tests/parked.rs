//! What people and schedules do with what stands parked: on a running pipeline through its port, on a stopped one by
//! requests, embedded and in Postgres, with crashes; and what happens when as much stands parked as may be.

mod support;
#[path = "support/web.rs"]
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use highwater::operators::checkpoint::requests::Request;
use highwater::operators::checkpoint::store::Cause;
use highwater::operators::epoch::unix_ms;
use highwater::operators::parked::Filter;
use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::Server;
use highwater::prelude::*;
use highwater::run::Control;
use highwater::settings::{ParkedFull, Settings};
use highwater::sources::channel::ChannelSource;
use serde_json::{Value, json};
use support::fragile::{Fragile, Shop, all};
use support::input::{Input, Item, Script};
use tokio::sync::Semaphore;

/// A running pipeline, asked as the commands ask it.
struct Port {
    agent: ureq::Agent,
    url: String,
    token: String,
}

impl Port {
    fn of(shop: &Shop) -> Port {
        let url = web::monitor(&shop.data());
        let notice: Value = serde_json::from_slice(&std::fs::read(shop.data().join("monitor.json")).unwrap()).unwrap();
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(Duration::from_secs(40)));
        Port {
            agent: config.build().new_agent(),
            url: format!("{url}/api/parked"),
            token: notice["token"].as_str().unwrap().to_owned(),
        }
    }

    fn post(&self, token: &str, body: &str) -> (u16, String) {
        let answer = self.agent.post(&self.url).header("Authorization", format!("Bearer {token}")).send(body);
        let mut answer = answer.unwrap_or_else(|error| panic!("POST {}: {error}", self.url));
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// One piece of work, slice by slice: what all answers come to.
    fn ask(&self, mut ask: Value) -> Value {
        let mut all = json!({"meant": 0, "done": 0, "records": []});
        ask["after"] = json!(0);
        loop {
            let (code, text) = self.post(&self.token, &ask.to_string());
            assert_eq!(code, 200, "{text}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            for sum in ["meant", "done"] {
                all[sum] = json!(all[sum].as_u64().unwrap() + answer[sum].as_u64().unwrap());
            }
            let records = answer["records"].as_array().cloned().unwrap_or_default();
            all["records"].as_array_mut().unwrap().extend(records);
            match answer["next"].as_u64() {
                Some(next) => ask["after"] = json!(next),
                None => return all,
            }
        }
    }
}

/// Goal: a running pipeline lists, counts, edits, retries and drops what is meant, and nothing of that without the token.
#[test]
fn a_running_pipeline_is_asked_through_its_port() {
    for workers in [1, 2, 4] {
        let shop = Shop::new(3_000, 2);
        let running = shop.start(&Settings { listen: web::anywhere(), ..shop.settings(workers) });
        let port = Port::of(&shop);
        let count = |filter: Value| port.ask(json!({"ask": "count", "filter": filter}))["meant"].as_u64().unwrap();
        support::until("all fragile ones are parked", || count(json!({})) == shop.fragile());

        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(shop.data().join("monitor.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let all = json!({"ask": "drop", "filter": {}, "after": 0}).to_string();
        assert_eq!((port.post("", &all).0, port.post("0123456789abcdef0123456789abcdef", &all).0), (401, 401));
        assert_eq!(port.post(&port.token, "{\"ask\":\"drop\",\"filter\":{\"acton\":\"act\"},\"after\":0}").0, 400);
        assert_eq!(port.post(&port.token, &"x".repeat(5 << 20)).0, 413);
        assert_eq!(web::get(&port.url).0, 401);

        let keyed = port.ask(json!({"ask": "list", "filter": {"key": "k4"}, "most": 9, "whole": true}));
        let records = keyed["records"].as_array().unwrap();
        assert_eq!(records.len() as u64, shop.items / shop.keys);
        assert!(records.iter().all(|record| record["change"]["key"] == "k4"));
        let one = &records[0];
        assert_eq!((&one["cause"], &one["attempts"], &one["error"]), (&"failed".into(), &1.into(), &"422 Unprocessable".into()));
        assert_eq!(one["response"], format!("{} is not to my taste", one["change"]["id"].as_str().unwrap()));
        assert_eq!((count(json!({"error": "UNPROC"})), count(json!({"error": "503"}))), (shop.fragile(), 0));
        assert_eq!((count(json!({"cause": "lookup"})), count(json!({"until_ms": 5}))), (0, 0));

        // What is edited stays the change it was, and is delivered as it is now.
        let edit = |row: &str| {
            let (code, text) = port.post(&port.token, &json!({"ask": "edit", "id": one["id"], "row": row}).to_string());
            assert_eq!(code, 200, "{text}");
            serde_json::from_str::<Value>(&text).unwrap()
        };
        assert!(edit("{").to_string().contains("no JSON"));
        assert_eq!(edit("{\"fate\": \"good\"}")["done"], 1);
        let shown = port.ask(json!({"ask": "list", "filter": {"ids": [one["id"]]}, "most": 1, "whole": true}));
        assert_eq!(shown["records"][0]["change"]["after"], json!({"fate": "good"}));
        assert_eq!(port.ask(json!({"ask": "retry", "filter": {"ids": [one["id"]]}}))["done"], 1);
        support::until("it is delivered", || shop.delivered().contains_key(one["change"]["id"].as_str().unwrap()));

        let dropped = port.ask(json!({"ask": "drop", "filter": {"key": "k6"}}))["done"].as_u64().unwrap();
        assert_eq!(dropped, shop.items / shop.keys);
        shop.mended.store(true, Ordering::SeqCst);
        let retried = port.ask(json!({"ask": "retry", "filter": {"action": "act"}}))["done"].as_u64().unwrap();
        assert_eq!(retried, shop.fragile() - dropped - 1);
        support::until("all are delivered", || count(json!({})) == 0);
        shop.gate.add_permits(1);
        let report = running.end().unwrap();
        assert!(report.ended);
        shop.check(&report, 0, dropped, 0);
    }
}

fn crash_in_a_long_request(shop: &Shop, workers: u64, failpoint: &'static str, passage: u64) {
    shop.run(workers);
    shop.check(&shop.run(workers), shop.fragile(), 0, 0);
    let asked = |filter: Filter| (filter, unix_ms() + 1);
    let (filter, asked_at_ms) = asked(Filter { key: Some("k0".to_owned()), ..Filter::default() });
    shop.letters().leave(Request::DropAll { filter, asked_at_ms }).unwrap();
    let (filter, asked_at_ms) = asked(Filter { error: Some("422".to_owned()), ..Filter::default() });
    shop.letters().leave(Request::RetryAll { filter, asked_at_ms }).unwrap();
    shop.mended.store(true, Ordering::SeqCst);
    let mut crashes = 0;
    for passage in [passage, passage + 3] {
        let report = support::run_and_crash(&shop.settings(workers), &shop.build(), failpoint, passage).unwrap();
        crashes += usize::from(!report.ended);
    }
    let report = shop.run(3 - workers % 2);
    assert_eq!(shop.letters().pending().unwrap(), []);
    shop.check(&report, 0, shop.items / shop.keys, 100 * crashes);
}

/// Goal: what was asked of a stopped pipeline is done by its next run, to the end, wherever that is killed; what was delivered
/// meanwhile is not delivered again, but for what was being called.
#[test]
fn a_long_request_is_carried_out_whatever_crashes() {
    for (workers, failpoint, passage) in [
        (1, failpoint::GROUP_BEFORE_COMMIT, 3),
        (2, failpoint::GROUP_COMMITTED, 2),
        (4, failpoint::ACTION_ANSWERED, 2),
        (1, failpoint::ACTION_DISPATCHED, 2),
        (2, failpoint::SAVE_COMMITTED, 1),
    ] {
        let shop = Shop { keys: 20, ..Shop::new(1_200, 1) };
        crash_in_a_long_request(&shop, workers, failpoint, passage);
    }
}

/// The same with checkpoints in Postgres.
#[test]
fn a_long_request_is_carried_out_from_postgres_too() {
    for (workers, failpoint) in [(1, failpoint::GROUP_COMMITTED), (2, failpoint::GROUP_BEFORE_COMMIT)] {
        let database = Server::shared().database().unwrap();
        let shop = Shop { keys: 20, url: Some(database.url().reveal().to_owned()), ..Shop::new(600, 1) };
        crash_in_a_long_request(&shop, workers, failpoint, 3);
    }
}

/// Goal: an edit and a retry that were left for the next run are done in their order, and so is a drop.
#[test]
fn what_is_left_for_the_next_run_is_done_in_its_order() {
    for workers in [1, 2] {
        let shop = Shop::new(40, 10);
        shop.run(workers);
        let ids: Vec<u64> = shop.parked().iter().map(|parked| parked.id).collect();
        let letters = shop.letters();
        letters.leave(Request::Edit { id: ids[0], row: "{\"fate\":\"good\"}".to_owned() }).unwrap();
        letters.leave(Request::Retry { id: ids[0] }).unwrap();
        letters.leave(Request::Drop { id: ids[1] }).unwrap();
        letters.leave(Request::Edit { id: ids[2], row: "no row".to_owned() }).unwrap();
        shop.check(&shop.run(workers), 2, 1, 0);
        let left = shop.parked();
        assert_eq!(left.iter().map(|parked| parked.id).collect::<Vec<_>>(), ids[2..]);
        assert!(left[0].change.after().raw_json().unwrap().contains("fragile"), "a row that is no row changes nothing");
        assert_eq!(letters.pending().unwrap(), []);
    }
}

/// Goal: records are found alike in both stores, by everything that can be said of them.
#[test]
fn filters_mean_the_same_in_both_stores() {
    let database = Server::shared().database().unwrap();
    let embedded = Shop { keys: 5, ..Shop::new(120, 3) };
    let postgres = Shop { keys: 5, url: Some(database.url().reveal().to_owned()), ..Shop::new(120, 3) };
    for shop in [&embedded, &postgres] {
        shop.run(1);
    }
    let text = |text: &str| Some(text.to_owned());
    let first = embedded.parked()[0].id;
    for filter in [
        Filter::default(),
        Filter::of([first, first + 3, 9_999]),
        Filter { action: text("act"), cause: Some(Cause::Failed), ..Filter::default() },
        Filter { action: text("other"), ..Filter::default() },
        Filter { key: text("k3"), ..Filter::default() },
        Filter { error: text("unprocessable"), key: text("k0"), ..Filter::default() },
        Filter { error: text("Ünprocessable"), ..Filter::default() },
        Filter { until_ms: Some(unix_ms() + 1000), since_ms: Some(unix_ms() - 600_000), ..Filter::default() },
        Filter { until_ms: Some(7), ..Filter::default() },
    ] {
        let ids = |shop: &Shop| -> BTreeSet<String> {
            all(&*shop.inspect(), &filter).iter().map(|parked| format!("{} {}", parked.change.id(), parked.id)).collect()
        };
        assert_eq!(ids(&embedded), ids(&postgres), "{filter:?}");
        let plain: BTreeSet<String> = embedded
            .parked()
            .iter()
            .filter(|parked| filter.means(parked))
            .map(|parked| format!("{} {}", parked.change.id(), parked.id))
            .collect();
        assert_eq!(ids(&embedded), plain, "{filter:?}");
    }
}

/// Goal: when as much stands parked as may be, sources do not read; that is told; and room makes them go on where they were.
#[test]
fn a_full_shelf_pauses_the_sources_and_says_so() {
    for workers in [1, 2] {
        let shop = Shop::new(4_000, 2);
        shop.gate.add_permits(1);
        let settings = Settings { listen: web::anywhere(), parked_max: 100, in_flight_changes: 50, ..shop.settings(workers) };
        let running = shop.start(&settings);
        let port = Port::of(&shop);
        let url = port.url.trim_end_matches("/api/parked").to_owned();
        let ill = web::wait("it is told to be ill", || {
            let (code, text) = web::get(&format!("{url}/healthz"));
            (code == 503).then_some(text)
        });
        assert!(ill.contains("parked_max is 100") && ill.contains("sources do not read"), "{ill}");
        let why = web::wait("the source is paused", || {
            let why = web::json(&format!("{url}/api/why"));
            (why["paused"][0]["by"] == "parked").then_some(why)
        });
        assert_eq!(why["paused"][0]["limit"], 100);
        let metrics = web::get(&format!("{url}/metrics")).1;
        assert!(metrics.contains("highwater_parked_full{pipeline=\"test\"} 1"), "{metrics}");
        let stand = || port.ask(json!({"ask": "count", "filter": {}}))["meant"].as_u64().unwrap();
        let stood = stand();
        // What was under way came on top.
        assert!((100..=100 + 50 * 2).contains(&stood), "{stood}");
        // A part makes room for as much, and all of it for all.
        shop.mended.store(true, Ordering::SeqCst);
        port.ask(json!({"ask": "retry", "filter": {}}));
        let report = running.end().unwrap();
        assert!(report.ended);
        shop.check(&report, 0, 0, 0);
    }
}

/// Goal: with `parked_full = stop` the run ends and says why; the next one first does what was asked, and goes on if that made room.
#[test]
fn a_full_shelf_ends_a_run_that_is_to_end_then() {
    let shop = Shop::new(2_000, 2);
    shop.gate.add_permits(10);
    let settings = Settings { parked_max: 100, parked_full: ParkedFull::Stop, in_flight_changes: 50, ..shop.settings(2) };
    let ended = support::run(&settings, &shop.build()).unwrap_err().to_string();
    assert!(ended.contains("parked_max is 100") && ended.contains("parked_full = stop"), "{ended}");
    shop.mended.store(true, Ordering::SeqCst);
    let asked_at_ms = unix_ms() + 1;
    shop.letters().leave(Request::RetryAll { filter: Filter::default(), asked_at_ms }).unwrap();
    let report = support::run(&settings, &shop.build()).unwrap();
    assert!(report.ended);
    // The first run was ended while nothing was under way.
    shop.check(&report, 0, 0, 100);
}

/// Goal: what stands parked is tried again when its schedule says so, also by another run; then it stays.
#[test]
fn a_schedule_tries_again_and_outlives_its_run() {
    for workers in [1, 2] {
        let mut shop = Shop::new(60, 3);
        shop.with_action(|act, _| act.retry_parked(Schedule::after([millis(100), hours(5)])));
        shop.run(workers);
        let next = |shop: &Shop| shop.parked().iter().map(|parked| parked.history.next_try_ms).collect::<Vec<_>>();
        assert!(next(&shop).iter().all(|at| *at > 0 && *at < unix_ms() + 60_000));
        // Kept open by its gate, the next run tries them, and they fail again.
        shop.gate = Arc::new(Semaphore::new(0));
        let held = Shop { items: 61, ..shop.clone() };
        let running = held.start(&held.settings(workers));
        support::until("all were tried again", || shop.parked().iter().all(|parked| parked.history.rounds == 1));
        let parked = shop.parked();
        assert!(parked.iter().filter(|parked| parked.change.id() != "c60").all(|parked| parked.attempts == 2), "{parked:?}");
        assert!(next(&shop).iter().all(|at| *at > unix_ms() + 3_600_000));
        held.gate.add_permits(1);
        running.end().unwrap();
    }
}

/// Goal: in an action that holds keys, a schedule lets each key go on in order.
#[test]
fn a_schedule_lets_held_keys_go_on_in_order() {
    for workers in [1, 4] {
        let mut shop = Shop { keys: 4, ..Shop::new(200, 20) };
        shop.with_action(|act, _| act.hold().retry_parked(Schedule::after([millis(50); 1_000])));
        let running = shop.start(&shop.settings(workers));
        let all_stand = || shop.place().inspect("test").is_ok_and(|seen| seen.is_some_and(|seen| seen.parked_count() >= 50));
        support::until("a key is held", all_stand);
        shop.mended.store(true, Ordering::SeqCst);
        support::until("all are delivered", || shop.delivered().len() == 200);
        shop.gate.add_permits(1);
        let report = running.end().unwrap();
        shop.check(&report, 0, 0, 0);
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, id, _) in shop.calls.lock().iter().filter(|(name, ..)| *name == "act") {
            let n: u64 = id[1..].parse().unwrap();
            if let Some(before) = last.insert(n % 4, n) {
                assert!(before < n, "c{n} after c{before}");
            }
        }
    }
}

/// Goal: of an action whose source has been read to its end nothing can be done in that run, which is said; a request waits for the next
/// run, which does it.
#[test]
fn what_has_ended_in_a_run_is_left_to_the_next() {
    let shop = Shop { items: 9, ..Shop::new(9, 1) };
    let input = Arc::new(Input::of((0..9).map(|n| Item::good(format!("c{n}"), format!("k{n}")).fate("fragile"))));
    let build = |open: ChannelSource| {
        let (calls, mended, input) = (shop.calls.clone(), shop.mended.clone(), input.clone());
        support::build(move |flow| {
            let act = Fragile { name: "act", calls: calls.clone(), mended: mended.clone() };
            flow.source(Script { input: input.clone(), seed: 5 })
                .fan_out([action("act", act)])
                .and(flow.source(open.clone()).fan_out([action("other", run(|_| async { Ok(()) }))]))
                .checkpoint(Checkpoint::every(millis(3)));
            Ok(())
        })
    };
    let (feed, open) = Channel::bounded(1);
    let settings = Settings { listen: web::anywhere(), ..shop.settings(2) };
    let running = support::start(&settings, &build(open), Control::default());
    let port = Port::of(&shop);
    support::until("all are parked", || port.ask(json!({"ask": "count", "filter": {}}))["meant"] == 9);
    let ended = || {
        let (_, text) = port.post(&port.token, &json!({"ask": "retry", "filter": {}, "after": 0}).to_string());
        serde_json::from_str::<Value>(&text).unwrap()["ended"] == 9
    };
    support::until("the action has ended", ended);
    let asked_at_ms = unix_ms() + 60_000;
    shop.letters().leave(Request::RetryAll { filter: Filter::default(), asked_at_ms }).unwrap();
    shop.letters().leave(Request::Drop { id: shop.parked()[0].id }).unwrap();
    // Both are looked at, and left: the one behind them, about nothing, is done.
    shop.letters().leave(Request::Retry { id: 9_999 }).unwrap();
    support::until("the last letter is done", || shop.letters().pending().unwrap().len() == 2);
    drop(feed);
    running.end().unwrap();
    assert_eq!(shop.letters().pending().unwrap().len(), 2);
    shop.mended.store(true, Ordering::SeqCst);
    let (feed, open) = Channel::bounded(1);
    drop(feed);
    let report = support::run(&settings, &build(open)).unwrap();
    assert_eq!(shop.letters().pending().unwrap(), []);
    let books = &report.actions["act"];
    // Whichever came first to the one that was to be dropped too.
    assert_eq!((books.delivered + books.dropped, books.parked), (9, books.dropped));
}
