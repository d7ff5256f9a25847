//! Lookups in a table as of the change's own place: seeded stories of customers that change between orders, crashed and resumed with other numbers of workers, held
//! against a sequential replay.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use highwater::operators::change::{Change, Parts};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, OrderOf, Partition, Read, Reader, Source};
use highwater::operators::testing::failpoint;
use highwater::operators::{Order, Position, ResumeToken};
use highwater::prelude::*;
use highwater::run::Build;
use highwater::settings::Settings;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::input::{Input, Item, Script};

/// What an order is to find: its customer's version and biography, if there is that customer.
type Seen = Option<(u64, String)>;

/// Customers and orders in the order of one log, and what each order is to find.
#[derive(Clone)]
struct Story {
    changes: Arc<Vec<Change>>,
    expected: Arc<BTreeMap<String, Seen>>,
    seed: u64,
}

impl Story {
    fn seeded(seed: u64, length: u64) -> Story {
        let mut dice = StdRng::seed_from_u64(seed);
        let (mut customers, mut expected) = (BTreeMap::<String, (u64, String)>::new(), BTreeMap::new());
        let count = dice.random_range(1..8);
        // Sometimes one customer changes again and again between its orders.
        let busy = dice.random_bool(0.3);
        let changes = (0..length).map(|at| {
            let customer = format!("u{}", if busy { 0 } else { dice.random_range(0..count) });
            let position = Position { partition: 0, at, within: 0 };
            let id = format!("c{at}");
            let parts = Parts {
                id: &id,
                table: "customers",
                key: Some(&customer),
                operation: Operation::Update,
                time_ms: at as i64,
                before: None,
                after: None,
            };
            let made = match dice.random_range(0..20) {
                0 => {
                    customers.remove(&customer);
                    Change::new(Default::default(), position, Parts { operation: Operation::Delete, before: Some("{}"), ..parts })
                }
                1 if dice.random_bool(0.2) => {
                    customers.clear();
                    Change::new(Default::default(), position, Parts { operation: Operation::Truncate, key: None, ..parts })
                }
                2..4 if customers.contains_key(&customer) => {
                    // The biography is large and was not sent.
                    customers.get_mut(&customer).unwrap().0 = at;
                    let row = format!(r#"{{"id":"{customer}","version":{at}}}"#);
                    Change::with_names_apart(Default::default(), position, Parts { after: Some(&row), ..parts }, r#"["bio"]"#)
                }
                2..10 => {
                    let bio = format!("of \"{at}\"");
                    let row = serde_json::json!({"id": customer, "bio": bio, "version": at}).to_string();
                    customers.insert(customer.clone(), (at, bio));
                    Change::new(Default::default(), position, Parts { after: Some(&row), ..parts })
                }
                _ => {
                    expected.insert(id.clone(), customers.get(&customer).cloned());
                    let (row, key) = (format!(r#"{{"customer_id":"{customer}"}}"#), format!("o{}", dice.random_range(0..30)));
                    let order =
                        Parts { table: "orders", key: Some(&key), operation: Operation::Insert, after: Some(&row), ..parts };
                    Change::new(Default::default(), position, order)
                }
            };
            made.unwrap()
        });
        let changes = changes.collect();
        Story { changes: Arc::new(changes), expected: Arc::new(expected), seed }
    }

    /// A pipeline in which each order says what it found.
    fn build(&self, told: &Arc<Mutex<Vec<(String, Seen)>>>) -> Build {
        let (story, told) = (self.clone(), told.clone());
        support::build(move |flow| {
            let changes = flow.source(story.clone());
            let customers = changes.table("customers");
            let told = told.clone();
            let tell = run(move |change| {
                let row = change.found("customer");
                let seen = row.is_present().then(|| (row.parse("version").unwrap(), row.str("bio").unwrap().into_owned()));
                told.lock().push((change.id().to_owned(), seen));
                async { Ok(()) }
            });
            changes
                .filter(|change| change.table() == "orders")
                .lookup_table("customer", &customers, TableLookup::by("customer_id"))
                .fan_out([action("tell", tell)])
                .checkpoint(Checkpoint::every(millis(2)));
            Ok(())
        })
    }

    fn check(&self, told: &[(String, Seen)]) {
        for (id, seen) in told {
            assert_eq!(seen, &self.expected[id], "order {id}");
        }
    }
}

impl Source for Story {
    fn kind(&self) -> &'static str {
        "story"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok(vec![PartitionName { name: "story".to_owned(), bytes: None }])
    }

    fn open(&self, _: &Partition, from: Option<&ResumeToken>, _: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let next = from.map_or(0, |token| token.order as usize);
        Ok(Box::new(Telling { story: self.clone(), next, dice: StdRng::seed_from_u64(self.seed) }))
    }

    fn order(&self) -> Option<OrderOf> {
        Some(|change| Order::of_place(change.position()))
    }
}

struct Telling {
    story: Story,
    next: usize,
    dice: StdRng,
}

impl Reader for Telling {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let changes = &self.story.changes;
        if self.next == changes.len() {
            return Ok(Read::End);
        }
        // Now and then a long batch, as when a log is caught up with: many versions of a row in one epoch.
        let most = if self.dice.random_bool(0.2) { 150 } else { 6 };
        let end = changes.len().min(self.next + self.dice.random_range(1..=most));
        batch.changes.extend_from_slice(&changes[self.next..end]);
        self.next = end;
        batch.token = ResumeToken { order: end as u64, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

/// Goal: an order finds its customer as of its own place, whatever crashes and however many workers there are. Method: every call is held against a sequential
/// replay, also those that a crash repeats.
#[test]
fn an_order_finds_its_customer_as_of_its_own_place() {
    let seeds = support::only_seed().map_or(0..support::seeds(12), |seed| seed..seed + 1);
    for seed in seeds {
        let story = Story::seeded(seed, 600);
        let (told, folder) = (Arc::default(), support::folder());
        let build = story.build(&told);
        let case = || {
            let mut dice = StdRng::seed_from_u64(seed ^ 0xc0ffee);
            for _ in 0..4 {
                let settings = settings(&folder, &mut dice);
                let places = [
                    failpoint::INGEST_EMITTED,
                    failpoint::ACTION_ANSWERED,
                    failpoint::GROUP_COMMITTED,
                    failpoint::SAVE_COMMITTED,
                ];
                let place = places[dice.random_range(0..places.len())];
                support::run_and_crash(&settings, &build, place, dice.random_range(1..12)).unwrap();
                story.check(&told.lock());
            }
            let report = support::run(&settings(&folder, &mut dice), &build).unwrap();
            let told = told.lock();
            story.check(&told);
            let seen: BTreeMap<_, _> = told.iter().cloned().collect();
            assert_eq!(seen.len(), story.expected.len(), "every order was told of");
            assert_eq!(report.actions["tell"].delivered, story.expected.len() as u64);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(case)) {
            eprintln!("failed with HIGHWATER_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn settings(folder: &tempfile::TempDir, dice: &mut StdRng) -> Settings {
    Settings {
        in_flight_changes: dice.random_range(1..200),
        checkpoint_batch_size: Some([1, 10, 1_000][dice.random_range(0..3)]),
        ..support::settings(folder.path().join("data"), [1, 2, 4][dice.random_range(0..3)])
    }
}

/// Goal: what a table lookup cannot be right about is refused, in words that say what to do.
#[test]
fn what_cannot_be_as_of_a_change_is_refused() {
    fn problems(build: impl for<'s> Fn(&highwater::Flow<'s>) -> Result + Send + Sync + 'static) -> String {
        highwater::run::plan(&support::build(build)).unwrap().problems.join("\n")
    }
    let end = || [action("nothing", run(|_| async { Ok(()) }))];
    let script = || Script { input: Arc::new(Input::of([Item::good("a", "k")])), seed: 1 };
    let two = problems(move |flow| {
        let customers = flow.source(Story::seeded(1, 1)).table("customers");
        let orders = flow.source(Story::seeded(2, 1)).lookup_table("customer", &customers, TableLookup::by("customer_id"));
        orders.fan_out(end()).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    assert!(two.contains("must come from one source"), "{two}");
    let unordered = problems(move |flow| {
        let changes = flow.source(script());
        let customers = changes.table("customers");
        let orders = changes.lookup_table("customer", &customers, TableLookup::by("customer_id"));
        orders.fan_out(end()).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    assert!(unordered.contains("have no order"), "{unordered}");
}

/// Goal: a lookup that comes to a pipeline whose table was read before is refused, unless it is said that the table is read anew.
#[test]
fn a_table_that_was_read_before_is_not_taken_for_empty() {
    let (story, folder, told) = (Story::seeded(3, 100), support::folder(), Arc::default());
    let settings = support::settings(folder.path().join("data"), 2);
    let without = {
        let story = story.clone();
        support::build(move |flow| {
            let nothing = action("tell", run(|_| async { Ok(()) }));
            flow.source(story.clone()).fan_out([nothing]).checkpoint(Checkpoint::every(millis(2)));
            Ok(())
        })
    };
    support::run(&settings, &without).unwrap();
    let refused = support::run(&settings, &story.build(&told)).unwrap_err().to_string();
    assert!(refused.contains("\"customer\" is new") && refused.contains("resnapshot"), "{refused}");
}

/// Goal: a table with more rows than were allowed ends the run, and does not fill the machine.
#[test]
fn a_table_that_grows_too_large_ends_the_run() {
    let folder = support::folder();
    let story = Story::seeded(5, 600);
    let build = support::build(move |flow| {
        let changes = flow.source(story.clone());
        let customers = changes.table("customers");
        let orders = changes.lookup_table("customer", &customers, TableLookup::by("customer_id").at_most(0));
        orders.fan_out([action("nothing", run(|_| async { Ok(()) }))]).checkpoint(Checkpoint::every(millis(5)));
        Ok(())
    });
    let error = support::run(&support::settings(folder.path().join("data"), 1), &build).unwrap_err().to_string();
    assert!(error.contains("has more than 0 rows") && error.contains(".at_most("), "{error}");
}
