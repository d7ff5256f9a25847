//! How much stands parked, by action, and whether that is as much as may be.
//!
//! Kept by the keeper, once per group; read by sources before they read on, by metrics and by people.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::checkpoint::store::{Group, Parked, ParkedHead, ParkedId};
use crate::epoch::unix_ms;

/// How much may stand parked. At the bound sources stop reading; what is under way then may still exceed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Records.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Milliseconds that the oldest may have stood.
    pub age_ms: u64,
}

impl Bound {
    /// No bound at all.
    pub const NONE: Bound = Bound { records: u64::MAX, bytes: u64::MAX, age_ms: u64::MAX };
}

/// What stands parked for one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Records.
    pub records: u64,
    /// Bytes of them, about.
    pub bytes: u64,
    /// The oldest.
    pub oldest: Option<ParkedId>,
    /// When that was parked, in Unix milliseconds, where somebody has looked.
    pub oldest_at_ms: Option<u64>,
}

/// What stands parked in this process.
#[derive(Debug)]
pub struct Shelves {
    bound: Bound,
    inner: Mutex<Inner>,
    full: AtomicBool,
    /// Whether another process of the run is full.
    others_full: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    /// By action, the records with their bytes.
    shelves: BTreeMap<String, OneShelf>,
    records: u64,
    bytes: u64,
    /// What a schedule tries again, by time.
    due: BTreeSet<(u64, ParkedId)>,
    due_at: BTreeMap<ParkedId, u64>,
}

#[derive(Debug, Default)]
struct OneShelf {
    records: BTreeMap<ParkedId, u32>,
    bytes: u64,
    oldest: Option<(ParkedId, u64)>,
}

