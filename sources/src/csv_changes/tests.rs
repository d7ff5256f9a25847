use highwater_operators::Change;
use highwater_operators::ingest::{Batch, Read};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

#[derive(Debug, Default)]
struct Everything {
    changes: Vec<Change>,
    rejected: Vec<String>,
    tokens: Vec<ResumeToken>,
}

fn read_all(source: &CsvChanges, from: Option<&ResumeToken>) -> Result<Everything> {
    let window = InFlight::new(u64::MAX, u64::MAX);
    let partition = Partition { id: 0, name: String::new() };
    let mut reader = source.open(&partition, from, &window)?;
    let mut all = Everything::default();
    loop {
        let mut batch = Batch::default();
        if reader.read(&mut batch)? == Read::End {
            return Ok(all);
        }
        all.changes.extend(batch.changes);
        all.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
        all.tokens.push(batch.token);
    }
}

fn file(text: &[u8]) -> (tempfile::TempDir, CsvChanges) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.csv");
    std::fs::write(&path, text).unwrap();
    (folder, CsvChanges::new(path))
}

#[test]
fn rows_are_inserts_into_a_table_named_as_the_file() {
    let (_folder, source) = file(b"id,name\r\n1,\"a, \"\"b\"\"\nc\"\r\n\r\n2,\r\n");
    let all = read_all(&source.id("id"), None).unwrap();
    assert_eq!(all.rejected, Vec::<String>::new());
    let rows: Vec<_> = all.changes.iter().map(|change| (change.id(), change.row().str("name").unwrap())).collect();
    assert_eq!(rows, [("1", "a, \"b\"\nc".into()), ("2", "".into())]);
    assert_eq!((all.changes[0].table(), all.changes[0].operation(), all.changes[0].key()), ("orders", Operation::Insert, "1"));
    assert_eq!(all.changes.iter().map(|change| change.position().at).collect::<Vec<_>>(), [9, 27]);
}

#[test]
fn columns_name_key_operation_and_time() {
    let (_folder, source) = file(b"k;what;at\n\"x\\y\";gone;2023-11-14T22:13:20Z\nz;new;5\n");
    let source = source.delimiter(b';').key("k").op("what", [("new", Operation::Insert), ("gone", Operation::Delete)]).time("at");
    let all = read_all(&source.table("t"), None).unwrap();
    let [gone, new] = &all.changes[..] else { panic!("{all:?}") };
    assert_eq!((gone.id(), gone.key(), gone.table(), gone.time_ms()), ("10", "x\\y", "t", 1_700_000_000_000));
    assert_eq!((gone.operation(), gone.before().str("k").as_deref()), (Operation::Delete, Some("x\\y")));
    assert!(!gone.after().is_present());
    assert_eq!((new.key(), new.time_ms()), ("z", 5));
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let (_folder, source) = file(b"id,op\n\"a\nb\",insert\n1\n2,upsert\n,insert\n\xff,insert\n3,insert\n4,\"open\n5,insert\n");
    let all = read_all(&source.id("id").op("op", []), None).unwrap();
    let ids: Vec<_> = all.changes.iter().map(Change::id).collect();
    assert_eq!(ids, ["a\nb", "3", "5"]);
    let expected = [
        "orders.csv, line 4 (byte 19): 1 fields, but the header has 2",
        "line 5 (byte 21): the column \"op\" is \"upsert\"; it must be insert, update",
        "line 6 (byte 30): the column \"id\" is empty",
        "line 7 (byte 38): the column \"id\" is not UTF-8",
        "line 9 (byte 56): a quote that opens in this row is not closed",
    ];
    assert_eq!(all.rejected.len(), expected.len(), "{:?}", all.rejected);
    for (why, expected) in all.rejected.iter().zip(expected) {
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_at_start() {
    let (_folder, source) = file(b"id,name\n1,a\n");
    let error = source.clone().key("nam").partitions().unwrap_err().to_string();
    assert!(error.contains("has no column \"nam\"; its columns are: id, name"), "{error}");
    let (_folder, twice) = file(b"id,id\n1,a\n");
    assert!(twice.partitions().unwrap_err().to_string().contains("two columns are named \"id\""));
    let (_folder, open) = file(b"id,\"na\n1,a\n");
    assert!(open.partitions().unwrap_err().to_string().contains("a quote in it is not closed"));
    let (_folder, empty) = file(b"id,name\n\n");
    assert!(empty.partitions().unwrap().is_empty());
}

#[test]
fn a_file_that_was_cut_or_changed_is_refused() {
    let (folder, source) = file(b"id\n1\n2\n3\n");
    let end = read_all(&source, None).unwrap().tokens.pop().unwrap();
    std::fs::write(folder.path().join("orders.csv"), "id\n1\n2\n").unwrap();
    assert!(read_all(&source, Some(&end)).unwrap_err().to_string().contains("was cut short"));
    std::fs::write(folder.path().join("orders.csv"), "id\n1\n4\n3\n5\n").unwrap();
    assert!(read_all(&source, Some(&end)).unwrap_err().to_string().contains("was changed before byte"));
}

#[test]
fn a_quote_that_is_never_closed_costs_one_line() {
    let mut text = b"id,name\n1,\"open\n".to_vec();
    let line = format!("2,{}\n", "x".repeat(1000));
    (0..17 * 1024 + 100).for_each(|_| text.extend_from_slice(line.as_bytes()));
    let (_folder, source) = file(&text);
    let all = read_all(&source, None).unwrap();
    assert_eq!((all.changes.len(), all.rejected.len()), (17 * 1024 + 100, 1));
    assert!(all.rejected[0].contains("line 2 (byte 8): the row is longer than 16 MiB"), "{:?}", all.rejected);
}

/// Goal: rows of any content come out as they went in, at places that stay the same, and every token continues. Method:
/// seeded rows, written by another program's rules, over several blocks.
#[test]
fn oracle_rows_come_out_as_they_went_in_and_every_token_continues() {
    const PIECES: [&str; 10] = ["a", "é", ",", "\"", "\n", "\r\n", "\\", "\t", "longer text", "{}"];
    for seed in 0..30 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let end = if dice.random() { "\n" } else { "\r\n" };
        let mut text = format!("k,\"we \"\"ird\",c{end}");
        let rows: Vec<[String; 3]> = (0..dice.random_range(1..6000))
            .map(|_| {
                std::array::from_fn(|_| {
                    (0..dice.random_range(0..9)).map(|_| PIECES[dice.random_range(0..PIECES.len())]).collect()
                })
            })
            .collect();
        for row in &rows {
            let quoted: Vec<String> = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            text.push_str(&quoted.join(","));
            text.push_str(end);
        }
        let (_folder, source) = file(text.as_bytes());
        let all = read_all(&source, None).unwrap();
        assert_eq!(all.rejected, Vec::<String>::new(), "seed {seed}");
        let read: Vec<[String; 3]> = all
            .changes
            .iter()
            .map(|change| change.row().pick(["k", "we \"ird", "c"]).map(|value| value.unwrap().text().unwrap().into_owned()))
            .collect();
        assert_eq!(read, rows, "seed {seed}");
        for token in &all.tokens {
            let rest = read_all(&source, Some(token)).unwrap().changes;
            assert_eq!(rest, all.changes[all.changes.len() - rest.len()..], "seed {seed}");
        }
    }
}
