//! Which contents there are, and in which files: partitions are contents, files only hold them.
//!
//! Two files hold one partition if the one's content begins with the other's: a copy under way, `app.log.1` beside
//! `app.log.1.gz`. Two files of which neither begins with the other are two partitions, also if their first lines agree.

mod missing;
mod place;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use highwater_operators::ingest::source::{Known, PartitionName};
use highwater_operators::{Error, Result};
use parking_lot::Mutex;

use super::Reading;
use super::content::{Content, FileId, id_of};
use super::landmark::{Agreement, Landmark, Progress};
use super::name::{Name, matches};

/// Looks at start before something is said to be missing.
const LOOKS_MAX: usize = 5;
/// A compressed file is looked at when it has not changed for this long: before, it is still being written.
const AT_REST: Duration = Duration::from_secs(1);

/// A compressed file that ends too early and was not written for this long is torn.
pub(super) const TORN_AFTER: Duration = Duration::from_secs(10);

/// Where files are.
#[derive(Clone, Debug)]
pub(super) enum Files {
    /// This one.
    One(PathBuf),
    /// Those of a directory whose names match.
    Matching { directory: PathBuf, pattern: String },
    /// A file, and what a rotation makes of it: names that go on with a dot or a hyphen.
    Family { directory: PathBuf, name: String },
}

/// The contents of one source in one run.
pub(super) struct Catalog {
    pub reading: Arc<Reading>,
    files: Files,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<String, Kin>,
    files: BTreeMap<FileId, Entry>,
    /// Looks that have begun.
    looks: u64,
    /// Compressed files that are not at rest.
    pending: usize,
}

/// A partition.
struct Kin {
    name: Name,
    progress: Progress,
    /// Its first lines, as far as they are known.
    head: Vec<Landmark>,
    /// Whether a checkpoint or the pipeline knows it.
    announced: bool,
    /// Changes whenever a file of it comes, goes or changes.
    version: u64,
}

impl Kin {
    fn head(&self) -> &[Landmark] {
        let own = self.progress.head();
        if own.len() >= self.head.len() { own } else { &self.head }
    }
}

struct Entry {
    path: PathBuf,
    length: u64,
    modified: SystemTime,
    /// When it was first seen like this.
    since: Instant,
    compressed: bool,
    placed: Placed,
    /// So much of it is known to be what another file has too.
    same: Option<(FileId, u64)>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Placed {
    /// Not known yet: its first line is not whole, or it is being written.
    Nowhere,
    /// All of a partition that was read, and maybe more.
    Holds(String),
    /// The beginning of a partition, as far as can be told.
    Begins(String),
}

/// What of a partition a reader may read.
pub(super) struct Located {
    pub content: Content,
    pub id: FileId,
    /// The partition's first lines.
    pub head: Vec<Landmark>,
}

impl Catalog {
    /// The catalog of a run that continues these partitions.
    ///
    /// # Errors
    /// If a resume token was not made by this source.
    pub fn new(reading: Arc<Reading>, files: Files, known: &[Known]) -> Result<Catalog> {
        let mut state = State::default();
        for Known { name, token } in known {
            let Some(parsed) = Name::parse(name) else { continue };
            let progress = match token {
                None => Some(Progress::default()),
                Some(token) => Progress::from_token(token),
            };
            let progress = progress
                .ok_or_else(|| Error::stop(format!("the checkpoint's resume token for {name} was not made by this source")))?;
            let kin = Kin { name: parsed, progress, head: Vec::new(), announced: true, version: 0 };
            state.partitions.insert(name.clone(), kin);
        }
        Ok(Catalog { reading, files, state: Mutex::new(state) })
    }

