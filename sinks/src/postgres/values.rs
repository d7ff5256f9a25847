//! Values as the text that the server's types read.

use highwater_operators::row::Value;
use serde_json::value::RawValue;

/// How a column takes its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As JSON text.
    Json,
    /// As a list of Postgres.
    List {
        /// Whether its elements are JSON: then a list within it is an element, not a further dimension.
        json: bool,
    },
    /// As it is.
    Plain,
}

/// Writes a value as text. `false`: it is null.
pub(super) fn write(value: &Value<'_>, form: Form, to: &mut Vec<u8>) -> bool {
    match (value, form) {
        // What is unchanged is left out before.
        (Value::Null | Value::Unchanged, _) => return false,
        (Value::Text(text), Form::Json) => {
            // A string is a value of JSON too. It cannot fail: it goes to memory.
            let _ = serde_json::to_writer(to, &**text);
        }
        (Value::Other(text), Form::List { json }) if text.starts_with('[') => {
            let start = to.len();
            if list(text, json, to).is_none() {
                to.truncate(start);
                to.extend_from_slice(text.as_bytes());
            }
        }
        (Value::Text(text), _) => to.extend_from_slice(text.as_bytes()),
        (Value::Other(text), _) => to.extend_from_slice(text.as_bytes()),
    }
    true
}

/// A JSON list as a list of Postgres, lists within it as further dimensions. Elements stay as they are written, digit by digit. `None`: it is none.
fn list(text: &str, json: bool, to: &mut Vec<u8>) -> Option<()> {
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    to.push(b'{');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        let item = item.get();
        match item.as_bytes().first()? {
            b'n' => to.extend_from_slice(b"NULL"),
            b'[' if !json => list(item, json, to)?,
            b'"' if !json => quoted(&serde_json::from_str::<String>(item).ok()?, to),
            b't' | b'f' | b'-' | b'0'..=b'9' if !json => to.extend_from_slice(item.as_bytes()),
            _ => quoted(item, to),
        }
    }
    to.push(b'}');
    Some(())
}

fn quoted(text: &str, to: &mut Vec<u8>) {
    to.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            to.push(b'\\');
        }
        to.push(byte);
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value<'_>, form: Form) -> Option<String> {
        let mut to = Vec::new();
        write(value, form, &mut to).then(|| String::from_utf8(to).unwrap())
    }

    #[test]
    fn each_form_is_what_the_server_reads() {
        assert_eq!(written(&Value::Null, Form::Json), None);
        assert_eq!(written(&Value::Text("a\"b".into()), Form::Json).as_deref(), Some(r#""a\"b""#));
        assert_eq!(written(&Value::Text("a\"b".into()), Form::Plain).as_deref(), Some("a\"b"));
        assert_eq!(written(&Value::Other(r#"{"a":1}"#), Form::Json).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(written(&Value::Other("12.50"), Form::Plain).as_deref(), Some("12.50"));
        let nested = r#"[[1,null],["a,\"b\\",true]]"#;
        let (plain, json) = (Form::List { json: false }, Form::List { json: true });
        assert_eq!(written(&Value::Other(nested), plain).as_deref(), Some(r#"{{1,NULL},{"a,\"b\\",true}}"#));
        assert_eq!(written(&Value::Other(r#"[{"a":1}]"#), plain).as_deref(), Some(r#"{"{\"a\":1}"}"#));
        let exact = "[0.1000000000000000000000001,123456789012345678901234567890]";
        assert_eq!(written(&Value::Other(exact), plain).as_deref(), Some(&*format!("{{{}}}", &exact[1..exact.len() - 1])));
        assert_eq!(written(&Value::Other(r#"["a",[1,2],3]"#), json).as_deref(), Some(r#"{"\"a\"","[1,2]","3"}"#));
        assert_eq!(written(&Value::Text("{1,2}".into()), plain).as_deref(), Some("{1,2}"));
    }
}