impl Shelves {
    /// What an earlier run left, as far as it is this process' own.
    pub fn of<'h>(heads: impl IntoIterator<Item = &'h ParkedHead>, bound: Bound) -> Self {
        let mut inner = Inner::default();
        for head in heads {
            inner.put(&head.action, head.id, head.bytes);
        }
        let full = AtomicBool::new(inner.reaches(bound, unix_ms()));
        Shelves { bound, inner: Mutex::new(inner), full, others_full: AtomicBool::new(false) }
    }

    /// A group has become durable.
    pub(crate) fn committed(&self, group: &Group) {
        if group.parked.is_empty() && group.resolved.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        for parked in &group.parked {
            inner.put(&parked.action, parked.id, parked.bytes());
            inner.schedule(parked);
        }
        for resolved in &group.resolved {
            inner.take(&resolved.action, resolved.id);
        }
        self.full.store(inner.reaches(self.bound, unix_ms()), Ordering::Release);
    }

    /// Time has passed, which makes what stands here older.
    pub fn look_again(&self, now_ms: u64) {
        let inner = self.inner.lock();
        self.full.store(inner.reaches(self.bound, now_ms), Ordering::Release);
    }

    /// Notes when records are to be tried again that an earlier run left.
    pub fn schedule<'p>(&self, records: impl IntoIterator<Item = &'p Parked>) {
        let mut inner = self.inner.lock();
        for parked in records {
            // It may have been replaced since it was read: what came then counts.
            if inner.has(parked) && !inner.due_at.contains_key(&parked.id) {
                inner.schedule(parked);
            }
        }
    }

    /// Takes what is due out of the schedule, at most `n`, the longest due first.
    pub fn take_due(&self, now_ms: u64, n: usize) -> Vec<ParkedId> {
        let mut inner = self.inner.lock();
        let ids: Vec<ParkedId> = inner.due.iter().take_while(|(at, _)| *at <= now_ms).take(n).map(|(_, id)| *id).collect();
        ids.iter().for_each(|id| inner.unschedule(*id));
        ids
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<u64> {
        self.inner.lock().due.first().map(|(at, _)| *at)
    }

    /// Whether as much stands parked as may be, here or in another process: then sources do not read.
    pub fn is_full(&self) -> bool {
        self.is_full_here() || self.others_full.load(Ordering::Relaxed)
    }

    /// Whether as much stands parked in this process as may be.
    pub fn is_full_here(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Another process is full, or is no more.
    pub fn set_others_full(&self, full: bool) {
        self.others_full.store(full, Ordering::Relaxed);
    }

    /// How much may stand parked.
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// How much stands parked: records and, about, bytes.
    pub fn sums(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.records, inner.bytes)
    }

    /// The same by action (rejected lines under their source).
    pub fn by_action(&self) -> BTreeMap<String, Shelf> {
        let shelf = |(action, shelf): (&String, &OneShelf)| {
            let oldest = shelf.records.first_key_value().map(|(id, _)| *id);
            let oldest_at_ms = shelf.oldest.filter(|(id, _)| Some(*id) == oldest).map(|(_, at)| at);
            (action.clone(), Shelf { records: shelf.records.len() as u64, bytes: shelf.bytes, oldest, oldest_at_ms })
        };
        self.inner.lock().shelves.iter().map(shelf).collect()
    }

    /// Somebody has looked when the oldest record of an action was parked.
    pub fn set_oldest(&self, parked: &Parked) {
        if let Some(shelf) = self.inner.lock().shelves.get_mut(&parked.action) {
            shelf.oldest = Some((parked.id, parked.parked_at_ms));
        }
    }

    /// What is to be said of it to people, if it is full.
    pub fn complaint(&self) -> Option<String> {
        if !self.is_full_here() {
            return self.is_full().then(|| "another process has as much parked as may be; sources do not read".to_owned());
        }
        let (records, bytes) = self.sums();
        let (stands, setting, most) = if records >= self.bound.records {
            (format!("{records} changes stand parked"), "parked_max", self.bound.records.to_string())
        } else if bytes >= self.bound.bytes {
            (format!("{} MiB of changes stand parked", bytes >> 20), "parked_max_mib", (self.bound.bytes >> 20).to_string())
        } else {
            let most = humantime::format_duration(Duration::from_millis(self.bound.age_ms)).to_string();
            ("the oldest parked change has stood for longer".to_owned(), "parked_max_age", most)
        };
        Some(format!(
            "{stands}, and {setting} is {most}: sources do not read until there is room; see what it is with \
             `parked list`, then `parked retry` or `parked drop`, or raise {setting}"
        ))
    }
}

impl Inner {
    fn put(&mut self, action: &str, id: ParkedId, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if !self.shelves.contains_key(action) {
            self.shelves.insert(action.to_owned(), OneShelf::default());
        }
        let Some(shelf) = self.shelves.get_mut(action) else { return };
        match shelf.records.insert(id, bytes) {
            None => self.records += 1,
            Some(before) => {
                shelf.bytes -= u64::from(before);
                self.bytes -= u64::from(before);
            }
        }
        shelf.bytes += u64::from(bytes);
        self.bytes += u64::from(bytes);
    }

    fn take(&mut self, action: &str, id: ParkedId) {
        self.unschedule(id);
        let Some(shelf) = self.shelves.get_mut(action) else { return };
        if let Some(bytes) = shelf.records.remove(&id) {
            shelf.bytes -= u64::from(bytes);
            self.bytes -= u64::from(bytes);
            self.records -= 1;
        }
    }

    fn has(&self, parked: &Parked) -> bool {
        self.shelves.get(&parked.action).is_some_and(|shelf| shelf.records.contains_key(&parked.id))
    }

    fn schedule(&mut self, parked: &Parked) {
        self.unschedule(parked.id);
        if parked.history.next_try_ms > 0 {
            self.due.insert((parked.history.next_try_ms, parked.id));
            self.due_at.insert(parked.id, parked.history.next_try_ms);
        }
    }

    fn unschedule(&mut self, id: ParkedId) {
        if let Some(at) = self.due_at.remove(&id) {
            self.due.remove(&(at, id));
        }
    }

