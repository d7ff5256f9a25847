//! The default envelope: one JSON object per change.
//!
//! ```json
//! {"id":"c-1","table":"orders","op":"update","key":"o-1","ts":1700000000000,"before":{"status":"new"},"after":{"status":"paid"}}
//! ```
//!
//! | field | what it is | may be missing |
//! | --- | --- | --- |
//! | `id` | unique in its source; a string or a number | no |
//! | `table` | where the row lives | yes: empty |
//! | `op` | `insert`, `update`, `delete` or `read`; also `c`, `u`, `d`, `r` | no |
//! | `key` | the row's key; a string or a number | yes: the id is the key |
//! | `ts` | commit time: Unix milliseconds, or RFC 3339 text | yes: 0 |
//! | `before`, `after` | rows, as objects; `null` is no row | yes: no row |
//!
//! Further fields are passed over.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::position::Position;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow, default)]
    table: Cow<'a, str>,
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    ts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    before: Option<&'a RawValue>,
    #[serde(borrow, default)]
    after: Option<&'a RawValue>,
}

/// Makes a change of one line. `block` is the slice that holds the line and nothing else.
///
/// # Errors
/// A sentence that says what is wrong with the line, with the column where that is known.
pub fn parse(block: Bytes, position: Position) -> Result<Change, String> {
    let line = std::str::from_utf8(&block).map_err(|utf8| format!("not UTF-8 from byte {} on", utf8.valid_up_to()))?;
    let envelope: Envelope<'_> = serde_json::from_str(line).map_err(|error| explain(&error))?;
    let id = name("id", envelope.id)?.ok_or("\"id\" is null; every change needs an id")?;
    let key = envelope.key.map(|key| name("key", key)).transpose()?.flatten();
    let operation = Operation::parse(&envelope.op)
        .ok_or_else(|| format!("\"op\" is \"{}\"; it must be \"insert\", \"update\", \"delete\" or \"read\"", envelope.op))?;
    let parts = Parts {
        id: &id,
        table: &envelope.table,
        key: key.as_deref(),
        operation,
        time_ms: envelope.ts.map_or(Ok(0), time)?,
        before: row("before", envelope.before)?,
        after: row("after", envelope.after)?,
    };
    Change::new(block.clone(), position, parts)
}

/// An id or a key: a string, unescaped if need be, or a number as it is written.
fn name<'a>(field: &str, raw: &'a RawValue) -> Result<Option<Cow<'a, str>>, String> {
    let text = raw.get();
    match text.as_bytes()[0] {
        b'"' if !text.contains('\\') => Ok(Some(Cow::Borrowed(&text[1..text.len() - 1]))),
        b'"' => serde_json::from_str(text).map(|text| Some(Cow::Owned(text))).map_err(|error| error.to_string()),
        b'n' => Ok(None),
        b'-' | b'0'..=b'9' => Ok(Some(Cow::Borrowed(text))),
        _ => Err(format!("\"{field}\" is {}; it must be a string or a number", shorten(text))),
    }
}

fn row<'a>(field: &str, raw: Option<&'a RawValue>) -> Result<Option<&'a str>, String> {
    match raw.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(text) if text.starts_with('{') => Ok(Some(text)),
        Some(text) => Err(format!("\"{field}\" is {}; it must be an object or null", shorten(text))),
    }
}

fn time(raw: &RawValue) -> Result<i64, String> {
    let text = raw.get();
    if text == "null" {
        return Ok(0);
    }
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let time = humantime::parse_rfc3339_weak(text.trim_matches('"')).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map(|since| since.as_millis() as i64)
        .ok_or_else(|| format!("\"ts\" is {}; it must be Unix milliseconds or RFC 3339 text", shorten(text)))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // serde_json counts lines within its input, which is one line: only the column says something.
    match text.split_once(" at line ") {
        Some((what, _)) => format!("{what} (column {})", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { partition: 0, at: 0, within: 0 };

    fn parse_text(line: &str) -> Result<Change, String> {
        parse(Bytes::copy_from_slice(line.as_bytes()), AT)
    }

    #[track_caller]
    fn check_refused(line: &str, why: &str) {
        let error = parse_text(line).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_whole_envelope() {
        let change = parse_text(
            r#"{"id":"c\"1","table":"orders","op":"u","key":17,"ts":1700000000001,"before":null,"after":{"a":"\u00e9"},"more":[1]}"#,
        )
        .unwrap();
        assert_eq!((change.id(), change.key(), change.table(), change.time_ms()), ("c\"1", "17", "orders", 1_700_000_000_001));
        assert_eq!(change.operation(), Operation::Update);
        assert_eq!(change.after().str("a").as_deref(), Some("é"));
        assert!(!change.before().is_present());
    }

    #[test]
    fn what_may_be_missing_may_be_missing() {
        let change = parse_text(r#"{"id":5,"op":"insert"}"#).unwrap();
        assert_eq!((change.id(), change.key(), change.table(), change.time_ms()), ("5", "5", "", 0));
    }

    #[test]
    fn time_as_text() {
        let change = parse_text(r#"{"id":5,"op":"insert","ts":"2023-11-14T22:13:20Z"}"#).unwrap();
        assert_eq!(change.time_ms(), 1_700_000_000_000);
    }

    #[test]
    fn mistakes_are_named() {
        check_refused(r#"{"op":"insert"}"#, "missing field `id`");
        check_refused(r#"{"id":null,"op":"insert"}"#, "\"id\" is null");
        check_refused(r#"{"id":{},"op":"insert"}"#, "\"id\" is {}; it must be a string or a number");
        check_refused(r#"{"id":1,"op":"upsert"}"#, "\"op\" is \"upsert\"");
        check_refused(r#"{"id":1,"op":"insert","after":[1]}"#, "\"after\" is [1]; it must be an object or null");
        check_refused(r#"{"id":1,"op":"insert","ts":"noon"}"#, "\"ts\" is \"noon\"");
        check_refused(r#"{"id":1,"op":"ins"#, "EOF while parsing a string (column 17)");
        assert!(parse(Bytes::from_static(b"{\"id\":\"\xff\"}"), AT).unwrap_err().contains("not UTF-8 from byte 7 on"));
    }
}
