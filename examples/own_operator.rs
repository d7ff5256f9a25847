//! An operator of your own, in plain timely: of the changes of an epoch it passes on only the last of each key.
//!
//! Eight changes of three accounts are read at once: three go on. The operator keeps the capability of every epoch from which
//! it holds something back; that is what makes it safe: no checkpoint can pass what it holds, and a crash reads it again.
//! The books count twice what goes through: as read by the source, and as read from the operator, and only the latter reaches
//! the action. Try to append changes to `data/own_operator.jsonl`, and run it again.

use std::collections::BTreeMap;

use highwater::prelude::*;
use highwater_examples::page;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

const INPUT: &str = "data/own_operator.jsonl";

fn main() -> highwater::Exit {
    highwater::program("own_operator")
        .about("Passes on the last change of each key and epoch")
        .prepare(|_: &()| {
            let balances = [("a", 1), ("b", 5), ("a", 2), ("a", 3), ("c", 9), ("b", 6), ("a", 4), ("c", 8)];
            let line = |(id, (key, balance))| {
                format!("{{\"id\":{id},\"op\":\"update\",\"key\":\"{key}\",\"after\":{{\"balance\":{balance}}}}}\n")
            };
            Ok(page::make(INPUT, (1..).zip(balances).map(line).collect::<String>())?)
        })
        .main_with(|flow, _| {
            let changes = flow.source(JsonLines::file(INPUT));
            flow.from_stream(last_of_each_key(changes.stream()))
                .fan_out([action(
                    "print",
                    run(|change| async move {
                        println!("account {} stands at {}", change.key(), change.after().str("balance").unwrap_or_default());
                        Ok(())
                    }),
                )])
                .checkpoint(Checkpoint::every(millis(200)));
        })
}

/// All changes of a key are on one worker, so no exchange is needed here.
fn last_of_each_key<'s>(changes: StreamVec<'s, u64, Change>) -> StreamVec<'s, u64, Change> {
    changes.unary_frontier::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, "Last of each key", |_, _| {
        let mut open = BTreeMap::new();
        move |(input, frontier), output| {
            // Batch by batch as they come: `for_each_stamp` would sort them by time and lose the order within one.
            input.for_each(|capability, batch| {
                let Some(capability) = capability.retain_least(output.output_index()) else { return };
                let (_, last) = open.entry(*capability.time()).or_insert_with(|| (capability, BTreeMap::new()));
                for change in batch.drain(..) {
                    last.insert(change.key().to_owned(), change);
                }
            });
            // An epoch is complete when the frontier has passed it.
            while let Some(entry) = open.first_entry().filter(|entry| !frontier.less_equal(entry.key())) {
                let (capability, last) = entry.remove();
                output.session(&capability).give_iterator(last.into_values());
            }
        }
    })
}
