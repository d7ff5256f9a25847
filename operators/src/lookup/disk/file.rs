//! The file: rows by key, and keys by when they were written. Everything here may block.

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition};

use crate::guard::panic::guarded;

/// By key: when it expires, its number, and the row.
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// By number, rising as they are written: keys. The first go first.
const WRITTEN: TableDefinition<'_, u64, &str> = TableDefinition::new("written");
/// What the file is of, and how much is in it.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");

/// What stands before a row: when it expires, in Unix milliseconds, and its number.
const HEAD: usize = 16;
/// What an entry takes beside its key and value, about.
const ENTRY_BYTES: u64 = 48;
/// How long what was written may be lost by a crash: it is loaded again.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Memory for pages of the file.
const PAGES_BYTES: usize = 32 << 20;

pub(super) struct File {
    database: Database,
    synced: Mutex<Instant>,
    limits: Limits,
}

/// How much may be in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub entries: u64,
    pub bytes: u64,
}

/// How much is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fill {
    pub entries: u64,
    pub bytes: u64,
}

/// A row to be written: its key, when it expires, the row.
pub(super) type Entry = (String, u64, Vec<u8>);

impl File {
    /// Opens the file of this origin. One that is damaged, of another origin or of another version is removed, with the sentence that says why, and begun anew.
    pub fn open(path: &Path, origin: &str, limits: Limits) -> Result<(File, Fill), String> {
        let cannot = |what: &str| format!("{}: {what}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| cannot(&error.to_string()))?;
        }
        let attempt = |path: &Path| {
            guarded(|| Self::look(path, origin, limits))
                .unwrap_or_else(|panic| Err(Broken::Anew(format!("it is damaged ({panic})"))))
        };
        match attempt(path) {
            Ok(opened) => Ok(opened),
            Err(Broken::Leave(why)) => Err(cannot(&why)),
            Err(Broken::Anew(why)) => {
                tracing::warn!(file = %path.display(), "the disk cache of a lookup is begun anew: {why}");
                std::fs::remove_file(path).map_err(|error| cannot(&error.to_string()))?;
                attempt(path).map_err(|broken| cannot(&broken.why()))
            }
        }
    }

    fn look(path: &Path, origin: &str, limits: Limits) -> Result<(File, Fill), Broken> {
        let database =
            Builder::new().set_cache_size(PAGES_BYTES).set_check_integrity_on_open(true).create(path).map_err(Broken::of)?;
        let file = File { database, synced: Mutex::new(Instant::now()), limits };
        match file.about(origin) {
            Ok(Ok(fill)) => Ok((file, fill)),
            Ok(Err(other)) => Err(Broken::Anew(other)),
            Err(error) => Err(Broken::Anew(format!("it cannot be read ({error})"))),
        }
    }

    /// Whether it is of this origin, and how much is in it. A new file becomes one of this origin.
    fn about(&self, origin: &str) -> Result<Result<Fill, String>, redb::Error> {
        let origin = format!("1 {origin}");
        let writes = self.database.begin_write()?;
        {
            let mut about = writes.open_table(ABOUT)?;
            let known = about.get("origin")?.map(|known| known.value().to_owned());
            match known {
                Some(known) if known != origin => {
                    return Ok(Err("it is of another origin, or of another version".to_owned()));
                }
                Some(_) => {}
                None => {
                    about.insert("origin", origin.as_str())?;
                }
            }
            writes.open_table(ROWS)?;
            writes.open_table(WRITTEN)?;
        }
        writes.commit()?;
        let reads = self.database.begin_read()?;
        let mut fill = Fill::default();
        for entry in reads.open_table(ROWS)?.iter()? {
            let (key, value) = entry?;
            fill.entries += 1;
            fill.bytes += size(key.value(), value.value());
        }
        Ok(Ok(fill))
    }

    /// The rows of these keys as they were written; `None` where there is none that is young enough.
    pub fn get(&self, keys: &[String], now_ms: u64) -> Result<Vec<Option<Vec<u8>>>, String> {
        let get = || -> Result<_, redb::Error> {
            let rows = self.database.begin_read()?.open_table(ROWS)?;
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                let value = rows.get(key.as_str())?;
                found.push(value.and_then(|value| {
                    let (until, row) = value.value().split_first_chunk::<8>()?;
                    (u64::from_le_bytes(*until) > now_ms).then(|| row.get(HEAD - 8..).map(<[u8]>::to_vec))?
                }));
            }
            Ok(found)
        };
        guarded(get)?.map_err(|error| error.to_string())
    }

    /// Writes rows, and removes what there is no room for, oldest first; how much is in it then, and how many had to go.
    pub fn put(&self, entries: &[Entry], mut fill: Fill) -> Result<(Fill, u64), String> {
        let mut put = || -> Result<_, redb::Error> {
            let mut writes = self.database.begin_write()?;
            let mut synced = self.synced.lock();
            let sync = synced.elapsed() >= SYNC_EVERY;
            writes.set_durability(if sync { Durability::Immediate } else { Durability::None }).map_err(redb::Error::from)?;
            let mut evicted = 0;
            {
                let (mut rows, mut written) = (writes.open_table(ROWS)?, writes.open_table(WRITTEN)?);
                let next = written.last()?.map_or(0, |(number, _)| number.value() + 1);
                for (number, (key, until, row)) in (next..).zip(entries) {
                    let value = [&until.to_le_bytes()[..], &number.to_le_bytes(), row].concat();
                    fill.entries += 1;
                    fill.bytes += size(key, &value);
                    if let Some(old) = rows.insert(key.as_str(), &value[..])? {
                        fill.entries -= 1;
                        fill.bytes = fill.bytes.saturating_sub(size(key, old.value()));
                        if let Some(number) = number_of(old.value()) {
                            written.remove(number)?;
                        }
                    }
                    written.insert(number, key.as_str())?;
                }
                while fill.entries > self.limits.entries || fill.bytes > self.limits.bytes {
                    let Some((_, oldest)) = written.pop_first()? else { break };
                    if let Some(old) = rows.remove(oldest.value())? {
                        fill.entries -= 1;
                        fill.bytes = fill.bytes.saturating_sub(size(oldest.value(), old.value()));
                        evicted += 1;
                    }
                }
            }
            writes.commit()?;
            if sync {
                *synced = Instant::now();
            }
            Ok((fill, evicted))
        };
        guarded(&mut put)?.map_err(|error| error.to_string())
    }
}

