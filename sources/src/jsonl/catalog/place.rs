//! Which partition a file holds.

use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use memchr::{memchr, memrchr};

use super::{AT_REST, Catalog, Entry, Kin, Placed, State, TORN_AFTER};
use crate::jsonl::content::{Content, FileId};
use crate::jsonl::landmark::{Agreement, Landmark, Progress, WINDOW, compare};
use crate::jsonl::name::{Head, Name};

/// How a file stands to a partition.
enum Fit {
    /// It holds what was read of it.
    Holds,
    /// It is too short to tell.
    Begins,
    /// Another content, as this landmark of the file shows.
    Differs(Landmark),
}

impl Catalog {
    /// Finds out what a file holds, and notes it.
    #[allow(clippy::too_many_arguments)] // what a directory says of one file
    pub(super) fn place_file(
        &self,
        state: &mut State,
        path: &Path,
        id: FileId,
        length: u64,
        modified: SystemTime,
        since: Instant,
        at_start: bool,
    ) -> io::Result<()> {
        let before = state.files.remove(&id);
        let mut content = Content::open_again(path, id)?;
        let compressed = content.is_compressed();
        let mut entry = Entry {
            path: path.to_owned(),
            length,
            modified,
            since,
            compressed,
            placed: Placed::Nowhere,
            same: before.as_ref().and_then(|before| before.same).filter(|(_, same)| !compressed && *same <= length),
        };
        let placed = if compressed && self.reading.follow && !at_start && since.elapsed() < AT_REST {
            state.pending += 1;
            Placed::Nowhere
        } else {
            self.find_partition(state, &mut content, &mut entry, id)?
        };
        if let Some(before) = before {
            state.touch(&before.placed);
        }
        state.touch(&placed);
        entry.placed = placed;
        state.files.insert(id, entry);
        Ok(())
    }

