//! Which ids below the highest one read may still come: the gaps, and who may still fill each.
//!
//! An id is drawn before its transaction commits, so a row may become visible after rows of larger ids. Every id that was passed
//! over is therefore kept in a *gap* until nobody is left who could fill it. Who could is told by locks, never by time: whoever
//! draws an id holds a lock from before the draw until after the commit is visible (and a backend that keeps drawn ids for later
//! is there itself). So, of statements that are made one after the other:
//!
//! 1. a page is read ([`Gaps::passed`]): what lies between its rows is a new gap, filled by nobody yet;
//! 2. those are asked for who hold such a lock ([`Gaps::held_by`]): a new gap takes all of them as its blockers, an older one keeps
//!    those of its blockers that are still there;
//! 3. gaps that lost a blocker, and new ones, are read again ([`Gaps::due`], [`Gaps::found`]), and those that had no blocker left
//!    *before* that are closed ([`Gaps::read_again`]).
//!
//! No I/O here: this module is held against a plain oracle by a seeded test.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Ids from the first to the second, both included.
pub(super) type Range = (i64, i64);

/// Somebody who may still fill a gap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blocker {
    /// A transaction that may write, by its virtual number.
    Transaction(Box<str>),
    /// A transaction that was prepared: it has no backend any more.
    Prepared(Box<str>),
    /// A backend that may hold ids drawn ahead (a sequence with `CACHE` above 1), by its process.
    Backend(i32),
}

/// The waits between looks at gaps for which nobody gives a sign.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(500);

/// Gaps that were found together, or have come to have the same blockers.
#[derive(Clone, Debug)]
struct Group {
    /// Ascending, apart from each other, never empty.
    ranges: Vec<Range>,
    /// `None` until somebody has asked.
    blockers: Option<BTreeSet<Blocker>>,
    /// Whether it must be read again now.
    due: bool,
    /// When it was found.
    since: Instant,
    /// When it is read again although nobody was seen to leave, and the wait after that.
    look: (Instant, Duration),
}

/// How far a log was read: the highest id, and what is open below it.
#[derive(Clone, Debug)]
pub(super) struct Gaps {
    hi: i64,
    /// From old to new, so that ranges ascend over all groups: a new gap lies above every id read before.
    groups: Vec<Group>,
    /// How long a gap stays open at least, for ids that are made outside the sequence.
    hold: Duration,
}

impl Gaps {
    /// A log of which everything up to `hi` was read, but for what is `open`. Who may fill that is asked anew.
    pub(super) fn new(hi: i64, open: Vec<Range>, hold: Duration, now: Instant) -> Self {
        let groups = if open.is_empty() { Vec::new() } else { vec![Group::new(open, now)] };
        Gaps { hi, groups, hold }
    }

    /// The highest id read.
    pub(super) fn hi(&self) -> i64 {
        self.hi
    }

    /// Whether there is a gap.
    pub(super) fn is_open(&self) -> bool {
        !self.groups.is_empty()
    }

    /// How many ranges are open.
    pub(super) fn count(&self) -> usize {
        self.groups.iter().map(|group| group.ranges.len()).sum()
    }

