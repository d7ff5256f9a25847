//! The books of whole pipelines: what eats or invents changes does not go unseen.

mod support;

use std::sync::Arc;

use highwater::operators::checkpoint::report::Report as ToCheckpoint;
use highwater::prelude::*;
use support::input::{Input, Item, Script};
use support::record::{Record, Recorder};
use support::{books, oracle};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

fn items(count: u64) -> Arc<Input> {
    Arc::new(Input::of((0..count).map(|n| Item::good(format!("c{n}"), format!("k{}", n % 7)))))
}

#[test]
fn a_raw_operator_that_eats_changes_is_seen_by_the_lines_before_and_behind_it() {
    let (folder, record, input) = (support::folder(), Record::default(), items(90));
    let own = record.clone();
    let build = support::build(move |flow| {
        let all = flow.source(Script { input: input.clone(), seed: 5 });
        let some = all.stream().unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, "Eats", |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    batch.retain(|change| change.position().at % 3 != 0);
                    output.session(&capability).give_container(batch);
                });
            }
        });
        let before = all.fan_out([action("all", Recorder { name: "all", record: own.clone() })]);
        let behind = flow.from_stream(some).fan_out([action("some", Recorder { name: "some", record: own.clone() })]);
        before.and(behind).checkpoint(Checkpoint::every(millis(1)));
        Ok(())
    });
    let report = support::run(&support::settings(folder.path().join("data"), 2), &build).unwrap();
    let [all, some] = ["all", "some"].map(|action| &report.actions[action]);
    assert_eq!((all.read, all.delivered, some.read, some.delivered), (90, 90, 60, 60));
    let inspection = books::inspect(&folder.path().join("data"));
    let lines = &inspection.checkpoint().expect("it has saved").books;
    assert_eq!((lines["read script"], lines["read stream"]), (90, 60), "the border has a line of its own: {lines:?}");
    assert_eq!((record.of("all").len(), record.of("some").len()), (90, 60));
}

#[test]
fn a_wrong_count_stops_the_pipeline_and_no_mark_is_saved_beyond() {
    let (folder, record, input) = (support::folder(), Record::default(), items(400));
    let data = folder.path().join("data");
    let (own, read) = (record.clone(), input.clone());
    let pipeline = move |wrong: bool| {
        let (own, read) = (own.clone(), read.clone());
        support::build(move |flow| {
            let all = flow.source(Script { input: read.clone(), seed: 6 });
            if wrong {
                all.misreport(|process, stream| {
                    let line = process.books.line("delivered act");
                    stream.unary::<CapacityContainerBuilder<Vec<ToCheckpoint>>, _, _, _>(Pipeline, "Invents", move |_, _| {
                        move |input, output| {
                            input.for_each(|capability, batch| {
                                // One delivery that never was, when the 200th change has come.
                                if batch.iter().any(|change| change.position().at == 200) {
                                    output.session(&capability).give(ToCheckpoint::Count { line: line.id, n: 1 });
                                }
                            });
                        }
                    })
                });
            }
            all.fan_out([action("act", Recorder { name: "act", record: own.clone() })])
                .checkpoint(Checkpoint::every(millis(1)).batch_size(1));
            Ok(())
        })
    };
    let settings = highwater::settings::Settings { in_flight_changes: 20, ..support::settings(data.clone(), 1) };
    let error = support::run(&settings, &pipeline(true)).unwrap_err().to_string();
    assert!(
        error.contains("the books of action \"act\" do not balance") && error.contains("no checkpoint is saved beyond"),
        "{error}"
    );
    let mark = books::mark(&books::inspect(&data));
    assert!(mark[&0] > 0 && mark[&0] <= 200, "saved up to {mark:?}, where the count went wrong after 200");
    record.next_run();
    let report = support::run(&settings, &pipeline(false)).unwrap();
    let expected = oracle::expect(&input, None);
    let outcomes = expected.outcomes(|_| true, &[]);
    assert_eq!((report.actions["act"].delivered, report.actions["act"].in_flight), (400, 0));
    books::check_delivered(&record, "act", &outcomes, 100);
    books::check_order(&record, "act");
}
