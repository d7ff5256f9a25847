//! The books: counts that must add up, so that nothing can go missing unseen.
//!
//! Each count is a line. An operator counts on its own lines, where the thing happens, in two ways at once: into a live
//! counter that anybody may look at, and as a report under the epoch, from which the checkpoint adds up what belongs to
//! a mark. The lines of an action must balance in every closed epoch:
//! `read = duplicate + rejected + filtered + delivered + parked`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The number of a line, the same on every worker.
pub type LineId = u16;

/// All lines of a pipeline, by name. A name stands for one line, whoever asks for it first.
#[derive(Debug, Default)]
pub struct Books(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    names: Vec<String>,
    live: Vec<Arc<AtomicU64>>,
    restored: BTreeMap<String, u64>,
    accounts: BTreeMap<String, Account>,
}

/// A line an operator counts on.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number.
    pub id: LineId,
    live: Arc<AtomicU64>,
}

impl Line {
    /// Counts live. The report under the epoch is the operator's to send.
    pub fn add(&self, n: u64) {
        self.live.fetch_add(n, Ordering::Relaxed);
    }

    /// What has been counted, restored counts included.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }
}

/// The lines that must balance for one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What came in: read by sources.
    pub read: Vec<LineId>,
    /// What had its outcome when a crash came, and was not met again: read by a run that ended before it was counted.
    pub cut_off: LineId,
    /// What ended before the action: duplicates, rejected lines, filters.
    pub upstream: Vec<LineId>,
    /// What the action did: filtered, delivered, parked.
    pub own: [LineId; 3],
}

impl Books {
    /// Books that go on from what a checkpoint holds.
    pub fn restored(restored: BTreeMap<String, u64>) -> Self {
        Books(Mutex::new(Lines { restored, ..Lines::default() }))
    }

    /// The line of this name, made if it is new.
    pub fn line(&self, name: &str) -> Line {
        self.0.lock().line(name)
    }

    /// States which lines must balance for an action. Every worker states the same.
    ///
    /// What the checkpoint has read without this action (it is new, or was away for a while) never reaches it: that gets a
    /// line of its own, `before ACTION`, and ends there.
    pub fn account(&self, action: &str, mut account: Account) {
        let mut lines = self.0.lock();
        if lines.accounts.contains_key(action) {
            return;
        }
        let name = format!("before {action}");
        let sum = |ids: &[LineId]| ids.iter().map(|id| lines.restored.get(&lines.names[*id as usize]).unwrap_or(&0)).sum::<u64>();
        let known = lines.restored.get(&name).copied().unwrap_or(0);
        let came = sum(&account.read) + sum(&[account.cut_off]);
        let missed = came.saturating_sub(sum(&account.upstream) + sum(&account.own) + known);
        if known + missed > 0 {
            lines.restored.insert(name.clone(), known + missed);
            account.upstream.push(lines.line(&name).id);
        }
        lines.accounts.insert(action.to_owned(), account);
    }

    /// Counts live on the line of this number.
    pub fn count(&self, line: LineId, n: u64) {
        self.0.lock().live[line as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// All accounts by action.
    pub fn accounts(&self) -> BTreeMap<String, Account> {
        self.0.lock().accounts.clone()
    }

    /// What has been counted since this run began, by line.
    pub fn since_start(&self) -> BTreeMap<String, u64> {
        let lines = self.0.lock();
        let live = lines.names.iter().zip(&lines.live);
        let since = |(name, live): (&String, &Arc<AtomicU64>)| {
            let restored = lines.restored.get(name).copied().unwrap_or(0);
            (name.clone(), live.load(Ordering::Relaxed).saturating_sub(restored))
        };
        live.map(since).collect()
    }

    /// The live sums of every action.
    pub fn sums(&self) -> BTreeMap<String, Sums> {
        let lines = self.0.lock();
        lines.accounts.iter().map(|(action, account)| (action.clone(), lines.sums(account))).collect()
    }

    /// The sums of every action over counts by name: outcomes as they stood at one moment, what was read at a later one.
    pub fn sums_of(&self, outcomes: &BTreeMap<String, u64>, read: &BTreeMap<String, u64>) -> BTreeMap<String, Sums> {
        let lines = self.0.lock();
        let count = |counts: &BTreeMap<String, u64>, line: LineId| counts.get(&lines.names[line as usize]).copied().unwrap_or(0);
        let sums = |account| lines.sums_of(account, &|line| count(outcomes, line), &|line| count(read, line));
        lines.accounts.iter().map(|(action, account)| (action.clone(), sums(account))).collect()
    }

    /// The name of a line.
    pub fn name(&self, line: LineId) -> String {
        self.0.lock().names[line as usize].clone()
    }

    /// Absolute counts by line number as the last checkpoint has them, with room for lines that are new.
    pub fn restored_counts(&self) -> Vec<u64> {
        let lines = self.0.lock();
        lines.names.iter().map(|name| lines.restored.get(name).copied().unwrap_or(0)).collect()
    }

    /// Counts by name, together with restored lines nobody uses any more.
    pub fn named(&self, counts: &[u64]) -> BTreeMap<String, u64> {
        let lines = self.0.lock();
        let mut named = lines.restored.clone();
        named.extend(lines.names.iter().cloned().zip(counts.iter().copied()));
        named
    }

    /// The live counts, by name.
    pub fn live(&self) -> BTreeMap<String, u64> {
        let counts: Vec<u64> = self.0.lock().live.iter().map(|line| line.load(Ordering::Relaxed)).collect();
        self.named(&counts)
    }
}

/// The live sums of one action. They are read one after the other while the pipeline runs, so a change may be counted in one
/// and not yet in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Read by sources, as far as it can reach the action; with what a crash cut off after its outcome.
    pub read: u64,
    /// Dropped as duplicates.
    pub duplicate: u64,
    /// Lines that were no changes.
    pub rejected: u64,
    /// Ended at a filter or at the action's condition.
    pub filtered: u64,
    /// Delivered at once: parked ones that were delivered later are among the parked.
    pub delivered: u64,
    /// Set aside, for whatever cause.
    pub parked: u64,
}

impl Sums {
    /// What has been read and has no outcome yet.
    pub fn in_flight(&self) -> u64 {
        self.read.saturating_sub(self.duplicate + self.rejected + self.filtered + self.delivered + self.parked)
    }
}

impl Lines {
    fn sums(&self, account: &Account) -> Sums {
        let live = |line: LineId| self.live[line as usize].load(Ordering::Acquire);
        self.sums_of(account, &live, &live)
    }

