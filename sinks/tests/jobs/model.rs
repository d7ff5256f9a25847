//! A plain model of a queue, held against every store after seeded random calls: the same is there, and the same may be taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use highwater_sinks::jobs::{Claim, Counts, Enqueued, Fate, JobNumber, JobStore, Leased, NewJob};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::places::Place;
use crate::suite::{HOUR, id, job, reason, settlement};

/// Where a job of the model stands. Times are either now or far away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Ready,
    Later,
    Behind { later: bool },
    Leased { claim: Claim, ended: bool },
    Parked,
}

#[derive(Debug)]
struct Modelled {
    /// In the order of enqueuing; a store gives the number when it is taken first.
    order: u64,
    lane: Option<(&'static str, bool)>,
    at: At,
    attempts: u32,
}

#[derive(Default)]
struct Model {
    jobs: BTreeMap<String, Modelled>,
    known: BTreeSet<String>,
    numbers: HashMap<JobNumber, String>,
    enqueued: u64,
}

impl Model {
    /// Whether a job stands in the way of the others of its lane.
    fn is_first(modelled: &Modelled) -> bool {
        match modelled.at {
            At::Behind { .. } => false,
            At::Parked => modelled.lane.is_some_and(|(_, hold)| hold),
            _ => true,
        }
    }

