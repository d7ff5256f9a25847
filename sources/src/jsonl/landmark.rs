//! What stands before a place in a content, so that it is known again wherever it is met: in the file it was read from, in a
//! copy of it, in what a compression made of it.

use std::io;
use std::os::unix::fs::FileExt;

use highwater_operators::ResumeToken;
use xxhash_rust::xxh3::xxh3_64;

use super::content::Content;

/// How much of a long line counts.
pub(super) const WINDOW: usize = 64 * 1024;
/// Lines at the beginning that are known each; from then on each whose number is a power of two.
pub(super) const HEAD: usize = 8;
/// A landmark at a resume token looks back at least so far, where there is so much.
const BACK: usize = 256;

const VERSION: u8 = 1;
const SEALED: u8 = 1;
const CLOSED: u8 = 2;

/// A place in a content and a hash of what stands right before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Landmark {
    /// The place: an offset in the content.
    pub end: u64,
    /// How many bytes before it are hashed.
    pub length: u32,
    pub hash: u64,
}

impl Landmark {
    /// The landmark behind a line, its newline included. `line` may be its last [`WINDOW`] bytes.
    pub fn of(line: &[u8], end: u64) -> Landmark {
        let window = &line[line.len().saturating_sub(WINDOW)..];
        Landmark { end, length: window.len() as u32, hash: xxh3_64(window) }
    }
}

/// How far a content was read, and by what it is known again: what a resume token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the content that were read.
    pub offset: u64,
    /// Newlines before `offset`.
    pub lines: u64,
    /// Behind the first [`HEAD`] lines, and behind each line whose number is a power of two.
    pub landmarks: Vec<Landmark>,
    /// The landmark at `offset`.
    pub last: Option<Landmark>,
    /// Whether the content was read whole and will not grow: its file may go.
    pub sealed: bool,
    /// No more landmarks: a line without a newline was taken, so that lines are not what a later reader takes for lines.
    closed: bool,
}

impl Progress {
    /// Whether the line of this number, counted from 1, gets a landmark.
    pub fn wants(&self, line: u64) -> bool {
        (line <= HEAD as u64 || line.is_power_of_two()) && !self.closed
    }

    /// Goes on by what was read. `whole`: it ends with a newline.
    pub fn advance(&mut self, read: &[u8], line_length: usize, whole: bool) {
        self.offset += read.len() as u64;
        self.closed |= !whole;
        self.sealed = false;
        let window = line_length.clamp(BACK, WINDOW).min(read.len());
        self.last = Some(Landmark::of(&read[read.len() - window..], self.offset));
    }

    /// Goes on to the end of a line of which only the last part was at hand.
    pub fn pass_over(&mut self, end: u64) {
        self.offset = end;
        self.last = self.last.map(|last| Landmark { end, ..last });
    }

    /// The lines at the beginning.
    pub fn head(&self) -> &[Landmark] {
        &self.landmarks[..self.landmarks.len().min(HEAD)]
    }

    /// Every landmark, in the order of their places.
    pub fn all(&self) -> Vec<Landmark> {
        self.landmarks.iter().copied().chain(self.last).collect()
    }

    pub fn token(&self) -> ResumeToken {
        let all = self.all();
        let mut detail = Vec::with_capacity(11 + all.len() * 20);
        detail.push(VERSION);
        detail.push((u8::from(self.sealed) * SEALED) | (u8::from(self.closed) * CLOSED));
        detail.extend_from_slice(&self.lines.to_le_bytes());
        detail.push(all.len() as u8);
        for landmark in all {
            detail.extend_from_slice(&landmark.end.to_le_bytes());
            detail.extend_from_slice(&landmark.length.to_le_bytes());
            detail.extend_from_slice(&landmark.hash.to_le_bytes());
        }
        ResumeToken { order: self.offset, detail: detail.into() }
    }

    /// What a token says; `None` if it was not made here.
    pub fn from_token(token: &ResumeToken) -> Option<Progress> {
        let (head, rest) = token.detail.split_first_chunk::<11>()?;
        let [VERSION, flags, lines @ .., count] = *head else { return None };
        let (all, []) = rest.as_chunks::<20>() else { return None };
        if all.len() != usize::from(count) {
            return None;
        }
        let landmark = |bytes: &[u8; 20]| {
            let (end, rest) = bytes.split_first_chunk().expect("20 bytes");
            let (length, hash) = rest.split_first_chunk().expect("12 bytes");
            let hash = u64::from_le_bytes(hash.try_into().expect("8 bytes"));
            Landmark { end: u64::from_le_bytes(*end), length: u32::from_le_bytes(*length), hash }
        };
        let mut landmarks: Vec<Landmark> = all.iter().map(landmark).collect();
        Some(Progress {
            offset: token.order,
            lines: u64::from_le_bytes(lines),
            last: landmarks.pop(),
            landmarks,
            sealed: flags & SEALED != 0,
            closed: flags & CLOSED != 0,
        })
    }
}

