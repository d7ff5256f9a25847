//! Hooks: actions that are told of each change that comes to stand parked.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use highwater::operators::testing::failpoint;
use highwater::operators::testing::postgres::Server;
use highwater::prelude::*;
use support::fragile::{Calls, Shop};

/// Goal: whatever is killed, a hook is told of each change that came to stand parked, with one idempotency key each, and what the hook
/// fails at is parked under its own name and tells nobody.
#[test]
fn a_hook_is_told_of_each_parked_change_whatever_crashes() {
    for (workers, failpoint, passage) in [
        (1, failpoint::GROUP_COMMITTED, 4),
        (2, failpoint::GROUP_BEFORE_COMMIT, 5),
        (4, failpoint::ACTION_ANSWERED, 3),
        (2, failpoint::SAVE_COMMITTED, 2),
    ] {
        let mut shop = Shop::new(300, 3);
        shop.with_action(|act, shop| {
            let told = shop.calls.clone();
            act.on_parked(action("tell", Hook { told }).attempts(1))
        });
        shop.gate.add_permits(100);
        let report = support::run_and_crash(&shop.settings(workers), &shop.build(), failpoint, passage).unwrap();
        let again = support::run_and_crash(&shop.settings(workers), &shop.build(), failpoint, passage).unwrap();
        let crashes = usize::from(!report.ended) + usize::from(!again.ended);
        let report = shop.run(2);
        let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut calls = 0;
        for (_, id, key) in shop.calls.lock().iter().filter(|(name, ..)| *name == "tell") {
            keys.entry(id.clone()).or_default().insert(key.clone());
            calls += 1;
        }
        assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
        // It fails at one of them, which stands parked under its name.
        let fragile = shop.fragile();
        assert_eq!(keys.len() as u64, fragile - 1);
        assert!(calls <= keys.len() + 100 * crashes, "{calls} calls");
        let parked = shop.parked();
        let of = |action: &str| parked.iter().filter(|parked| parked.action == action).count() as u64;
        assert_eq!((of("act"), of("tell"), parked.len() as u64), (fragile, 1, fragile + 1));
        let books = &report.actions["act"];
        assert_eq!((books.read, books.parked, books.delivered), (301, fragile, 300 - fragile));
        assert!(!report.actions.contains_key("tell"), "a hook is told of nothing that was read");
    }
}

struct Hook {
    told: Calls,
}

impl Action for Hook {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let row = delivery.row();
            assert_eq!(
                (delivery.table(), row.str("action").as_deref(), row.str("cause").as_deref()),
                ("parked", Some("act"), Some("failed"))
            );
            assert!(row.str("error").unwrap().contains("422") && row.str("response").unwrap().contains("my taste"));
            assert!(delivery.after().raw_json().unwrap().contains("fragile"), "the change is told whole");
            if delivery.id() == "c0" {
                return Err(Error::retry("nobody listens"));
            }
            self.told.lock().push(("tell", delivery.id().to_owned(), delivery.idempotency_key()));
            Ok(())
        })
    }
}

/// Goal: a table as a hook has each parked change exactly once, whatever is killed.
#[test]
fn a_table_as_a_hook_has_each_parked_change_once_whatever_crashes() {
    for (workers, failpoint, passage) in [
        (1, failpoint::GROUP_COMMITTED, 4),
        (2, failpoint::GROUP_BEFORE_COMMIT, 5),
        (2, failpoint::TRANSACTION_COMMITTED, 2),
        (4, failpoint::SAVE_COMMITTED, 2),
    ] {
        let database = Server::shared().database().unwrap();
        database.sql("create table told (id text, about text, cause text, error text, n bigserial)").unwrap();
        let mut shop = Shop::new(300, 3);
        let url = database.url().reveal().to_owned();
        shop.with_action(move |act, _| {
            let columns = [("id", "@id"), ("about", "action"), ("cause", "cause"), ("error", "error")];
            let table = PostgresTable::append(&url, "told").columns(columns);
            act.on_parked(action("tell", table).batch_max(7))
        });
        shop.gate.add_permits(100);
        for _ in 0..2 {
            support::run_and_crash(&shop.settings(workers), &shop.build(), failpoint, passage).unwrap();
        }
        let report = shop.run(2);
        let fragile = shop.fragile();
        let told = "select count(*), count(distinct id), count(*) filter (where about = 'act' and cause = 'failed' and error like '%422%') from told";
        assert_eq!(database.sql(told).unwrap(), [vec![Some(fragile.to_string()); 3]], "{failpoint}");
        shop.check(&report, fragile, 0, 100);
    }
}

/// Goal: a pipeline whose hook cannot be one is refused before it runs, in words that say what to do.
#[test]
fn a_hook_that_cannot_be_one_is_refused() {
    let refused = |hook: fn() -> highwater::operators::action::NamedAction| {
        let build = support::build(move |flow| {
            flow.source(Generator::new(1).changes(1))
                .fan_out([action("act", run(|_| async { Ok(()) })).on_parked(hook())])
                .checkpoint(Checkpoint::every(millis(5)));
            Ok(())
        });
        highwater::run::plan(&build).unwrap().problems.join("\n")
    };
    assert!(refused(|| action("file", JsonLines::append("x.jsonl"))).contains("a hook is called out of order"));
    assert!(refused(|| action("act", run(|_| async { Ok(()) }))).contains("name of another action or hook"));
    assert!(refused(|| action("a", run(|_| async { Ok(()) })).when(|_| true)).contains("has a condition"));
}
