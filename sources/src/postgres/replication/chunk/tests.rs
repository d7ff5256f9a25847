use bytes::Bytes;
use highwater_operators::Change;

use super::*;
use crate::postgres::replication::relation::{Column, ReplicaIdentity, Types};
use crate::postgres::replication::rows::Cell;
use highwater_operators::Value;

fn relation() -> Relation {
    let column = |name: &str, oid, is_key| Column::new(name.to_owned(), oid, -1, is_key, &Types::default());
    let columns = vec![column("id", 20, true), column("body", 25, false)];
    Relation::new(16_400, "public".into(), "t".into(), ReplicaIdentity::Default, columns)
}

fn changes(chunk: Chunk) -> Vec<Change> {
    let block = Bytes::from(chunk.block);
    let text = std::str::from_utf8(&block).unwrap();
    chunk.written.into_iter().map(|written| written.into_change(&block, text, 3).unwrap()).collect()
}

const ROW: Values<'static> = Values { text: b"42hello", cells: &[Cell::Text(0, 2), Cell::Text(2, 7)] };
const AT: Place = Place::Log { commit: Lsn(0x1_0000_0100), row: Lsn(0x1_0000_0080), index: 4 };

fn event(relation: &Relation) -> Event<'_> {
    let (operation, before) = (Operation::Insert, Before::Nothing);
    Event { relation, operation, place: AT, time_ms: 9, key: Some(ROW), before, after: Some(ROW) }
}

#[test]
fn rows_become_changes_in_one_block() {
    let relation = relation();
    let mut chunk = Chunk::new(Vec::with_capacity(1024));
    let unchanged = Values { text: b"42", cells: &[Cell::Text(0, 2), Cell::Unchanged] };
    chunk.push(&event(&relation)).unwrap();
    let update = Event { operation: Operation::Update, after: Some(unchanged), ..event(&relation) };
    chunk.push(&Event { before: Before::Key(unchanged), ..update }).unwrap();
    chunk.push(&Event { before: Before::Whole(ROW), ..update }).unwrap();
    chunk.push(&Event { operation: Operation::Delete, before: Before::Key(ROW), after: None, ..update }).unwrap();
    chunk.push(&Event { operation: Operation::Truncate, key: None, after: None, ..event(&relation) }).unwrap();
    chunk.push_message(AT, 9, b"note", b"\xff\x01", true).unwrap();
    let changes = changes(chunk);
    let [insert, update, filled, delete, truncate, message] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((insert.id(), insert.table(), insert.key()), ("100000100/100000080/4", "public.t", "42"));
    assert_eq!((insert.position().at, insert.position().within), (0x1_0000_0100, 0x80 << 20 | 4));
    assert_eq!(insert.after().raw_json(), Some(r#"{"id":42,"body":"hello"}"#));
    assert_eq!((update.after().get("body"), update.before().raw_json()), (Some(Value::Unchanged), Some(r#"{"id":42}"#)));
    assert_eq!((filled.after().str("body").as_deref(), filled.after().unchanged().count()), (Some("hello"), 0));
    assert_eq!((delete.key(), delete.after().is_present(), delete.before().parse("id")), ("42", false, Some(42)));
    assert_eq!((truncate.key(), truncate.operation()), (truncate.id(), Operation::Truncate));
    assert_eq!(message.after().raw_json(), Some(r#"{"prefix":"note","content":"\\xff01","transactional":true}"#));
}

#[test]
fn a_row_of_a_snapshot_is_itself_and_of_another_one_another() {
    let relation = relation();
    let read = |point, row: Values<'_>| {
        let mut chunk = Chunk::new(Vec::new());
        let (operation, place) = (Operation::Read, Place::Snapshot(Lsn(point)));
        chunk.push(&Event { operation, place, key: Some(row), after: Some(row), ..event(&relation) }).unwrap();
        changes(chunk).remove(0)
    };
    let first = read(1, ROW);
    assert_eq!((first.id(), first.key(), first.table()), ("read/1/public.t/42", "42", "public.t"));
    assert!(first.position().at >> 63 == 1);
    let later = Values { text: b"42other", ..ROW };
    assert_eq!(first.position(), read(1, later).position());
    assert_ne!(first.position(), read(2, ROW).position());
}

#[test]
fn what_has_no_position_stops_and_what_is_no_text_is_set_aside() {
    let relation = relation();
    let mut chunk = Chunk::new(Vec::new());
    let at = |commit, row, index| Event { place: Place::Log { commit: Lsn(commit), row: Lsn(row), index }, ..event(&relation) };
    for bad in [at(5, 6, 0), at(1 << 44, 0, 0), at(6, 5, 1 << 20)] {
        assert!(chunk.push(&bad).unwrap_err().contains("cannot be given a position"));
    }
    let mut chunk = Chunk::new(Vec::new());
    let broken = Values { text: b"42\xff", cells: &[Cell::Text(0, 2), Cell::Text(2, 3)] };
    chunk.push(&Event { after: Some(broken), ..event(&relation) }).unwrap();
    chunk.refuse(&event(&relation), "so it is").unwrap();
    assert!(chunk.written.is_empty() && chunk.block.is_empty());
    assert!(chunk.rejected[0].why.contains("public.t, insert 100000100/100000080/4: it is not UTF-8"), "{:?}", chunk.rejected);
    assert!(chunk.rejected[1].why.ends_with("so it is") && chunk.rejected[1].text.contains("hello"));
}

#[test]
fn numbers_are_written_as_the_library_writes_them() {
    for number in [0, 1, 0xf, 0x10, 0xabc_def0, u64::MAX] {
        let mut out = Vec::new();
        hexadecimal(number, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{number:X}"));
    }
}
