//! The promises, as an onlooker would judge them: one who sees the sources, the receivers, the files and the store, and
//! nothing of what a run keeps in memory.

use std::collections::{BTreeMap, HashSet};

use super::file::Files;
use super::store::{Cause, Checkpoint, Entry, Outcome, Store};
use super::world::{Change, Kind, Place, World};

/// What the receivers of one action have seen of one logical change, and what is durably known of it.
#[derive(Clone, Copy, Debug, Default)]
struct Receipt {
    deliveries: u32,
    /// Its delivery is durably known.
    noted: bool,
    /// It was sent in this run, and no outcome is durable yet.
    unsettled: bool,
    /// It may be sent once more: the run that sent it was killed, or its answer was lost.
    excused: bool,
    /// It was set aside because it failed.
    failed: bool,
    dropped: bool,
}

/// The onlooker.
#[derive(Debug)]
pub(super) struct Promises {
    receipts: Vec<Vec<Receipt>>,
    /// By action: the furthest place delivered, of each key and partition.
    furthest: Vec<BTreeMap<(usize, usize), usize>>,
    /// By action: places ever set aside.
    parked: Vec<HashSet<Place>>,
    read: HashSet<Place>,
    /// The newest own time below the saved mark. By this, and by nothing above the mark, may the seen-set evict.
    newest: i64,
    /// Logical changes of which a copy came when its window had passed: such a copy may pass.
    late: Vec<bool>,
    pub(super) repeats: u64,
}

impl Promises {
    pub(super) fn new(world: &World) -> Self {
        let (actions, logical) = (world.actions.len(), world.oldest.len());
        Promises {
            receipts: vec![vec![Receipt::default(); logical]; actions],
            furthest: vec![BTreeMap::new(); actions],
            parked: vec![HashSet::new(); actions],
            read: HashSet::new(),
            newest: i64::MIN,
            late: vec![false; logical],
            repeats: 0,
        }
    }

    /// A change is read; says whether it had been read before.
    pub(super) fn read(&mut self, change: Change) -> bool {
        !self.read.insert(change.place)
    }

    /// Promise 4: a change is a duplicate only of another change, of the same id and within the window.
    pub(super) fn dropped(&self, change: &Change, of: &Change) -> Result<(), String> {
        if change.place == of.place {
            return Err(format!("promise 4: {change:?} was dropped as a duplicate of itself"));
        }
        if change.logical != of.logical {
            return Err(format!("promise 4: {change:?} was dropped as a duplicate of another change, {of:?}"));
        }
        Ok(())
    }

    /// A change passes dedup. Where its window has passed it may do so although a copy was delivered.
    pub(super) fn passed(&mut self, world: &World, change: &Change, itself: bool) {
        self.late[change.logical] |= !itself && self.newest > world.oldest[change.logical] + world.window;
    }

    /// Promises 3, 4 and 5: a delivery arrives at a receiver.
    ///
    /// An action with a ledger repeats only what was sent and not noted when a run was killed, or whose answer was lost, and
    /// never after a later change of its key; in particular it never delivers two copies of one change. First deliveries
    /// come in order per key and partition. Only where `release` is set may a change that failed come later. A copy that came
    /// when its window had passed is left out: to the protocol it is a change of its own, that happened long ago.
    pub(super) fn delivered(&mut self, world: &World, action: usize, change: &Change) -> Result<(), String> {
        let Change { logical, key, place: (partition, at), .. } = *change;
        let plan = &world.actions[action];
        let receipt = &mut self.receipts[action][logical];
        let (repeat, ledger) = (receipt.deliveries > 0, plan.kind == Kind::Ledger);
        if repeat && ledger && !self.late[logical] {
            if receipt.noted {
                return Err(format!("promise 3: action {action} repeats {change:?}, whose delivery was durable"));
            }
            if !receipt.excused {
                return Err(format!("promise 3: action {action} repeats {change:?}, though nothing was killed since"));
            }
            self.repeats += 1;
        }
        let furthest = self.furthest[action].entry((key, partition)).or_default();
        let ordered = *furthest <= at || (receipt.failed && !plan.hold) || self.late[logical];
        if !ordered && (!repeat || ledger) {
            return Err(format!("promise 5: action {action} delivers {change:?} after place {furthest} of its key"));
        }
        *furthest = at.max(*furthest);
        receipt.deliveries += 1;
        receipt.excused = false;
        receipt.unsettled = true;
        Ok(())
    }

