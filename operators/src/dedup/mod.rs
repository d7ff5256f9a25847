//! Dedup: drops copies of a change, and never the change itself.
//!
//! The seen-set remembers, for each id, the position at which it was *first* seen. The same id elsewhere is a duplicate. The
//! same id at the same position is the change itself, read again after a crash, and passes. A set that remembered only
//! "seen" would drop every change that is read again before it was done: a crash would become a loss.
//!
//! It is kept in memory and moves with the checkpoint, or in a Redis, which outlives the process and need not fit into it.

mod memory;
mod places;
#[cfg(feature = "redis")]
mod redis;
mod ring;
pub mod seen;
mod settled;
pub mod stats;

use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::{Stream, StreamVec};

use crate::change::Change;
use crate::checkpoint::report::Report;
use crate::position::Epoch;
use crate::process::Process;

/// How long, and how many, ids are remembered, and where.
#[derive(Clone, Debug)]
pub struct Dedup {
    window: Option<Duration>,
    entries: usize,
    #[cfg(feature = "redis")]
    redis: Option<InRedis>,
}

/// The seen-set in Redis.
#[cfg(feature = "redis")]
#[derive(Clone, Debug)]
struct InRedis {
    url: Result<crate::redis::Url, String>,
    kept_for: Option<Duration>,
}

impl Dedup {
    /// Remembers ids for this long, in the changes' own time, and at most ten million of them.
    pub fn within(window: Duration) -> Self {
        Self::new(Some(window), 10_000_000)
    }

    /// Remembers the latest so many ids, however old.
    pub fn latest(entries: usize) -> Self {
        Self::new(None, entries)
    }

    fn new(window: Option<Duration>, entries: usize) -> Self {
        Dedup {
            window,
            entries,
            #[cfg(feature = "redis")]
            redis: None,
        }
    }

    /// Remembers at most so many ids, over all workers. Each takes about 65 bytes. Default of `within`: 10,000,000. In Redis it is the time alone
    /// that counts.
    pub fn at_most(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// Remembers ids for this long; `None`: however old they are.
    pub fn with_window(mut self, window: Option<Duration>) -> Self {
        self.window = window;
        self
    }

    /// Keeps the ids in a Redis instead of memory and checkpoint: `redis://user:password@host:port/db`.
    ///
    /// # Guarantee
    /// The same as in memory, over a crash of either side: a change is dropped only if another change of its id, at another position, has passed
    /// within the window. While Redis is away changes wait. Where Redis loses what it held (emptied, restarted without its log, evicting, failed over
    /// to a replica that was behind), duplicates of what it lost pass, which is noticed, counted and told; no change is ever lost.
    ///
    /// ```
    /// use highwater_operators::dedup::Dedup;
    /// use std::time::Duration;
    /// let dedup = Dedup::within(Duration::from_secs(600)).in_redis("redis://localhost:6379/0");
    /// assert_eq!(dedup.to_string(), "within 600s, in redis://localhost:6379/0");
    /// ```
    #[cfg(feature = "redis")]
    pub fn in_redis(mut self, url: impl AsRef<str>) -> Self {
        let url = crate::redis::Url::parse(url.as_ref()).map_err(|error| error.to_string());
        self.redis = Some(InRedis { url, kept_for: None });
        self
    }

    /// How long Redis keeps an id, by its own clock, counted from when it was first seen. Default: twice the window, and at least ten minutes more than
    /// it; without a window, a day.
    ///
    /// The window is measured in the changes' own time, which runs behind the clock when the pipeline does: longer is safer and takes more memory
    /// there. What lies above the mark is kept as long as it does.
    #[cfg(feature = "redis")]
    pub fn kept_for(mut self, time: Duration) -> Self {
        if let Some(redis) = &mut self.redis {
            redis.kept_for = Some(time);
        }
        self
    }

    /// How long, and how many, ids are remembered.
    pub fn bounds(&self) -> (Option<Duration>, usize) {
        (self.window, self.entries)
    }

    /// What is wrong with it, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        #[cfg(feature = "redis")]
        if let Some(redis) = &self.redis {
            let url = redis.url.as_ref().err().cloned();
            let short = redis.kept_for.zip(self.window).filter(|(kept, window)| kept < window);
            let short = short.map(|(kept, window)| {
                format!("kept_for ({kept:?}) is shorter than the window ({window:?}): Redis would forget ids within it; make it longer")
            });
            return url.into_iter().chain(short).collect();
        }
        Vec::new()
    }

    /// How long Redis keeps an id.
    #[cfg(feature = "redis")]
    fn time_in_redis(&self) -> Duration {
        let said = self.redis.as_ref().and_then(|redis| redis.kept_for);
        let usual = match self.window {
            Some(window) => window.saturating_add(window.max(Duration::from_secs(600))),
            None => Duration::from_secs(24 * 3600),
        };
        // Redis counts milliseconds in a signed number, and from 1970.
        said.unwrap_or(usual).min(Duration::from_secs(100 * 365 * 24 * 3600))
    }

    fn window_ms(&self) -> Option<i64> {
        self.window.map(|window| window.as_millis().min(i64::MAX as u128) as i64)
    }
}

impl std::fmt::Display for Dedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[cfg(feature = "redis")]
        if let Some(redis) = &self.redis {
            match self.window {
                Some(window) => write!(f, "within {window:?}, in ")?,
                None => write!(f, "in ")?,
            }
            return match &redis.url {
                Ok(url) => write!(f, "{url}"),
                Err(_) => write!(f, "a Redis whose URL cannot be read"),
            };
        }
        match self.window {
            Some(window) => write!(f, "within {window:?}, at most {} ids", self.entries),
            None => write!(f, "the latest {} ids", self.entries),
        }
    }
}

/// Dedup on a stream that is exchanged by key.
pub trait DedupExt<'s>: Sized {
    /// Lets each change pass once. `name` names its state in the checkpoint and its line in the books; `fan` is the number
    /// of actions a change can reach from here.
    ///
    /// Changes keep their time and their order.
    ///
    /// # Guarantee
    /// A change is dropped only if another change of its id, at another position, has passed within the window. After a crash, a
    /// change that had passed passes again.
    ///
    /// A dedup whose [`problems`](Dedup::problems) were not looked at first remembers in memory if its Redis has no URL that can be read.
    fn dedup(self, process: &Arc<Process>, name: &str, dedup: Dedup, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> DedupExt<'s> for StreamVec<'s, Epoch, Change> {
    fn dedup(self, process: &Arc<Process>, name: &str, dedup: Dedup, fan: u64) -> (Self, Stream<'s, Epoch, Vec<Report>>) {
        #[cfg(feature = "redis")]
        if let Some(InRedis { url: Ok(url), .. }) = &dedup.redis {
            return redis::build(self, process, name, &dedup, url, fan);
        }
        memory::build(self, process, name, &dedup, fan)
    }
}