    /// Lets the next one of a lane go, if nobody stands in its way.
    fn advance(&mut self, lane: Option<(&'static str, bool)>) {
        let Some((key, _)) = lane else { return };
        let of_lane = |modelled: &&mut Modelled| modelled.lane.is_some_and(|(of, _)| of == key);
        let mut all: Vec<&mut Modelled> = self.jobs.values_mut().filter(of_lane).collect();
        if all.iter().any(|modelled| Self::is_first(modelled)) {
            return;
        }
        all.sort_by_key(|modelled| modelled.order);
        if let Some(next) = all.into_iter().find(|modelled| matches!(modelled.at, At::Behind { .. })) {
            next.at = if next.at == (At::Behind { later: true }) { At::Later } else { At::Ready };
        }
    }

    fn enqueue(&mut self, new: &NewJob, lane: Option<(&'static str, bool)>) -> Enqueued {
        if !self.known.insert(new.id.clone()) {
            return Enqueued::Known;
        }
        self.enqueued += 1;
        let at = At::Behind { later: !new.delay.is_zero() };
        let at = if lane.is_none() { if new.delay.is_zero() { At::Ready } else { At::Later } } else { at };
        self.jobs.insert(new.id.clone(), Modelled { order: self.enqueued, lane, at, attempts: 0 });
        self.advance(lane);
        Enqueued::New
    }

    fn may_be_taken(&self) -> BTreeSet<String> {
        let may = |modelled: &Modelled| matches!(modelled.at, At::Ready | At::Leased { ended: true, .. });
        self.jobs.iter().filter(|(_, modelled)| may(modelled)).map(|(id, _)| id.clone()).collect()
    }

    fn took(&mut self, leased: &Leased, ended: bool, seed: u64) {
        let id = id(leased);
        self.numbers.insert(leased.claim.number, id.clone());
        let modelled = self.jobs.get_mut(&id).unwrap_or_else(|| panic!("seed {seed}: {id} is no more, and was given out"));
        modelled.attempts += 1;
        let before = match modelled.at {
            At::Leased { claim, .. } => Some(claim),
            _ => None,
        };
        assert!(before.is_none_or(|before| before.fence < leased.claim.fence), "seed {seed}: the fence of {id} did not grow");
        assert_eq!((leased.attempt, leased.returned), (modelled.attempts, before.is_some()), "seed {seed}: {id}");
        modelled.at = At::Leased { claim: leased.claim, ended };
    }

    fn settle(&mut self, claim: Claim, fate: &Fate) -> bool {
        let id = self.numbers[&claim.number].clone();
        let Some(modelled) = self.jobs.get_mut(&id) else { return false };
        if !matches!(modelled.at, At::Leased { claim: newest, .. } if newest == claim) {
            return false;
        }
        let wait = |wait: &Duration| if wait.is_zero() { At::Ready } else { At::Later };
        let lane = modelled.lane;
        match fate {
            Fate::Finished => drop(self.jobs.remove(&id)),
            Fate::Retry(after) => modelled.at = wait(after),
            Fate::Released(after) => {
                modelled.attempts -= 1;
                modelled.at = wait(after);
            }
            Fate::Parked(_) => modelled.at = At::Parked,
        }
        self.advance(lane);
        true
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for modelled in self.jobs.values() {
            match modelled.at {
                At::Ready => counts.ready += 1,
                At::Later => counts.later += 1,
                At::Behind { .. } => counts.behind += 1,
                At::Leased { .. } => counts.in_flight += 1,
                At::Parked => counts.parked += 1,
            }
        }
        counts
    }
}

const LANES: [(&str, bool); 4] = [("a", false), ("b", false), ("held", true), ("a key: of \u{fc}ber{}", true)];

async fn against(store: Arc<dyn JobStore>, seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut model, mut taken): (Model, Vec<Leased>) = (Model::default(), Vec::new());
    for step in 0..steps {
        match random.random_range(0..10) {
            0..3 => {
                let (mut new, mut lanes) = (Vec::new(), Vec::new());
                for _ in 0..random.random_range(1..8) {
                    // The lane goes with the id, as it does with a change.
                    let n = random.random_range(0..200_usize);
                    let lane = LANES.get(n % 7).copied();
                    let delay = if random.random_bool(0.2) { HOUR } else { Duration::ZERO };
                    new.push(job(&format!("j{n}"), lane, delay));
                    lanes.push(lane);
                }
                let expected: Vec<Enqueued> = new.iter().zip(&lanes).map(|(new, lane)| model.enqueue(new, *lane)).collect();
                assert_eq!(store.enqueue(&new).await.unwrap(), expected, "seed {seed}, step {step}");
            }
            3..6 => {
                let (most, ends) = (random.random_range(1..12), random.random_bool(0.3));
                let may = model.may_be_taken();
                let got = store.take(most, if ends { Duration::ZERO } else { HOUR }).await.unwrap();
                let ids: BTreeSet<String> = got.jobs.iter().map(id).collect();
                assert_eq!(ids.len(), got.jobs.len(), "seed {seed}, step {step}: one was given out twice");
                assert_eq!(ids.len(), most.min(may.len()), "seed {seed}, step {step}: {ids:?} of {may:?}");
                assert!(ids.is_subset(&may), "seed {seed}, step {step}: {ids:?} of {may:?}");
                got.jobs.iter().for_each(|leased| model.took(leased, ends, seed));
                taken.extend(got.jobs);
            }
            6..8 => {
                let mut some: Vec<&Leased> = Vec::new();
                for _ in 0..random.random_range(1..6) {
                    if let Some(leased) = taken.choose(&mut random)
                        && some.iter().all(|other| other.claim.number != leased.claim.number)
                    {
                        some.push(leased);
                    }
                }
                let fate = |random: &mut StdRng| match random.random_range(0..6) {
                    0..3 => Fate::Finished,
                    3 => Fate::Retry([Duration::ZERO, HOUR][random.random_range(0..2)]),
                    4 => Fate::Released([Duration::ZERO, HOUR][random.random_range(0..2)]),
                    _ => reason("no"),
                };
                let settled: Vec<_> = some.into_iter().map(|leased| settlement(leased, fate(&mut random))).collect();
                let expected: Vec<bool> = settled.iter().map(|settled| model.settle(settled.claim, &settled.fate)).collect();
                assert_eq!(store.settle(&settled).await.unwrap(), expected, "seed {seed}, step {step}: {settled:?}");
            }
            8 => {
                let Some(leased) = taken.choose(&mut random) else { continue };
                let modelled = model.jobs.get_mut(&id(leased));
                let expected = match modelled.map(|modelled| &mut modelled.at) {
                    Some(At::Leased { claim, ended }) if *claim == leased.claim => {
                        *ended = false;
                        true
                    }
                    _ => false,
                };
                assert_eq!(store.renew(&[leased.claim], HOUR).await.unwrap(), [expected], "seed {seed}, step {step}");
            }
            _ => by_hand(&store, &mut model, &mut random, seed, step).await,
        }
        let counts = Counts { age: Duration::ZERO, ..store.counts().await.unwrap() };
        assert_eq!(counts, model.counts(), "seed {seed}, step {step}");
    }
}

/// Retries and drops what is parked, and looks what is.
async fn by_hand(store: &Arc<dyn JobStore>, model: &mut Model, random: &mut StdRng, seed: u64, step: usize) {
    let parked = store.parked(0, 1_000).await.unwrap();
    let ids: BTreeSet<String> = parked.iter().map(|parked| model.numbers[&parked.id].clone()).collect();
    let expected = model.jobs.iter().filter(|(_, modelled)| modelled.at == At::Parked).map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, expected, "seed {seed}, step {step}");
    let Some(one) = parked.choose(random) else { return };
    let id = &model.numbers[&one.id];
    if random.random_bool(0.5) {
        assert_eq!(store.retry(&[one.id]).await.unwrap(), 1);
        let modelled = model.jobs.get_mut(id).unwrap();
        modelled.attempts = 0;
        modelled.at = if modelled.lane.is_some() { At::Behind { later: false } } else { At::Ready };
        let lane = modelled.lane;
        model.advance(lane);
    } else {
        assert_eq!(store.discard(&[one.id]).await.unwrap(), 1);
        let gone = model.jobs.remove(id).unwrap();
        model.advance(gone.lane);
    }
}

/// How many seeds, unless `HIGHWATER_SEEDS` says so; the first is `HIGHWATER_SEED`.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let set = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = set("HIGHWATER_SEED").unwrap_or(0);
    first..first + set("HIGHWATER_SEEDS").unwrap_or(usual)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_is_what_the_model_is() {
    for place in Place::all() {
        let many = match place {
            Place::Memory => 200,
            Place::Postgres(_) => 6,
            Place::Redis => 40,
        };
        for seed in seeds(many) {
            against(place.open().await, seed, 150).await;
        }
    }
}