    /// The partitions there are when the run begins.
    ///
    /// # Errors
    /// Files that cannot be read; and partitions that the checkpoint continues and no file holds any more.
    pub fn begin(&self) -> Result<Vec<PartitionName>> {
        let state = &mut *self.state.lock();
        let mut looks = 1;
        self.look_at_all(state, true)?;
        while let Err(refusal) = self.refuse_missing(state) {
            // A rotation under way renames and compresses files while they are listed.
            if !self.reading.follow || looks == LOOKS_MAX {
                return Err(refusal);
            }
            std::thread::sleep(Duration::from_millis(100));
            looks += 1;
            self.look_at_all(state, true)?;
        }
        missing::refuse_doubtful(state)?;
        let mut names: Vec<(PathBuf, PartitionName)> = Vec::new();
        for (name, kin) in &mut state.partitions {
            let holders = state.files.values().filter(|entry| entry.placed == Placed::Holds(name.clone()));
            // The longest is read.
            let Some(entry) = holders.max_by_key(|entry| (!entry.compressed, entry.length)) else { continue };
            kin.announced = true;
            let bytes = (!self.reading.follow && !entry.compressed).then_some(entry.length);
            names.push((entry.path.clone(), PartitionName { name: name.clone(), bytes }));
        }
        names.sort_by(|one, other| one.0.cmp(&other.0));
        self.check_bound(names.len())?;
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    /// Looks again; gives the partitions that are new, and when to look next.
    ///
    /// # Errors
    /// Files that cannot be read, and too many of them.
    pub fn look(&self) -> Result<(Vec<PartitionName>, Duration)> {
        let state = &mut *self.state.lock();
        let began = Instant::now();
        self.look_at_all(state, false)?;
        let mut new = Vec::new();
        for (name, kin) in state.partitions.iter_mut().filter(|(_, kin)| !kin.announced) {
            kin.announced = true;
            new.push(PartitionName { name: name.clone(), bytes: None });
        }
        if !new.is_empty() {
            self.check_bound(state.files.len())?;
        }
        // Looking takes a two-hundredth of the time at most;
        // and a directory in which nothing has changed lately is looked at less often.
        let changed = state.files.values().any(|entry| entry.since.elapsed() < Duration::from_secs(1));
        let least = Duration::from_millis(if changed { 20 } else { 40 });
        Ok((new, (began.elapsed() * 200).clamp(least, Duration::from_secs(2))))
    }

    /// Notes how far a partition was read.
    pub fn note(&self, name: &str, progress: &Progress) {
        if let Some(kin) = self.state.lock().partitions.get_mut(name) {
            kin.progress.clone_from(progress);
        }
    }

    /// What changes when files of a partition come, go or change; and how many looks have begun.
    pub fn version(&self, name: &str) -> (u64, u64) {
        let state = self.state.lock();
        (state.partitions.get(name).map_or(0, |kin| kin.version), state.looks)
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.state.lock().files.len()
    }

    /// Whether there are files of which nobody knows yet what they hold.
    pub fn is_pending(&self) -> bool {
        self.state.lock().pending > 0
    }

    /// Whether another file was written later than at this time.
    pub fn has_newer(&self, id: FileId, modified: SystemTime) -> bool {
        self.state.lock().files.iter().any(|(other, entry)| *other != id && entry.modified > modified)
    }

    /// How long a file has been as it is.
    pub fn rests_since(&self, id: FileId) -> Option<Duration> {
        self.state.lock().files.get(&id).map(|entry| entry.since.elapsed())
    }

    /// Opens the file that holds most of a partition, where reading continues. `instead` of a file whose end was reached: only one
    /// that may hold more.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn locate(&self, name: &str, progress: &Progress, instead: Option<FileId>) -> Result<Option<Located>> {
        let (mut candidates, of, head) = {
            let state = self.state.lock();
            let Some(kin) = state.partitions.get(name) else { return Ok(None) };
            let holds = |entry: &Entry| match &entry.placed {
                Placed::Holds(held) => held == name,
                Placed::Begins(held) => held == name && self.reading.follow,
                Placed::Nowhere => false,
            };
            let more = |entry: &Entry| entry.compressed || entry.length > progress.offset;
            let files = state
                .files
                .iter()
                .filter(|(id, entry)| holds(entry) && instead.is_none_or(|current| **id != current && more(entry)));
            let candidates: Vec<_> = files.map(|(id, entry)| (*id, entry.compressed, entry.length, entry.path.clone())).collect();
            (candidates, kin.name, kin.head().to_vec())
        };
        candidates.sort_by_key(|(_, compressed, length, _)| {
            let has_more = *compressed || *length > progress.offset;
            std::cmp::Reverse((has_more, !compressed, *length))
        });
        for (id, _, _, path) in candidates {
            let open = || -> io::Result<Option<Located>> {
                let mut content = Content::open_again(&path, id)?;
                if self.judge(&path, &mut content, &of, &head, progress)? != Agreement::Whole {
                    return Ok(None);
                }
                if content.is_compressed() && content.at > progress.offset {
                    content = Content::open_again(&path, id)?;
                }
                content.skip_to(progress.offset)?;
                Ok(Some(Located { content, id, head: head.clone() }))
            };
            match open() {
                Ok(Some(located)) => return Ok(Some(located)),
                Ok(None) => {}
                // It went while it was looked at, or is not whole yet.
                Err(error) if self.reading.follow && is_passing(&error) => {}
                Err(error) => return Err(cannot("read", &path, &error)),
            }
        }
        Ok(None)
    }