    fn reaches(&self, bound: Bound, now_ms: u64) -> bool {
        self.records >= bound.records || self.bytes >= bound.bytes || self.is_older(bound.age_ms, now_ms)
    }

    /// Whether anything has stood for longer than this.
    fn is_older(&self, age_ms: u64, now_ms: u64) -> bool {
        let is_old = |shelf: &OneShelf| {
            let first = shelf.records.first_key_value().map(|(id, _)| *id);
            shelf.oldest.is_some_and(|(id, at)| Some(id) == first && now_ms.saturating_sub(at) > age_ms)
        };
        age_ms < u64::MAX && self.shelves.values().any(is_old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::checkpoint::store::{Cause, Resolution, Resolved};

    fn parked(id: ParkedId, next_try_ms: u64) -> Parked {
        let mut parked = Parked {
            id,
            action: "a".to_owned(),
            cause: Cause::Failed,
            error: String::new(),
            attempts: 1,
            parked_at_ms: id,
            hash: 0,
            change: Change::builder(id.to_string()).build().unwrap(),
            history: Default::default(),
        };
        parked.history.next_try_ms = next_try_ms;
        parked
    }

    fn group(parked: Vec<Parked>, resolved: &[ParkedId]) -> Group {
        let resolved = resolved.iter().map(|id| Resolved { id: *id, action: "a".to_owned(), resolution: Resolution::Dropped });
        Group { parked, resolved: resolved.collect(), ..Group::default() }
    }

    #[test]
    fn what_is_parked_counts_until_it_is_resolved_and_full_is_told() {
        let shelves = Shelves::of([], Bound { records: 2, ..Bound::NONE });
        shelves.committed(&group(vec![parked(1, 0), parked(2, 0), parked(2, 0)], &[]));
        assert_eq!((shelves.sums().0, shelves.is_full(), shelves.by_action()["a"].oldest), (2, true, Some(1)));
        assert!(shelves.complaint().unwrap().contains("parked_max is 2"));
        shelves.set_oldest(&parked(1, 0));
        assert_eq!(shelves.by_action()["a"].oldest_at_ms, Some(1));
        shelves.committed(&group(vec![], &[1, 1, 9]));
        let left = shelves.by_action()["a"];
        assert_eq!((left.records, left.oldest, left.oldest_at_ms), (1, Some(2), None));
        assert_eq!((shelves.is_full(), shelves.sums()), (false, (1, left.bytes)));
        shelves.committed(&group(vec![], &[2]));
        assert_eq!(shelves.sums(), (0, 0));
    }

    #[test]
    fn what_has_stood_for_too_long_is_as_much_as_may_be() {
        let shelves = Shelves::of([], Bound { age_ms: 1_000, ..Bound::NONE });
        let old = parked(7, 0);
        shelves.committed(&group(vec![old.clone(), parked(8, 0)], &[]));
        assert!(!shelves.is_full(), "nobody has looked when it was parked");
        shelves.set_oldest(&old);
        shelves.look_again(1_007);
        assert!(!shelves.is_full());
        shelves.look_again(1_008);
        assert!(shelves.is_full());
        assert!(shelves.complaint().unwrap().contains("parked_max_age is 1s"), "{:?}", shelves.complaint());
        shelves.committed(&group(vec![], &[7]));
        assert!(!shelves.is_full());
    }

    #[test]
    fn what_is_due_is_told_once_and_what_is_resolved_never() {
        let shelves = Shelves::of([], Bound::NONE);
        shelves.committed(&group(vec![parked(1, 50), parked(2, 20), parked(3, 30), parked(4, 0)], &[3]));
        assert_eq!((shelves.take_due(10, 9), shelves.next_due()), (vec![], Some(20)));
        assert_eq!(shelves.take_due(60, 9), [2, 1]);
        assert_eq!((shelves.take_due(60, 9), shelves.next_due()), (vec![], None));
        // Read before it was resolved: it is not there any more.
        shelves.schedule([&parked(3, 30)]);
        assert_eq!(shelves.next_due(), None);
    }
}