    /// The answer to a delivery was lost: it will be sent again.
    pub(super) fn answer_lost(&mut self, action: usize, change: &Change) {
        self.receipts[action][change.logical].excused = true;
    }

    /// Something becomes durable.
    pub(super) fn durable(&mut self, world: &World, store: &Store, entry: &Entry) {
        let (action, change) = match entry {
            Entry::Note(note) | Entry::Park(_, note) => (note.action, note.change),
            Entry::Failed { id } | Entry::Resolved { id, .. } => match store.record(*id) {
                Some(record) => (record.action, record.change),
                None => return,
            },
        };
        if world.actions[action].kind == Kind::File {
            return;
        }
        let receipt = &mut self.receipts[action][change.logical];
        receipt.unsettled = false;
        match entry {
            Entry::Note(note) => receipt.noted |= note.outcome == Outcome::Delivered,
            Entry::Park(record, _) => {
                receipt.failed |= record.cause == Cause::Failed;
                self.parked[action].insert(change.place);
            }
            Entry::Failed { .. } => receipt.failed = true,
            Entry::Resolved { dropped, .. } => *(if *dropped { &mut receipt.dropped } else { &mut receipt.noted }) = true,
        }
    }

    /// Promise 3: when a run is killed, at most `max_parallelism` deliveries of an action are sent and not yet noted.
    pub(super) fn crashed(&mut self, world: &World) -> Result<(), String> {
        for (action, receipts) in self.receipts.iter_mut().enumerate() {
            let plan = &world.actions[action];
            let mut open = 0;
            for receipt in receipts.iter_mut().filter(|receipt| receipt.unsettled) {
                receipt.unsettled = false;
                receipt.excused = true;
                open += 1;
            }
            if plan.kind == Kind::Ledger && open > plan.max_parallelism {
                return Err(format!("promise 3: action {action} had {open} deliveries not noted, with {plan:?}"));
            }
        }
        Ok(())
    }

    /// Promise 1: a mark never falls: whatever was below it stays below it.
    pub(super) fn mark_never_falls(&self, old: &Checkpoint, new: &Checkpoint) -> Result<(), String> {
        for (old, new) in old.mark.iter().zip(&new.mark) {
            if old.order > new.order || (1..=old.high).any(|at| old.covers(at) && !new.covers(at)) {
                return Err(format!("promise 1: the mark fell from {old:?} to {new:?}"));
            }
        }
        if old.epoch > new.epoch {
            Err(format!("promise 1: the saved epoch fell from {} to {}", old.epoch, new.epoch))
        } else {
            Ok(())
        }
    }

    /// Promises 1 and 2, at each save: every change wholly below the mark has a durable outcome for every action, and the
    /// books that went with the mark balance. Of copies, one above the mark is enough: it will be read again.
    pub(super) fn mark_is_proved(&mut self, world: &World, store: &Store, files: &Files) -> Result<(), String> {
        let mark = &store.checkpoint.mark;
        let marks = world.partitions.iter().zip(mark);
        let passed = marks.flat_map(|(partition, mark)| partition.changes.iter().filter(|change| mark.covers(change.place.1)));
        self.newest = passed.map(|change| change.time).fold(self.newest, i64::max);
        let mut written = HashSet::new();
        for (name, length) in &store.checkpoint.files {
            let content = files.0.get(name).map_or(&[][..], |file| &file.content);
            written.extend(content.iter().take(*length).map(|change| (name.0, change.logical)));
        }
        let below = world.copies.iter().filter(|copies| copies.iter().all(|copy| mark[copy.place.0].covers(copy.place.1)));
        for change in below.map(|copies| &copies[0]) {
            for (action, plan) in world.actions.iter().enumerate() {
                let receipt = &self.receipts[action][change.logical];
                let done = match plan.kind {
                    Kind::File => written.contains(&(action, change.logical)),
                    Kind::Repeatable if receipt.deliveries > 0 => true,
                    _ => receipt.noted || receipt.dropped || Self::is_parked(store, action, change),
                };
                if !done && !plan.filters(change) {
                    return Err(format!("promise 1: below the mark {mark:?} action {action} has no outcome for {change:?}"));
                }
            }
        }
        if let Some((action, line)) = store.checkpoint.books.iter().enumerate().find(|(_, line)| !line.balances()) {
            return Err(format!("promise 2: saved books of action {action} do not balance: {line:?}"));
        }
        Ok(())
    }

