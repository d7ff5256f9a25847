use serde_json::Value as Json;

use super::*;
use crate::postgres::replication::relation::{ReplicaIdentity, Types};

fn written(type_oid: u32, text: &str) -> String {
    let column = Column::new("c".to_owned(), type_oid, -1, false, &Types::default());
    let mut out = Vec::new();
    value(&column.form, text.as_bytes(), &mut out);
    let out = String::from_utf8(out).unwrap();
    serde_json::from_str::<Json>(&out).unwrap_or_else(|error| panic!("{out}: {error}"));
    out
}

#[test]
fn values_are_json_of_their_type() {
    const CASES: [(u32, &str, &str); 24] = [
        (16, "t", "true"),
        (16, "f", "false"),
        (23, "-5", "-5"),
        (1700, "0.1000000000000000000000001", "0.1000000000000000000000001"),
        (1700, "NaN", "\"NaN\""),
        (701, "-Infinity", "\"-Infinity\""),
        (701, "1e+20", "1e+20"),
        (701, "-1.5e-07", "-1.5e-07"),
        (23, "007", "\"007\""),
        (700, "1.", "\"1.\""),
        (3802, "{\"a\": 1}", "{\"a\": 1}"),
        (17, "\\x00ff", "\"\\\\x00ff\""),
        (25, "a\"\\\n\t\r\u{1}é", "\"a\\\"\\\\\\n\\t\\r\\u0001é\""),
        (1007, "{1,NULL,-3}", "[1,null,-3]"),
        (1007, "{}", "[]"),
        (1007, "[0:1]={1,2}", "\"[0:1]={1,2}\""),
        (1231, "{{1.10,NaN},{2,3}}", "[[1.10,\"NaN\"],[2,3]]"),
        (1009, "{\"a,b\",\"q\\\"\\\\\",\"NULL\",null,x}", "[\"a,b\",\"q\\\"\\\\\",\"NULL\",null,\"x\"]"),
        (3807, "{\"{\\\"a\\\": [1, 2]}\",NULL}", "[{\"a\": [1, 2]},null]"),
        (199, r#"{"[1,2]","\"a\"",7,true}"#, r#"[[1,2],"a",7,true]"#),
        (199, r#"{NULL,"null"}"#, r#""{NULL,\"null\"}""#),
        (199, "{{1},{2}}", "\"{{1},{2}}\""),
        (1000, "{t,f}", "[true,false]"),
        (1020, "{(1,1),(0,0)}", "\"{(1,1),(0,0)}\""),
    ];
    for (oid, text, expected) in CASES {
        assert_eq!(written(oid, text), expected, "{oid} {text}");
    }
}

#[test]
fn what_is_no_list_is_a_string() {
    for text in [
        "",
        "{",
        "}",
        "{1",
        "{1,",
        "{1,}",
        "{,1}",
        "{1}x",
        "{1}}",
        "{{1}",
        "{\"a",
        "{\"a\\",
        "{1 {2}}",
        "{{{{{{{1}}}}}}}",
        "{\"a\"b}",
    ] {
        assert!(written(1007, text).starts_with('"'), "{text}");
    }
}

fn relation(identity: ReplicaIdentity) -> Relation {
    let column = |name: &str, oid, is_key| Column::new(name.to_owned(), oid, -1, is_key, &Types::default());
    let columns = vec![column("a", 23, true), column("b", 25, true), column("body", 25, false)];
    Relation::new(1, "public".into(), "t".into(), identity, columns)
}

#[test]
fn rows_are_objects_and_keys_are_texts() {
    let relation = relation(ReplicaIdentity::Default);
    let row = Values { text: b"7x\"long", cells: &[Cell::Text(0, 1), Cell::Text(1, 3), Cell::Unchanged] };
    let before = Values { text: b"7x\"long", cells: &[Cell::Text(0, 1), Cell::Text(1, 3), Cell::Text(3, 7)] };
    let shown = |write: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    let mut unchanged = Vec::new();
    let partial = shown(&mut |out| object(&relation, row, None, out, |column| unchanged.push(column.name.clone())));
    assert_eq!((partial.as_str(), unchanged.join(",")), (r#"{"a":7,"b":"x\""}"#, "body".to_owned()));
    let whole = shown(&mut |out| object(&relation, row, Some(before), out, |_| panic!("it is known")));
    assert_eq!(whole, r#"{"a":7,"b":"x\"","body":"long"}"#);
    assert_eq!(shown(&mut |out| key_object(&relation, before, out)), r#"{"a":7,"b":"x\""}"#);
    assert_eq!(shown(&mut |out| assert!(key(&relation, row, out))), r#"["7","x\""]"#);
    let mut single = relation.clone();
    single.key = vec![1];
    assert_eq!(shown(&mut |out| assert!(key(&single, row, out))), "x\"");
    let null = Values { text: b"", cells: &[Cell::Text(0, 0), Cell::Null, Cell::Text(5, 9)] };
    assert_eq!(shown(&mut |out| assert!(!key(&relation, null, out))), "");
    assert_eq!(null.get(2), None, "a place beyond the text is nowhere");
}
