//! Names in SQL: quoted, so that any name is safe, and tables with their schema.

use std::fmt;

use crate::{Error, Result};

/// A name as SQL takes it, whatever is in it.
///
/// ```
/// use highwater_operators::postgres::quote;
/// assert_eq!(quote("order"), r#""order""#);
/// assert_eq!(quote(r#"a"b"#), r#""a""b""#);
/// ```
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it, whatever is in it and whatever `standard_conforming_strings` says.
///
/// ```
/// use highwater_operators::postgres::quote_text;
/// assert_eq!(quote_text("it's"), "'it''s'");
/// assert_eq!(quote_text(r"a\b"), r" E'a\\b'");
/// ```
pub fn quote_text(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A table, perhaps with its schema. Displayed as SQL takes it.
///
/// Read as SQL reads it: `Orders` and `orders` are one table, `"Orders"` is another.
///
/// ```
/// use highwater_operators::postgres::Table;
/// assert_eq!(Table::parse("sales.Orders")?.to_string(), r#""sales"."orders""#);
/// assert_eq!(Table::parse(r#""a.b"."C ""d""#)?.name, r#"C "d"#);
/// assert!(Table::parse("a.b.c").is_err());
/// # Ok::<(), highwater_operators::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its schema; without one, the connection's search path says which.
    pub schema: Option<String>,
    /// Its name, unquoted.
    pub name: String,
}

impl Table {
    /// Reads `name`, `schema.name`, each perhaps in double quotes.
    pub fn parse(text: &str) -> Result<Table> {
        let refuse = |why: &str| Error::stop(format!("`{text}` is no name of a table: {why}; write name or schema.name"));
        let mut parts = Vec::new();
        let mut rest = text.trim();
        loop {
            let (part, after) = part(rest).ok_or_else(|| refuse("a quote is not closed"))?;
            if part.is_empty() || part.contains('\0') {
                return Err(refuse("a part of it is empty or has a zero byte"));
            }
            parts.push(part);
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => break,
                None => return Err(refuse("something follows a closing quote")),
            }
        }
        let name = parts.pop().ok_or_else(|| refuse("it is empty"))?;
        let schema = parts.pop();
        if parts.is_empty() { Ok(Table { schema, name }) } else { Err(refuse("it has more than two parts")) }
    }
}

/// The first part of a dotted name, unquoted, and what follows it.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((text[..end].trim().to_lowercase(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quote(schema))?;
        }
        f.write_str(&quote(&self.name))
    }
}
