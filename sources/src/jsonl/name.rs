//! Names: of partitions, made of what their contents begin with, and patterns for names of files.

use std::fmt;
use std::io;

use memchr::memchr_iter;
use xxhash_rust::xxh3::xxh3_128;

use super::content::Content;
use super::landmark::{HEAD, Landmark};

/// How much of the first line counts.
const FIRST_MAX: usize = 64 * 1024;
/// The beginning is looked at so far, however few lines that is.
const HEAD_MAX: usize = 1 << 20;

/// The name of a partition: a fingerprint of its first line and, where another content with that first line was known already,
/// a landmark at which the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub first: u128,
    pub mark: Option<Landmark>,
}

impl Name {
    /// A name as it was written.
    pub fn parse(text: &str) -> Option<Name> {
        let mut parts = text.split('-');
        let first = u128::from_str_radix(parts.next()?, 16).ok()?;
        let mark = match parts.next() {
            None => None,
            Some(end) => Some(Landmark {
                end: end.parse().ok()?,
                length: parts.next()?.parse().ok()?,
                hash: u64::from_str_radix(parts.next()?, 16).ok()?,
            }),
        };
        Some(Name { first, mark })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.first)?;
        match self.mark {
            None => Ok(()),
            Some(Landmark { end, length, hash }) => write!(f, "-{end}-{length}-{hash:016x}"),
        }
    }
}

/// What a content begins with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The fingerprint of its first line, if that is whole.
    pub first: Option<u128>,
    /// Landmarks behind its first lines.
    pub lines: Vec<Landmark>,
    /// Whether compressed content ends in its middle here already.
    pub torn: bool,
}

impl Head {
    /// Reads the beginning. `unterminated`: a first line without a newline is whole at the content's end.
    pub fn read(content: &mut Content, unterminated: bool) -> io::Result<Head> {
        let mut start = Vec::new();
        let mut newlines = 0;
        let mut torn = false;
        while newlines < HEAD && start.len() < HEAD_MAX {
            let held = start.len();
            start.resize(held + if held == 0 { 4096 } else { 64 * 1024 }, 0);
            let read = match content.fill(&mut start[held..]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    torn = true;
                    0
                }
                Err(error) => return Err(error),
            };
            start.truncate(held + read);
            if read == 0 {
                break;
            }
            newlines += memchr_iter(b'\n', &start[held..]).count();
        }
        let mut begin = 0;
        let lines: Vec<Landmark> = memchr_iter(b'\n', &start)
            .take(HEAD)
            .map(|newline| {
                let line = &start[begin..=newline];
                begin = newline + 1;
                Landmark::of(line, begin as u64)
            })
            .collect();
        let first_length = match lines.first() {
            Some(first) => Some(first.end as usize - 1),
            None if start.len() >= FIRST_MAX => Some(FIRST_MAX),
            None => (unterminated && !torn && !start.is_empty()).then_some(start.len()),
        };
        let first = first_length.map(|length| xxh3_128(&start[..length.min(FIRST_MAX)]));
        Ok(Head { first, lines, torn })
    }
}

/// Whether a file's name matches a pattern, in which `*` stands for any characters and `?` for one.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and what it stands for ends here at present.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, end)) => {
                    star = Some((at, end + 1));
                    (p, n) = (at + 1, end + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let mark = Some(Landmark { end: 120, length: 17, hash: 0xfe });
        for name in [Name { first: 0xabc, mark: None }, Name { first: u128::MAX, mark }] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        assert_eq!(Name::parse("part-1"), None);
    }

    #[test]
    fn patterns() {
        for (pattern, name, holds) in [
            ("app.log*", "app.log", true),
            ("app.log*", "app.log.1.gz", true),
            ("app.log*", "my-app.log", false),
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a.jsonl.tmp", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaxxbxb", true),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), holds, "{pattern} {name}");
        }
    }
}
