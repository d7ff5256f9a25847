//! What lookups ask of their origin: a key once however many want it, and nobody waits for it who has his row.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater::operators::action::BoxFuture;
use highwater::operators::lookup::Loader;
use highwater::prelude::*;
use highwater::run::Control;
use highwater::settings::Settings;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// An origin whose answers wait at a door, and which remembers what it was asked for.
#[derive(Clone)]
struct Slow(Arc<Asked>);

struct Asked {
    door: Semaphore,
    keys: Mutex<Vec<String>>,
    version: AtomicU64,
}

impl Slow {
    fn shut() -> Self {
        Slow(Arc::new(Asked { door: Semaphore::new(0), keys: Mutex::default(), version: AtomicU64::new(1) }))
    }

    fn asked(&self) -> Vec<String> {
        self.0.keys.lock().clone()
    }
}

impl Loader for Slow {
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async move {
            self.0.keys.lock().extend(keys.iter().cloned());
            self.0.door.acquire().await?.forget();
            let version = self.0.version.load(Ordering::SeqCst).to_string();
            Ok(keys.iter().map(|_| Some(Fields::new([("version", Some(version.clone()))]))).collect())
        })
    }

    fn place(&self) -> String {
        "behind a door".to_owned()
    }
}

/// A change with its own key, and the lookup key of its customer.
fn order(id: &str, customer: &str) -> Change {
    Change::builder(id).table("orders").after(&[("customer", customer)].into_iter().collect::<BTreeMap<_, _>>()).build().unwrap()
}

/// What an action was given: the id of the change, and the version of the row.
type Given = Arc<Mutex<Vec<(String, String)>>>;

/// A pipeline that looks customers up and writes down what it was given, with the end of it that changes go into.
fn shop(lookup: Lookup) -> (highwater::run::Build, highwater::sources::channel::Feed, Given) {
    let (feed, source) = Channel::bounded(20_000);
    let given = Given::default();
    let record = given.clone();
    let build = support::build(move |flow| {
        let record = record.clone();
        let act = run(move |change: Change| {
            let version = change.found("customer").str("version").unwrap_or_default().into_owned();
            record.lock().push((change.id().to_owned(), version));
            async { Ok(()) }
        });
        flow.source(source.clone())
            .lookup("customer", lookup.clone())
            .fan_out([action("act", act)])
            .checkpoint(Checkpoint::every(millis(20)));
        Ok(())
    });
    (build, feed, given)
}

fn versions(given: &Given, prefix: &str) -> Vec<String> {
    given.lock().iter().filter(|(id, _)| id.starts_with(prefix)).map(|(_, version)| version.clone()).collect()
}

/// Goal: ten thousand changes that miss one key ask for it once. While they wait, changes whose row is at hand pass.
#[test]
fn a_key_that_many_miss_at_once_is_asked_for_once_and_hits_pass_by() {
    for workers in [1, 2, 4] {
        let folder = support::folder();
        let origin = Slow::shut();
        let (build, feed, given) = shop(Lookup::by("customer").from(origin.clone()));
        // There is room for all that wait, and for those that do not.
        let settings = Settings { in_flight_changes: 20_000, ..support::settings(folder.path().join("data"), workers) };
        let running = support::start(&settings, &build, Control::default());
        // Each worker gets the row of "known" while the door stands open.
        origin.0.door.add_permits(64);
        (0..64).for_each(|n| feed.blocking_send(order(&format!("first{n}"), "known")).unwrap());
        support::until("the first have their row", || versions(&given, "first").len() == 64);
        origin.0.door.forget_permits(64);
        origin.0.keys.lock().clear();
        for n in 0..10_000 {
            feed.blocking_send(order(&format!("miss{n}"), "hot")).unwrap();
        }
        (0..64).for_each(|n| feed.blocking_send(order(&format!("hit{n}"), "known")).unwrap());
        support::until("hits pass by those that wait", || versions(&given, "hit").len() == 64);
        assert_eq!(versions(&given, "miss"), Vec::<String>::new(), "the door is shut");
        origin.0.door.add_permits(1);
        support::until("the others have their row", || versions(&given, "miss").len() == 10_000);
        drop(feed);
        running.end().unwrap();
        assert_eq!(origin.asked(), ["hot"], "{workers} workers");
    }
}

