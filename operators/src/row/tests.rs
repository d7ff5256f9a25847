use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value as Json};

use super::*;

fn random_json(dice: &mut SmallRng, depth: u32) -> Json {
    match dice.random_range(0..if depth == 0 { 5 } else { 7 }) {
        0 => Json::Null,
        1 => Json::Bool(dice.random()),
        2 => Json::from(dice.random_range(-1000..1000)),
        3 => Json::from(f64::from(dice.random_range(-400..400)) / 8.0),
        4 => Json::from(random_text(dice)),
        5 => (0..dice.random_range(0..4)).map(|_| random_json(dice, depth - 1)).collect(),
        _ => Json::Object(random_object(dice, depth - 1)),
    }
}

fn random_object(dice: &mut SmallRng, depth: u32) -> Map<String, Json> {
    (0..dice.random_range(0..6)).map(|_| (random_text(dice), random_json(dice, depth))).collect()
}

fn random_text(dice: &mut SmallRng) -> String {
    const PIECES: [&str; 12] = ["a", "b", "status", "\"", "\\", "\n", "é", "🦀", "{", "}", ",", ":"];
    (0..dice.random_range(0..5)).map(|_| PIECES[dice.random_range(0..PIECES.len())]).collect()
}

/// Goal: the walk agrees with a full parser on any valid object. Method: seeded random objects, compact and pretty.
#[test]
fn oracle_rows_read_as_a_full_parser_reads_them() {
    for seed in 0..3_000 {
        let mut dice = SmallRng::seed_from_u64(seed);
        let object = random_object(&mut dice, 3);
        for text in [serde_json::to_string(&object).unwrap(), serde_json::to_string_pretty(&object).unwrap()] {
            let row = Row::json(text.as_bytes());
            let all: Vec<(String, Json)> = row.to_vec().into_iter().map(|(name, value)| (name.into(), json_of(value))).collect();
            let expected: Vec<(String, Json)> = object.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            let sorted = |mut all: Vec<(String, Json)>| {
                all.sort_by(|a, b| a.0.cmp(&b.0));
                all
            };
            assert_eq!(sorted(all), sorted(expected), "seed {seed}: {text}");
            for (name, value) in &object {
                let text = row.str(name);
                let expected = text.as_deref().unwrap_or("null").to_owned();
                assert_eq!(row.has(name, &expected), text.is_some(), "seed {seed}: {name:?}");
                assert!(!row.has(name, &format!("{expected}x")), "seed {seed}: {name:?}");
                assert_eq!(row.get(name).map(json_of).as_ref(), Some(value), "seed {seed}: {name:?}");
            }
        }
    }
}

fn json_of(value: Value<'_>) -> Json {
    match value {
        Value::Null | Value::Unchanged => Json::Null,
        Value::Text(text) => Json::from(text.into_owned()),
        Value::Other(raw) => serde_json::from_str(raw).unwrap(),
    }
}

/// Found by fuzzing: a name that, as it is written, is another name.
#[test]
fn an_escape_in_a_name_is_not_a_backslash() {
    let row = Row::json(br#"{"a\tb":1,"a\\tb":2}"#);
    assert_eq!(row.get("a\tb"), Some(Value::Other("1")));
    assert_eq!(row.get("a\\tb"), Some(Value::Other("2")));
}

#[test]
fn what_is_no_object_has_no_fields() {
    for text in ["", "null", "[1]", "\"a\"", "{", "{\"", "{\"a\"", "{\"a\":", "{\"a\":\""] {
        assert!(Row::json(text.as_bytes()).get("b").is_none(), "{text}");
    }
}

#[test]
fn separated_fields_tell_null_from_absent_and_empty() {
    let fields = Fields::new([("a", Some("1")), ("b", None), ("c", Some(""))]);
    let row = Row::fields(&fields);
    assert_eq!(
        row.pick(["c", "b", "a", "d"]),
        [Some(Value::Text("".into())), Some(Value::Null), Some(Value::Text("1".into())), None]
    );
    assert_eq!(row.to_vec().len(), 3);
}