/// What a content is, held against landmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    /// All of them are there. The content stands at the last of them.
    Whole,
    /// Those before its end are there; it ends before the last.
    SoFar,
    /// At this one something else stands: so this is what its place looks like here.
    Differs(Landmark),
}

/// Holds a content, from its beginning, against landmarks in the order of their places.
pub(super) fn compare(content: &mut Content, landmarks: &[Landmark]) -> io::Result<Agreement> {
    if content.plain().is_some() {
        return compare_plain(content, landmarks);
    }
    let (mut seen, mut begin) = (Vec::new(), content.at);
    for landmark in landmarks {
        // What a decoder has given cannot be asked for again, and windows may overlap: enough of it is kept.
        while content.at < landmark.end {
            if seen.len() > 4 * WINDOW {
                let gone = seen.len() - WINDOW;
                seen.drain(..gone);
                begin += gone as u64;
            }
            let held = seen.len();
            seen.resize(held + (landmark.end - content.at).min(WINDOW as u64) as usize, 0);
            let read = match content.fill(&mut seen[held..]) {
                Ok(read) => read,
                // Torn, as a copy is while it is made: it agrees as far as it goes.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(error),
            };
            seen.truncate(held + read);
            if read == 0 {
                return Ok(Agreement::SoFar);
            }
        }
        let from = landmark.end - u64::from(landmark.length) - begin;
        let here = Landmark::of(&seen[from as usize..(landmark.end - begin) as usize], landmark.end);
        if here != *landmark {
            return Ok(Agreement::Differs(here));
        }
    }
    Ok(Agreement::Whole)
}

fn compare_plain(content: &mut Content, landmarks: &[Landmark]) -> io::Result<Agreement> {
    let mut window = Vec::new();
    let mut reached = 0;
    for landmark in landmarks {
        window.resize(landmark.length as usize, 0);
        let file = content.plain().expect("only plain content comes here");
        match file.read_exact_at(&mut window, landmark.end - u64::from(landmark.length)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Agreement::SoFar),
            Err(error) => return Err(error),
        }
        let here = Landmark::of(&window, landmark.end);
        if here != *landmark {
            return Ok(Agreement::Differs(here));
        }
        reached = landmark.end;
    }
    content.skip_to(reached)?;
    Ok(Agreement::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(text: &str) -> Progress {
        let mut progress = Progress::default();
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            end += line.len();
            progress.lines += 1;
            if progress.wants(progress.lines) {
                progress.landmarks.push(Landmark::of(line.as_bytes(), end as u64));
            }
        }
        progress.advance(text.as_bytes(), 5, true);
        progress
    }

    fn held_against(text: &str, landmarks: &[Landmark]) -> Agreement {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        compare(&mut Content::open(file.path()).unwrap(), landmarks).unwrap()
    }

    #[test]
    fn a_token_says_all_of_it() {
        let mut progress = progress(&(0..100).map(|n| format!("line {n}\n")).collect::<String>());
        progress.sealed = true;
        assert_eq!(progress.landmarks.len(), 8 + 3);
        assert_eq!(Progress::from_token(&progress.token()), Some(progress));
        assert_eq!(Progress::from_token(&ResumeToken::default()), None);
        assert_eq!(Progress::from_token(&ResumeToken { order: 3, detail: vec![7; 40].into() }), None);
    }

    #[test]
    fn content_is_known_by_its_lines() {
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        let all = progress(&text).all();
        assert_eq!(held_against(&text, &all), Agreement::Whole);
        assert_eq!(held_against(&(text.clone() + "more\n"), &all), Agreement::Whole);
        assert_eq!(held_against(&text[..50], &all), Agreement::SoFar);
        assert_eq!(held_against("", &all), Agreement::SoFar);
        assert!(matches!(held_against(&text.replace("line 1\n", "line I\n"), &all), Agreement::Differs(at) if at.end == 14));
        assert!(matches!(held_against(&text.replace("line 39\n", "line zz\n"), &all), Agreement::Differs(_)));
    }
}
