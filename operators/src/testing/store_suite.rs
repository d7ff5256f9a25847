//! One suite that every checkpoint store passes, well-behaved and with the n-th step failing.
//!
//! A store is compared with a plain model in memory after seeded random sequences of groups. Where a call fails, the
//! restarted store must be the model either before the call or after it, never between.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::change::{Change, Operation, Parts};
use crate::checkpoint::store::{
    Cause, ChangeHash, CheckpointStore, CutBackFile, Group, History, Note, Outcome, Parked, ParkedHead, ParkedId, Resolution,
    Resolved, Save, StateSegment,
};
use crate::error::Result;
use crate::position::{Epoch, PartitionId, Position, ResumeToken};

/// How a step on the storage fails. Whatever the way, every later step fails too, until [`Storage::recover`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is not done.
    Before,
    /// It is done, and the answer is lost.
    After,
    /// It is done in part, where that is possible; else it is not done.
    Partly,
}

/// Storage that outlives the stores opened on it.
pub trait Storage {
    /// The store under test.
    type Store: CheckpointStore;

    /// Opens the storage as the next run would.
    fn open(&mut self) -> Result<Self::Store>;

    /// From now on the `nth` step that reaches the storage fails, counted from 0.
    fn fail(&mut self, nth: u64, failure: Failure);

    /// The process is gone, its store was dropped; now nothing fails any more. Storage that keeps unsynced bytes loses some here.
    fn recover(&mut self, random: &mut SmallRng);
}

/// Runs every test of the suite. `make` gives empty storage.
///
/// # Panics
/// When the store is not what the contract says. The message holds the seed.
pub fn run_all<S: Storage>(make: impl FnMut() -> S) {
    run_seeds(make, 8, 60);
}

/// The same with so many seeds of random groups with restarts, and with crashes: for storage that takes its time.
///
/// # Panics
/// As [`run_all`].
pub fn run_seeds<S: Storage>(mut make: impl FnMut() -> S, restarts: u64, crashes: u64) {
    everything_comes_back(&mut make());
    generation_rises_and_state_id_stays(&mut make());
    action_names_keep_their_numbers(&mut make());
    notes_live_as_long_as_they_matter(&mut make());
    parked_records_are_replaced_and_resolved_once(&mut make());
    state_is_dropped_where_it_no_longer_counts(&mut make());
    saves_must_follow_each_other(&mut make());
    for seed in 0..restarts {
        restarted_after_every_commit(&mut make(), seed);
    }
    for seed in 0..crashes {
        crashes_anywhere(&mut make(), seed);
    }
}

/// Every field of a group, with values that are not the default, is there after a restart.
pub fn everything_comes_back<S: Storage>(storage: &mut S) {
    let mut random = SmallRng::seed_from_u64(1);
    let mut run = Run::open(storage);
    run.action("receipt");
    let mut group = run.random_group(&mut random);
    group.partitions.push((u32::MAX, "a partition of \u{e9} and \0".into()));
    group.notes.push(note(0, u128::MAX, u64::MAX, u64::MAX));
    group.parked.push(parked(7, "receipt", &mut random, 100_000));
    group.save = Some(Save { ended: true, epoch: 5, ..run.random_save(&mut random) });
    run.commit(group);
    run.restart();
    run.commit(Group::default());
    run.restart();
}

/// Each open is a new generation, also where nothing was committed; the state id is the same.
pub fn generation_rises_and_state_id_stays<S: Storage>(storage: &mut S) {
    let mut seen = Vec::new();
    for _ in 0..4 {
        let restored = storage.open().and_then(|mut store| store.restore()).expect("an idle store opens");
        seen.push((restored.generation, restored.state_id));
    }
    assert!(seen.is_sorted_by(|one, next| one.0 < next.0 && one.1 == next.1), "{seen:?}");
}

/// A name has one number, whenever it is asked for.
pub fn action_names_keep_their_numbers<S: Storage>(storage: &mut S) {
    let mut run = Run::open(storage);
    for _ in 0..3 {
        for name in ["receipt", "index", "", "\u{fc}ber"] {
            run.action(name);
            run.action("receipt");
        }
        run.restart();
    }
    assert_eq!(run.model.actions.len(), 4);
}

