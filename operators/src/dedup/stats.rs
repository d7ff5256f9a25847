//! Figures of one dedup, shared by its workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one dedup of this process holds.
#[derive(Debug, Default)]
pub struct DedupStats {
    ids: AtomicU64,
}

impl DedupStats {
    /// Ids held, over all workers.
    pub fn ids(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    /// One worker went from so many ids to so many.
    pub(super) fn moved(&self, from: usize, to: usize) {
        // A difference below zero wraps, and so does the sum.
        self.ids.fetch_add((to as u64).wrapping_sub(from as u64), Ordering::Relaxed);
    }
}

/// How one dedup of this process stands with the Redis that holds its ids.
#[cfg(feature = "redis")]
#[derive(Debug, Default)]
pub struct SeenStats {
    asked: AtomicU64,
    forgotten: AtomicU64,
    standing: parking_lot::Mutex<Standing>,
}

#[cfg(feature = "redis")]
#[derive(Debug, Default)]
struct Standing {
    /// By worker that gets no answer: since when, in Unix milliseconds, and why.
    away: std::collections::BTreeMap<usize, (u64, String)>,
    weaknesses: Option<Vec<String>>,
}

#[cfg(feature = "redis")]
impl SeenStats {
    /// Ids that Redis was asked about and has answered.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Times that a worker found that Redis had lost ids.
    pub fn times_forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Since when, in Unix milliseconds, Redis gives no answer, and why; `None` if it does.
    pub fn away(&self) -> Option<(u64, String)> {
        self.standing.lock().away.values().min().cloned()
    }

    /// What of the server may make it lose ids, a sentence each.
    pub fn weaknesses(&self) -> Vec<String> {
        self.standing.lock().weaknesses.clone().unwrap_or_default()
    }

    pub(super) fn forgotten(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker gets no answer. Whether that is news.
    pub(super) fn is_away(&self, worker: usize, why: &crate::Error) -> bool {
        let mut standing = self.standing.lock();
        let news = standing.away.is_empty();
        standing.away.entry(worker).or_insert_with(|| (crate::epoch::unix_ms(), String::new())).1 = why.to_string();
        news
    }

    /// A worker got its answer for so many ids.
    pub(super) fn answered(&self, worker: usize, ids: u64) {
        self.asked.fetch_add(ids, Ordering::Relaxed);
        self.standing.lock().away.remove(&worker);
    }

    /// What was found of the server. Whether that is news.
    pub(super) fn looked_at(&self, weaknesses: Vec<String>) -> bool {
        let known = self.standing.lock().weaknesses.replace(weaknesses.clone());
        known.as_ref() != Some(&weaknesses)
    }
}