    fn find_partition(&self, state: &mut State, content: &mut Content, entry: &mut Entry, id: FileId) -> io::Result<Placed> {
        let head = Head::read(content, !self.reading.follow || entry.compressed)?;
        let Some(first) = head.first else {
            if head.torn && (!self.reading.follow || entry.since.elapsed() > TORN_AFTER) {
                let what = "the file ends in the middle of its compressed content, before the end of its first line";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            return Ok(Placed::Nowhere);
        };
        let mut holds: Option<(u64, String)> = None;
        let mut begins = None;
        let mut differs: Option<Landmark> = None;
        for (name, kin) in state.partitions.iter().filter(|(_, kin)| kin.name.first == first) {
            match self.fit(state, entry, id, &head, name, kin)? {
                Fit::Holds => {
                    let offset = kin.progress.offset.max(kin.name.mark.map_or(0, |mark| mark.end));
                    if holds.as_ref().is_none_or(|(most, _)| offset > *most) {
                        holds = Some((offset, name.clone()));
                    }
                }
                Fit::Begins => begins = Some(name.clone()),
                Fit::Differs(at) => differs = differs.max(Some(at)),
            }
        }
        if let Some((_, name)) = holds {
            let kin = state.partitions.get_mut(&name).expect("it was found there");
            if kin.head().len() < head.lines.len() {
                kin.head = head.lines;
            }
            return Ok(Placed::Holds(name));
        }
        if let Some(name) = begins {
            return Ok(Placed::Begins(name));
        }
        let name = Name { first, mark: differs };
        let text = name.to_string();
        let kin = Kin { name, progress: Progress::default(), head: head.lines, announced: false, version: 0 };
        state.partitions.insert(text.clone(), kin);
        Ok(Placed::Holds(text))
    }

    fn fit(&self, state: &State, entry: &mut Entry, id: FileId, head: &Head, name: &str, kin: &Kin) -> io::Result<Fit> {
        let mut content = Content::open_again(&entry.path, id)?;
        let fit = match judge(&mut content, head, &kin.name, kin.head(), &kin.progress)? {
            Agreement::Differs(at) => return Ok(Fit::Differs(at)),
            Agreement::SoFar => Fit::Begins,
            Agreement::Whole => Fit::Holds,
        };
        // What is known of the partition may not reach as far as the two files do: so they are read side by side.
        let held = Placed::Holds(name.to_owned());
        let others = state.files.iter().filter(|(other, file)| **other != id && file.placed == held);
        let other = others.max_by_key(|(_, file)| (!file.compressed, file.length)).map(|(id, file)| (*id, file.path.clone()));
        match other {
            Some((other, path)) => Ok(self.beside((entry, id), (&path, other), kin)?.map_or(fit, Fit::Differs)),
            None => Ok(fit),
        }
    }

    /// Holds a file's content against that of the file which is read for a partition. Where neither begins with the other: a
    /// landmark of the file at the line in which they part.
    fn beside(
        &self,
        (entry, id): (&mut Entry, FileId),
        (path, other): (&Path, FileId),
        kin: &Kin,
    ) -> io::Result<Option<Landmark>> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let mut theirs = match Content::open_again(path, other) {
            Ok(content) => content,
            Err(error) if gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut mine = Content::open_again(&entry.path, id)?;
        let from = match entry.same {
            Some((known, same)) if known == other && mine.plain().is_some() && theirs.plain().is_some() => same,
            _ => 0,
        };
        let Some((common, at)) = parting(&mut mine, &mut theirs, from, !self.reading.follow)? else { return Ok(None) };
        entry.same = Some((other, common));
        let Some(at) = at else { return Ok(None) };
        // The other one may have been cut and written anew since it was placed: then the difference says nothing.
        let still = || -> io::Result<Agreement> {
            let head = Head::read(&mut Content::open_again(path, other)?, true)?;
            let mut theirs = Content::open_again(path, other)?;
            match head.first == Some(kin.name.first) {
                true => judge(&mut theirs, &head, &kin.name, kin.head(), &kin.progress),
                false => Ok(Agreement::SoFar),
            }
        };
        match still() {
            Ok(Agreement::Whole) => Ok(Some(at)),
            Ok(_) => Ok(None),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a file holds what was read of a partition. Afterwards the content stands somewhere.
    pub(super) fn judge(
        &self,
        path: &Path,
        content: &mut Content,
        name: &Name,
        head: &[Landmark],
        progress: &Progress,
    ) -> io::Result<Agreement> {
        let own = Head::read(&mut Content::open_again(path, content.id)?, true)?;
        match own.first {
            None => Ok(Agreement::SoFar),
            // Nothing in common: that is no change of the content but another one.
            Some(first) if first != name.first => Ok(Agreement::Differs(Landmark { end: 0, length: 0, hash: 0 })),
            Some(_) => judge(content, &own, name, head, progress),
        }
    }
}

/// Holds a content from its beginning against what is known of a partition.
fn judge(content: &mut Content, head: &Head, name: &Name, known: &[Landmark], progress: &Progress) -> io::Result<Agreement> {
    if let Some((mine, _)) = head.lines.iter().zip(known).find(|(mine, theirs)| mine != theirs) {
        return Ok(Agreement::Differs(*mine));
    }
    let mut landmarks: Vec<Landmark> = progress.landmarks.iter().copied().chain(progress.last).chain(name.mark).collect();
    landmarks.sort_unstable();
    landmarks.dedup();
    compare(content, &landmarks)
}

/// Reads two contents side by side from a place up to which they agree. Gives how far they agree and, where they part, the
/// landmark of the first one behind the line in which they do; `None` if that line is not whole yet. `unterminated`: the end of
/// the content ends a line.
fn parting(
    mine: &mut Content,
    theirs: &mut Content,
    from: u64,
    unterminated: bool,
) -> io::Result<Option<(u64, Option<Landmark>)>> {
    let (mut one, mut other) = (vec![0; WINDOW], vec![0; WINDOW]);
    mine.skip_to(from)?;
    theirs.skip_to(from)?;
    let mut common = from;
    // The line under way, from its beginning or so much of it as counts.
    let mut line: Vec<u8> = Vec::new();
    let read = |content: &mut Content, buffer: &mut [u8]| match content.fill(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    };
    loop {
        let (a, b) = (read(mine, &mut one)?, read(theirs, &mut other)?);
        let both = a.min(b);
        let same = one[..both].iter().zip(&other[..both]).take_while(|(one, other)| one == other).count();
        match memrchr(b'\n', &one[..same]) {
            Some(newline) => {
                line.clear();
                line.extend_from_slice(&one[newline + 1..same]);
            }
            None => line.extend_from_slice(&one[..same]),
        }
        line.drain(..line.len().saturating_sub(WINDOW));
        common += same as u64;
        if same == both {
            if a != b || a == 0 {
                // One ends: it begins the other.
                return Ok(Some((common, None)));
            }
            continue;
        }
        let mut piece = one[same..a].to_vec();
        let mut end = common;
        loop {
            let newline = memchr(b'\n', &piece);
            let own = newline.map_or(piece.len(), |newline| newline + 1);
            line.extend_from_slice(&piece[..own]);
            end += own as u64;
            if newline.is_some() {
                break;
            }
            piece.resize(WINDOW, 0);
            let more = read(mine, &mut piece)?;
            piece.truncate(more);
            if more == 0 {
                if unterminated {
                    break;
                }
                return Ok(None);
            }
        }
        return Ok(Some((common, Some(Landmark::of(&line, end)))));
    }
}