    /// Where the files are, for messages.
    pub fn place(&self) -> String {
        match &self.files {
            Files::One(path) => path.display().to_string(),
            Files::Matching { directory, pattern } => directory.join(pattern).display().to_string(),
            Files::Family { directory, name } => directory.join(name).display().to_string(),
        }
    }

    fn check_bound(&self, count: usize) -> Result {
        let max = self.reading.partitions_max;
        if count > max {
            return Err(Error::stop(format!(
                "{} holds {count} files, more than the {max} that are allowed; allow more with .partitions_max(..), narrow the \
                 pattern, or move away what was read long ago",
                self.place()
            )));
        }
        Ok(())
    }

    /// The files there are.
    fn list(&self, at_start: bool) -> Result<Vec<(PathBuf, Metadata)>> {
        let directory = match &self.files {
            Files::One(path) => {
                let metadata = fs::metadata(path).map_err(|error| cannot("open", path, &error))?;
                return Ok(vec![(path.clone(), metadata)]);
            }
            Files::Matching { directory, .. } | Files::Family { directory, .. } => directory,
        };
        let fits = |file: &str| match &self.files {
            Files::Matching { pattern, .. } => matches(pattern, file) && (!file.starts_with('.') || pattern.starts_with('.')),
            Files::Family { name, .. } => {
                file.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
            }
            Files::One(_) => true,
        };
        let entries = fs::read_dir(directory).map_err(|error| cannot("read the directory", directory, &error))?;
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| cannot("read the directory", directory, &error))?;
            if !entry.file_name().to_str().is_some_and(fits) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => files.push((entry.path(), metadata)),
                // A directory, a pipe; or it has just been renamed.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot("read", &entry.path(), &error)),
            }
        }
        if files.is_empty() && at_start && !self.reading.follow {
            return Err(Error::stop(format!(
                "{} holds no file to read; check the directory and the pattern, or wait for files with .follow()",
                self.place()
            )));
        }
        // Older ones first: what they hold was there first.
        files.sort_by(|one, other| (one.1.modified().ok(), &one.0).cmp(&(other.1.modified().ok(), &other.0)));
        Ok(files)
    }

    fn look_at_all(&self, state: &mut State, at_start: bool) -> Result {
        state.looks += 1;
        let listed = self.list(at_start)?;
        let mut seen: Vec<FileId> = listed.iter().map(|(_, metadata)| id_of(metadata)).collect();
        seen.sort_unstable();
        let gone: Vec<FileId> = state.files.keys().filter(|id| seen.binary_search(id).is_err()).copied().collect();
        for id in gone {
            let entry = state.files.remove(&id).expect("it was there");
            state.touch(&entry.placed);
        }
        state.pending = 0;
        for (path, metadata) in listed {
            let (id, length) = (id_of(&metadata), metadata.len());
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let since = match state.files.get_mut(&id) {
                Some(entry) if (entry.length, entry.modified) == (length, modified) => {
                    if entry.path != path {
                        entry.path = path.clone();
                        let placed = entry.placed.clone();
                        state.touch(&placed);
                    }
                    let entry = &state.files[&id];
                    // Placed, or without a first line: nothing to find out before it changes.
                    if entry.placed != Placed::Nowhere || !entry.compressed || entry.since.elapsed() > 2 * TORN_AFTER {
                        continue;
                    }
                    entry.since
                }
                _ => Instant::now(),
            };
            let result = self.place_file(state, &path, id, length, modified, since, at_start);
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && !matches!(self.files, Files::One(_)) => {}
                Err(error) => return Err(cannot("read", &path, &error)),
            }
        }
        Ok(())
    }
}

impl State {
    fn touch(&mut self, placed: &Placed) {
        if let Placed::Holds(name) | Placed::Begins(name) = placed
            && let Some(kin) = self.partitions.get_mut(name)
        {
            kin.version += 1;
        }
    }
}

/// Whether what failed may succeed a moment later: the file went, or is still being written.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; check the path, or make it first",
        io::ErrorKind::PermissionDenied => "; this user may not read it",
        io::ErrorKind::IsADirectory => "; name a file of JSON lines, or read all files of a directory with JsonLines::dir(..)",
        io::ErrorKind::InvalidInput => "; what cannot be read again is read with JsonLines::stdin()",
        _ => "",
    };
    Error::stop(format!("cannot {what} {}: {error}{hint}", path.display()))
}