    fn sums_of(&self, account: &Account, outcome: &dyn Fn(LineId) -> u64, read: &dyn Fn(LineId) -> u64) -> Sums {
        // Outcomes before what was read: so nothing seems to have an outcome that was not read.
        let [filtered, delivered, parked] = account.own.map(outcome);
        let upstream = |what: &str| -> u64 {
            let lines = account.upstream.iter().copied();
            lines.filter(|line| self.names[*line as usize].starts_with(what)).map(outcome).sum()
        };
        let (duplicate, rejected, early) = (upstream("duplicate "), upstream("rejected "), upstream("filtered "));
        let before = upstream("before ");
        let cut_off = outcome(account.cut_off);
        let read = (account.read.iter().copied().map(read).sum::<u64>() + cut_off).saturating_sub(before);
        Sums { read, duplicate, rejected, filtered: filtered + early, delivered, parked }
    }

    fn line(&mut self, name: &str) -> Line {
        let index = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            let start = self.restored.get(name).copied().unwrap_or(0);
            self.names.push(name.to_owned());
            self.live.push(Arc::new(AtomicU64::new(start)));
            self.names.len() - 1
        });
        Line { id: index as LineId, live: self.live[index].clone() }
    }
}

impl Account {
    /// Whether the counts balance; if not, the sentence that says by how much.
    pub fn check(&self, action: &str, counts: &[u64]) -> Result<(), String> {
        let sum = |lines: &[LineId]| lines.iter().map(|line| counts.get(*line as usize).copied().unwrap_or(0)).sum::<u64>();
        let [read, upstream, own] = [sum(&self.read) + sum(&[self.cut_off]), sum(&self.upstream), sum(&self.own)];
        if read == upstream + own {
            return Ok(());
        }
        let [filtered, delivered, parked] = self.own.map(|line| counts.get(line as usize).copied().unwrap_or(0));
        Err(format!(
            "the books of action \"{action}\" do not balance: read {read}, but {upstream} ended before it (duplicate, rejected, \
             filtered) and it filtered {filtered}, delivered {delivered}, parked {parked}: {} unaccounted for",
            read as i128 - (upstream + own) as i128
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_does_not_balance_says_by_how_much() {
        let books = Books::restored(BTreeMap::from([("read".to_owned(), 5)]));
        let [read, duplicate, filtered, delivered, parked, cut_off] =
            ["read", "duplicate", "filtered", "delivered", "parked", "cut off"].map(|name| books.line(name).id);
        let account = Account { read: vec![read], cut_off, upstream: vec![duplicate], own: [filtered, delivered, parked] };
        assert_eq!(books.restored_counts(), [5, 0, 0, 0, 0, 0]);
        books.account("a", account.clone());
        assert_eq!(books.accounts()["a"].upstream.len(), 2, "the five that were read before the action was there end on a line");
        assert_eq!(books.accounts()["a"].check("a", &books.restored_counts()), Ok(()));
        assert_eq!(account.check("a", &[5, 1, 1, 2, 1]), Ok(()));
        assert_eq!(account.check("a", &[5, 1, 1, 2, 2, 1]), Ok(()), "one that was read by a run that did not come to count it");
        assert!(account.check("a", &[5, 1, 1, 1, 1]).unwrap_err().ends_with("1 unaccounted for"));
    }
}
