//! One run at a time: an exclusive lock on a file that names its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::journal::failed;
use super::medium::Medium;
use crate::error::{Error, Result};

/// Held as long as it lives. The kernel gives the lock back when the process ends, however it ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a data directory, or refuses with the process that holds it.
    ///
    /// The file is never removed: a second run that had opened it before would lock a file without a name.
    pub(super) fn take(directory: &Path, medium: &Medium) -> Result<Lock> {
        let path = directory.join("lock");
        let unusable = |error| failed("lock", &path, error);
        let mut file = medium
            .step("lock.open", || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path))
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Between its lock and its first byte the holder has no number to tell yet.
                let holder = match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                    _ => "another process".to_owned(),
                };
                return Err(Error::stop(format!(
                    "the data directory {} is in use by {holder}: two runs of one pipeline would undo each other's work; end that \
                     run first, or give this one another directory",
                    directory.display()
                )));
            }
        }
        let write = || {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(std::process::id().to_string().as_bytes())
        };
        medium.step("lock.write", write).map_err(unusable)?;
        Ok(Lock { _file: file })
    }
}
