//! Text and numbers as Postgres can hold them.

use std::borrow::Cow;

/// Text without NUL, which Postgres refuses: a NUL becomes `\0`, and a backslash two.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    match text.contains(['\0', '\\']) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.replace('\\', "\\\\").replace('\0', "\\0")),
    }
}

/// The text that was escaped.
pub(super) fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => plain.push(if characters.next() == Some('0') { '\0' } else { '\\' }),
            (character, false) => plain.push(character),
        }
    }
    plain
}

/// A number as a `bigint`; what is larger is taken as the largest.
pub(super) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that was a `bigint`.
pub(super) fn number(bigint: i64) -> u64 {
    bigint.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back() {
        for text in ["", "plain", "a\0b", "\\", "\\0", "\\\0\\\\", "\u{fc}ber\\n"] {
            assert!(!escape(text).contains('\0'));
            assert_eq!(unescape(&escape(text)), text);
        }
    }
}
