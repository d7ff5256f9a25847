//! A CSV file as a source: its header names the columns, every further row is a change.
//!
//! The file is read as RFC 4180 has it: a quoted field may hold separators, quotes (doubled) and line ends. The position of a
//! change is the byte offset of its row, so rows that span lines continue where they should. Values are text; a row becomes the JSON
//! object of its columns.

mod reader;
mod record;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::PartitionName;
use highwater_operators::ingest::{Partition, Reader, Source};
use highwater_operators::{Error, Operation, Result, ResumeToken};
use memchr::memchr_iter;
use xxhash_rust::xxh3::xxh3_128;

use self::reader::RowReader;
use self::record::Columns;

/// Longest header.
const HEADER_MAX: u64 = 1 << 20;
/// How much of the header and the first row names the file.
const FINGERPRINT_MAX: u64 = 64 * 1024;

/// A CSV file whose rows are changes.
#[derive(Clone, Debug)]
pub struct CsvChanges {
    path: PathBuf,
    delimiter: u8,
    table: Option<String>,
    id: Option<String>,
    key: Option<String>,
    op: Option<String>,
    values: Arc<[(Box<str>, Operation)]>,
    time: Option<String>,
}

impl CsvChanges {
    /// The file at this path, with a header line. It is opened when the pipeline runs.
    ///
    /// Unless said otherwise every row is an insert into the table named as the file is (`orders.csv`: `orders`), its id is its place in the file,
    /// its key is its id, and its time 0.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let values = Arc::new([]);
        CsvChanges { path: path.into(), delimiter: b',', table: None, id: None, key: None, op: None, values, time: None }
    }

    /// The column that identifies a change.
    pub fn id(mut self, column: impl Into<String>) -> Self {
        self.id = Some(column.into());
        self
    }

    /// The column that is the row's key.
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }

    /// The column that tells the operation, and what its values mean. Without values: the usual words, `insert`, `update`, `delete`,
    /// `read`, `c`, `u`, `d`, `r`.
    pub fn op<'v>(mut self, column: impl Into<String>, values: impl IntoIterator<Item = (&'v str, Operation)>) -> Self {
        self.op = Some(column.into());
        self.values = values.into_iter().map(|(value, operation)| (value.into(), operation)).collect();
        self
    }

    /// The column that tells the commit time: Unix milliseconds, or RFC 3339.
    pub fn time(mut self, column: impl Into<String>) -> Self {
        self.time = Some(column.into());
        self
    }

    /// The table that the rows are of.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// What separates fields; a comma unless said otherwise.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    fn cannot(&self, what: &str, error: io::Error) -> Error {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; check the path, or make the file first",
            io::ErrorKind::PermissionDenied => "; this user may not read it",
            io::ErrorKind::IsADirectory => "; name a file",
            _ => "",
        };
        Error::stop(format!("cannot {what} {}: {error}{hint}", self.path.display()))
    }

    fn table_name(&self) -> String {
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.table.clone().unwrap_or_else(stem)
    }

    /// The columns, as the header names them, and where the first row may begin.
    fn columns(&self, file: &mut File) -> Result<(Columns, u64)> {
        let mut start = Vec::new();
        file.take(HEADER_MAX).read_to_end(&mut start).map_err(|error| self.cannot("read", error))?;
        let (names, end) = reader::header(&start, self.delimiter).ok_or_else(|| {
            Error::stop(format!(
                "{}: the header is longer than {HEADER_MAX} bytes or a quote in it is not closed",
                self.path.display()
            ))
        })?;
        let names = names.into_iter().map(String::from_utf8).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| Error::stop(format!("{}, line 1: the header is not UTF-8", self.path.display())))?;
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(Error::stop(format!(
                    "{}, line 1: two columns are named \"{name}\"; rename one",
                    self.path.display()
                )));
            }
        }
        let place = |column: &Option<String>| match column {
            None => Ok(None),
            Some(column) => match names.iter().position(|name| name == column) {
                Some(place) => Ok(Some(place)),
                None => Err(Error::stop(format!(
                    "{} has no column \"{column}\"; its columns are: {}",
                    self.path.display(),
                    names.join(", ")
                ))),
            },
        };
        let columns = Columns {
            table: self.table_name(),
            id: place(&self.id)?,
            key: place(&self.key)?,
            op: place(&self.op)?,
            values: self.values.clone(),
            time: place(&self.time)?,
            heads: names.iter().map(|name| record::head(name)).collect(),
            names,
        };
        Ok((columns, end as u64))
    }
}

