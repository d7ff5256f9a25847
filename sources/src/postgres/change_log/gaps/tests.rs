//! Gaps against a plain oracle: a server in memory, whose transactions, backends and sequence do what Postgres' do, one step at a
//! time, with the reader's statements anywhere in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

/// How a reader may go wrong. Each must be caught, or the test shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    AsItIs,
    /// The highest id is all that is kept.
    HighestId,
    /// A gap is read again once, whoever is there.
    OnceMore,
    /// Who is there is asked before the page is read.
    AskedBefore,
    /// Ids drawn ahead by backends are forgotten.
    WithoutBackends,
    /// A blocker that is gone is taken for ended, also if it was prepared.
    PreparedIsGone,
    /// Who is left is asked after the gap was read again.
    ClosedAfter,
}

#[derive(Default)]
struct Transaction {
    rows: Vec<i64>,
    /// Rows since the savepoint.
    savepoint: Option<usize>,
    backend: i32,
    holds_lock: bool,
    prepared: bool,
}

/// A server in memory.
struct World {
    dice: SmallRng,
    cache: i64,
    sequence: i64,
    next: i32,
    /// Backends, with the ids each has drawn ahead.
    backends: BTreeMap<i32, Vec<i64>>,
    /// Transactions by their virtual number.
    transactions: BTreeMap<String, Transaction>,
    committed: BTreeSet<i64>,
    /// Nothing happens any more.
    is_over: bool,
}

impl World {
    fn new(seed: u64, cache: i64) -> Self {
        let (backends, transactions) = (BTreeMap::new(), BTreeMap::new());
        let dice = SmallRng::seed_from_u64(seed);
        World { dice, cache, sequence: 1, next: 1, backends, transactions, committed: BTreeSet::new(), is_over: false }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.dice.random_range(0..from.len())].clone())
    }

    /// One thing happens.
    fn step(&mut self) {
        self.next += 1;
        match self.dice.random_range(0..100) {
            0..6 if self.backends.len() < 8 => drop(self.backends.insert(self.next, Vec::new())),
            6..8 => {
                let backends: Vec<i32> = self.backends.keys().copied().collect();
                if let Some(backend) = self.pick(&backends) {
                    self.backends.remove(&backend);
                    self.transactions.retain(|_, transaction| transaction.prepared || transaction.backend != backend);
                }
            }
            8..30 => {
                let busy = |backend: &i32| self.transactions.values().any(|t| t.backend == *backend && !t.prepared);
                let free: Vec<i32> = self.backends.keys().copied().filter(|backend| !busy(backend)).collect();
                if let Some(backend) = self.pick(&free) {
                    let transaction = Transaction { backend, ..Transaction::default() };
                    self.transactions.insert(format!("{backend}/{}", self.next), transaction);
                }
            }
            30..65 => {
                if let Some(name) = self.pick_transaction(false) {
                    let backend = self.transactions[&name].backend;
                    // The lock comes before the draw, and somebody may look between the two.
                    if !std::mem::replace(&mut self.transactions.get_mut(&name).unwrap().holds_lock, true) {
                        return;
                    }
                    let drawn = self.backends.get_mut(&backend).unwrap();
                    if drawn.is_empty() {
                        drawn.extend((self.sequence..self.sequence + self.cache).rev());
                        self.sequence += self.cache;
                    }
                    let id = drawn.pop().unwrap();
                    self.transactions.get_mut(&name).unwrap().rows.push(id);
                }
            }
            65..70 => {
                if let Some(name) = self.pick_transaction(false) {
                    let transaction = self.transactions.get_mut(&name).unwrap();
                    match transaction.savepoint.take() {
                        None => transaction.savepoint = Some(transaction.rows.len()),
                        Some(length) => transaction.rows.truncate(length),
                    }
                }
            }
            70..76 => {
                if let Some(name) = self.pick_transaction(false) {
                    self.transactions.get_mut(&name).unwrap().prepared = true;
                }
            }
            76..80 => drop(self.pick_transaction(true).map(|name| self.commit(&name))),
            80..82 => drop(self.pick_transaction(true).map(|name| self.transactions.remove(&name))),
            82..94 => drop(self.pick_transaction(false).map(|name| self.commit(&name))),
            94..97 => drop(self.pick_transaction(false).map(|name| self.transactions.remove(&name))),
            _ => {}
        }
    }

    fn pick_transaction(&mut self, prepared: bool) -> Option<String> {
        let names: Vec<String> =
            self.transactions.iter().filter(|(_, t)| t.prepared == prepared).map(|(name, _)| name.clone()).collect();
        self.pick(&names)
    }

    fn commit(&mut self, name: &str) {
        let transaction = self.transactions.remove(name).unwrap();
        self.committed.extend(transaction.rows);
    }

    /// Some things happen, or none.
    fn steps(&mut self) {
        if self.is_over {
            return;
        }
        for _ in 0..self.dice.random_range(0..9) {
            self.step();
        }
    }

    /// The server is killed and started again: only what was prepared survives, under another name.
    fn restart(&mut self) {
        self.backends.clear();
        let before = std::mem::take(&mut self.transactions);
        let prepared = before.into_iter().filter(|(_, transaction)| transaction.prepared);
        self.transactions = prepared.map(|(name, transaction)| (format!("-1/{}", name.replace('/', "")), transaction)).collect();
        // What was drawn ahead is gone, and some more.
        self.sequence += 32;
    }

    fn holders(&self) -> BTreeSet<Blocker> {
        let holders = self.transactions.iter().filter(|(_, transaction)| transaction.holds_lock);
        // As of some minor version Postgres keeps the virtual number of what is prepared; before it did not.
        let name = |(name, transaction): (&String, &Transaction)| match transaction.prepared {
            true => Blocker::Prepared(format!("-1/{name}").into()),
            false => Blocker::Transaction(name.as_str().into()),
        };
        holders.map(name).collect()
    }

    fn backends(&self) -> BTreeSet<Blocker> {
        self.backends.keys().map(|backend| Blocker::Backend(*backend)).collect()
    }
}

