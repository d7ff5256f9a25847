//! What the pieces of a line may be: names, rows, times. Each mistake is told with its field and its column.

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

/// An id or a key: a string, unescaped if need be, or a number as it is written. `None` for null.
pub(crate) fn name<'a>(line: &str, field: &str, written: &'a str) -> Result<Option<Cow<'a, str>>, String> {
    match written.as_bytes().first() {
        Some(b'"') if written.len() >= 2 && !written.contains('\\') => Ok(Some(Cow::Borrowed(&written[1..written.len() - 1]))),
        Some(b'"') => match serde_json::from_str(written) {
            Ok(text) => Ok(Some(Cow::Owned(text))),
            Err(error) => Err(format!("\"{field}\" cannot be unescaped: {error}{}", column(line, written))),
        },
        Some(b'n') => Ok(None),
        Some(b'-' | b'0'..=b'9') => Ok(Some(Cow::Borrowed(written))),
        _ => Err(wrong(line, field, written, "a string or a number")),
    }
}

/// A name that must be there.
pub(crate) fn needed<'a>(line: &str, field: &str, what: &str, written: Option<&'a str>) -> Result<Cow<'a, str>, String> {
    let written = written.ok_or_else(|| format!("\"{field}\" is missing; every change needs {what}"))?;
    name(line, field, written)?.ok_or_else(|| format!("\"{field}\" is null; every change needs {what}{}", column(line, written)))
}

/// Several names that must be there: one as it is, more as a list of JSON.
pub(crate) fn joined<'a>(
    line: &str,
    what: &str,
    pieces: impl ExactSizeIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Cow<'a, str>, String> {
    let several = pieces.len() > 1;
    let mut list = String::new();
    for (field, written) in pieces {
        let piece = needed(line, field, what, written)?;
        if !several {
            return Ok(piece);
        }
        list.push(if list.is_empty() { '[' } else { ',' });
        list.push_str(written.unwrap_or_default());
    }
    list.push(']');
    Ok(Cow::Owned(list))
}

/// A row: an object, or null for none.
pub(crate) fn row<'a>(line: &str, field: &str, written: Option<&'a str>) -> Result<Option<&'a str>, String> {
    match written {
        None | Some("null") => Ok(None),
        Some(text) if text.starts_with('{') => Ok(Some(text)),
        Some(text) => Err(wrong(line, field, text, "an object or null")),
    }
}

/// A time in Unix milliseconds; null is 0.
pub(crate) fn time(line: &str, field: &str, written: &str) -> Result<i64, String> {
    if written == "null" {
        return Ok(0);
    }
    if let Ok(milliseconds) = written.parse() {
        return Ok(milliseconds);
    }
    let time =
        humantime::parse_rfc3339_weak(written.trim_matches('"')).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map(|since| since.as_millis() as i64).ok_or_else(|| wrong(line, field, written, "Unix milliseconds or RFC 3339 text"))
}

/// A sentence on a value that is not what it must be.
pub(crate) fn wrong(line: &str, field: &str, written: &str, must: &str) -> String {
    format!("\"{field}\" is {}; it must be {must}{}", shorten(written), column(line, written))
}

/// Where a piece stands in its line, to be added to a sentence; nothing for a piece that was made beside it.
pub(crate) fn column(line: &str, piece: &str) -> String {
    let start = (piece.as_ptr() as usize).checked_sub(line.as_ptr() as usize);
    match start.filter(|start| start + piece.len() <= line.len()) {
        Some(start) => format!(" (column {})", start + 1),
        None => String::new(),
    }
}

/// The beginning of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
