//! Conditions: what an action acts on is told by name, and what a condition cannot know is not guessed.

mod support;
#[path = "support/web.rs"]
mod web;

use std::sync::Arc;

use highwater::operators::checkpoint::store::Cause;
use highwater::prelude::*;
use highwater::run::{Control, plan};
use highwater::settings::Settings;
use highwater::testing::{Pipeline, change};
use serde_json::json;
use support::input::{Input, Item, Script};
use tokio::sync::Semaphore;

fn receipts(condition: impl Fn() -> Condition + Send + Sync + 'static) -> Pipeline {
    Pipeline::new(move |flow, input| {
        let receipt = action("receipt", run(|_| async { Ok(()) })).on(condition());
        flow.source(input).dedup(Dedup::within(minutes(10))).fan_out([receipt]).checkpoint(Checkpoint::every(millis(200)));
    })
}

/// A condition that needs the row before an update parks an update without one; what it need not know it does not ask.
#[test]
fn an_update_without_its_row_before_is_parked_and_says_what_to_do() {
    let mut t = receipts(|| all([table("orders"), became("status", "paid")]));
    let update = |id: &str, table: &str, status| {
        change(id).table(table).key(id).operation(Operation::Update).after(&json!({ "status": status }))
    };
    t.feed([
        change("insert").table("orders").key("a").after(&json!({"status": "paid"})),
        update("known", "orders", "paid").before(&json!({"status": "new"})),
        update("was", "orders", "paid").before(&json!({"status": "paid"})),
        update("elsewhere", "customers", "paid"),
        update("not-paid", "orders", "new"),
        update("unknown", "orders", "paid"),
    ]);
    t.settle();
    assert_eq!(t.delivered("receipt"), ["insert", "known"]);
    let parked = t.parked();
    assert_eq!(parked.iter().map(|parked| (parked.change.id(), parked.cause)).collect::<Vec<_>>(), [("unknown", Cause::Failed)]);
    let said = &parked[0].error;
    assert!(said.starts_with("all(table(orders), became(status, paid)) needs the row before an update"), "{said}");
    assert!(said.contains("alter table orders replica identity full"), "{said}");
    assert_eq!((t.books("receipt").filtered, t.books("receipt").parked), (3, 1));
}

/// A panic in one closure of several is that change's, and the others are asked as before.
#[test]
fn a_closure_may_stand_among_ready_conditions_and_beside_them() {
    let mut t = Pipeline::new(|flow, input| {
        let bad = condition("not bad", |change| if change.id() == "bad" { panic!("a bad one") } else { true });
        let receipt =
            action("receipt", run(|_| async { Ok(()) })).when(|change| change.id() != "other").on(any([is_delete(), bad]));
        flow.source(input).fan_out([receipt]).checkpoint(Checkpoint::every(millis(200)));
    });
    t.feed(["good", "bad", "other"].map(|id| change(id).after(&json!({}))));
    t.settle();
    assert_eq!((t.delivered("receipt"), t.books("receipt").filtered), (vec!["good".to_owned()], 1));
    let parked = &t.parked()[0];
    assert!(parked.cause == Cause::Panicked && parked.error.ends_with("a bad one"), "{parked:?}");
}

#[test]
fn graph_status_why_and_metrics_show_what_an_action_acts_on() {
    let (folder, gate) = (support::folder(), Arc::new(Semaphore::new(0)));
    let data = folder.path().join("data");
    let input = Arc::new(Input::of([Item::good("c1".to_owned(), "k1".to_owned())]));
    let own = gate.clone();
    let build = support::build(move |flow| {
        let gate = own.clone();
        let waits = run(move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(())
            }
        });
        let waits = action("receipt", waits).on(not(table("other"))).timeout(hours(1));
        flow.source(Script { input: input.clone(), seed: 3 }).fan_out([waits]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    assert!(plan(&build).unwrap().text().contains("action receipt  (on not(table(other)))"), "{:?}", plan(&build).unwrap());

    let settings = Settings { listen: web::anywhere(), ..support::settings(data.clone(), 1) };
    let running = support::start(&settings, &build, Control::default());
    let url = web::monitor(&data);
    let why = web::wait("the call waits", || Some(web::json(&format!("{url}/api/why"))).filter(|why| why["state"] == "held"));
    assert_eq!(why["held_by"]["condition"], "not(table(other))", "{why}");
    let status = web::json(&format!("{url}/api/status"));
    assert_eq!(status["books"]["actions"]["receipt"]["condition"], "not(table(other))", "{status}");
    let (_, metrics) = web::get(&format!("{url}/metrics"));
    let line = "highwater_action_condition{pipeline=\"test\",action=\"receipt\",condition=\"not(table(other))\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    gate.add_permits(1);
    running.end().unwrap();
}

/// A source that gives no rows before is known before the first step.
#[cfg(feature = "postgres")]
#[test]
fn a_condition_that_a_source_can_never_answer_is_refused_at_start() {
    let of = |log: fn() -> PostgresChangeLog| {
        let build = support::build(move |flow| {
            let receipt = action("receipt", run(|_| async { Ok(()) })).on(any([is_insert(), became("status", "paid")]));
            let all = action("all", run(|_| async { Ok(()) })).on(is_insert());
            flow.source(log()).fan_out([receipt, all]).checkpoint(Checkpoint::every(millis(200)));
            Ok(())
        });
        plan(&build).unwrap().problems
    };
    let log = || PostgresChangeLog::table("postgres://127.0.0.1/shop", "log");
    let [problem] = &of(log)[..] else { panic!("{:?}", of(log)) };
    let start = "action \"receipt\" acts on any(operation(insert), became(status, paid)), which needs the row before an update, and \
                 source \"change-log\" (\"log\" in postgres://";
    assert!(problem.starts_with(start), "{problem}");
    assert_eq!(of(|| PostgresChangeLog::table("postgres://127.0.0.1/shop", "log").before("old")), [""; 0]);
}
