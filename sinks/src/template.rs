//! Text with places that are filled from a change: `{id}`, `{key}`, `{after.status}`, `{found.customer.tier}`.
//! `{time:%Y.%m.%d}` is the change's time as a date in UTC, of `%Y`, `%m`, `%d`, `%H`, `%M` and `%S`.
//!
//! `{name}` is a place if it is one word of letters, digits, `_`, `-` and dots; every other brace is text, so JSON can be written as it is.
//! A word in braces that is nothing a change has is refused at the start; `{{word}}` writes `{word}`.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use highwater_operators::action::Delivery;
use highwater_operators::action::call::Planned;
use highwater_operators::row::{Row, Value};

use crate::line::Line;

/// Text with places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A place, and whether it stands within a string of JSON.
    Place(Place, bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Id,
    Key,
    Table,
    Operation,
    Time,
    /// The time as a date, in UTC: pieces of text, and letters of what stands between them.
    TimeAs(Vec<(String, Option<char>)>),
    IdempotencyKey,
    Change,
    Before(Vec<String>),
    After(Vec<String>),
    Found(String, Vec<String>),
}

/// Where a place is filled in.
pub(crate) type Escape = fn(&str, &mut String);

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        let mut quotes = Quotes::default();
        while let Some(open) = rest.find('{') {
            plain.push_str(&rest[..open]);
            let braces = &rest[open..];
            if let Some(word) = word(&braces[1..]).filter(|_| !braces.starts_with("{{")) {
                quotes.pass(&plain);
                let place = Place::parse(word).ok_or_else(|| unknown(word))?;
                parts.extend([Part::Text(std::mem::take(&mut plain)), Part::Place(place, quotes.inside)]);
                rest = &braces[word.len() + 2..];
            } else if let Some(word) = braces.strip_prefix("{{").and_then(word)
                && braces[word.len() + 3..].starts_with('}')
            {
                plain.push_str(&braces[1..word.len() + 3]);
                rest = &braces[word.len() + 4..];
            } else {
                plain.push('{');
                rest = &braces[1..];
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Template(parts))
    }

    /// Its text, if it has no places.
    pub(crate) fn plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is one place and nothing else: then it has a value, not only text.
    pub(crate) fn is_place(&self) -> bool {
        matches!(self.0.as_slice(), [Part::Place(..)])
    }

    /// What its place stands for, if it is one place and nothing else; `None` too if the change has nothing for it.
    pub(crate) fn value<'d>(&self, delivery: &'d Delivery) -> Option<Value<'d>> {
        match self.0.as_slice() {
            [Part::Place(place, _)] => place.value(delivery),
            _ => None,
        }
    }

    /// Whether it is the time of the change and nothing else.
    pub(crate) fn is_time(&self) -> bool {
        matches!(self.0.as_slice(), [Part::Place(Place::Time, _)])
    }

    /// The first field it asks for that is as it was and that the source did not send: filled in, it would be taken for null.
    pub(crate) fn unsent(&self, delivery: &Delivery) -> Option<String> {
        self.0.iter().find_map(|part| match part {
            Part::Place(place, _) if place.value(delivery) == Some(Value::Unchanged) => Some(place.name()),
            _ => None,
        })
    }

    /// Whether its own text begins an object or a list of JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.0.as_slice(), [Part::Text(text), ..] if text.trim_start().starts_with(['{', '[']))
    }

    /// The lookups it asks for.
    pub(crate) fn lookups(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Place(Place::Found(lookup, _), _) => Some(lookup.as_str()),
            _ => None,
        })
    }

    /// The same with its text written in another way, once for all.
    pub(crate) fn text(mut self, write: impl Fn(&str) -> String) -> Self {
        for part in &mut self.0 {
            if let Part::Text(text) = part {
                *text = write(text);
            }
        }
        self
    }

    /// Fills the places with text. A place that the change has nothing for is an error.
    pub(crate) fn fill(&self, delivery: &Delivery, escape: Escape) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Place(place, _) => match place.value(delivery).and_then(Value::text) {
                    Some(value) => escape(&value, &mut out),
                    None => return Err(format!("the change has nothing for {{{}}}", place.name())),
                },
            }
        }
        Ok(out)
    }

    /// Fills the places as JSON: within a string the text of the value, escaped; elsewhere the value itself, or null.
    pub(crate) fn fill_json(&self, delivery: &Delivery, out: &mut Vec<u8>) {
        self.fill_json_as(delivery, None, out);
    }

    /// The same with values that are written in another way first. Of `escape` it is asked that it leaves alone what JSON is made of.
    pub(crate) fn fill_json_as(&self, delivery: &Delivery, escape: Option<Escape>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Place(Place::Change, false) => {
                    let start = out.len();
                    envelope(delivery, out);
                    if escape.is_some() {
                        let written = String::from_utf8_lossy(&out[start..]).into_owned();
                        out.truncate(start);
                        out.extend_from_slice(escaped(&written, escape).as_bytes());
                    }
                }
                Part::Place(place, true) => {
                    let text = place.value(delivery).and_then(Value::text).unwrap_or_default();
                    let quoted = serde_json::to_string(&*escaped(&text, escape)).unwrap_or_default();
                    out.extend_from_slice(quoted.get(1..quoted.len() - 1).unwrap_or_default().as_bytes());
                }
                Part::Place(place, false) => match place.value(delivery) {
                    None | Some(Value::Null | Value::Unchanged) => out.extend_from_slice(b"null"),
                    Some(Value::Other(json)) => out.extend_from_slice(escaped(json, escape).as_bytes()),
                    // It cannot fail: it goes to memory.
                    Some(Value::Text(text)) => drop(serde_json::to_writer(&mut *out, &*escaped(&text, escape))),
                },
            }
        }
    }
}