/// Reads the world's log by the rules; `None` if it goes well, or what went wrong.
fn read(seed: u64, cache: i64, reader: Reader) -> Option<String> {
    let mut world = World::new(seed, cache);
    let mut now = Instant::now();
    let mut gaps = Gaps::new(i64::MIN, Vec::new(), Duration::ZERO, now);
    let mut read: Vec<i64> = Vec::new();
    for round in 0.. {
        now += Duration::from_millis(10);
        let is_over = round >= 100;
        if is_over {
            // Everybody ends; then the reader must come to rest.
            world.is_over = true;
            world.transactions.clear();
            world.backends.clear();
        } else {
            world.steps();
        }
        match world.dice.random_range(0..40) {
            // The reader is killed: what it had handed out is saved, or read again.
            0 => {
                let mut saved = Gaps::new(gaps.hi(), gaps.ranges().collect(), Duration::ZERO, now);
                std::mem::swap(&mut gaps, &mut saved);
            }
            1 if !is_over => {
                world.restart();
                gaps.forget_blockers();
            }
            _ => {}
        }
        let early = world.holders();
        (0..4).for_each(|_| world.steps());
        let limit = world.dice.random_range(1..12);
        let page: Vec<i64> = world.committed.range(gaps.hi().saturating_add(1)..).take(limit).copied().collect();
        for id in &page {
            gaps.passed(*id, now);
            read.push(*id);
        }
        if reader == Reader::HighestId {
            gaps = Gaps::new(gaps.hi(), Vec::new(), Duration::ZERO, now);
        }
        world.steps();
        let mut backends = if cache > 1 { world.backends() } else { BTreeSet::new() };
        // A backend may do much between the two statements.
        (0..4).for_each(|_| world.steps());
        let mut there = world.holders();
        match reader {
            Reader::WithoutBackends => backends.clear(),
            Reader::OnceMore => (there, backends) = Default::default(),
            Reader::AskedBefore => there = early,
            Reader::PreparedIsGone => there.retain(|blocker| !matches!(blocker, Blocker::Prepared(_))),
            _ => {}
        }
        there.append(&mut backends);
        if reader == Reader::ClosedAfter {
            // What is due is read first, then it is asked who is left.
            take_found(&world, &mut gaps, &mut read, now);
            world.steps();
            gaps.held_by(&world.holders());
            gaps.due(now);
        } else {
            gaps.held_by(&there);
            world.steps();
            take_found(&world, &mut gaps, &mut read, now);
        }
        gaps.read_again(now);
        if is_over && page.is_empty() && (!gaps.is_open() || round > 400) {
            break;
        }
    }
    let times = |id: &i64| read.iter().filter(|read| *read == id).count();
    let lost: Vec<i64> = world.committed.iter().copied().filter(|id| times(id) == 0).collect();
    let repeated: Vec<i64> = world.committed.iter().copied().filter(|id| times(id) > 1).collect();
    let never_there = read.iter().filter(|id| !world.committed.contains(id)).count();
    let is_well = lost.is_empty() && repeated.is_empty() && never_there == 0 && !gaps.is_open();
    (!is_well).then(|| format!("lost {lost:?}, repeated {repeated:?}, never there {never_there}, open {}", gaps.count()))
}

