use highwater_operators::ingest::Batch;
use redis::Value;

use super::*;
use crate::ahead::Form;
use crate::redis_stream::stream::{Item, Shape};

const ID: EntryId = EntryId { ms: 1_700_000_000_000, seq: 3 };

/// What becomes of an entry after another one.
fn read(entries: &Entries, fields: &[(&str, &[u8])]) -> Result<highwater_operators::Change, String> {
    let fields: Vec<Value> =
        fields.iter().flat_map(|(name, value)| [name.as_bytes(), value].map(|bytes| Value::BulkString(bytes.to_vec()))).collect();
    let mut block = b"what came before".to_vec();
    let before = block.len();
    let item = match entries.take("orders", ID, &Fields(&fields), &mut block) {
        Taken::Line(start, end) => Item::Line { start, end, id: ID },
        Taken::Change(written) => Item::Change(written),
        Taken::Rejected(why) => {
            assert_eq!(block.len(), before, "what was written is taken back");
            return Err(why);
        }
    };
    let envelope = match &entries.kind {
        Kind::Envelope(envelope) => Some(envelope.clone()),
        _ => None,
    };
    let (shape, mut batch) = (Shape { stream: "orders".to_owned(), envelope }, Batch::default());
    shape.take(vec![item], &block.into(), 7, &mut batch).unwrap();
    batch.changes.pop().ok_or_else(|| batch.rejected.remove(0).why)
}

#[test]
fn one_field_holds_the_change() {
    let line: &[u8] = br#"{"id":"c-1","table":"orders","op":"update","key":"o-1","after":{"status":"paid"}}"#;
    for fields in [&[("change", line), ("trace", b"x")][..], &[("anything", line)]] {
        let change = read(&Entries::default(), fields).unwrap();
        assert_eq!((change.id(), change.key(), change.operation()), ("c-1", "o-1", Operation::Update));
        let position = change.position();
        assert_eq!((position.partition, position.at, position.within), (7, ID.ms, ID.seq));
    }
    let named = Entries::default().field("body");
    assert_eq!(read(&named, &[("x", b"1"), ("body", line)]).unwrap().id(), "c-1");
    let wrong = |entries: &Entries, fields: &[(&str, &[u8])]| read(entries, fields).unwrap_err();
    assert!(wrong(&named, &[("change", line)]).contains("there is no field \"body\""));
    assert!(wrong(&Entries::default(), &[("a", line), ("b", line)]).contains("no field \"change\", and 2 fields"));
    assert!(wrong(&Entries::default(), &[("change", line), ("change", line)]).contains("stands twice"));
    assert!(wrong(&Entries::default(), &[("change", b"\xff")]).contains("entry 1700000000000-3 of the stream orders: not UTF-8"));
    assert!(wrong(&Entries::default(), &[("change", b"{\"id\":1}")]).contains("\"op\""));
    assert!(wrong(&Entries::default(), &[]).contains("and 0 fields"));
}

#[test]
fn fields_are_a_row() {
    let rows = Entries::rows().table("sales").key("order");
    let change = read(&rows, &[("order", b"7"), ("note", "\"quoted\" \u{1F600}\n".as_bytes())]).unwrap();
    assert_eq!((change.id(), change.table(), change.key()), ("1700000000000-3", "sales", "7"));
    assert_eq!((change.operation(), change.time_ms()), (Operation::Insert, 1_700_000_000_000));
    assert_eq!(change.after().str("note").as_deref(), Some("\"quoted\" \u{1F600}\n"));
    assert_eq!(change.after().parse("order"), Some(7));
    let plain = read(&Entries::rows().id("event"), &[("event", b"e-9")]).unwrap();
    assert_eq!((plain.id(), plain.table(), plain.key()), ("e-9", "orders", "e-9"));
    assert!(read(&rows, &[("note", b"x")]).unwrap_err().contains("\"order\", which is the key, is missing"));
    assert!(read(&rows, &[("order", b"7"), ("a", b"1"), ("a", b"2")]).unwrap_err().contains("\"a\": it stands twice"));
    assert!(read(&rows, &[("order", b"7"), ("a", b"\xff")]).unwrap_err().contains("\"a\": it is not UTF-8"));
    let many: Vec<String> = (0..40).map(|n| format!("f{}", n % 39)).collect();
    let mut fields: Vec<(&str, &[u8])> = vec![("order", b"7")];
    fields.extend(many.iter().map(|name| (name.as_str(), &b"1"[..])));
    assert!(read(&rows, &fields).unwrap_err().contains("\"f0\": it stands twice"));
    fields.pop();
    assert_eq!(read(&rows, &fields).unwrap().after().str("f38").as_deref(), Some("1"));
}

#[test]
fn a_document_is_a_row() {
    let documents = Entries::documents().field("event").key("order");
    let change = read(&documents, &[("event", b" {\"order\": 7, \"status\": \"paid\"} "), ("x", b"1")]).unwrap();
    assert_eq!((change.id(), change.table(), change.key()), ("1700000000000-3", "orders", "7"));
    assert_eq!(change.after().str("status").as_deref(), Some("paid"));
    assert!(read(&documents, &[("event", b"[1]")]).unwrap_err().contains("no object of JSON"));
    assert!(read(&documents, &[("event", b"{")]).unwrap_err().contains("it is no JSON"));
}

#[test]
fn what_does_not_go_together_is_refused() {
    assert!(Entries::rows().field("a").check().unwrap_err().contains("leave out .field(..)"));
    assert!(Entries::default().key("a").check().unwrap_err().contains("an envelope says itself"));
    assert!(Entries::envelope(Envelope::mapping()).check().unwrap_err().contains("names no id"));
    assert!(Entries::documents().field("a").key("b").id("c").table("d").check().is_ok());
}
