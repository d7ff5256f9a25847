use bytes::Bytes;
use highwater_operators::{Change, Position};

use super::*;

fn shape() -> Shape {
    let names = Names {
        id: "id".into(),
        object_type: "object_type".into(),
        object_id: "object_id".into(),
        modification: "modification_type".into(),
        data: "object_data".into(),
        before: None,
        time: None,
        change_id: None,
    };
    Shape { words: Vec::new(), data: Json::Text, before: None, time: None, change_id: false, names }
}

/// A message of a binary copy: what the server would send for a row.
fn message(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut message = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        message.extend_from_slice(&field.map_or(-1, |field| field.len() as i32).to_be_bytes());
        message.extend_from_slice(field.unwrap_or_default());
    }
    message
}

fn take(shape: &Shape, row: i64, fields: &[Option<&[u8]>]) -> Result<Change, (String, String)> {
    let all: Vec<Option<&[u8]>> = fields.to_vec();
    let bytes = row.to_be_bytes();
    let message = message(&[&[Some(&bytes[..])], &all[..]].concat());
    let mut tuple = Tuple::of(&message, false).unwrap().unwrap();
    assert_eq!(id(&mut tuple), Ok(row));
    let mut out = b"something before".to_vec();
    match shape.write(row, tuple, &mut out).unwrap() {
        Taken::Change(written) => {
            let block = Bytes::from(out);
            let text = std::str::from_utf8(&block).unwrap();
            written.into_change(&block, text, 4).map_err(|rejected| (rejected.why, rejected.text))
        }
        Taken::Rejected { why, text } => {
            assert_eq!(out, b"something before");
            Err((why, text))
        }
    }
}

const ORDER: Option<&[u8]> = Some(b"Order");
const KEY: Option<&[u8]> = Some(b"o-1");
const ROW: Option<&[u8]> = Some(b"{\"a\": 1}");

#[test]
fn a_row_is_a_change() {
    let change = take(&shape(), 17, &[ORDER, KEY, Some(b"UPDATE"), ROW]).unwrap();
    assert_eq!((change.id(), change.table(), change.key(), change.operation()), ("17", "Order", "o-1", Operation::Update));
    assert_eq!((change.after().parse("a"), change.before().is_present()), (Some(1), false));
    assert_eq!(change.position(), Position { partition: 4, at: 17, within: 0 });
    assert_eq!(take(&shape(), i64::MIN, &[ORDER, KEY, Some(b"u"), ROW]).unwrap().id(), i64::MIN.to_string());
}

#[test]
fn the_row_of_a_delete_was_there_before() {
    let change = take(&shape(), 1, &[ORDER, KEY, Some(b"Deleted"), ROW]).unwrap();
    assert_eq!((change.before().parse("a"), change.after().is_present()), (Some(1), false));
    let names = Names { before: Some("was".into()), ..shape().names };
    let with_before = Shape { before: Some(Json::Binary), names, ..shape() };
    let change = take(&with_before, 1, &[ORDER, KEY, Some(b"delete"), None, Some(b"\x01{\"a\": 2}")]).unwrap();
    assert_eq!((change.before().parse("a"), change.after().is_present()), (Some(2), false));
    let change = take(&with_before, 1, &[ORDER, KEY, Some(b"update"), ROW, Some(b"\x01{\"a\": 2}")]).unwrap();
    assert_eq!((change.before().parse("a"), change.after().parse("a")), (Some(2), Some(1)));
}

#[test]
fn nulls_are_what_they_mean() {
    let change = take(&shape(), 5, &[None, None, Some(b"create"), None]).unwrap();
    assert_eq!((change.table(), change.key(), change.after().is_present()), ("", "5", false));
    assert!(!take(&shape(), 5, &[ORDER, KEY, Some(b"I"), Some(b" null ")]).unwrap().after().is_present());
}

#[test]
fn what_is_no_change_is_told_and_shown_whole() {
    let why = |fields: &[Option<&[u8]>]| take(&shape(), 9, fields).unwrap_err();
    let (unknown, text) = why(&[ORDER, KEY, Some(b"UPSERT"), ROW]);
    assert!(
        unknown.starts_with("the column \"modification_type\" is \"UPSERT\"; it must be insert, update or delete"),
        "{unknown}"
    );
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["id"], &shown["object_data"]), (&Value::from(9), &Value::from("{\"a\": 1}")));
    for (fields, expected) in [
        (&[ORDER, KEY, None, ROW], "\"modification_type\" is NULL"),
        (&[ORDER, KEY, Some(b"u"), Some(b"{\"a\":")], "\"object_data\" is no JSON (EOF"),
        (&[ORDER, KEY, Some(b"u"), Some(b"[1]")], "\"object_data\" is [1]; it must be an object"),
        (&[ORDER, Some(b"\xff"), Some(b"u"), ROW], "\"object_id\" is not UTF-8 from byte 0 on"),
    ] {
        let (why, _) = why(fields);
        assert!(why.contains(expected), "{why}");
    }
    let long = "k".repeat(40_000);
    let (why, _) = why(&[ORDER, Some(long.as_bytes()), Some(b"u"), ROW]);
    assert!(why.contains("update 9: key is 40000 bytes long"), "{why}");
}

#[test]
fn words_times_and_ids_of_ones_own() {
    let own = Shape {
        words: vec![("NEU".into(), Operation::Insert)],
        data: Json::Binary,
        time: Some(Time::Timestamp),
        change_id: true,
        ..shape()
    };
    let time = 756_864_000_123_456_i64.to_be_bytes();
    let fields = |word: &'static [u8], id| [ORDER, KEY, Some(word), Some(&b"\x01{}"[..]), Some(&time[..]), id];
    let change = take(&own, 1, &fields(b"NEU", Some(b"e-1"))).unwrap();
    assert_eq!((change.id(), change.time_ms()), ("e-1", 1_703_548_800_123));
    assert!(take(&own, 1, &fields(b"INSERT", Some(b"e-1"))).unwrap_err().0.contains("it must be NEU"));
    assert!(take(&own, 1, &fields(b"NEU", None)).unwrap_err().0.contains("NULL; every change needs an id"));
    let milliseconds = Shape { time: Some(Time::UnixMs), change_id: false, data: Json::Text, ..shape() };
    let change = take(&milliseconds, 1, &[ORDER, KEY, Some(b"c"), ROW, Some(&5_i64.to_be_bytes())]).unwrap();
    assert_eq!(change.time_ms(), 5);
}
