//! What a person asks of parked changes, left in the data directory beside a running pipeline, or for its next run.
//!
//! A request is a small file, complete and durable from the moment it bears its name. Only the pipeline acts on it: the
//! order of a key's changes is known to the key's worker alone.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::embedded::{create_directory, sync_directory};
use crate::checkpoint::store::ParkedId;
use crate::error::{Error, Result};
use crate::parked::Filter;

/// What is to be done with parked changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Try it again.
    Retry {
        /// The parked record.
        id: ParkedId,
    },
    /// Give it up.
    Drop {
        /// The parked record.
        id: ParkedId,
    },
    /// Give it another row after.
    Edit {
        /// The parked record.
        id: ParkedId,
        /// The row, a JSON object.
        row: String,
    },
    /// Try all of these again that were not tried since the request was left.
    RetryAll {
        /// Which.
        filter: Filter,
        /// When it was left, in Unix milliseconds.
        asked_at_ms: u64,
    },
    /// Give all of these up that were parked when the request was left.
    DropAll {
        /// Which.
        filter: Filter,
        /// When it was left, in Unix milliseconds.
        asked_at_ms: u64,
    },
}

impl Request {
    /// What it asks for, in a word.
    pub fn verb(&self) -> &'static str {
        match self {
            Request::Retry { .. } | Request::RetryAll { .. } => "retry",
            Request::Drop { .. } | Request::DropAll { .. } => "drop",
            Request::Edit { .. } => "edit",
        }
    }

    /// The records it is about, as they were when it was left.
    pub fn filter(&self) -> Filter {
        match self {
            Request::Retry { id } | Request::Drop { id } | Request::Edit { id, .. } => Filter::of([*id]),
            Request::RetryAll { filter, asked_at_ms } | Request::DropAll { filter, asked_at_ms } => {
                let until = filter.until_ms.map_or(*asked_at_ms, |until| until.min(*asked_at_ms));
                Filter { until_ms: Some(until), ..filter.clone() }
            }
        }
    }
}

/// By what a store knows a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub String);

/// Makes requests of one process and one millisecond differ, in the order in which they were left.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Leaves a request for the pipeline of this data directory. It is durable when this returns.
pub fn leave_request(directory: &Path, request: Request) -> Result<PathBuf> {
    if !directory.is_dir() {
        return Err(Error::stop(format!("there is no data directory {}", directory.display())));
    }
    let folder = folder(directory);
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{at_ms:013}-{}-{count:06}.json", std::process::id());
    // The dot keeps it from being read before it is whole.
    let (unfinished, path) = (folder.join(format!(".{name}")), folder.join(&name));
    let leave = || {
        create_directory(&folder)?;
        let mut file = File::create_new(&unfinished)?;
        file.write_all(&serde_json::to_vec(&request)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync_directory(&folder)
    };
    leave().map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        Error::stop(format!("cannot leave a request in {}", folder.display())).because(error)
    })?;
    Ok(path)
}

/// The requests not yet taken, in the order in which they were left.
///
/// A file that is no request is set aside under another name, so that it is complained about once.
pub fn pending_requests(directory: &Path) -> Result<Vec<(PathBuf, Request)>> {
    let folder = folder(directory);
    let unreadable = |error| Error::stop(format!("cannot read requests in {}", folder.display())).because(error);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut requests = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = match fs::read(&path) {
            // Taken by the pipeline between the listing and now.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            text => text.map_err(unreadable)?,
        };
        match serde_json::from_slice(&text) {
            Ok(request) => requests.push((path, request)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "set aside a file that is no request");
                fs::rename(&path, path.with_extension("json.refused")).map_err(unreadable)?;
            }
        }
    }
    requests.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(requests)
}

/// Removes a request whose outcome is durable. One that is gone already is no error.
pub fn remove_request(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| path.parent().map_or(Ok(()), sync_directory))
            .map_err(|error| Error::stop(format!("cannot remove the request {}", path.display())).because(error)),
    }
}

/// Where the file of a request is.
pub(super) fn request_path(directory: &Path, id: &RequestId) -> PathBuf {
    folder(directory).join(&id.0)
}

fn folder(directory: &Path) -> PathBuf {
    directory.join("requests")
}
