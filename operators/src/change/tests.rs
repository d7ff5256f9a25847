use super::*;
use crate::row::Fields;

const AT: Position = Position { partition: 3, at: 40, within: 0 };

fn parts<'a>() -> Parts<'a> {
    Parts {
        id: "7",
        table: "orders",
        key: Some("k"),
        operation: Operation::Update,
        time_ms: 5,
        before: None,
        after: Some("{\"a\":1}"),
    }
}

#[test]
fn pieces_in_the_block_are_not_copied() {
    let block = Bytes::from_static(b"7 orders k {\"a\":1}");
    let text = std::str::from_utf8(&block).unwrap();
    let made = Parts { id: &text[0..1], table: &text[2..8], key: Some(&text[9..10]), after: Some(&text[11..]), ..parts() };
    let change = Change::new(block.clone(), AT, made).unwrap();
    assert_eq!(change.id().as_ptr(), block.as_ptr());
    assert_eq!((change.id(), change.table(), change.key(), change.after().parse("a")), ("7", "orders", "k", Some(1)));
    assert!(!change.before().is_present());
}

#[test]
fn pieces_beside_the_block_are_copied_and_say_the_same() {
    let change = Change::new(Bytes::from_static(b"something else"), AT, parts()).unwrap();
    assert_eq!((change.id(), change.table(), change.key(), change.position()), ("7", "orders", "k", AT));
    assert_eq!(change.detached(), change);
}

#[test]
fn without_a_key_the_id_is_the_key() {
    let change = Change::new(Bytes::new(), AT, Parts { key: None, ..parts() }).unwrap();
    assert_eq!(change.key(), "7");
    assert_eq!(change.key_hash(), Change::new(Bytes::new(), AT, Parts { key: Some("7"), ..parts() }).unwrap().key_hash());
}

#[test]
fn a_name_far_inside_a_large_block_is_still_found() {
    let text = format!("{}{}", "x".repeat(100_000), "the-id");
    let block = Bytes::from(text.clone());
    let held = std::str::from_utf8(&block).unwrap();
    let change = Change::new(block.clone(), AT, Parts { id: &held[100_000..], ..parts() }).unwrap();
    assert_eq!(change.id(), "the-id");
}

#[test]
fn names_that_are_too_long_are_refused_by_name() {
    let long = "x".repeat(NAME_MAX + 1);
    let error = Change::new(Bytes::new(), AT, Parts { id: &long, ..parts() }).unwrap_err();
    assert!(error.starts_with("id is 32769 bytes"), "{error}");
}

#[test]
fn became_needs_a_step() {
    let step = |before, after| Change::new(Bytes::new(), AT, Parts { before, after, ..parts() }).unwrap().became("s", "paid");
    assert!(step(None, Some("{\"s\":\"paid\"}")));
    assert!(step(Some("{\"s\":\"new\"}"), Some("{\"s\":\"paid\"}")));
    assert!(!step(Some("{\"s\":\"paid\"}"), Some("{\"s\":\"paid\"}")));
    assert!(!step(Some("{\"s\":\"paid\"}"), None));
}

#[test]
fn a_failure_is_marked_until_it_is_healed() {
    for operation in ALL {
        let mut change = Change::new(Bytes::new(), AT, Parts { operation, ..parts() }).unwrap();
        for stage in ["a", "b"] {
            assert!(!change.has_failed());
            change.attach(&Arc::new(Found::nothing("c".into())));
            change.attach(&Arc::new(Found::failed(stage.into(), "no answer".into())));
            let copy = change.detached();
            assert!(change.has_failed() && copy.has_failed());
            assert_eq!((copy.operation(), copy.failed_stage().as_deref()), (operation, Some(stage)));
            change.heal(stage);
        }
        assert!(!change.has_failed() && change.failed_stage().is_none());
    }
}

const ALL: [Operation; 6] =
    [Operation::Insert, Operation::Update, Operation::Delete, Operation::Read, Operation::Truncate, Operation::Message];

#[test]
fn what_is_unchanged_is_neither_null_nor_absent_and_stays_with_the_change() {
    let block = Bytes::from_static(b"{\"a\":1}[\"body\",\"q\\\"\"]rest");
    let text = std::str::from_utf8(&block).unwrap();
    let (row, names) = (&text[..7], &text[7..21]);
    let in_place = Change::with_names_apart(
        block.clone(),
        AT,
        Parts { id: &text[21..], table: "", key: None, after: Some(row), ..parts() },
        names,
    );
    assert_eq!(in_place.as_ref().unwrap().id().as_ptr(), block[21..].as_ptr());
    let beside = Change::with_names_apart(
        Bytes::new(),
        AT,
        Parts { after: Some(row), before: Some("{\"body\":\"x\"}"), ..parts() },
        names,
    );
    for mut change in [in_place.unwrap(), beside.unwrap()] {
        let sent: Change = postcard::from_bytes(&postcard::to_allocvec(&change).unwrap()).unwrap();
        assert!(change.is_sound());
        for change in [change.detached(), sent, change] {
            let after = change.after();
            assert_eq!(after.pick(["body", "a"]), [Some(Value::Unchanged), Some(Value::Other("1"))]);
            assert_eq!((after.get("q\""), after.get("none"), after.str("body")), (Some(Value::Unchanged), None, None));
            assert_eq!(after.to_vec().len(), 3);
            assert!(!after.has("body", "x") && !change.changed("body") && change.changed("a"));
        }
    }
    let none = Change::with_names_apart(Bytes::new(), AT, Parts { after: None, ..parts() }, names);
    assert!(none.is_err() && Change::with_names_apart(Bytes::new(), AT, parts(), "[1]").is_err());
}

#[test]
fn a_document_null_is_not_null_before_as_after() {
    let row = Some(r#"{"doc":null,"other":null}"#);
    let updated = Parts { before: row, after: row, ..parts() };
    let deleted = Parts { before: row, after: None, operation: Operation::Delete, ..parts() };
    let (document, null) = (Some(Value::Other("null")), Some(Value::Null));
    for (parts, apart, before, after) in [
        (updated, r#"["doc","body"]"#, &null, &document),
        (updated, r#"["doc",["doc"]]"#, &document, &document),
        (updated, r#"[["doc"]]"#, &document, &null),
        (deleted, r#"[["doc"]]"#, &document, &None),
    ] {
        let mut change = Change::with_names_apart(Bytes::new(), AT, parts, apart).unwrap();
        let sent: Change = postcard::from_bytes(&postcard::to_allocvec(&change).unwrap()).unwrap();
        assert!(change.is_sound());
        for change in [change.detached(), sent, change] {
            assert_eq!((&change.before().get("doc"), &change.after().get("doc")), (before, after), "{apart}");
            assert_eq!(change.row().get("other"), null);
            assert_eq!((change.before().has("doc", "null"), change.before().has("other", "null")), (before == &document, false));
            assert_eq!(change.changed("doc"), before != after && after.is_some(), "{apart}");
            let all = change.before().to_vec();
            assert_eq!((all[0].1.clone(), all[1].1.clone()), (before.clone().unwrap(), Value::Null));
        }
    }
}

#[test]
fn several_lookups_are_all_kept() {
    let mut change = Change::new(Bytes::new(), AT, parts()).unwrap();
    change.attach(&Arc::new(Found::row_of("a".into(), Fields::new([("x", Some("1"))]))));
    change.attach(&Arc::new(Found::nothing("b".into())));
    assert_eq!(change.found("a").str("x").as_deref(), Some("1"));
    assert!(!change.found("b").is_present() && !change.found("c").is_present());
}
