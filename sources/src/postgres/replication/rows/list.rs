//! Lists of Postgres, `{1,2,NULL}`, as lists of JSON.

use super::{Form, quote, value};

/// Postgres has no lists of more dimensions.
const DIMENSIONS_MAX: usize = 6;

/// Writes a list. One with bounds of its own (`[0:1]={1,2}`), which JSON does not have, is a string, so that nothing of it is lost; so is one of documents
/// that has further dimensions, or the document `null`.
pub(super) fn write(element: &Form, text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    if text.first() != Some(&b'{') || items(element, text, out).is_none() {
        out.truncate(start);
        quote(text, out);
    }
}

/// `None`: it is no list.
fn items(element: &Form, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut at, mut depth) = (0, 0);
    let mut unescaped = Vec::new();
    loop {
        match text.get(at)? {
            b'{' => {
                depth += 1;
                // A list of documents could not be told from a document that is a list.
                if depth > DIMENSIONS_MAX || (depth > 1 && *element == Form::Json) {
                    return None;
                }
                out.push(b'[');
                at += 1;
                if text.get(at) != Some(&b'}') {
                    continue;
                }
            }
            b'"' => {
                let length = quoted(&text[at..], &mut unescaped)?;
                if *element == Form::Json && unescaped.trim_ascii() == b"null" {
                    // It could not be told from no document.
                    return None;
                }
                value(element, &unescaped, out);
                at += length;
            }
            b',' | b'}' => return None,
            _ => {
                let length = text[at..].iter().position(|byte| matches!(byte, b',' | b'{' | b'}' | b'"' | b'\\'))?;
                let bare = &text[at..at + length];
                if bare.eq_ignore_ascii_case(b"null") {
                    out.extend_from_slice(b"null")
                } else {
                    value(element, bare, out)
                }
                at += length;
            }
        }
        // Behind an item.
        while text.get(at) == Some(&b'}') {
            out.push(b']');
            depth -= 1;
            at += 1;
            if depth == 0 {
                return (at == text.len()).then_some(());
            }
        }
        if text.get(at)? != &b',' {
            return None;
        }
        out.push(b',');
        at += 1;
    }
}

/// Takes off quotes and backslashes. How long it was.
fn quoted(text: &[u8], to: &mut Vec<u8>) -> Option<usize> {
    to.clear();
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {
                to.push(*text.get(at + 1)?);
                at += 2;
            }
            byte => {
                to.push(*byte);
                at += 1;
            }
        }
    }
}
