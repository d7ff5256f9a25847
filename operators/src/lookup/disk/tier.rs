//! Asking it, and telling it, from the runtime: each batch on a thread that may block.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::OnceCell;

use super::DiskCache;
use super::file::{Entry, File, Fill, Limits};
use crate::change::Found;
use crate::epoch::unix_ms;
use crate::lookup::stats::DiskStats;
use crate::lookup::value::{Names, encode};

/// Batches that wait to be written at most: a disk that is slower than the origin is told less.
const WRITES_MAX: usize = 16;

/// A cache on disk as one lookup of this process uses it.
pub struct DiskTier {
    settings: DiskCache,
    path: PathBuf,
    origin: String,
    /// `None`: it cannot be used.
    file: OnceCell<Option<Arc<Opened>>>,
    writes: AtomicUsize,
    names: Names,
    stats: Arc<DiskStats>,
}

struct Opened {
    file: File,
    /// Writes go one by one.
    fill: Mutex<Fill>,
}

impl DiskTier {
    /// The tier for a lookup of this name in this process. It is opened when it is first asked.
    pub(crate) fn new(settings: &DiskCache, lookup: &str, process: usize, origin: String, stats: Arc<DiskStats>) -> Self {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut name: String = lookup.chars().map(|c| if is_plain(c) { c } else { '_' }).take(64).collect();
        if name != lookup {
            name += &format!("-{:08x}", xxhash_rust::xxh3::xxh3_64(lookup.as_bytes()) as u32);
        }
        if process > 0 {
            name += &format!(".{process}");
        }
        DiskTier {
            path: settings.folder.join(name + ".redb"),
            settings: settings.clone(),
            origin,
            file: OnceCell::new(),
            writes: AtomicUsize::new(0),
            names: Names::default(),
            stats,
        }
    }

    async fn file(&self) -> Option<Arc<Opened>> {
        let open = || async {
            let (path, origin) = (self.path.clone(), self.origin.clone());
            let limits = Limits { entries: self.settings.entries, bytes: self.settings.bytes };
            let opened = tokio::task::spawn_blocking(move || File::open(&path, &origin, limits)).await;
            match opened.unwrap_or_else(|error| Err(error.to_string())) {
                Ok((file, fill)) => {
                    self.stats.holds(fill.entries, fill.bytes);
                    Some(Arc::new(Opened { file, fill: Mutex::new(fill) }))
                }
                Err(why) => {
                    tracing::warn!("a lookup goes without its disk cache: {why}");
                    None
                }
            }
        };
        self.file.get_or_init(open).await.clone()
    }

    /// What it has of these keys, and the keys that are to be asked for elsewhere.
    pub(crate) async fn get(&self, stage: &Arc<str>, keys: Vec<String>) -> (Vec<(String, Arc<Found>)>, Vec<String>) {
        let Some(opened) = self.file().await else {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
            return (Vec::new(), keys);
        };
        let keys = Arc::new(keys);
        let asked = keys.clone();
        let values = tokio::task::spawn_blocking(move || opened.file.get(&asked, unix_ms())).await;
        let values = values.unwrap_or_else(|error| Err(error.to_string())).unwrap_or_else(|error| {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(lookup = %stage, %error, "the disk cache gives no answer");
            keys.iter().map(|_| None).collect()
        });
        let (found, missing) = self.names.sort(stage, Arc::unwrap_or_clone(keys), values.iter().map(Option::as_deref));
        self.stats.hits.fetch_add(found.len() as u64, Ordering::Relaxed);
        self.stats.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        (found, missing)
    }

    /// Keeps what another tier or the origin gave. What could not be loaded is not kept.
    pub(crate) async fn put(&self, loaded: &[(String, Arc<Found>)]) {
        let Some(opened) = self.file().await else { return };
        let entries = self.entries(loaded);
        if entries.is_empty() {
            return;
        }
        if self.writes.fetch_add(1, Ordering::Relaxed) < WRITES_MAX {
            let stats = self.stats.clone();
            let written = tokio::task::spawn_blocking(move || {
                let mut fill = opened.fill.lock();
                let (now, evicted) = opened.file.put(&entries, *fill)?;
                *fill = now;
                stats.holds(now.entries, now.bytes);
                stats.evicted.fetch_add(evicted, Ordering::Relaxed);
                Ok::<_, String>(())
            });
            if let Err(error) = written.await.unwrap_or_else(|error| Err(error.to_string())) {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, "the disk cache was not told");
            }
        } else {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.writes.fetch_sub(1, Ordering::Relaxed);
    }

    fn entries(&self, loaded: &[(String, Arc<Found>)]) -> Vec<Entry> {
        let (now, mut dice) = (unix_ms(), rand::rng());
        let kept = loaded.iter().filter(|(_, found)| found.failure().is_none());
        kept.filter_map(|(key, found)| {
            let row = found.fields();
            let ttl = if row.is_some() { self.settings.ttl } else { self.settings.negative_ttl.unwrap_or(self.settings.ttl) };
            let life = (ttl.as_millis() as f64 * dice.random_range(0.9..1.1)) as u64;
            (life > 0).then(|| (key.clone(), now.saturating_add(life), encode(row)))
        })
        .collect()
    }
}

impl std::fmt::Debug for DiskTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskTier({})", self.path.display())
    }
}