/// Notes die below the save of their own run, are bound anew, and of earlier runs die only by name.
pub fn notes_live_as_long_as_they_matter<S: Storage>(storage: &mut S) {
    let at = |at| Position { partition: 0, at, within: 0 };
    let save = |number, epoch, forgotten| Some(Save { number, epoch, forgotten, ..Save::default() });
    let mut run = Run::open(storage);
    run.action("receipt");
    run.commit(Group { notes: (0..10).map(|n| note(0, n.into(), n, 100 + n)).collect(), ..Group::default() });
    run.commit(Group { save: save(1, 105, vec![]), ..Group::default() });
    run.restart();
    assert_eq!(run.model.notes.len(), 5, "epochs 105 to 109 are left");
    // This run's epochs are far above: the save must not touch what the earlier run noted.
    run.commit(Group { save: save(2, 1000, vec![]), ..Group::default() });
    run.restart();
    assert_eq!(run.model.notes.len(), 5);
    // Change 5 is met again and bound to this run; naming it now forgets nothing, its own epoch decides.
    run.commit(Group { notes: vec![note(0, 5, 5, 2000)], ..Group::default() });
    run.commit(Group {
        save: save(3, 1500, vec![(0, 5, at(5)), (0, 6, at(6)), (0, 7, at(99)), (9, 8, at(8))]),
        ..Group::default()
    });
    run.restart();
    assert_eq!(run.model.notes.len(), 4, "6 is forgotten; 7 and 8 were named by another position or action");
    run.commit(Group { notes: vec![note(0, 7, 7, 2000)], ..Group::default() });
    run.commit(Group { save: save(4, 2001, vec![]), ..Group::default() });
    run.restart();
    assert_eq!(run.model.notes.len(), 3, "7 was bound to the run and died below its save; 5 is an earlier run's again");
}

/// A record of the same id takes the place of the one before; a record ends once.
pub fn parked_records_are_replaced_and_resolved_once<S: Storage>(storage: &mut S) {
    let mut random = SmallRng::seed_from_u64(2);
    let mut run = Run::open(storage);
    let resolved = |id, resolution| Resolved { id, action: "receipt".into(), resolution };
    run.commit(Group { parked: (1..=5).map(|id| parked(id, "receipt", &mut random, 50)).collect(), ..Group::default() });
    run.commit(Group { parked: vec![parked(2, "receipt", &mut random, 70_000)], ..Group::default() });
    run.restart();
    let gone = vec![resolved(5, Resolution::Delivered), resolved(4, Resolution::Dropped), resolved(4, Resolution::Dropped)];
    run.commit(Group { resolved: gone, ..Group::default() });
    run.commit(Group {
        resolved: vec![resolved(5, Resolution::Delivered), resolved(99, Resolution::Dropped)],
        ..Group::default()
    });
    run.commit(Group {
        parked: vec![parked(6, "receipt", &mut random, 10)],
        resolved: vec![resolved(6, Resolution::Delivered)],
        ..Group::default()
    });
    run.restart();
    assert_eq!(run.model.resolved["receipt"], (2, 1));
    assert_eq!(run.model.parked.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(run.model.next_parked, 7, "an id is never given out again");
}

/// Segments come back in order of saves until `state_from` passes them.
pub fn state_is_dropped_where_it_no_longer_counts<S: Storage>(storage: &mut S) {
    let mut run = Run::open(storage);
    let segment = |operator: &str, number: u64| StateSegment {
        operator: operator.into(),
        bytes: Bytes::from(format!("{operator} {number}").into_bytes()),
    };
    for number in 1..=6 {
        let state = vec![segment("dedup", number), segment("a view", number), segment("dedup", number + 100)];
        let state_from = [("dedup".to_owned(), number.saturating_sub(2)), ("no such operator".to_owned(), 9)].into();
        run.commit(Group {
            save: Some(Save { number, epoch: number, state, state_from, ..Save::default() }),
            ..Group::default()
        });
        run.restart();
    }
    assert_eq!(run.model.state.iter().filter(|(_, segment)| segment.operator == "dedup").count(), 6, "saves 4, 5 and 6");
    let state_from = [("dedup".to_owned(), 7), ("a view".to_owned(), 8)].into();
    run.commit(Group {
        save: Some(Save {
            number: 7,
            epoch: 7,
            state: vec![segment("dedup", 7), segment("a view", 7)],
            state_from,
            ..Save::default()
        }),
        ..Group::default()
    });
    run.restart();
    assert_eq!(run.model.state, [(7, segment("dedup", 7))]);
}

/// A save out of turn, or one that would let the mark fall, is refused, and the store goes on.
pub fn saves_must_follow_each_other<S: Storage>(storage: &mut S) {
    let save = |number, epoch, order| Group {
        save: Some(Save { number, epoch, mark: [(0, ResumeToken { order, detail: Bytes::new() })].into(), ..Save::default() }),
        ..Group::default()
    };
    let mut run = Run::open(storage);
    run.commit(save(1, 10, 100));
    for refused in [save(1, 11, 101), save(3, 11, 101), save(2, 9, 101), save(2, 11, 99)] {
        assert!(run.store().commit(&refused).is_err(), "{refused:?}");
    }
    run.commit(save(2, 10, 100));
    run.restart();
}

/// Random groups, a restart after each.
pub fn restarted_after_every_commit<S: Storage>(storage: &mut S, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut run = Run::open(storage);
    run.action("receipt");
    for _ in 0..25 {
        let group = run.random_group(&mut random);
        run.commit(group);
        run.restart();
    }
}

/// Random groups, names and restarts, where at any step the process may end.
pub fn crashes_anywhere<S: Storage>(storage: &mut S, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut run = Run::open(storage);
    for _ in 0..60 {
        if random.random_bool(0.2) {
            let failure = *[Failure::Before, Failure::After, Failure::Partly].choose(&mut random).expect("there are three");
            run.storage.fail(random.random_range(0..14), failure);
        }
        let before = run.model.clone();
        let done = match random.random_range(0..10) {
            0 => {
                run.restart_crashing(&mut random, seed);
                continue;
            }
            1 => {
                let name = format!("action {}", random.random_range(0..5));
                run.model.action(&name);
                run.store().action(&name).map(|_| ())
            }
            _ => {
                let group = run.random_group(&mut random);
                run.model.commit(&group);
                run.store().commit(&group)
            }
        };
        if done.is_err() {
            let after = std::mem::replace(&mut run.model, before);
            run.store = None;
            run.storage.recover(&mut random);
            run.reopen_as_either(after, seed);
        } else {
            run.parked_can_be_read(&mut random, seed);
        }
    }
    run.store = None;
    run.storage.recover(&mut random);
    run.restart();
}

/// A store beside the model of what it should be.
struct Run<'a, S: Storage> {
    storage: &'a mut S,
    store: Option<S::Store>,
    model: Model,
    state_id: Option<u128>,
}