impl Source for CsvChanges {
    fn kind(&self) -> &'static str {
        "csv"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        let mut file = File::open(&self.path).map_err(|error| self.cannot("open", error))?;
        let length = file.metadata().map_err(|error| self.cannot("read", error))?.len();
        let (_, header) = self.columns(&mut file)?;
        file.seek(SeekFrom::Start(0)).map_err(|error| self.cannot("read", error))?;
        let mut start = Vec::new();
        (&file).take(header + FINGERPRINT_MAX).read_to_end(&mut start).map_err(|error| self.cannot("read", error))?;
        let rows = &start[header as usize..];
        let Some(first) = rows.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else { return Ok(Vec::new()) };
        // The header alone would name every file of its kind.
        let end = memchr_iter(b'\n', rows).find(|end| *end > first).unwrap_or(rows.len());
        let name = format!("{:032x}", xxh3_128(&start[..header as usize + end]));
        Ok(vec![PartitionName { name, bytes: Some(length) }])
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let mut file = File::open(&self.path).map_err(|error| self.cannot("open", error))?;
        let (columns, header) = self.columns(&mut file)?;
        let (offset, lines, tail) = match from {
            Some(token) => {
                let (lines, tail) = self.compare(&mut file, token)?;
                (token.order, lines, tail)
            }
            None => {
                let mut head = vec![0; header as usize];
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.read_exact(&mut head))
                    .map_err(|error| self.cannot("read", error))?;
                (header, memchr_iter(b'\n', &head).count() as u64, reader::tail_of(&head))
            }
        };
        file.seek(SeekFrom::Start(offset)).map_err(|error| self.cannot("read", error))?;
        let core = reader::core(self.delimiter);
        Ok(Box::new(RowReader::new(self.path.clone(), partition.id, file, window.clone(), core, columns, (offset, lines, tail))))
    }

    fn bytes_before(&self, token: &ResumeToken) -> u64 {
        token.order
    }
}

impl CsvChanges {
    /// Holds the file against a resume token, and returns what that says: the lines before it, and the bytes just before it.
    fn compare(&self, file: &mut File, token: &ResumeToken) -> Result<(u64, Vec<u8>)> {
        let (path, offset): (&Path, u64) = (&self.path, token.order);
        let length = file.metadata().map_err(|error| self.cannot("read", error))?.len();
        if length < offset {
            return Err(Error::stop(format!(
                "{} is {length} bytes long, but the checkpoint continues at byte {offset}: the file was cut short; restore it, or \
                 start again with a new data directory",
                path.display()
            )));
        }
        let made_elsewhere =
            || Error::stop(format!("the checkpoint's resume token for {} was not made by this source", path.display()));
        let (lines, expected) = token.detail.split_first_chunk().ok_or_else(made_elsewhere)?;
        let start = offset.checked_sub(expected.len() as u64).ok_or_else(made_elsewhere)?;
        let mut tail = vec![0; expected.len()];
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut tail)).map_err(|error| self.cannot("read", error))?;
        if tail != expected {
            return Err(Error::stop(format!(
                "{} was changed before byte {offset}, where the checkpoint continues; restore it, or start again with a new data \
                 directory",
                path.display()
            )));
        }
        Ok((u64::from_le_bytes(*lines), tail))
    }
}

#[cfg(test)]
mod tests;
