//! Kills the main example again and again, resumes it with another number of workers, and asks the oracle what came of it.
//!
//! Whatever the moment of the kill, the batch size and the workers: in the end every distinct change of the input must be
//! in the outputs exactly once, and the books must balance. The kill is a real SIGKILL of a real process.
//!
//! `HIGHWATER_KILLS` and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one. Only `cargo test`
//! without `--test` builds examples; with it, say `--example orders` too, or an old program is tested.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use highwater_examples::orders::dice::Dice;
use highwater_examples::orders::{Ended, InputSpec, Orders, Report};

const BATCH_SIZES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const WORKERS: [usize; 3] = [1, 2, 4];
/// Kills that one input is meant to last for.
const KILLS_PER_INPUT: u64 = 12;
/// Before this a process has hardly opened its files.
const START: Duration = Duration::from_millis(20);

#[test]
fn orders_killed_at_any_moment_lose_and_repeat_nothing() {
    let kills: u64 = setting("HIGHWATER_KILLS", || 6);
    let events: u64 = setting("HIGHWATER_EVENTS", || 40_000);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    // Printed before anything can fail, so that every failure has its seed.
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_EVENTS={events}");
    let mut proof = Proof::new(seed);
    let mut input = 0;
    while proof.kills < kills {
        proof.one_input(kills, events, seed.wrapping_add(input));
        input += 1;
        assert!(input <= kills + 10, "most runs end before they can be killed: set HIGHWATER_EVENTS higher");
    }
    println!("{}", proof.table());
    assert_eq!((proof.lost, proof.repeated), (0, 0));
    assert!(proof.kills_that_met_work > 0, "every kill came before the first output: the proof shows nothing");
}

/// What was done and what was found.
struct Proof {
    program: PathBuf,
    dice: Dice,
    workers_before: usize,
    inputs: u64,
    runs: u64,
    kills: u64,
    kills_that_met_work: u64,
    batch_sizes: BTreeMap<u64, u64>,
    workers: BTreeMap<usize, u64>,
    replayed_sum: u64,
    replayed_max: u64,
    saves: u64,
    lost: u64,
    repeated: u64,
}

impl Proof {
    fn new(seed: u64) -> Self {
        Proof {
            program: built_example("orders"),
            dice: Dice::new(seed),
            workers_before: 0,
            inputs: 0,
            runs: 0,
            kills: 0,
            kills_that_met_work: 0,
            batch_sizes: BTreeMap::new(),
            workers: BTreeMap::new(),
            replayed_sum: 0,
            replayed_max: 0,
            saves: 0,
            lost: 0,
            repeated: 0,
        }
    }

    /// Works through one input, killed on the way, to its end.
    fn one_input(&mut self, kills: u64, events: u64, seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let orders = Orders::new(&self.program, folder.path(), InputSpec { events, customers: 500, duplicates: 0.1, seed });
        orders.make_input().unwrap();
        self.inputs += 1;

        // A run that nobody kills tells how long the work takes, and that it is right when nothing happens.
        let (workers, size) = self.throw();
        let undisturbed = orders.start(Some(workers), Some(size)).unwrap().wait().unwrap();
        let work = Duration::from_secs_f64(undisturbed.seconds).saturating_sub(START);
        self.check(&orders, &undisturbed);
        orders.wipe().unwrap();

        let kills_here = (kills - self.kills).min(KILLS_PER_INPUT);
        // On average the kills together leave a fifth of the work to the last run; what is replayed comes on top.
        let share = work.as_secs_f64() * 1.6 / kills_here as f64;
        for _ in 0..kills_here {
            let written = size_below(&orders.out());
            let (workers, size) = self.throw();
            let delay = START + Duration::from_secs_f64(share * self.dice.unit());
            let ended = orders.start(Some(workers), Some(size)).unwrap().kill_after(delay).unwrap();
            if !ended.was_killed() {
                // It was done before its time had come: the next kills get another input.
                self.check(&orders, &ended);
                return;
            }
            self.kills += 1;
            self.kills_that_met_work += u64::from(size_below(&orders.out()) != written);
        }
        let (workers, size) = self.throw();
        let ended = orders.start(Some(workers), Some(size)).unwrap().wait().unwrap();
        let report = self.check(&orders, &ended);
        self.replayed_sum += report.replayed;
        self.replayed_max = self.replayed_max.max(report.replayed).max(report.replayed_max);

        // All is done: one more start must leave everything as it is.
        let (workers, size) = self.throw();
        let ended = orders.start(Some(workers), Some(size)).unwrap().wait().unwrap();
        self.check(&orders, &ended);
    }

    /// How the next run is to be: any batch size, and any number of workers but that of the run before.
    fn throw(&mut self) -> (usize, u64) {
        let others: Vec<usize> = WORKERS.into_iter().filter(|workers| *workers != self.workers_before).collect();
        let (workers, size) = (self.dice.pick(&others), self.dice.pick(&BATCH_SIZES));
        self.workers_before = workers;
        self.runs += 1;
        *self.batch_sizes.entry(size).or_default() += 1;
        *self.workers.entry(workers).or_default() += 1;
        (workers, size)
    }

    /// What must hold whenever a run has ended whole.
    fn check(&mut self, orders: &Orders, ended: &Ended) -> Report {
        let report = ended.report().unwrap_or_else(|problem| panic!("{problem}"));
        let unbalanced = report.unbalanced();
        assert!(unbalanced.is_empty(), "the books do not balance: {unbalanced:?}");
        self.saves += report.saves;
        let verdict = orders.verify().unwrap();
        self.lost += verdict.lost;
        self.repeated += verdict.repeated;
        assert!(verdict.is_clean(), "after {} kills: {verdict}\n{}", self.kills, self.table());
        report
    }

    fn table(&self) -> Table {
        let counts = |counts: Vec<String>| counts.join("  ");
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["what", "how many"]);
        table.add_row(["kills".to_owned(), self.kills.to_string()]);
        table.add_row(["kills that met work".to_owned(), self.kills_that_met_work.to_string()]);
        table.add_row(["inputs".to_owned(), self.inputs.to_string()]);
        table.add_row(["runs".to_owned(), self.runs.to_string()]);
        let sizes = self.batch_sizes.iter().map(|(size, runs)| format!("{size}: {runs}")).collect();
        table.add_row(["runs by checkpoint_batch_size".to_owned(), counts(sizes)]);
        let workers = self.workers.iter().map(|(workers, runs)| format!("{workers}: {runs}")).collect();
        table.add_row(["runs by workers".to_owned(), counts(workers)]);
        table.add_row(["replayed, sum of last runs".to_owned(), self.replayed_sum.to_string()]);
        table.add_row(["replayed, max".to_owned(), self.replayed_max.to_string()]);
        table.add_row(["saves".to_owned(), self.saves.to_string()]);
        table.add_row(["lost".to_owned(), self.lost.to_string()]);
        table.add_row(["repeated".to_owned(), self.repeated.to_string()]);
        table
    }
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default(),
    }
}

/// Cargo tells tests where binaries are, but not examples: they are in the folder beside the tests'.
fn built_example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is not there: cargo build --example {name}", program.display());
    program
}

/// Bytes in all files below a folder, 0 if there is none.
fn size_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { size_below(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}
