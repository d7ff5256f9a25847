//! CSV as a source: any bytes give rows, rejected rows or a refusal; rows are those of the csv crate; every token continues.
#![no_main]

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Partition, Read, Source};
use highwater_operators::{Change, ResumeToken};
use highwater_sources::CsvChanges;

struct All {
    changes: Vec<Change>,
    rejected: Vec<String>,
    tokens: Vec<ResumeToken>,
}

fn read_all(source: &CsvChanges, from: Option<&ResumeToken>) -> Option<All> {
    let window = InFlight::new(u64::MAX, u64::MAX);
    let mut reader = source.open(&Partition { id: 0, name: String::new() }, from, &window).ok()?;
    let mut all = All { changes: Vec::new(), rejected: Vec::new(), tokens: Vec::new() };
    loop {
        let mut batch = Batch::default();
        match reader.read(&mut batch).expect("a file in memory can be read") {
            Read::Some => {}
            Read::End => return Some(all),
            Read::Idle(_) | Read::Away(_) => unreachable!("a file does not idle"),
        }
        all.changes.append(&mut batch.changes);
        all.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
        all.tokens.push(batch.token);
    }
}

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let folder = highwater_fuzz::folder();
    let path = folder.path().join("t.csv");
    std::fs::write(&path, text).unwrap();
    let source = CsvChanges::new(&path);
    let _ = source.partitions();
    let Some(all) = read_all(&source, None) else { return };
    for change in &all.changes {
        highwater_fuzz::check_row(change.row().raw_json().unwrap().as_bytes());
    }
    for token in &all.tokens {
        let rest = read_all(&source, Some(token)).expect("a token of this file continues");
        assert_eq!(rest.changes, all.changes[all.changes.len() - rest.changes.len()..]);
    }
    let named = source.op("op", []).key("k").time("at");
    if let Some(all) = read_all(&named, None) {
        assert!(all.changes.iter().all(|change| !change.key().is_empty()));
    }
    if all.rejected.iter().any(|why| why.contains("a quote that opens")) {
        // The csv crate takes the rest of the file for the last field.
        return;
    }
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(&path).unwrap();
    let columns = reader.byte_headers().unwrap().len();
    let rows = reader.byte_records().map(Result::unwrap).filter(|row| row.len() == columns);
    let rows: Vec<Vec<String>> =
        rows.filter_map(|row| row.iter().map(|field| String::from_utf8(field.to_vec()).ok()).collect()).collect();
    let read: Vec<Vec<String>> = all
        .changes
        .iter()
        .map(|change| change.row().to_vec().into_iter().map(|(_, value)| value.text().unwrap().into_owned()).collect())
        .collect();
    assert_eq!(read, rows);
});
