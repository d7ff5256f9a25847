//! What a column is filled with.

use std::time::{Duration, UNIX_EPOCH};

use highwater_operators::Change;
use highwater_operators::row::{Row, Value};
use highwater_operators::{Error, Result};

/// What a column is filled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field of the row, or a path into it: the names from the outside in.
    Field(Vec<String>),
    /// A field of the row that a lookup found.
    Found(String, Vec<String>),
    /// The change's id.
    Id,
    /// The change's key.
    Key,
    /// The table it happened in.
    Table,
    /// What happened: `insert`, `update`, `delete` or `read`.
    Operation,
    /// Its commit time.
    Time,
}

impl Source {
    /// Reads `field`, `outer.inner`, `@id`, `@key`, `@table`, `@operation`, `@time`, `@found.LOOKUP.FIELD`.
    ///
    /// # Errors
    /// If it begins with `@` and is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        let path = |text: &str| text.split('.').map(str::to_owned).collect();
        let Some(own) = text.strip_prefix('@') else { return Ok(Source::Field(path(text))) };
        Ok(match own {
            "id" => Source::Id,
            "key" => Source::Key,
            "table" => Source::Table,
            "operation" => Source::Operation,
            "time" => Source::Time,
            _ => match own.strip_prefix("found.").and_then(|found| found.split_once('.')) {
                Some((lookup, field)) => Source::Found(lookup.to_owned(), path(field)),
                None => {
                    return Err(Error::stop(format!(
                        "`{text}` is nothing that a change has; there are @id, @key, @table, @operation, @time and @found.LOOKUP.FIELD"
                    )));
                }
            },
        })
    }
}

/// What stands at the end of a path that begins with this value.
pub(super) fn follow<'v>(value: Value<'v>, path: &[String]) -> Option<Value<'v>> {
    let mut value = value;
    for name in path {
        value = match value {
            Value::Other(text) if text.starts_with('{') => Row::json(text.as_bytes()).get(name)?,
            // Nothing is within null: what is asked for is not there either.
            Value::Null => return Some(Value::Null),
            Value::Unchanged => return Some(Value::Unchanged),
            _ => return None,
        };
    }
    Some(value)
}

/// A commit time as every time type of the server reads it.
pub(super) fn time(change: &Change) -> String {
    let ms = u64::try_from(change.time_ms()).unwrap_or_default();
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_strange_ones_refused() {
        assert_eq!(Source::parse("a.b").unwrap(), Source::Field(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(Source::parse("@time").unwrap(), Source::Time);
        assert_eq!(Source::parse("@found.customer.tier").unwrap(), Source::Found("customer".to_owned(), vec!["tier".to_owned()]));
        assert!(Source::parse("@lsn").unwrap_err().to_string().contains("@operation"));
    }

    #[test]
    fn a_path_tells_null_from_absent() {
        let row = Row::json(br#"{"a":{"b":{"c":"x","d":null}},"n":null}"#);
        let path = |path: &str| {
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            follow(row.get(&names[0])?, &names[1..])
        };
        assert_eq!(path("a.b.c"), Some(Value::Text("x".into())));
        assert_eq!(
            (path("a.b.d"), path("n.x"), path("a.x.c"), path("a.b.c.d")),
            (Some(Value::Null), Some(Value::Null), None, None)
        );
    }
}
