//! What is out there before the pipeline starts: changes in partitions, and the actions they are meant for.

use rand::Rng;
use rand::rngs::SmallRng;

/// Where a change stands: partition and place in it, from 1.
pub(super) type Place = (usize, usize);

/// One change. Copies of one change share `logical`, which the protocol does not know: it is for judging.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) logical: usize,
    pub(super) id: usize,
    pub(super) key: usize,
    pub(super) place: Place,
    /// The change's own time.
    pub(super) time: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Outcomes are noted; a repeat is rare and bounded.
    Ledger,
    /// Nothing is noted but what was parked; what is read again is done again.
    Repeatable,
    /// A file, cut back to the checkpoint on resume.
    File,
}

/// One action of the fan-out.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) kind: Kind,
    /// Later changes of a parked key wait behind it.
    pub(super) hold: bool,
    pub(super) max_parallelism: usize,
    /// Attempts before a change is parked.
    pub(super) attempts: u32,
    /// How many changes may be in its hands, per worker, before it spills.
    pub(super) share: usize,
    /// How many attempts of a hundred fail.
    pub(super) failing: u32,
    /// How many chances to go on, of a hundred, it lets pass.
    pub(super) slow: u32,
    unwanted: usize,
}

impl Action {
    /// Decided by content, which copies share.
    pub(super) fn filters(&self, change: &Change) -> bool {
        change.id % 5 == self.unwanted
    }
}

/// One partition of a source that behaves as a change log in a database does: places are drawn in order and become
/// visible in another, only changes of one key never overtake each other.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) changes: Vec<Change>,
    shown: Vec<bool>,
}

/// Where reading of a partition continues: all places up to `high` but the gaps have been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Token {
    pub(super) order: u64,
    pub(super) high: usize,
    pub(super) gaps: Vec<usize>,
}

impl Token {
    pub(super) fn covers(&self, at: usize) -> bool {
        at <= self.high && !self.gaps.contains(&at)
    }
}

/// Everything that is given.
#[derive(Debug)]
pub(super) struct World {
    pub(super) partitions: Vec<Partition>,
    pub(super) actions: Vec<Action>,
    pub(super) keys: usize,
    /// Two changes of one id further apart than this are two changes.
    pub(super) window: i64,
    /// Sources stop reading while so many changes are in flight.
    pub(super) in_flight: usize,
    /// Own time of the earliest copy, by logical change.
    pub(super) oldest: Vec<i64>,
    /// The places where each logical change stands.
    pub(super) copies: Vec<Vec<Change>>,
    /// Changes in all partitions together.
    pub(super) total: usize,
}

impl World {
    pub(super) fn new(rng: &mut SmallRng) -> Self {
        let mut partitions: Vec<Partition> = (0..rng.random_range(1..=3)).map(|_| Partition::default()).collect();
        let keys = rng.random_range(1..=5);
        let window = rng.random_range(40..=120);
        let mut oldest = Vec::new();
        for id in 0..rng.random_range(8..=26) {
            let key = rng.random_range(0..keys);
            let mut time = rng.random_range(0..300);
            loop {
                let logical = oldest.len();
                let copies = if rng.random_bool(0.3) { rng.random_range(1..=2) } else { 0 };
                for copy in 0..=copies {
                    let time = if copy == 0 { time } else { time + rng.random_range(0..=window / 4) };
                    let partition = rng.random_range(0..partitions.len());
                    partitions[partition].changes.push(Change { logical, id, key, place: (partition, 0), time });
                }
                oldest.push(time);
                // Now and then an id is used again when its window has passed: another change.
                if !rng.random_bool(0.08) {
                    break;
                }
                time += 2 * window + 1 + rng.random_range(0..50);
            }
        }
        let mut copies = vec![Vec::new(); oldest.len()];
        for partition in &mut partitions {
            partition.changes.sort_by_key(|change| change.time);
            for (index, change) in partition.changes.iter_mut().enumerate() {
                change.place.1 = index + 1;
                copies[change.logical].push(*change);
            }
            partition.hide_some(rng);
        }
        let total = partitions.iter().map(|partition| partition.changes.len()).sum();
        let actions = (0..rng.random_range(2..=4)).map(|index| Self::action(index, rng)).collect();
        World { partitions, actions, keys, window, in_flight: rng.random_range(8..60), oldest, copies, total }
    }

    fn action(index: usize, rng: &mut SmallRng) -> Action {
        let kinds = [Kind::Ledger, Kind::File, Kind::Repeatable];
        Action {
            kind: if index < 2 { kinds[index] } else { kinds[rng.random_range(0..3)] },
            hold: rng.random(),
            max_parallelism: rng.random_range(1..=3),
            attempts: rng.random_range(1..=3),
            share: rng.random_range(1..=8),
            failing: rng.random_range(0..60),
            slow: if rng.random_bool(0.3) { 80 } else { 0 },
            unwanted: rng.random_range(0..8),
        }
    }

    /// Makes one late change visible.
    pub(super) fn show_one(&mut self, rng: &mut SmallRng) {
        let partition = rng.random_range(0..self.partitions.len());
        let partition = &mut self.partitions[partition];
        let hidden: Vec<usize> = (0..partition.shown.len()).filter(|index| !partition.shown[*index]).collect();
        if !hidden.is_empty() {
            let key = partition.changes[hidden[rng.random_range(0..hidden.len())]].key;
            let first = hidden.into_iter().find(|index| partition.changes[*index].key == key);
            first.into_iter().for_each(|index| partition.shown[index] = true);
        }
    }

    pub(super) fn show_all(&mut self) {
        self.partitions.iter_mut().for_each(|partition| partition.shown.fill(true));
    }
}

impl Partition {
    fn hide_some(&mut self, rng: &mut SmallRng) {
        self.shown = vec![true; self.changes.len()];
        for late in 0..self.changes.len() {
            if rng.random_bool(0.06) {
                let behind = (late..self.changes.len()).filter(|index| self.changes[*index].key == self.changes[late].key);
                behind.for_each(|index| self.shown[index] = false);
            }
        }
    }

    /// Reads at most `size` visible changes, those in gaps first, and moves the token on.
    pub(super) fn read(&self, token: &mut Token, size: usize) -> Vec<Change> {
        let visible = |at: &usize| self.shown[*at - 1];
        let mut found: Vec<usize> = token.gaps.iter().copied().filter(visible).take(size).collect();
        token.gaps.retain(|at| !found.contains(at));
        let ahead: Vec<usize> = (token.high + 1..=self.changes.len()).filter(visible).take(size - found.len()).collect();
        if let Some(last) = ahead.last() {
            token.gaps.extend((token.high + 1..*last).filter(|at| !visible(at)));
            token.high = *last;
        }
        found.extend(ahead);
        token.order += u64::from(!found.is_empty());
        found.into_iter().map(|at| self.changes[at - 1]).collect()
    }

    pub(super) fn is_read(&self, token: &Token) -> bool {
        token.high == self.changes.len() && token.gaps.is_empty()
    }
}
