//! One pass over a line: it checks the whole and remembers where the named fields stand, as they are written.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::quick;

/// Most fields at the top of a line that an envelope may name.
pub(super) const NAMES_MAX: usize = 16;

/// The names at the top of a line that an envelope asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Vec<Box<str>>);

/// By name, the text of its value.
pub(super) type Found<'a> = [Option<&'a str>; NAMES_MAX];

impl Names {
    /// The number of a name, or `None` if there are too many.
    pub(super) fn number(&mut self, name: &str) -> Option<usize> {
        self.known(name).or_else(|| {
            (self.0.len() < NAMES_MAX).then(|| {
                self.0.push(name.into());
                self.0.len() - 1
            })
        })
    }

    /// Finds the values in a line.
    ///
    /// # Errors
    /// The line is not one whole JSON object, or a named field stands twice.
    pub(super) fn find_in<'a>(&self, line: &'a str) -> Result<Found<'a>, String> {
        match quick::find(self, line) {
            Some(found) => Ok(found),
            None => self.find_by_parser(line),
        }
    }

    /// The number of a name, if an envelope asks for it.
    pub(super) fn known(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|known| **known == *name)
    }

    pub(super) fn find_by_parser<'a>(&self, line: &'a str) -> Result<Found<'a>, String> {
        let mut input = serde_json::Deserializer::from_str(line);
        let found = Line(self).deserialize(&mut input).map_err(|error| explain(&error))?;
        input.end().map_err(|error| explain(&error))?;
        Ok(found)
    }
}

struct Line<'n>(&'n Names);

impl<'de> DeserializeSeed<'de> for Line<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Found<'de>, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Line<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut found = Found::default();
        while let Some(number) = map.next_key_seed(Name(self.0))? {
            let Some(number) = number else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if found[number].is_some() {
                return Err(serde::de::Error::custom(format_args!("\"{}\" stands twice", self.0.0[number])));
            }
            found[number] = Some(map.next_value::<&'de RawValue>()?.get());
        }
        Ok(found)
    }
}

struct Name<'n>(&'n Names);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<usize>, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.known(name))
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