/// Goal: a row that is past its time is used while it is asked for anew, once; then the new one is.
#[test]
fn nobody_waits_for_a_row_that_is_asked_for_anew() {
    let folder = support::folder();
    let origin = Slow::shut();
    let cache = Cache::entries(100).ttl(millis(20)).stale_while_revalidate(hours(1));
    let (build, feed, given) = shop(Lookup::by("customer").from(origin.clone()).cache(cache));
    let running = support::start(&support::settings(folder.path().join("data"), 1), &build, Control::default());
    origin.0.door.add_permits(1);
    feed.blocking_send(order("first", "7")).unwrap();
    support::until("the first has its row", || versions(&given, "first").len() == 1);
    origin.0.version.store(2, Ordering::SeqCst);
    let mut sent = 0;
    support::until("it is asked for anew", || {
        feed.blocking_send(order(&format!("stale{sent}"), "7")).unwrap();
        sent += 1;
        origin.asked().len() == 2
    });
    feed.blocking_send(order("stale", "7")).unwrap();
    sent += 1;
    support::until("all pass while it is asked for", || versions(&given, "stale").len() == sent);
    assert_eq!(versions(&given, "stale"), vec!["1"; sent]);
    assert_eq!(origin.asked().len(), 2, "it is asked for once");
    origin.0.door.add_permits(1);
    // More permits, since what has come is past its time soon, too.
    origin.0.door.add_permits(1_000);
    sent = 0;
    support::until("the new row is used", || {
        feed.blocking_send(order(&format!("new{sent}"), "7")).unwrap();
        sent += 1;
        versions(&given, "new").last().is_some_and(|version| version == "2")
    });
    drop(feed);
    running.end().unwrap();
}

/// Goal: of a batch in which some keys fail, the others go on at once; what failed is asked for again alone, or its changes are parked, as its error says.
#[test]
fn a_key_that_fails_holds_up_no_other_of_its_batch() {
    let folder = support::folder();
    let data = folder.path().join("data");
    let asked = Arc::<Mutex<Vec<Vec<String>>>>::default();
    let (seen, door) = (asked.clone(), Arc::new(Semaphore::new(0)));
    let shut = door.clone();
    let origin = load_each(move |keys: Vec<String>| {
        let mut sorted = keys.clone();
        sorted.sort();
        seen.lock().push(sorted);
        let shut = shut.clone();
        async move {
            let mut answers = Vec::new();
            for key in keys {
                answers.push(match key.as_str() {
                    "never" => Err(Error::park("there is no such kind of key")),
                    "late" if shut.try_acquire().is_err() => Err(Error::retry("not yet")),
                    "none" => Ok(None),
                    _ => Ok(Some(Fields::new([("version", Some("1"))]))),
                });
            }
            Ok(answers)
        }
    });
    let lookup = Lookup::by("customer").from(origin).batch(100, millis(200)).attempts(100_000).backoff(millis(1), millis(5));
    let (build, feed, given) = shop(lookup);
    let running = support::start(&support::settings(data, 2), &build, Control::default());
    for customer in ["good", "late", "never", "none", "good"] {
        for n in 0..10 {
            feed.blocking_send(order(&format!("{customer}{n}-{}", given.lock().len()), customer)).unwrap();
        }
    }
    support::until("those that do not fail pass", || {
        versions(&given, "good").len() == 20 && versions(&given, "none").len() == 10
    });
    support::until("what failed is asked for again", || asked.lock().len() > 5);
    assert_eq!(versions(&given, "late"), Vec::<String>::new());
    door.add_permits(1);
    support::until("in the end it answers", || versions(&given, "late").len() == 10);
    drop(feed);
    let report = running.end().unwrap();
    let act = &report.actions["act"];
    assert_eq!((act.delivered, act.parked), (40, 10), "changes of the key that can never be are parked");
    let asked = asked.lock();
    let alone = asked.iter().filter(|keys| ***keys == ["late"]).count();
    let first = asked.iter().filter(|keys| keys.iter().any(|key| key != "late")).flatten().filter(|key| *key != "late");
    let mut first: Vec<&String> = first.collect();
    first.sort();
    assert_eq!(first, ["good", "never", "none"], "each is asked for once");
    assert!(alone >= 5, "{asked:?}");
}
