//! The short names that a pipeline's file uses.

use std::path::PathBuf;
use std::time::Duration;

use highwater_sinks::JsonLinesFiles;
pub use highwater_sources::{Channel, Envelope, Feed, Generator, OnReject};
use highwater_sources::{CsvChanges, FileTable, JsonLinesSource};
#[cfg(feature = "postgres")]
pub use highwater_sources::{PostgresChangeLog, PostgresReplication, PostgresRows, Snapshot};
#[cfg(feature = "redis")]
pub use highwater_sources::{RedisHash, RedisStreams, redis_stream::Entries};

/// JSON lines: as a source, and as a sink.
#[derive(Debug)]
pub struct JsonLines;

impl JsonLines {
    /// Reads a file of JSON lines, plain or compressed; with `.follow()` as it grows and through its rotations.
    pub fn file(path: impl Into<PathBuf>) -> JsonLinesSource {
        JsonLinesSource::file(path)
    }

    /// Reads the files of a directory, those there are; with `.follow()` also those that come. `.matching("app.log*")` chooses.
    pub fn dir(path: impl Into<PathBuf>) -> JsonLinesSource {
        JsonLinesSource::directory(path)
    }

    /// Reads standard input, which cannot be read again: what was under way in a crash is lost.
    pub fn stdin() -> JsonLinesSource {
        JsonLinesSource::stdin()
    }

    /// A file of JSON lines, an object on each, as a table for lookups.
    pub fn table(path: impl Into<PathBuf>) -> FileTable {
        FileTable::json_lines(path)
    }

    /// Writes files of JSON lines below a directory; they hold each change exactly once, whatever happens.
    pub fn append(path: impl Into<PathBuf>) -> JsonLinesFiles {
        JsonLinesFiles::new(path)
    }
}

/// CSV files: as a source, and as tables for lookups.
#[derive(Debug)]
pub struct Csv;

impl Csv {
    /// Reads a CSV file with a header line, whose rows are changes.
    pub fn changes(path: impl Into<PathBuf>) -> CsvChanges {
        CsvChanges::new(path)
    }

    /// A CSV file with a header line, as a table for lookups.
    pub fn file(path: impl Into<PathBuf>) -> FileTable {
        FileTable::csv(path)
    }
}

/// So many milliseconds.
pub fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// So many seconds.
pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many minutes.
pub fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

/// So many hours.
pub fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

/// The value of an environment variable; empty if it is not set.
pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