/// Reads what is due again, in pieces, with things happening in between.
fn take_found(world: &World, gaps: &mut Gaps, read: &mut Vec<i64>, now: Instant) {
    let due = gaps.due(now);
    for piece in due.chunks(3) {
        let found: Vec<i64> = piece.iter().flat_map(|&(lo, hi)| world.committed.range(lo..=hi)).copied().collect();
        gaps.found(&found);
        read.extend(found);
    }
}

/// Goal: nothing is lost and nothing comes twice, and in the end no gap is left. Method: seeded worlds, with a sequence that gives ids
/// one by one or by tens.
#[test]
fn oracle_every_committed_row_is_read_once() {
    let seeds: u64 = std::env::var("HIGHWATER_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        for cache in [1, 10] {
            if let Some(wrong) = read(seed, cache, Reader::AsItIs) {
                panic!("seed {seed}, cache {cache}: {wrong}");
            }
        }
    }
}

#[test]
fn every_shortcut_is_caught() {
    use Reader::*;
    let shortcuts =
        [(HighestId, 1), (OnceMore, 1), (AskedBefore, 1), (PreparedIsGone, 1), (ClosedAfter, 1), (WithoutBackends, 10)];
    for (reader, cache) in shortcuts {
        let caught = (0..400).find(|seed| read(*seed, cache, reader).is_some());
        assert!(caught.is_some(), "{reader:?} was not caught");
    }
}

/// A backend that holds ids drawn ahead inserts one, prepares that, and ends, all between two questions. Too rare for dice.
#[test]
fn backends_are_asked_for_before_locks() {
    let now = Instant::now();
    let (backend, prepared) = (Blocker::Backend(7), Blocker::Prepared("3/9".into()));
    let is_open_after = |there: BTreeSet<Blocker>| {
        let mut gaps = Gaps::new(0, Vec::new(), Duration::ZERO, now);
        gaps.passed(11, now);
        gaps.held_by(&there);
        gaps.due(now);
        gaps.read_again(now);
        gaps
    };
    // Locks first: none yet. Then backends: none any more.
    assert!(!is_open_after(BTreeSet::new()).is_open(), "what is prepared would be lost");
    let mut gaps = is_open_after([backend, prepared.clone()].into());
    gaps.held_by(&[prepared].into());
    gaps.due(now);
    gaps.read_again(now);
    assert!(gaps.is_open(), "what is prepared is waited for");
    gaps.held_by(&BTreeSet::new());
    gaps.due(now);
    gaps.read_again(now);
    assert!(!gaps.is_open());
}

#[test]
fn a_transaction_open_throughout_costs_a_group_not_a_search() {
    let now = Instant::now();
    let mut gaps = Gaps::new(0, Vec::new(), Duration::ZERO, now);
    let long: BTreeSet<Blocker> = [Blocker::Transaction("3/1".into())].into();
    for round in 1..1000 {
        // A gap of two ids, a row, and somebody else who is there for this round alone.
        gaps.passed(round * 3, now);
        let other = Blocker::Transaction(format!("4/{round}").into());
        gaps.held_by(&long.iter().cloned().chain([other]).collect());
        assert!(gaps.due(now).len() <= 2, "only what is new, or has lost somebody, is read again");
        gaps.read_again(now);
        assert!(gaps.groups.len() <= 2);
    }
    gaps.held_by(&BTreeSet::new());
    assert_eq!(gaps.due(now).len(), 999);
    gaps.read_again(now);
    assert!(!gaps.is_open());
}

#[test]
fn held_gaps_stay_open_for_as_long() {
    let start = Instant::now();
    let hold = Duration::from_secs(5);
    let mut gaps = Gaps::new(0, Vec::new(), hold, start);
    gaps.passed(3, start);
    let mut reads = 0;
    for tenth in 0..50 {
        let now = start + Duration::from_millis(tenth * 100);
        gaps.held_by(&BTreeSet::new());
        reads += gaps.due(now).len();
        gaps.read_again(now);
        assert!(gaps.is_open());
        assert!(gaps.next_look().is_some());
    }
    assert!((8..20).contains(&reads), "{reads}");
    gaps.found(&[1]);
    assert_eq!(gaps.ranges().collect::<Vec<_>>(), [(2, 2)]);
    gaps.look_soon(start + hold);
    assert_eq!(gaps.due(start + hold).len(), 1);
    gaps.read_again(start + hold);
    assert!(!gaps.is_open());
}