    fn is_parked(store: &Store, action: usize, change: &Change) -> bool {
        store.parked.iter().any(|record| record.action == action && record.change.logical == change.logical)
    }

    /// All promises once more, when everything has drained.
    pub(super) fn hold_at_the_end(&mut self, world: &World, store: &Store, files: &Files) -> Result<(), String> {
        self.all_is_below_the_mark(world, store)?;
        self.mark_is_proved(world, store, files)?;
        self.parked_is_not_delivered(store)?;
        self.files_are_exact(world, files)?;
        self.books_are_right(world, store)
    }

    /// Promises 1 and 6: the mark reaches the end of every partition.
    fn all_is_below_the_mark(&self, world: &World, store: &Store) -> Result<(), String> {
        let mut marks = world.partitions.iter().zip(&store.checkpoint.mark);
        match marks.find(|(partition, mark)| !partition.is_read(mark)) {
            Some((_, mark)) => Err(format!("promise 1: the mark ends at {mark:?}")),
            None => Ok(()),
        }
    }

    /// Promise 3: a change is not both delivered and still parked.
    fn parked_is_not_delivered(&self, store: &Store) -> Result<(), String> {
        let twice = |receipt: &Receipt| receipt.noted || receipt.dropped;
        let found = store.parked.iter().find(|record| {
            let logical = record.change.logical;
            twice(&self.receipts[record.action][logical]) && !self.late[logical]
        });
        found.map_or(Ok(()), |record| Err(format!("promise 3: {record:?} is parked, and has another outcome as well")))
    }

    /// Promises 3 and 5 for files: every change once, in order per key and partition, whatever was killed.
    fn files_are_exact(&self, world: &World, files: &Files) -> Result<(), String> {
        for action in 0..world.actions.len() {
            let mut seen = HashSet::new();
            let mut last: BTreeMap<(usize, usize), usize> = BTreeMap::new();
            for change in files.0.iter().filter(|(name, _)| name.0 == action).flat_map(|(_, file)| &file.content) {
                if !seen.insert(change.logical) && !self.late[change.logical] {
                    return Err(format!("promise 3: the file of action {action} holds {change:?} twice"));
                }
                let (partition, at) = change.place;
                let last = last.entry((change.key, partition)).or_default();
                if *last >= at {
                    return Err(format!("promise 5: the file of action {action} holds {change:?} after place {last}"));
                }
                *last = at;
            }
            let lost = world.copies.iter().map(|copies| &copies[0]).find(|change| {
                let plan = &world.actions[action];
                plan.kind == Kind::File && !plan.filters(change) && !seen.contains(&change.logical)
            });
            if let Some(change) = lost {
                return Err(format!("promise 1: the file of action {action} lacks {change:?}"));
            }
        }
        Ok(())
    }

    /// Promise 2: the books say what happened, counted over distinct places.
    fn books_are_right(&self, world: &World, store: &Store) -> Result<(), String> {
        let duplicates = world.total - world.copies.len();
        for (action, line) in store.checkpoint.books.iter().enumerate() {
            let exact = self.late.iter().any(|late| *late) || line.duplicate == duplicates as u64;
            if line.read != world.total as u64 || line.parked != self.parked[action].len() as u64 || !exact {
                let truth = format!("{} read, {duplicates} duplicates, {} parked", world.total, self.parked[action].len());
                return Err(format!("promise 2: the books of action {action} say {line:?}, the truth is {truth}"));
            }
        }
        Ok(())
    }
}