    /// The open ranges, ascending.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range> {
        self.groups.iter().flat_map(|group| group.ranges.iter().copied())
    }

    /// Since when the oldest gap is open, and who may fill it.
    pub(super) fn oldest(&self) -> Option<(Instant, Vec<Blocker>)> {
        let group = self.groups.first()?;
        Some((group.since, group.blockers.iter().flatten().cloned().collect()))
    }

    /// A row of a page was read. Rows of pages come in the order of their ids.
    pub(super) fn passed(&mut self, id: i64, now: Instant) {
        let hole = (self.hi.saturating_add(1), id.saturating_sub(1));
        self.hi = id;
        if hole.0 > hole.1 {
            return;
        }
        match self.groups.last_mut() {
            Some(group) if group.blockers.is_none() => group.ranges.push(hole),
            _ => self.groups.push(Group::new(vec![hole], now)),
        }
    }

    /// These may still write, as asked after the last page was read.
    ///
    /// A blocker that is gone may have gone by being prepared, and whoever holds its place now has another name. So whoever loses a
    /// blocker that was not prepared takes all that are prepared now. That ends: nobody who is not prepared is ever taken twice.
    pub(super) fn held_by(&mut self, now_there: &BTreeSet<Blocker>) {
        for group in &mut self.groups {
            let Some(blockers) = &mut group.blockers else {
                group.blockers = Some(now_there.clone());
                group.due = true;
                continue;
            };
            let before = blockers.len();
            let mut may_be_prepared = false;
            blockers.retain(|blocker| {
                let is_there = now_there.contains(blocker);
                may_be_prepared |= !is_there && !matches!(blocker, Blocker::Prepared(_));
                is_there
            });
            group.due |= blockers.len() < before;
            if may_be_prepared {
                blockers.extend(now_there.iter().filter(|blocker| matches!(blocker, Blocker::Prepared(_))).cloned());
            }
        }
    }

    /// The ranges that must be read again now, ascending.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Range> {
        for group in &mut self.groups {
            let Some(blockers) = &group.blockers else { continue };
            // Of ids drawn ahead or made elsewhere nobody gives a sign when they come.
            let is_silent = blockers.is_empty() || blockers.iter().any(|blocker| matches!(blocker, Blocker::Backend(_)));
            if is_silent && group.look.0 <= now {
                group.due = true;
                group.look = (now + group.look.1, (group.look.1 * 2).min(LOOK_LAST));
            }
        }
        self.groups.iter().filter(|group| group.due).flat_map(|group| group.ranges.iter().copied()).collect()
    }

    /// Something was written: gaps for which nobody gives a sign are read again soon.
    pub(super) fn look_soon(&mut self, now: Instant) {
        for group in &mut self.groups {
            group.look = (now, LOOK_FIRST);
        }
    }

    /// When a gap is to be read again although nobody is seen to leave.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let silent = |group: &&Group| {
            let blockers = group.blockers.iter().flatten();
            self.hold > Duration::ZERO || blockers.into_iter().any(|blocker| matches!(blocker, Blocker::Backend(_)))
        };
        self.groups.iter().filter(silent).map(|group| group.look.0).min()
    }

    /// These ids, ascending, were found in gaps and are handed out.
    pub(super) fn found(&mut self, ids: &[i64]) {
        let mut ids = ids.iter().copied().peekable();
        for group in &mut self.groups {
            let Some(&(_, end)) = group.ranges.last() else { continue };
            if ids.peek().is_none_or(|id| *id > end) {
                continue;
            }
            let mut left = Vec::with_capacity(group.ranges.len() + 8);
            for &(mut lo, hi) in &group.ranges {
                while let Some(id) = ids.next_if(|id| *id <= hi) {
                    if lo < id {
                        left.push((lo, id - 1));
                    }
                    lo = lo.max(id.saturating_add(1));
                }
                if lo <= hi {
                    left.push((lo, hi));
                }
            }
            group.ranges = left;
        }
        self.groups.retain(|group| !group.ranges.is_empty());
    }

    /// Everything that was [`due`](Self::due) was read again. What had no blocker left before that is closed.
    pub(super) fn read_again(&mut self, now: Instant) {
        let hold = self.hold;
        self.groups.retain_mut(|group| {
            let was_due = std::mem::take(&mut group.due);
            let is_free = group.blockers.as_ref().is_some_and(BTreeSet::is_empty);
            !(was_due && is_free && now.saturating_duration_since(group.since) >= hold)
        });
        // Those who were there when an older gap was found are a part of those who were there when a newer one was: in time neighbours
        // have the same blockers, and there are no more groups than transactions under way.
        self.groups.dedup_by(|newer, older| {
            let same = hold.is_zero() && older.blockers.is_some() && older.blockers == newer.blockers;
            if same {
                older.ranges.append(&mut newer.ranges);
                older.look = older.look.min(newer.look);
            }
            same
        });
    }

    /// Another connection, perhaps to a server that was restarted: who is who is asked anew.
    pub(super) fn forget_blockers(&mut self) {
        for group in &mut self.groups {
            group.blockers = None;
            group.due = false;
        }
        self.groups.dedup_by(|newer, older| {
            older.ranges.append(&mut newer.ranges);
            // The hold counts from the newest.
            older.since = newer.since;
            true
        });
    }
}

impl Group {
    fn new(ranges: Vec<Range>, now: Instant) -> Self {
        Group { ranges, blockers: None, due: false, since: now, look: (now + LOOK_FIRST, LOOK_FIRST * 2) }
    }
}

#[cfg(test)]
mod tests;
