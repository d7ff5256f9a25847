//! How fast sources make changes, alone on one thread: the generator, envelopes over lines in memory, a CSV file.
//!
//! Each is done three times, and the best counts. `scripts/prove sources`.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use highwater::Operation;
use highwater::operators::Position;
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::{Batch, Partition, Read, Source};
use highwater::sources::{CsvChanges, Envelope, Generator};

const CHANGES: u64 = 1_000_000;

/// Runs it three times and prints the best.
fn best(name: &str, mut run: impl FnMut() -> u64) {
    let best = (0..3)
        .map(|_| {
            let began = Instant::now();
            run() as f64 / began.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max);
    println!("| {name:<44} | {:>6.2} M/s |", best / 1e6);
}

/// Reads a source's only partition to its end.
fn read(source: &impl Source) -> u64 {
    let window = InFlight::new(u64::MAX, u64::MAX);
    let name = source.partitions().expect("the source can be opened").remove(0).name;
    let mut reader = source.open(&Partition { id: 0, name }, None, &window).expect("the source can be opened");
    let mut all = 0;
    loop {
        let mut batch = Batch::default();
        if reader.read(&mut batch).expect("the source can be read") == Read::End {
            return all;
        }
        assert!(batch.rejected.is_empty(), "{:?}", batch.rejected);
        all += batch.changes.len() as u64;
        black_box(batch);
    }
}

/// Parses lines as a source would: slices of one block.
fn parse(envelope: &Envelope, line: &str) -> u64 {
    let lines = 1000;
    let block = Bytes::from(line.repeat(lines));
    for at in 0..CHANGES {
        let start = at as usize % lines * line.len();
        let position = Position { partition: 0, at, within: 0 };
        let change = envelope.parse(block.slice(start..start + line.len()), position);
        black_box(change.expect("the line is a change"));
    }
    CHANGES
}

fn main() {
    best("generator, 10,000 keys, skew 1.1", || {
        read(&Generator::new(1).changes(CHANGES).keys(10_000).skew(1.1).duplicates(0.05))
    });
    best("the same, 200 bytes of padding", || {
        read(&Generator::new(1).changes(CHANGES).keys(10_000).skew(1.1).duplicates(0.05).payload(200))
    });
    let usual = r#"{"id":"c-1","table":"orders","op":"update","key":"o-1","ts":1700000000000,"before":{"status":"new"},"after":{"status":"paid"}}"#;
    best("the default envelope", || parse(&Envelope::default(), usual));
    best("the same, told apart from Debezium's", || parse(&Envelope::auto(), usual));
    let event =
        r#"{"event_id":"c-1","type":"orders","kind":"changed","at":1700000000000,"payload":{"order_id":"o-1","status":"paid"}}"#;
    let mapped = Envelope::mapping().id("event_id").table("type").key("payload.order_id").time("at").after("payload");
    let mapped = mapped.op("kind", [("changed", Operation::Update)]);
    best("an envelope mapped by paths", || parse(&mapped, event));
    best("plain rows", || parse(&Envelope::rows("orders").id("order_id"), r#"{"order_id":"o-1","status":"paid","amount":12.5}"#));
    let debezium = r#"{"before":null,"after":{"id":7,"status":"paid"},"source":{"version":"3.0","connector":"postgresql","name":"shop","ts_ms":1700000000000,"snapshot":"false","db":"inv","schema":"public","table":"orders","txId":555,"lsn":24023128,"xmin":null},"op":"c","ts_ms":1700000000142}"#;
    best("Debezium's, without schema", || parse(&Envelope::debezium().key("id"), debezium));
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let rows: String = (0..CHANGES).map(|n| format!("{n},o-{},paid,\"a, b\",12.5\n", n % 1000)).collect();
    std::fs::write(&file, format!("id,key,status,note,amount\n{rows}")).expect("a file can be written");
    best("CSV, five columns", || read(&CsvChanges::new(file.path()).id("id").key("key")));
}
