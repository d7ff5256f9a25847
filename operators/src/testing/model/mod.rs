//! The protocol as a seeded simulation: one thread, no clock, no files, every step chosen by the seed.
//!
//! It exists to find out whether the *rules* keep the promises, before and beside the code that follows the rules. So it
//! is abstract: a change is five numbers, a file is a list, a worker is a map. In exchange everything may happen between
//! any two steps: a crash, a failed save, a slow message, a person's command. What a crash takes is everything in
//! `run::Run`; what it leaves is the `store::Store` and the world outside.
//!
//! [`Mutation`] lists the broken alternatives. They prove that the checks can fail: a check that no broken protocol
//! trips says nothing about the one that holds.
//!
//! In order of reading: `world` (what is out there), `run` (one run of the pipeline), `dedup`, `action`, `file` (its
//! stages), `save` (the mark), `store` (what survives), `promise` (what must hold).

mod action;
mod dedup;
mod file;
mod mutation;
mod promise;
mod run;
mod save;
mod store;
mod world;

use std::fmt;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use mutation::Mutation;

/// The protocol as it stands, under this seed.
///
/// # Errors
/// The sentence names the seed, the promise and what broke it.
pub fn run(seed: u64) -> Result<Report, String> {
    Simulation::new(seed, None).play().map_err(|why| format!("seed {seed}: {why}"))
}

/// The protocol with one rule broken, under this seed.
///
/// # Errors
/// As [`run`]; an error is what one hopes for.
pub fn run_mutated(seed: u64, mutation: Mutation) -> Result<Report, String> {
    Simulation::new(seed, Some(mutation)).play().map_err(|why| format!("seed {seed}, {mutation:?}: {why}"))
}

/// What happened under one seed, or under many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Seeds in this report.
    pub seeds: u64,
    /// Changes in the sources.
    pub changes: u64,
    /// Steps taken.
    pub steps: u64,
    /// Crashes.
    pub crashes: u64,
    /// Runs that stopped by themselves because the books did not balance.
    pub stops: u64,
    /// Changes read again.
    pub replays: u64,
    /// Deliveries of a (change, action) that had been delivered, by actions that keep a ledger.
    pub repeats: u64,
    /// Changes passed as themselves, read again, where the seen-set knew them.
    pub recognised: u64,
    /// Changes dropped as duplicates, replays included.
    pub duplicates: u64,
    /// Changes set aside.
    pub parked: u64,
    /// Parked changes that were delivered or dropped later.
    pub resolved: u64,
    /// Changes that the mark had passed when everything could still break, out of `changes`.
    pub proved_early: u64,
    /// Saves that were committed.
    pub saves: u64,
    /// Saves of a replaced run that the store refused.
    pub refused: u64,
}

impl Report {
    /// Adds another report to this one.
    pub fn add(&mut self, other: &Report) {
        let pairs = self.counts_mut().into_iter().zip(other.counts());
        pairs.for_each(|((_, mine), (_, theirs))| *mine += theirs);
    }

