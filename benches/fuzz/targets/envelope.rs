//! All envelopes: a line gives a change or a sentence, never a panic; what is accepted says what serde_json reads in it.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use highwater_operators::{Change, Operation, Position};
use highwater_sources::Envelope;

static ENVELOPES: LazyLock<[Envelope; 6]> = LazyLock::new(|| {
    [
        Envelope::default(),
        Envelope::mapping()
            .id("meta.id")
            .table("type")
            .keys(["payload.a", "payload.b.c"])
            .op("kind", [("created", Operation::Insert), ("gone", Operation::Delete)])
            .time("meta.at")
            .after("payload"),
        Envelope::rows("t").id("id"),
        Envelope::debezium(),
        Envelope::debezium().key("id"),
        Envelope::auto().keys(["id", "n"]),
    ]
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((first, line)) = input.split_first() else { return };
    let which = *first as usize % ENVELOPES.len();
    let position = Position { partition: 1, at: 2, within: 3 };
    let Ok(Some(change)) = ENVELOPES[which].read(Bytes::copy_from_slice(line), position) else { return };
    for row in [change.before(), change.after()].iter().filter_map(|row| row.raw_json()) {
        assert!(row.starts_with('{') && row.ends_with('}'));
        highwater_fuzz::check_row(row.as_bytes());
    }
    assert_eq!(change.position(), position);
    assert_eq!(change.detached(), change);
    assert!(!change.key().is_empty() || change.row().is_present() || change.id().is_empty() || which != 2);
    if let Ok(line) = serde_json::from_slice::<serde_json::Value>(line) {
        agrees(which, &change, &line);
    }
});

/// Holds what an envelope found against what serde_json finds. (Of a name that stands twice in a nested object the first counts here and
/// the last there; such lines are told by their length.)
fn agrees(which: usize, change: &Change, line: &serde_json::Value) {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let same = |found: &str, value: &serde_json::Value| {
        if let Some(text) = text(value) {
            assert_eq!(found, text);
        }
    };
    match which {
        0 => {
            same(change.id(), &line["id"]);
            same(change.table(), &line["table"]);
            same(change.key(), &line["key"]);
            assert_eq!(change.before().is_present(), line["before"].is_object());
            assert_eq!(change.after().is_present(), line["after"].is_object());
        }
        1 => {
            same(change.table(), &line["type"]);
            assert_eq!(change.row().is_present(), line["payload"].is_object());
        }
        2 => same(change.id(), &line["id"]),
        _ => {}
    }
}
