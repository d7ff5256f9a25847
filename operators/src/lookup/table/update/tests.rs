use super::*;

fn stage() -> Arc<str> {
    "customer".into()
}

fn put(order: u64, row: &str, apart: Option<&str>) -> Update {
    let found = Found::json(stage(), Bytes::copy_from_slice(row.as_bytes()), apart.map(Into::into));
    Update { partition: 0, order: Order(order, 0, 0), what: What::Put("k".into(), Arc::new(found)) }
}

fn update(order: u64, what: What) -> Update {
    Update { partition: 0, order: Order(order, 0, 0), what }
}

fn text(found: Option<Arc<Found>>) -> Option<String> {
    found.map(|found| found.row().raw_json().unwrap().to_owned())
}

#[test]
fn a_version_counts_from_its_place_on() {
    let mut rows = Rows::new(0, 1);
    let updates =
        vec![put(9, r#"{"v":9}"#, None), put(3, r#"{"v":3}"#, None), update(5, What::Gone("k".into())), update(7, What::Clear)];
    let versions = Versions::of(updates, &rows, &stage());
    let at = |order| text(versions.at("k", Order(order, 0, 0), &rows));
    assert_eq!(
        [2, 3, 4, 5, 6, 7, 8].map(at),
        [None, Some(r#"{"v":3}"#), Some(r#"{"v":3}"#), None, None, None, None].map(|v| v.map(str::to_owned))
    );
    assert_eq!(at(9).as_deref(), Some(r#"{"v":9}"#));
    assert_eq!(versions.apply(&mut rows, 1, &mut Vec::new()), 1);
    assert_eq!(text(rows.get("k").cloned()).as_deref(), Some(r#"{"v":9}"#));
}

#[test]
fn what_stood_before_a_truncation_is_gone_at_the_end() {
    let mut rows = Rows::new(0, 1);
    rows.put(&"old".into(), Some(Arc::new(Found::json(stage(), Bytes::from_static(b"{}"), None))), 1, &mut Vec::new());
    let versions = Versions::of(vec![put(3, "{}", None), update(7, What::Clear)], &rows, &stage());
    assert!(versions.at("old", Order(6, 0, 0), &rows).is_some() && versions.at("old", Order(8, 0, 0), &rows).is_none());
    versions.apply(&mut rows, 2, &mut Vec::new());
    assert_eq!(rows.len(), 0);
}

/// Goal: what was not sent comes from the version before, also in the same epoch, and a document `null` stays one.
#[test]
fn what_was_not_sent_is_filled_in() {
    let mut rows = Rows::new(0, 1);
    let first = put(1, r#"{"id":1,"bio":"a \"long\" one","doc":null,"note":null}"#, Some(r#"["doc"]"#));
    let versions = Versions::of(vec![first], &rows, &stage());
    versions.apply(&mut rows, 1, &mut Vec::new());
    let later =
        vec![put(2, r#"{"id":2}"#, Some(r#"["bio","doc","note"]"#)), put(3, r#"{"id":3,"bio":"b"}"#, Some(r#"["doc","note"]"#))];
    let versions = Versions::of(later, &rows, &stage());
    for (order, id, bio) in [(2, "2", "a \"long\" one"), (3, "3", "b")] {
        let found = versions.at("k", Order(order, 0, 0), &rows).unwrap();
        let row = found.row();
        assert_eq!((row.str("id").as_deref(), row.str("bio").as_deref()), (Some(id), Some(bio)));
        assert_eq!(row.pick(["doc", "note"]), [Some(Value::Other("null")), Some(Value::Null)]);
        assert_eq!(row.unchanged().count(), 0);
    }
}
