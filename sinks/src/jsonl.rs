//! Files of JSON lines, cut back to the checkpoint on resume: each change stands in them exactly once.
//!
//! Each worker of each run writes a file of its own, `NAME-GENERATION-WORKER.jsonl`. A new run cuts the files of earlier runs
//! to the lengths that the checkpoint holds, removes those it does not hold, and never writes them again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_operators::action::cut_back::{CutBackOutput, CutBackSink, Syncer};
use highwater_operators::change::Change;
use highwater_operators::checkpoint::store::CutBackFile;
use highwater_operators::{Error, Result};

use crate::line::Line;

type Format = Arc<dyn Fn(&Change, &mut Line<'_>) + Send + Sync>;

/// Files of JSON lines in a directory, or beside a path.
#[derive(Clone)]
pub struct JsonLinesFiles {
    directory: PathBuf,
    /// What the names of the files begin with.
    stem: String,
    format: Format,
}

impl JsonLinesFiles {
    /// Files below `path`: `out/all` makes `out/all/part-000001-000.jsonl`; a path with an extension, `out/all.jsonl`, makes
    /// `out/all-000001-000.jsonl`. Lines are changes in the default envelope, unless [`with`](Self::with) says otherwise.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let (directory, stem) = match path.extension() {
            None => (path, "part".to_owned()),
            Some(_) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (path.parent().map(Path::to_path_buf).unwrap_or_default(), stem)
            }
        };
        let format: Format = Arc::new(|change, line| {
            line.change(change);
        });
        JsonLinesFiles { directory, stem, format }
    }

    /// Writes the fields that `format` gives. It runs on the worker and must not block.
    pub fn with(mut self, format: impl Fn(&Change, &mut Line<'_>) + Send + Sync + 'static) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// The generation of a file of this sink, or `None` for a file that is none of its.
    fn generation(&self, name: &str) -> Option<u64> {
        let numbers = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(".jsonl")?;
        let (generation, worker) = numbers.split_once('-')?;
        let is_number = |text: &str, digits| text.len() >= digits && text.bytes().all(|byte| byte.is_ascii_digit());
        (is_number(generation, 6) && is_number(worker, 3)).then(|| generation.parse().ok())?
    }

    fn own_files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut own = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(generation) = self.generation(&name) {
                own.push((name, generation));
            }
        }
        Ok(own)
    }
}

impl CutBackSink for JsonLinesFiles {
    fn cut_back(&self, files: &[CutBackFile], generation: u64) -> Result {
        fs::create_dir_all(if self.directory.as_os_str().is_empty() { Path::new(".") } else { &self.directory })
            .map_err(|error| cannot("make the directory", &self.directory, &error))?;
        for file in files {
            let path = self.directory.join(&file.path);
            cut(&path, file.length).map_err(|error| error.context(format!("output file {}", path.display())))?;
        }
        let unreadable = |error: io::Error| cannot("read the directory", &self.directory, &error);
        for (name, made_by) in self.own_files().map_err(unreadable)? {
            if files.iter().any(|file| file.path == name) {
                continue;
            }
            // A file of this run's number or a later one was written under another data directory, whose output it still is.
            if made_by >= generation {
                return Err(Error::stop(format!(
                    "{} holds output of another data directory ({name}); continue with that one, name another place for the \
                     output, or move the old files away",
                    self.place()
                )));
            }
            let path = self.directory.join(&name);
            fs::remove_file(&path).map_err(|error| cannot("remove", &path, &error))?;
        }
        Ok(())
    }

    fn open(&self, generation: u64, worker: usize) -> Result<Box<dyn CutBackOutput>> {
        let name = format!("{}-{generation:06}-{worker:03}.jsonl", self.stem);
        Ok(Box::new(Output { path: self.directory.join(&name), name, file: None }))
    }

    fn encode(&self, change: &Change, to: &mut Vec<u8>) -> Result {
        Line::write(to, |line| (self.format)(change, line));
        Ok(())
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }
}

