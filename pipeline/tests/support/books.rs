//! Comparing what a pipeline did and says with what the oracle expects.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use highwater::operators::checkpoint::embedded::{EmbeddedStore, Inspection};
use highwater::operators::checkpoint::place::Inspect;
use highwater::operators::checkpoint::store::Cause;
use highwater::report::Report;

use super::oracle::{Expected, Outcomes};
use super::record::{Effect, Place, Record};

/// What a data directory holds.
pub fn inspect(data: &Path) -> Inspection {
    EmbeddedStore::inspect(data).expect("the data directory can be read")
}

/// How far each partition is done.
pub fn mark(inspection: &dyn Inspect) -> BTreeMap<u32, u64> {
    let mark = inspection.checkpoint().map(|save| save.mark.clone()).unwrap_or_default();
    mark.into_iter().map(|(partition, token)| (partition, token.order)).collect()
}

/// Where the parked changes of an action stand, with their causes.
pub fn parked(inspection: &dyn Inspect, action: &str) -> Vec<(Place, Cause)> {
    let heads = inspection.parked_heads().into_iter().filter(|head| head.action == action);
    heads.map(|head| ((head.position.partition, head.position.at), head.cause)).collect()
}

/// What is said of the parked changes of a data directory.
pub fn parked_words(data: &Path) -> Vec<String> {
    let inspection = inspect(data);
    let parked = inspection.parked_heads().map(|head| inspection.parked(head.id).expect("it can be read").expect("it is there"));
    parked.map(|parked| parked.error).collect()
}

/// The books of an action say what the oracle says, and nothing is in flight.
pub fn check_books(report: &Report, action: &str, expected: &Expected, outcomes: &Outcomes) {
    let books = &report.actions[action];
    let said = [books.read, books.duplicate, books.rejected, books.filtered, books.delivered, books.parked, books.in_flight];
    let [rejected, filtered, delivered, parked] =
        [&expected.rejected, &outcomes.filtered, &outcomes.delivered, &outcomes.parked].map(|set| set.len() as u64);
    let right = [expected.read, expected.duplicate, rejected, filtered, delivered, parked, 0];
    assert_eq!(said, right, "books of {action}: read, duplicate, rejected, filtered, delivered, parked, in flight");
}

/// Exactly these changes of an action stand parked, each once.
pub fn check_parked(inspection: &dyn Inspect, action: &str, outcomes: &Outcomes) {
    let mut places: Vec<Place> = parked(inspection, action).into_iter().map(|(place, _)| place).collect();
    places.sort_unstable();
    assert_eq!(places, outcomes.parked.iter().copied().collect::<Vec<_>>(), "parked for {action}");
}

/// Nothing is lost and nothing comes that should not; repeats are at most so many, each with the key of the first.
pub fn check_delivered(record: &Record, action: &str, outcomes: &Outcomes, repeats_max: usize) {
    let times = record.times(action);
    let delivered: BTreeSet<Place> = times.keys().copied().collect();
    let lost: Vec<_> = outcomes.delivered.difference(&delivered).collect();
    let strange: Vec<_> = delivered.difference(&outcomes.delivered).collect();
    assert!(lost.is_empty() && strange.is_empty(), "{action}: lost {lost:?}, delivered against expectation {strange:?}");
    let repeats: usize = times.values().map(|times| times - 1).sum();
    assert!(repeats <= repeats_max, "{action}: {repeats} repeats, at most {repeats_max} are allowed");
    let mut keys: BTreeMap<Place, Option<String>> = BTreeMap::new();
    for Effect { place, idempotency, .. } in record.of(action) {
        let first = keys.entry(place).or_insert_with(|| idempotency.clone());
        assert_eq!(*first, idempotency, "{action}: the repeat of {place:?} has another idempotency key");
    }
}

/// For each key of a partition, changes were first delivered in the order of the partition.
pub fn check_order(record: &Record, action: &str) {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<(u32, String), u64> = BTreeMap::new();
    for Effect { place, key, .. } in record.of(action) {
        if !seen.insert(place) {
            continue;
        }
        let (partition, at) = place;
        if let Some(before) = last.insert((partition, key.clone()), at) {
            assert!(before < at, "{action}: {at} of partition {partition}, key {key}, came after {before}");
        }
    }
    assert_eq!(record.wrong(), Vec::<String>::new());
}

/// The lines of the files of a JSON-lines sink, by file name: place and key, as far as they are changes of the test's.
pub fn lines(folder: &Path) -> Vec<(Place, String)> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the output folder is there").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(&file).expect("output is text").lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("each line is whole");
            let number = |name: &str| line[name].as_u64().expect("a number");
            lines.push(((number("partition") as u32, number("at")), line["key"].as_str().expect("a key").to_owned()));
        }
    }
    lines
}

/// A file sink holds each change it should exactly once, and the changes of a key in order.
pub fn check_file(folder: &Path, outcomes: &Outcomes) {
    let lines = lines(folder);
    let mut places: Vec<Place> = lines.iter().map(|(place, _)| *place).collect();
    places.sort_unstable();
    assert_eq!(places, outcomes.delivered.iter().copied().collect::<Vec<_>>(), "lines in the files");
    let mut last: BTreeMap<(u32, String), u64> = BTreeMap::new();
    for ((partition, at), key) in lines {
        if let Some(before) = last.insert((partition, key.clone()), at) {
            assert!(before < at, "file: {at} of partition {partition}, key {key}, came after {before}");
        }
    }
}