    /// All counts, by name.
    pub fn counts(mut self) -> [(&'static str, u64); 14] {
        self.counts_mut().map(|(name, count)| (name, *count))
    }

    fn counts_mut(&mut self) -> [(&'static str, &mut u64); 14] {
        [
            ("seeds", &mut self.seeds),
            ("changes", &mut self.changes),
            ("steps", &mut self.steps),
            ("crashes", &mut self.crashes),
            ("stops", &mut self.stops),
            ("replays", &mut self.replays),
            ("repeats", &mut self.repeats),
            ("recognised", &mut self.recognised),
            ("duplicates", &mut self.duplicates),
            ("parked", &mut self.parked),
            ("resolved", &mut self.resolved),
            ("proved early", &mut self.proved_early),
            ("saves", &mut self.saves),
            ("refused", &mut self.refused),
        ]
    }
}

impl fmt::Display for Report {
    /// All counts in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.counts().iter().map(|(name, count)| format!("{name} {count}")).collect();
        f.write_str(&words.join(" · "))
    }
}

/// One world, one pipeline, one seed.
struct Simulation {
    rng: SmallRng,
    mutation: Option<Mutation>,
    world: world::World,
    store: store::Store,
    files: file::Files,
    run: run::Run,
    /// A save that a killed run had under way and that reaches the store after its successor has begun.
    straggler: Option<(u32, save::Save)>,
    promises: promise::Promises,
    report: Report,
}

#[derive(Clone, Copy)]
enum Step {
    Read,
    Deliver,
    Start,
    Progress,
    Commit,
    Append,
    BeginSave,
    FinishSave,
    Tick,
    Advance,
    Show,
    Person,
    Obey,
    Load,
    Straggle,
    Vanish,
    Crash,
}

/// How often each step is tried; a seed makes some of them rarer or more frequent.
const STEPS: [(Step, u32); 17] = [
    (Step::Read, 60),
    (Step::Deliver, 160),
    (Step::Start, 120),
    (Step::Progress, 200),
    (Step::Commit, 80),
    (Step::Append, 60),
    (Step::BeginSave, 60),
    (Step::FinishSave, 60),
    (Step::Tick, 30),
    (Step::Advance, 80),
    (Step::Show, 20),
    (Step::Person, 12),
    (Step::Obey, 20),
    (Step::Load, 6),
    (Step::Straggle, 3),
    (Step::Vanish, 1),
    (Step::Crash, 3),
];

impl Simulation {
    fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let world = world::World::new(&mut rng);
        let promises = promise::Promises::new(&world);
        let store = store::Store::new(&world);
        let report = Report { seeds: 1, changes: world.total as u64, ..Report::default() };
        let run = run::Run::default();
        let files = file::Files::default();
        Simulation { rng, mutation, world, store, files, run, straggler: None, promises, report }
    }

    fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A stormy part, in which anything may happen at any step; then all is left to drain, and the books are read.
    fn play(mut self) -> Result<Report, String> {
        self.start();
        let mut pace = STEPS.map(|(step, weight)| (step, weight * self.rng.random_range(1..=4)));
        let storm = self.report.steps + self.rng.random_range(200..1000);
        while self.report.steps < storm {
            self.step(&pace)?;
        }
        self.report.proved_early = self.store.checkpoint.mark.iter().map(|mark| mark.high as u64).sum();
        self.world.show_all();
        pace.iter_mut().for_each(|(step, weight)| {
            if matches!(step, Step::Person | Step::Vanish | Step::Crash) {
                *weight = 0;
            }
        });
        while !self.quiet() {
            self.step(&pace)?;
            if self.report.steps > storm + 20_000 {
                return Err("promise 6: it stands still; nothing failed, yet the mark does not reach the end".into());
            }
        }
        self.promises.hold_at_the_end(&self.world, &self.store, &self.files)?;
        self.report.repeats = self.promises.repeats;
        Ok(self.report)
    }

    fn step(&mut self, pace: &[(Step, u32)]) -> Result<(), String> {
        self.report.steps += 1;
        let mut ticket = self.rng.random_range(0..pace.iter().map(|(_, weight)| weight).sum());
        let mut chosen = Step::Tick;
        for (step, weight) in pace {
            if ticket < *weight {
                chosen = *step;
                break;
            }
            ticket -= weight;
        }
        match chosen {
            Step::Read => self.read(),
            Step::Deliver => return self.deliver(),
            Step::Start => self.start_attempt(),
            Step::Progress => return self.progress(),
            Step::Commit => return self.commit_notes(),
            Step::Append => self.append(),
            Step::BeginSave => return self.begin_save(),
            Step::FinishSave => return self.finish_save(),
            Step::Tick => self.run.clock += self.rng.random_range(0..3),
            Step::Advance => self.advance(),
            Step::Show => self.world.show_one(&mut self.rng),
            Step::Person => self.command(),
            Step::Obey => self.obey(),
            Step::Load => self.load_late(),
            Step::Straggle => return self.straggle(),
            Step::Vanish => self.vanish(),
            Step::Crash => {
                self.report.crashes += 1;
                return self.crash();
            }
        }
        Ok(())
    }

    /// Whether nothing is left to do: all read, all done, all saved, all parked records where they must wait for a person.
    fn quiet(&self) -> bool {
        let run = &self.run;
        run.saved == run.frontier()
            && run.readers.iter().all(|reader| reader.ended)
            && run.arriving.is_empty()
            && run.working.is_empty()
            && run.group.is_empty()
            && run.flights.is_empty()
            && run.saving.is_none()
            && run.late.is_empty()
            && self.store.requests.is_empty()
            && !(0..run.lanes.len()).any(|lane| self.next_work(lane).is_some())
    }
}
