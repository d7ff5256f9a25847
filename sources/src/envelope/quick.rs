//! One pass over a line as lines mostly are, without a general parser.
//!
//! What this walk takes, it takes as serde_json would, and checks as much: whatever is out of the ordinary (an escaped name, a
//! field that stands twice, `\u`) and whatever is wrong it leaves to serde_json, which has the last word and the error message.

use highwater_operators::json::plain_until;

use super::line::{Found, Names};

/// What is nested deeper is left to serde_json.
const DEPTH_MAX: u32 = 32;

/// The values of the named fields, if the line is one whole object of the usual kind.
pub(super) fn find<'a>(names: &Names, line: &'a str) -> Option<Found<'a>> {
    let mut walk = Walk { text: line, at: 0 };
    let mut found = Found::default();
    walk.space();
    walk.byte(b'{')?;
    walk.space();
    if walk.peek()? == b'}' {
        return None;
    }
    loop {
        walk.space();
        let name = walk.plain_string()?;
        walk.space();
        walk.byte(b':')?;
        walk.space();
        let start = walk.at;
        walk.value(0)?;
        if let Some(number) = names.known(name) {
            if found[number].is_some() {
                return None;
            }
            found[number] = Some(line.get(start..walk.at)?);
        }
        walk.space();
        match walk.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    walk.space();
    (walk.at == line.len()).then_some(found)
}

/// Walks over JSON text. Every step gives up where it meets something that it does not take.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn byte(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// A string without escapes, given between its quotes.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.byte(b'"')?;
        let start = self.at;
        self.at = plain_until(self.text.as_bytes(), start);
        let end = self.at;
        self.byte(b'"')?;
        self.text.get(start..end)
    }

    /// Any string, from behind its opening quote.
    fn string(&mut self) -> Option<()> {
        loop {
            self.at = plain_until(self.text.as_bytes(), self.at);
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    // Four digits in base 16, and maybe a second half: not worth a second set of rules.
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let is_it = self.text.as_bytes()[self.at..].starts_with(word);
        self.at += word.len();
        is_it.then_some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.next()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Some(())
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Option<()> {
        let start = self.at;
        self.digits();
        (self.at > start).then_some(())
    }

    /// Any value.
    fn value(&mut self, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.string()
            }
            b'{' => self.members(depth, b'}', true),
            b'[' => self.members(depth, b']', false),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    /// What stands in an object or a list, from its opening bracket on.
    fn members(&mut self, depth: u32, end: u8, named: bool) -> Option<()> {
        if depth == DEPTH_MAX {
            return None;
        }
        self.at += 1;
        self.space();
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        loop {
            if named {
                self.byte(b'"')?;
                self.string()?;
                self.space();
                self.byte(b':')?;
                self.space();
            }
            self.value(depth + 1)?;
            self.space();
            match self.next()? {
                b',' => self.space(),
                byte if byte == end => return Some(()),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    use super::*;

    const VALUES: [&str; 25] = [
        "null",
        "\"a\"",
        "\"\"",
        "17",
        "-0",
        "0",
        "-1.5e+3",
        "1e5",
        "{}",
        "[]",
        "true",
        "false",
        "{\"s\":\"x\\n\\\"\",\"é\":[1,{}]}",
        "{\"a\":{\"b\":[null,-2.50,\"🦀\"]}}",
        "\"\\u00e9\"",
        "\"\\ud800\"",
        "\"update\"",
        "1700000000000",
        "{ \"a\" : 1 , \"b\" : [ ] }",
        "99999999999999999999",
        "01",
        "{\"a\":1,}",
        "\"\u{7f}\"",
        "1.",
        "nulL",
    ];
    const NAMES: [&str; 6] = ["id", "op", "after", "more", "", "i\\u0064"];
    const PIECES: [&str; 22] = [
        "\"", "\\", "{", "}", "[", "]", ",", ":", " ", "\t", "0", "1", "-", ".", "e", "n", "null", "\u{1}", "é", "\\u00", "id",
        "\n",
    ];

    /// Goal: what the walk takes, serde_json takes and makes the same of. Method: seeded lines of the usual kind and odd ones, whole
    /// and spoilt; whole ones of the usual kind must be taken, and some that are left are right.
    #[test]
    fn oracle_the_walk_takes_only_what_a_full_parser_takes() {
        let mut names = Names::default();
        for name in ["id", "op", "after"] {
            names.number(name).unwrap();
        }
        let (mut taken, mut left) = (0, 0);
        for seed in 0..60_000_u64 {
            let mut dice = SmallRng::seed_from_u64(seed);
            let is_usual = dice.random_bool(0.4);
            let mut fields: Vec<(&str, &str)> = vec![("id", VALUES[1]), ("op", VALUES[16])];
            if is_usual {
                let more = [
                    ("table", "\"orders\""),
                    ("key", "17"),
                    ("ts", "5"),
                    ("before", "null"),
                    ("after", VALUES[12]),
                    ("x", "[1]"),
                ];
                fields.extend(more.into_iter().filter(|_| dice.random_bool(0.7)));
            } else {
                for _ in 0..dice.random_range(0..4) {
                    let field = (*NAMES.choose(&mut dice).unwrap(), *VALUES.choose(&mut dice).unwrap());
                    fields.insert(dice.random_range(0..=fields.len()), field);
                }
            }
            let space = |dice: &mut SmallRng| if dice.random_bool(0.1) { " " } else { "" };
            let members: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}\"{name}\":{}{value}", space(&mut dice), space(&mut dice)))
                .collect();
            let mut line = format!("{{{}}}", members.join(","));
            let spoils = if dice.random_bool(0.4) { 0 } else { dice.random_range(1..4) };
            for _ in 0..spoils {
                let places: Vec<usize> = line.char_indices().map(|(place, _)| place).chain([line.len()]).collect();
                let (start, end) = (*places.choose(&mut dice).unwrap(), *places.choose(&mut dice).unwrap());
                match dice.random_range(0..3) {
                    0 => line.insert_str(start, PIECES.choose(&mut dice).unwrap()),
                    1 if start < line.len() => drop(line.remove(start)),
                    _ => line.truncate(start.max(end)),
                }
            }
            let full = names.find_by_parser(&line);
            match find(&names, &line) {
                Some(found) => {
                    taken += 1;
                    assert_eq!(Ok(found), full, "seed {seed}: {line}");
                }
                None => {
                    assert!(!is_usual || spoils > 0, "seed {seed}: {line}");
                    left += usize::from(full.is_ok());
                }
            }
        }
        assert!(taken > 10_000 && left > 50, "{taken} {left}");
    }
}
