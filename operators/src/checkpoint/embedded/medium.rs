//! Every step the store takes on the disk, by name, so that a test can make any one of them fail.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::Path;

#[cfg(any(test, feature = "testing"))]
pub use faults::{Fault, Faults};

/// The way to the disk. In everyday builds it is empty and every step is the plain call.
#[derive(Clone, Default)]
pub struct Medium {
    #[cfg(any(test, feature = "testing"))]
    faults: Option<Faults>,
}

impl Medium {
    /// A medium whose steps fail as planned.
    #[cfg(any(test, feature = "testing"))]
    pub fn with_faults(faults: Faults) -> Self {
        Medium { faults: Some(faults) }
    }

    /// Any step that either happens or does not.
    pub(super) fn step<T>(&self, name: &'static str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(faults) = &self.faults {
            return faults.step(name, work);
        }
        #[cfg(not(any(test, feature = "testing")))]
        let _ = name;
        work()
    }

    /// Makes a new, empty file, in place of one of that name.
    pub(super) fn create(&self, name: &'static str, path: &Path) -> io::Result<File> {
        let file = self.step(name, || File::options().read(true).write(true).create(true).truncate(true).open(path))?;
        #[cfg(any(test, feature = "testing"))]
        if let Some(faults) = &self.faults {
            faults.created(&file);
        }
        Ok(file)
    }

    /// Writes all slices at the cursor, in one call unless the kernel takes less.
    pub(super) fn write(&self, name: &'static str, mut file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        #[cfg(any(test, feature = "testing"))]
        if let Some(faults) = &self.faults {
            return faults.write(name, file, slices);
        }
        let _ = name;
        write_all(&mut file, slices)
    }

    /// Makes the file's bytes and its length durable.
    pub(super) fn sync(&self, name: &'static str, file: &File) -> io::Result<()> {
        self.step(name, || file.sync_data())?;
        #[cfg(any(test, feature = "testing"))]
        if let Some(faults) = &self.faults {
            faults.synced(file);
        }
        Ok(())
    }

    /// Makes the names in a directory durable: a new or renamed file may otherwise be gone after a power loss.
    pub(super) fn sync_directory(&self, name: &'static str, directory: &Path) -> io::Result<()> {
        self.step(name, || sync_directory(directory))
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a directory with all that leads to it, names included durable.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(parent),
    }
}

fn write_all(file: &mut &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices in front would make a write of nothing look like a full disk.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(any(test, feature = "testing"))]
mod faults {
    use std::collections::HashMap;
    use std::fs::File;
    use std::io::{self, IoSlice, Write};
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use parking_lot::Mutex;

    /// How a step fails.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// It is not done.
        Before,
        /// It is done, and the answer is lost.
        After,
        /// Of a write, this many bytes are done; any other step is not done.
        Torn(usize),
    }

    /// A plan of which step fails. After it did, every further step fails too: the process is dead until [`revive`](Self::revive).
    #[derive(Clone, Default)]
    pub struct Faults(Arc<Mutex<Plan>>);

    #[derive(Default)]
    struct Plan {
        steps: Vec<&'static str>,
        countdown: Option<(u64, Fault)>,
        kind: Option<io::ErrorKind>,
        dead: bool,
        /// By inode: the length of the file at its last sync.
        synced: HashMap<u64, u64>,
    }

    impl Faults {
        /// From now on the `nth` step fails, counted from 0.
        pub fn fail(&self, nth: u64, fault: Fault) {
            let mut plan = self.0.lock();
            plan.countdown = Some((nth, fault));
            plan.steps.clear();
        }

        /// The error that failing steps give; without a plan of its own, "interrupted by a test".
        pub fn give(&self, kind: io::ErrorKind) {
            self.0.lock().kind = Some(kind);
        }

        /// No step fails any more.
        pub fn revive(&self) {
            let mut plan = self.0.lock();
            plan.countdown = None;
            plan.kind = None;
            plan.dead = false;
            plan.steps.clear();
        }

        /// Whether the planned step was reached.
        pub fn fired(&self) -> bool {
            self.0.lock().dead
        }

        /// The steps begun since the last [`fail`](Self::fail) or [`revive`](Self::revive).
        pub fn steps(&self) -> Vec<&'static str> {
            self.0.lock().steps.clone()
        }

        /// Up to which length a file would survive a power loss: 0 if it was never synced.
        pub fn synced_length(&self, file: &File) -> io::Result<u64> {
            Ok(self.0.lock().synced.get(&file.metadata()?.ino()).copied().unwrap_or(0))
        }

        pub(super) fn created(&self, file: &File) {
            if let Ok(metadata) = file.metadata() {
                self.0.lock().synced.insert(metadata.ino(), 0);
            }
        }

        pub(super) fn synced(&self, file: &File) {
            if let Ok(metadata) = file.metadata() {
                self.0.lock().synced.insert(metadata.ino(), metadata.len());
            }
        }

        fn due(&self, name: &'static str) -> io::Result<Option<Fault>> {
            let mut plan = self.0.lock();
            if plan.dead {
                return Err(plan.error(name));
            }
            plan.steps.push(name);
            match &mut plan.countdown {
                Some((0, fault)) => {
                    let fault = *fault;
                    plan.dead = true;
                    Ok(Some(fault))
                }
                Some((left, _)) => {
                    *left -= 1;
                    Ok(None)
                }
                None => Ok(None),
            }
        }

        pub(super) fn step<T>(&self, name: &'static str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
            match self.due(name)? {
                None => work(),
                Some(Fault::After) => work().and_then(|_| Err(self.0.lock().error(name))),
                Some(Fault::Before | Fault::Torn(_)) => Err(self.0.lock().error(name)),
            }
        }

        pub(super) fn write(&self, name: &'static str, mut file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
            let Some(fault) = self.due(name)? else {
                return super::write_all(&mut file, slices);
            };
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let done = match fault {
                Fault::Before => 0,
                Fault::After => bytes.len(),
                Fault::Torn(length) => length.min(bytes.len()),
            };
            file.write_all(&bytes[..done])?;
            Err(self.0.lock().error(name))
        }
    }

    impl Plan {
        fn error(&self, name: &str) -> io::Error {
            match self.kind {
                Some(kind) => kind.into(),
                None => io::Error::other(format!("interrupted by a test at {name}")),
            }
        }
    }
}