impl<'a, S: Storage> Run<'a, S> {
    fn open(storage: &'a mut S) -> Self {
        let mut run = Run { storage, store: None, model: Model::default(), state_id: None };
        run.restart();
        run
    }

    fn store(&mut self) -> &mut S::Store {
        self.store.as_mut().expect("the store is open")
    }

    fn action(&mut self, name: &str) {
        let number = self.store().action(name).expect("a name gets a number");
        assert_eq!(number, self.model.action(name), "the number of {name:?}");
    }

    fn commit(&mut self, group: Group) {
        self.store().commit(&group).expect("a well-behaved store takes the group");
        self.model.commit(&group);
    }

    fn restart(&mut self) {
        self.reopen_as_either(self.model.clone(), 0);
    }

    /// Opens again where opening itself may be what fails.
    fn restart_crashing(&mut self, random: &mut SmallRng, seed: u64) {
        self.store = None;
        let opened = self.storage.open().and_then(|mut store| store.restore());
        if opened.is_err() {
            self.storage.recover(random);
        }
        self.reopen_as_either(self.model.clone(), seed);
    }

    /// Opens again; the store must be `self.model` or `after`, and which one it is, it stays.
    fn reopen_as_either(&mut self, mut after: Model, seed: u64) {
        self.store = None;
        let look = |storage: &mut S| {
            let mut store = storage.open()?;
            let view = View::of(&mut store)?;
            Ok((store, view))
        };
        let opened: Result<_> = look(self.storage).or_else(|_| {
            // A failure planned for later struck the opening: that is a crash as well.
            self.storage.recover(&mut SmallRng::seed_from_u64(seed));
            look(self.storage)
        });
        let (store, mut view) = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(view.generation > self.model.generation, "seed {seed}: the generation did not rise");
        assert_eq!(view.state_id, *self.state_id.get_or_insert(view.state_id), "seed {seed}: the state id changed");
        // Openings that failed may have raised it too, so only the store knows it.
        self.model.generation = view.generation;
        after.generation = view.generation;
        view.state_id = 0;
        if view != self.model.view() {
            assert_eq!(view, after.view(), "seed {seed}");
            self.model = after;
        }
        self.store = Some(store);
    }

    fn parked_can_be_read(&mut self, random: &mut SmallRng, seed: u64) {
        let id = random.random_range(0..self.model.next_parked + 2);
        let expected = self.model.parked.get(&id).cloned();
        // A planned failure may strike here too; then the next call finds it.
        if let Ok(found) = self.store().parked(id) {
            assert_eq!(found, expected, "seed {seed}: parked record {id}");
        }
    }