fn cut(path: &Path, length: u64) -> Result {
    let stop = |error: io::Error| Error::stop(format!("{error}{}", remedy(&error)));
    let file = OpenOptions::new().write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::stop(
            "it is not there, but the checkpoint continues it; give the old place of the output back, or start again with a new \
             data directory and a new place",
        ),
        _ => stop(error),
    })?;
    let found = file.metadata().map_err(stop)?.len();
    if found < length {
        return Err(Error::stop(format!(
            "it is {found} bytes long, but the checkpoint counts on {length}: it was cut or replaced; restore it, or start again \
             with a new data directory and a new place for the output"
        )));
    }
    if found > length {
        file.set_len(length).map_err(stop)?;
        file.sync_all().map_err(stop)?;
    }
    Ok(())
}

struct Output {
    path: PathBuf,
    name: String,
    file: Option<File>,
}

impl Output {
    fn cannot(&self, what: &str, error: &io::Error) -> Error {
        cannot(what, &self.path, error)
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::stop(format!("cannot {what} {}: {error}{}", path.display(), remedy(error)))
}

/// What one can do, where that is known.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on the disk and start again: nothing is lost",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; there is a file where a directory must be: move it away, or name another place for the output"
        }
        io::ErrorKind::FileTooLarge => {
            "; this process may not write files so large: raise the limit (`ulimit -f`) and start again: nothing is lost"
        }
        io::ErrorKind::PermissionDenied => "; this user may not write there",
        io::ErrorKind::ReadOnlyFilesystem => "; make the disk writable, or name another place for the output",
        _ => "",
    }
}

impl CutBackOutput for Output {
    fn path(&self) -> String {
        self.name.clone()
    }

    fn append(&mut self, bytes: &[u8]) -> Result {
        if self.file.is_none() {
            let file = OpenOptions::new().create_new(true).append(true).open(&self.path);
            self.file = Some(file.map_err(|error| self.cannot("make", &error))?);
            // The name must survive a power cut as surely as the content.
            let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| self.cannot("make", &error))?;
        }
        let file = self.file.as_mut().expect("made above");
        file.write_all(bytes).map_err(|error| self.cannot("write", &error))
    }

    fn syncer(&mut self) -> Result<Syncer> {
        let file = self.file.as_ref().expect("asked for after the first append");
        let file = file.try_clone().map_err(|error| self.cannot("sync", &error))?;
        let path = self.path.clone();
        Ok(Box::new(move || file.sync_data().map_err(|error| cannot("sync", &path, &error))))
    }
}

impl std::fmt::Debug for JsonLinesFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonLinesFiles").field("directory", &self.directory).field("stem", &self.stem).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(path: &str, length: u64) -> CutBackFile {
        CutBackFile { action: "all".into(), path: path.into(), length }
    }

    #[test]
    fn a_resume_cuts_what_the_checkpoint_names_and_removes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let sink = JsonLinesFiles::new(folder.path().join("all"));
        sink.cut_back(&[], 1).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join("all").join(name), text).unwrap();
        write("part-000001-000.jsonl", "one\ntwo\n");
        write("part-000001-001.jsonl", "three\n");
        write("mine.jsonl", "a person's own file");
        sink.cut_back(&[kept("part-000001-000.jsonl", 4)], 2).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join("all").join(name)).ok();
        assert_eq!(read("part-000001-000.jsonl").as_deref(), Some("one\n"));
        assert_eq!(read("part-000001-001.jsonl"), None);
        assert!(read("mine.jsonl").is_some());
    }

    #[test]
    fn output_that_is_not_this_pipelines_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all-000003-000.jsonl"), "x").unwrap();
        let sink = JsonLinesFiles::new(folder.path().join("all.jsonl"));
        let error = sink.cut_back(&[], 1).unwrap_err().to_string();
        assert!(error.contains("holds output of another data directory (all-000003-000.jsonl)"), "{error}");
        assert!(folder.path().join("all-000003-000.jsonl").exists());
    }

    #[test]
    fn a_file_shorter_than_its_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("part-000001-000.jsonl"), "x").unwrap();
        let sink = JsonLinesFiles::new(folder.path());
        let folder_name = JsonLinesFiles { directory: folder.path().into(), stem: "part".into(), ..sink };
        let error = folder_name.cut_back(&[kept("part-000001-000.jsonl", 9)], 2).unwrap_err().to_string();
        assert!(error.contains("1 bytes long, but the checkpoint counts on 9"), "{error}");
    }
}
