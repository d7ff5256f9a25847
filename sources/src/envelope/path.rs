//! The way to a field: a name at the top of the line, and names inside nested objects.

use highwater_operators::row::Row;

use super::line::{Found, Names};

#[derive(Clone, Debug)]
pub(super) struct Path {
    /// As the user wrote it, for messages.
    pub(super) written: Box<str>,
    /// The number of the first name, where that stands at the top of the line.
    top: usize,
    names: Box<[Box<str>]>,
}

impl Path {
    /// A path as a user writes it. With `top` its first name is looked for in the pass over the line.
    pub(super) fn new(written: &str, top: Option<&mut Names>) -> Result<Self, String> {
        let mut names = vec![String::new()];
        let mut letters = written.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '.' => names.push(String::new()),
                '\\' => names.last_mut().expect("begins with one").extend(letters.next()),
                _ => names.last_mut().expect("begins with one").push(letter),
            }
        }
        let top = match top {
            Some(top) if !written.is_empty() => top.number(&names[0]).ok_or_else(|| {
                format!("an envelope can name {} fields at the top of a line; \"{written}\" is one more", super::line::NAMES_MAX)
            })?,
            _ => 0,
        };
        Ok(Path { written: written.into(), top, names: names.into_iter().map(Into::into).collect() })
    }

    /// What stands there in a line.
    pub(super) fn find<'a>(&self, found: &Found<'a>) -> Option<&'a str> {
        Self::descend(found[self.top]?, &self.names[1..])
    }

    /// What stands there in an object.
    pub(super) fn find_in<'a>(&self, object: &'a str) -> Option<&'a str> {
        Self::descend(object, &self.names)
    }

    fn descend<'a>(mut value: &'a str, names: &[Box<str>]) -> Option<&'a str> {
        for name in names {
            value = Row::json(value.starts_with('{').then_some(value.as_bytes())?).written(name)?;
        }
        Some(value)
    }
}