    fn random_group(&self, random: &mut SmallRng) -> Group {
        let model = &self.model;
        let mut group = Group::default();
        if random.random_bool(0.2) {
            let number = model.partitions.len() as PartitionId;
            group.partitions.push((number, format!("partition {number}")));
        }
        let epoch = model.save.as_ref().map_or(100, |save| save.epoch);
        for _ in 0..random.random_range(0..20) {
            // Few keys, so that notes meet their like.
            let (change, at) = (random.random_range(0..60), random.random_range(0..2));
            group.notes.push(note(random.random_range(0..3), change, at, epoch + random.random_range(0..10)));
        }
        let mut next_parked = model.next_parked;
        while random.random_bool(0.4) {
            let replaced =
                random.random_bool(0.2).then(|| model.parked.keys().copied().collect::<Vec<_>>().choose(random).copied());
            let id = replaced.flatten().unwrap_or_else(|| {
                next_parked += random.random_range(1..3);
                next_parked - 1
            });
            let size = if random.random_bool(0.05) { 400_000 } else { random.random_range(0..2000) };
            group.parked.push(parked(id, "receipt", random, size));
        }
        while random.random_bool(0.3) {
            let id = random.random_range(0..next_parked + 1);
            let resolution = if random.random() { Resolution::Delivered } else { Resolution::Dropped };
            group.resolved.push(Resolved { id, action: format!("action {}", id % 2), resolution });
        }
        if random.random_bool(0.4) {
            group.save = Some(self.random_save(random));
        }
        group
    }

    fn random_save(&self, random: &mut SmallRng) -> Save {
        let last = self.model.save.clone().unwrap_or(Save { epoch: 100, ..Save::default() });
        let mut save =
            Save { number: last.number + 1, epoch: last.epoch + random.random_range(0..8), mark: last.mark, ..Save::default() };
        for partition in 0..random.random_range(0..3) {
            let token = save.mark.entry(partition).or_default();
            *token = ResumeToken { order: token.order + random.random_range(0..3), detail: bytes(random, 20) };
        }
        save.books = (0..random.random_range(0..4)).map(|line| (format!("line {line}"), random.random())).collect();
        if random.random() {
            save.files.push(CutBackFile { action: "write".into(), path: "out/1.jsonl".into(), length: random.random() });
        }
        for _ in 0..random.random_range(0..4) {
            let size = if random.random_bool(0.03) { 700_000 } else { random.random_range(0..3000) };
            let operator = format!("operator {}", random.random_range(0..3));
            save.state.push(StateSegment { operator, bytes: bytes(random, size) });
        }
        save.state_from = last.state_from;
        for operator in 0..3 {
            if random.random_bool(0.3) {
                let from = save.state_from.entry(format!("operator {operator}")).or_default();
                *from = random.random_range(*from..=save.number + 1);
            }
        }
        while random.random_bool(0.7) {
            let keys: Vec<_> = self.model.notes.keys().collect();
            let Some((action, change, (partition, at, within))) = keys.choose(random) else { break };
            save.forgotten.push((*action, *change, Position { partition: *partition, at: *at, within: *within }));
        }
        save.ended = random.random();
        save
    }
}

fn note(action: u16, change: ChangeHash, at: u64, epoch: Epoch) -> Note {
    let outcome = if change.is_multiple_of(3) { Outcome::Parked } else { Outcome::Delivered };
    Note { action, change, position: Position { partition: 0, at, within: 0 }, epoch, outcome }
}

fn bytes(random: &mut SmallRng, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..]);
    bytes.into()
}

fn parked(id: ParkedId, action: &str, random: &mut SmallRng, size: usize) -> Parked {
    let row = format!("{{\"text\":\"{}\"}}", "x".repeat(size));
    let name = random.random::<u32>().to_string();
    let position = Position { partition: 1, at: random.random(), within: id };
    let parts = Parts {
        id: &name,
        table: "orders",
        key: random.random::<bool>().then_some("the key"),
        operation: Operation::Update,
        time_ms: random.random(),
        before: None,
        after: Some(&row),
    };
    Parked {
        id,
        action: action.into(),
        cause: *[Cause::Failed, Cause::Overflow, Cause::Held].choose(random).expect("there are three"),
        error: "no answer".into(),
        attempts: random.random(),
        parked_at_ms: random.random(),
        hash: random.random(),
        change: Change::new(Bytes::new(), position, parts).expect("all names are short"),
        history: History {
            response: random.random::<bool>().then(|| "busy".to_owned()),
            rounds: random.random_range(0..3),
            ..History::default()
        },
    }
}

