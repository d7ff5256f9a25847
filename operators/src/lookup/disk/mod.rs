//! The third tier of a lookup's cache: a file that survives restarts, so that a process that begins asks its origin only for what it never had.
//!
//! Nothing depends on it: a file that is damaged, of another origin or of another version is begun anew, and one that cannot be written leaves the lookup
//! with its other tiers.

mod file;
mod tier;

use std::path::PathBuf;
use std::time::Duration;

pub use self::tier::DiskTier;

/// A cache on disk, how much it keeps and how long. See [`Lookup::disk_cache`](super::Lookup::disk_cache).
///
/// ```
/// use std::time::Duration;
/// use highwater_operators::lookup::{Cache, DiskCache, Lookup, load};
/// let lookup = Lookup::by("customer_id")
///     .from(load(|keys: Vec<String>| async move { Ok(keys.iter().map(|_| None).collect()) }))
///     .cache(Cache::entries(100_000).ttl(Duration::from_secs(60)))
///     .disk_cache(DiskCache::in_folder("cache").entries(5_000_000).ttl(Duration::from_secs(3600)));
/// assert!(lookup.problems().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct DiskCache {
    pub(super) folder: PathBuf,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) ttl: Duration,
    pub(super) negative_ttl: Option<Duration>,
}

impl DiskCache {
    /// A file for the lookup in this folder, which is made if it is not there: 1,000,000 entries and 1 GiB at most, rows for an hour, and so "there is none".
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        DiskCache {
            folder: folder.into(),
            entries: 1_000_000,
            bytes: 1 << 30,
            ttl: Duration::from_secs(3600),
            negative_ttl: None,
        }
    }

    /// Keeps so many entries at most; what was written first goes first.
    #[must_use]
    pub fn entries(self, entries: u64) -> Self {
        DiskCache { entries: entries.max(1), ..self }
    }

    /// Keeps so many bytes of keys and rows at most. The file is larger, by about a half.
    #[must_use]
    pub fn bytes(self, bytes: u64) -> Self {
        DiskCache { bytes, ..self }
    }

    /// Keeps rows for so long by the machine's clock, give or take a tenth, so that what was loaded together does not expire together. A worker's own cache
    /// counts its time from when it got the row: together they may be as old as both.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        DiskCache { ttl, ..self }
    }

    /// Keeps "there is none" for so long, give or take a tenth; zero keeps no such answer. Default: as for rows.
    #[must_use]
    pub fn negative_ttl(self, ttl: Duration) -> Self {
        DiskCache { negative_ttl: Some(ttl), ..self }
    }

    /// What is wrong with it, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let is_file = self.folder.exists() && !self.folder.is_dir();
        let about_folder = is_file.then(|| format!("its disk cache cannot be in {}: that is no folder", self.folder.display()));
        let about_time = (self.ttl < Duration::from_millis(1))
            .then(|| "its disk cache keeps rows for less than a millisecond; give it a ttl, or leave it out".to_owned());
        about_folder.into_iter().chain(about_time).collect()
    }
}