fn escaped(text: &str, escape: Option<Escape>) -> Cow<'_, str> {
    let Some(escape) = escape else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 8);
    escape(text, &mut out);
    Cow::Owned(out)
}

/// A sentence for each lookup that these templates ask for and the pipeline does not have.
pub(crate) fn missing_lookups<'t>(templates: impl IntoIterator<Item = &'t Template>, planned: &Planned<'_>) -> Vec<String> {
    let there = if planned.lookups.is_empty() { "none".to_owned() } else { planned.lookups.join(", ") };
    let asked = templates.into_iter().flat_map(Template::lookups).filter(|lookup| !planned.lookups.contains(lookup));
    asked
        .map(|lookup| format!("it takes fields of a lookup {lookup:?}, which the pipeline does not have; it has {there}"))
        .collect()
}

/// A change in the default envelope, without a newline.
pub(crate) fn envelope(delivery: &Delivery, out: &mut Vec<u8>) {
    Line::write(out, |line| {
        line.change(delivery.change());
    });
    out.pop();
}

/// The word that text begins with, if a closing brace follows.
fn word(text: &str) -> Option<&str> {
    if text.starts_with("time:") {
        return text.find('}').map(|end| &text[..end]).filter(|word| word.contains('%'));
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))?;
    (end > 0 && text[end..].starts_with('}')).then(|| &text[..end])
}

fn unknown(word: &str) -> String {
    format!(
        "{{{word}}} is nothing that a change has; there are {{id}}, {{key}}, {{table}}, {{op}}, {{time}}, {{time:%Y.%m.%d}}, \
         {{idempotency_key}}, \
         {{change}}, {{before.FIELD}}, {{after.FIELD}} and {{found.LOOKUP.FIELD}}; {{{{{word}}}}} writes it as text"
    )
}

impl Place {
    fn parse(word: &str) -> Option<Self> {
        if let Some(format) = word.strip_prefix("time:") {
            return date_format(format).map(Place::TimeAs);
        }
        let path = |path: &str| -> Option<Vec<String>> {
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            names.iter().all(|name| !name.is_empty()).then_some(names)
        };
        Some(match word.split_once('.') {
            None => match word {
                "id" => Place::Id,
                "key" => Place::Key,
                "table" => Place::Table,
                "op" => Place::Operation,
                "time" => Place::Time,
                "idempotency_key" => Place::IdempotencyKey,
                "change" => Place::Change,
                "before" => Place::Before(Vec::new()),
                "after" => Place::After(Vec::new()),
                _ => return None,
            },
            Some(("before", field)) => Place::Before(path(field)?),
            Some(("after", field)) => Place::After(path(field)?),
            Some(("found", found)) => {
                let (lookup, field) = found.split_once('.')?;
                Place::Found(lookup.to_owned(), path(field)?)
            }
            Some(_) => return None,
        })
    }