/// What a store should hold, kept in the plainest way.
#[derive(Clone, Default)]
struct Model {
    generation: u64,
    partitions: BTreeMap<PartitionId, String>,
    actions: BTreeMap<String, u16>,
    save: Option<Save>,
    state: Vec<(u64, StateSegment)>,
    notes: BTreeMap<NoteKey, NoteValue>,
    parked: BTreeMap<ParkedId, Parked>,
    next_parked: ParkedId,
    resolved: BTreeMap<String, (u64, u64)>,
}

/// Action, change, and position as something with an order.
type NoteKey = (u16, ChangeHash, (PartitionId, u64, u64));
/// Epoch, outcome, and the generation that noted it.
type NoteValue = (Epoch, Outcome, u64);

impl Model {
    fn action(&mut self, name: &str) -> u16 {
        let next = self.actions.len() as u16;
        *self.actions.entry(name.to_owned()).or_insert(next)
    }

    fn commit(&mut self, group: &Group) {
        self.partitions.extend(group.partitions.iter().cloned());
        let generation = self.generation;
        for note in &group.notes {
            let Position { partition, at, within } = note.position;
            self.notes.insert((note.action, note.change, (partition, at, within)), (note.epoch, note.outcome, generation));
        }
        for parked in &group.parked {
            self.next_parked = self.next_parked.max(parked.id + 1);
            self.parked.insert(parked.id, parked.clone());
        }
        for resolved in &group.resolved {
            if self.parked.remove(&resolved.id).is_some() {
                let (delivered, dropped) = self.resolved.entry(resolved.action.clone()).or_default();
                *if resolved.resolution == Resolution::Delivered { delivered } else { dropped } += 1;
            }
        }
        if let Some(save) = &group.save {
            self.state.extend(save.state.iter().map(|segment| (save.number, segment.clone())));
            self.state.retain(|(number, segment)| *number >= save.state_from.get(&segment.operator).copied().unwrap_or(0));
            for (action, change, Position { partition, at, within }) in &save.forgotten {
                let key = (*action, *change, (*partition, *at, *within));
                if self.notes.get(&key).is_some_and(|(_, _, of)| *of != generation) {
                    self.notes.remove(&key);
                }
            }
            self.notes.retain(|_, (epoch, _, of)| *of != generation || *epoch >= save.epoch);
            self.save = Some(Save { state: Vec::new(), forgotten: Vec::new(), ..save.clone() });
        }
    }

    fn view(&self) -> View {
        View {
            generation: self.generation,
            state_id: 0,
            partitions: self.partitions.clone(),
            actions: self.actions.clone(),
            save: self.save.clone(),
            state: self.state.clone(),
            notes: self.notes.iter().map(|(key, (epoch, outcome, _))| (*key, (*epoch, *outcome))).collect(),
            heads: self.parked.values().map(Parked::head).collect(),
            parked: self.parked.values().cloned().collect(),
            next_parked: self.next_parked.max(1),
            resolved: self.resolved.clone(),
        }
    }
}

/// All that can be learned from a store, in a form that can be compared.
#[derive(Debug, PartialEq)]
struct View {
    generation: u64,
    state_id: u128,
    partitions: BTreeMap<PartitionId, String>,
    actions: BTreeMap<String, u16>,
    save: Option<Save>,
    state: Vec<(u64, StateSegment)>,
    notes: BTreeMap<NoteKey, (Epoch, Outcome)>,
    heads: Vec<ParkedHead>,
    parked: Vec<Parked>,
    next_parked: ParkedId,
    resolved: BTreeMap<String, (u64, u64)>,
}

impl View {
    fn of(store: &mut impl CheckpointStore) -> Result<View> {
        let restored = store.restore()?;
        let mut notes = BTreeMap::new();
        for note in &restored.notes {
            let Position { partition, at, within } = note.position;
            let twice = notes.insert((note.action, note.change, (partition, at, within)), (note.epoch, note.outcome));
            assert!(twice.is_none(), "a note came back twice: {note:?}");
        }
        let records = restored.parked.iter().map(|head| store.parked(head.id));
        let parked = records.collect::<Result<Option<Vec<_>>>>()?.expect("every head has its record");
        Ok(View {
            generation: restored.generation,
            state_id: restored.state_id,
            partitions: restored.partitions,
            actions: restored.actions,
            save: restored.checkpoint,
            state: restored.state,
            notes,
            heads: restored.parked.into_iter().map(|head| ParkedHead { bytes: 0, ..head }).collect(),
            parked,
            next_parked: restored.next_parked,
            resolved: restored.resolved,
        })
    }
}
