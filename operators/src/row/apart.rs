//! What the JSON of a change's rows cannot say: that a value is as it was, and that a null is a document.
//!
//! Both are told by names, a list of JSON behind the rows. A field that the row after lacks is unchanged; one that is null there is the
//! document `null` of a JSON column, not NULL. A list at the end of the list names the documents `null` of the row before:
//!
//! ```text
//! {"id":1,"doc":null} {"id":2,"doc":null} ["body","doc",["doc"]]
//! ```

use super::Walk;

/// Walks over a list of JSON strings; what else stands in it ends the walk.
pub(super) struct Names<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Names<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Names { text, at: 0 }
    }
}

impl<'a> Iterator for Names<'a> {
    /// A name between its quotes, still escaped.
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.text.get(self.at)?, b'[' | b',') || self.text.get(self.at + 1)? != &b'"' {
            return None;
        }
        let mut walk = Walk { text: self.text, at: self.at + 1 };
        let start = walk.at + 1;
        walk.skip_string();
        self.at = walk.at;
        self.text.get(start..self.at.checked_sub(1)?)
    }
}

/// How long the names are that a text begins with; `None` if it begins with none.
pub(crate) fn length(text: &[u8]) -> Option<usize> {
    let (names, end) = plain(text)?;
    let end = match text.get(end..)? {
        [b']', ..] => return (names > 0).then_some(end + 1),
        [b',' | b'[', b'[', ..] => end + 1 + before_length(&text[end + 1..])?,
        _ => return None,
    };
    (text.get(end) == Some(&b']')).then_some(end + 1)
}

/// Whether a text is such names and nothing else.
pub(crate) fn are_names(text: &str) -> bool {
    length(text.as_bytes()) == Some(text.len())
}

/// The names of the row before, a list, if there are any.
pub(crate) fn of_before(text: &str) -> Option<&str> {
    let (_, end) = plain(text.as_bytes())?;
    let list = text.get(end + 1..)?;
    list.get(..before_length(list.as_bytes())?)
}

/// How many names there are before anything else, and where they end.
fn plain(text: &[u8]) -> Option<(usize, usize)> {
    let mut names = Names::new(text);
    let count = names.by_ref().count();
    (text.first() == Some(&b'[')).then_some((count, names.at))
}

fn before_length(list: &[u8]) -> Option<usize> {
    let (names, end) = plain(list)?;
    (names > 0 && list.get(end) == Some(&b']')).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_they_end_and_anything_else_is_refused() {
        for whole in [r#"["a"]"#, r#"["a","b\"]"]"#, r#"[["a"]]"#, r#"["a",["b","c"]]"#] {
            assert!(are_names(whole), "{whole}");
            assert_eq!(length(format!("{whole}[\"x\"]rest").as_bytes()), Some(whole.len()));
        }
        for other in
            ["", "[", "[]", "[[]]", "[1]", r#"["a""#, r#"["a",]"#, r#"["a",[]]"#, r#"["a",["b"],"c"]"#, r#"[["a"]"#, r#""a""#]
        {
            assert!(!are_names(other), "{other}");
        }
        let told = [r#"["a"]"#, r#"[["a"]]"#, r#"["a",["b","c"]]"#].map(of_before);
        assert_eq!(told, [None, Some(r#"["a"]"#), Some(r#"["b","c"]"#)]);
    }
}