/// Why a file cannot be used.
enum Broken {
    /// It is of no use to anybody.
    Anew(String),
    /// It may be good, or another's.
    Leave(String),
}

impl Broken {
    fn of(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => {
                Broken::Leave("another process has it open; give each its own folder".to_owned())
            }
            DatabaseError::Storage(StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
                Broken::Leave(error.to_string())
            }
            error => Broken::Anew(format!("it is damaged or of another version ({error})")),
        }
    }

    fn why(self) -> String {
        match self {
            Broken::Anew(why) | Broken::Leave(why) => why,
        }
    }
}

fn size(key: &str, value: &[u8]) -> u64 {
    ENTRY_BYTES + 2 * key.len() as u64 + value.len() as u64
}

fn number_of(value: &[u8]) -> Option<u64> {
    value.get(8..HEAD)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Limits = Limits { entries: 100, bytes: 1 << 20 };

    fn open(path: &Path, origin: &str, limits: Limits) -> (File, Fill) {
        File::open(path, origin, limits).unwrap()
    }

    fn entry(key: &str, until: u64) -> Entry {
        (key.to_owned(), until, format!("row of {key}").into_bytes())
    }

    fn get(file: &File, key: &str, now: u64) -> Option<String> {
        file.get(&[key.to_owned()], now).unwrap().remove(0).map(|row| String::from_utf8(row).unwrap())
    }

    #[test]
    fn rows_are_there_again_until_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/customers.redb");
        let (file, fill) = open(&path, "a table", ROOM);
        let (fill, evicted) = file.put(&[entry("7", 1_000), entry("8", 2_000)], fill).unwrap();
        assert_eq!((fill.entries, evicted), (2, 0));
        drop(file);
        let (file, again) = open(&path, "a table", ROOM);
        assert_eq!(again, fill, "what is in it is counted as it was");
        assert_eq!(get(&file, "7", 999).as_deref(), Some("row of 7"));
        assert_eq!((get(&file, "7", 1_000), get(&file, "9", 0)), (None, None));
        assert_eq!(get(&file, "8", 1_000).as_deref(), Some("row of 8"));
    }

    #[test]
    fn what_was_written_first_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mut fill) = open(&folder.path().join("f"), "a table", Limits { entries: 3, ..ROOM });
        for key in ["1", "2", "3", "1", "4"] {
            fill = file.put(&[entry(key, 10)], fill).unwrap().0;
        }
        let there = |key: &str| get(&file, key, 0).is_some();
        assert_eq!(["1", "2", "3", "4"].map(there), [true, false, true, true], "1 was written again");
        assert_eq!(fill.entries, 3);
        let one = fill.bytes / 3;
        let (small, fill) = open(&folder.path().join("g"), "a table", Limits { bytes: 2 * one + 1, ..ROOM });
        let (fill, evicted) = small.put(&[entry("1", 10), entry("2", 10), entry("3", 10)], fill).unwrap();
        assert_eq!((fill, evicted), (Fill { entries: 2, bytes: 2 * one }, 1));
    }

    #[test]
    fn a_file_of_another_origin_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let (file, fill) = open(&path, "a table", ROOM);
        file.put(&[entry("7", 10)], fill).unwrap();
        drop(file);
        let (file, fill) = open(&path, "another table", ROOM);
        assert_eq!((get(&file, "7", 0), fill), (None, Fill::default()));
    }

    #[test]
    fn a_damaged_file_is_found_out_and_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let rows: Vec<Entry> = (0..60).map(|n| entry(&format!("{n}"), 10)).collect();
        let good = {
            let (file, fill) = open(&path, "a table", ROOM);
            file.put(&rows, fill).unwrap();
            drop(file);
            std::fs::read(&path).unwrap()
        };
        let places = (0..good.len()).step_by(good.len() / 40);
        for at in places {
            let mut bad = good.clone();
            for byte in bad.iter_mut().skip(at).take(64) {
                *byte ^= 0x5a;
            }
            std::fs::write(&path, &bad).unwrap();
            let (file, _) = open(&path, "a table", ROOM);
            for (key, _, row) in &rows {
                let found = file.get(std::slice::from_ref(key), 0).unwrap().remove(0);
                assert!(found.as_ref().is_none_or(|found| found == row), "damaged at {at}, {key} is {found:?}");
            }
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_eq!(open(&path, "a table", ROOM).1, Fill::default(), "cut short");
        std::fs::write(&path, "no database").unwrap();
        assert_eq!(open(&path, "a table", ROOM).1, Fill::default(), "something else");
    }

    #[test]
    fn two_that_want_one_file_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let _first = open(&path, "a table", ROOM);
        let second = File::open(&path, "a table", ROOM).err().unwrap();
        assert!(second.ends_with("f: another process has it open; give each its own folder"), "{second}");
    }
}