    fn name(&self) -> String {
        match self {
            Place::Before(path) => format!("before.{}", path.join(".")),
            Place::After(path) => format!("after.{}", path.join(".")),
            Place::Found(lookup, path) => format!("found.{lookup}.{}", path.join(".")),
            Place::Id => "id".to_owned(),
            Place::Key => "key".to_owned(),
            Place::Table => "table".to_owned(),
            Place::Operation => "op".to_owned(),
            Place::Time | Place::TimeAs(_) => "time".to_owned(),
            Place::IdempotencyKey => "idempotency_key".to_owned(),
            Place::Change => "change".to_owned(),
        }
    }

    fn value<'d>(&self, delivery: &'d Delivery) -> Option<Value<'d>> {
        let text = |text: &'d str| Some(Value::Text(Cow::Borrowed(text)));
        match self {
            Place::Id => text(delivery.id()),
            Place::Key => text(delivery.key()),
            Place::Table => text(delivery.table()),
            Place::Operation => text(delivery.operation().as_str()),
            Place::Time => Some(Value::Text(delivery.time_ms().to_string().into())),
            Place::TimeAs(format) => Some(Value::Text(date(delivery.time_ms(), format).into())),
            Place::IdempotencyKey => Some(Value::Text(delivery.idempotency_key().into())),
            Place::Change => {
                let mut json = Vec::new();
                envelope(delivery, &mut json);
                Some(Value::Text(String::from_utf8(json).ok()?.into()))
            }
            Place::Before(path) => at(delivery.before(), path),
            Place::After(path) => at(delivery.after(), path),
            Place::Found(lookup, path) => at(delivery.found(lookup), path),
        }
    }
}

/// A format of dates taken apart. `None`: it has a letter that is not known.
fn date_format(format: &str) -> Option<Vec<(String, Option<char>)>> {
    let mut pieces = format.split('%');
    let mut parts = vec![(pieces.next().unwrap_or_default().to_owned(), None)];
    for piece in pieces {
        let letter = piece.chars().next().filter(|letter| "YmdHMS".contains(*letter))?;
        parts.last_mut()?.1 = Some(letter);
        parts.push((piece[1..].to_owned(), None));
    }
    Some(parts)
}

/// A time in Unix milliseconds as a date in UTC.
fn date(time_ms: i64, format: &[(String, Option<char>)]) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(time_ms).unwrap_or_default());
    // As in 2018-02-14T00:28:07Z.
    let whole = humantime::format_rfc3339_seconds(time).to_string();
    let mut out = String::new();
    for (text, letter) in format {
        out.push_str(text);
        out.push_str(match letter {
            None => "",
            Some('Y') => &whole[..4],
            Some('m') => &whole[5..7],
            Some('d') => &whole[8..10],
            Some('H') => &whole[11..13],
            Some('M') => &whole[14..16],
            Some(_) => &whole[17..19],
        });
    }
    out
}

/// What stands at a path into a row; of no path, the row itself.
fn at<'r>(row: Row<'r>, path: &[String]) -> Option<Value<'r>> {
    let Some((first, rest)) = path.split_first() else { return row.raw_json().map(Value::Other) };
    rest.iter().try_fold(row.get(first)?, |value, name| match value {
        Value::Other(text) if text.starts_with('{') => Row::json(text.as_bytes()).get(name),
        _ => None,
    })
}

/// Whether text of JSON stands within a string.
#[derive(Default)]
struct Quotes {
    inside: bool,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        let mut escaped = false;
        for byte in text.bytes() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if self.inside => escaped = true,
                b'"' => self.inside = !self.inside,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_operators::Change;

    use super::*;

    #[test]
    fn a_time_becomes_a_date() {
        let change = Change::builder("1").time_ms(1_709_251_199_000).build().unwrap();
        let filled = |text: &str| {
            let template = Template::parse(text).unwrap();
            template.fill(&Delivery::alone(change.clone(), 1), |value, out| out.push_str(value)).unwrap()
        };
        assert_eq!(filled("orders-{time:%Y.%m.%d}"), "orders-2024.02.29");
        assert_eq!(filled("{time:%H-%M-%S %Y%m}x"), "23-59-59 202402x");
        assert_eq!(filled("{time}"), "1709251199000");
        assert_eq!(filled("{{time:%Y}} {time: it is}"), "{time:%Y} {time: it is}");
        assert!(Template::parse("{time:%j}").unwrap_err().contains("{time:%Y.%m.%d}"));
    }
}
