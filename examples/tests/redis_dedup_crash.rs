//! Kills the main example, whose seen-set is in a Redis, and the Redis too, and asks the oracle what came of it. A tenth of the changes are
//! duplicates, up to thousands of lines behind their first, so they straddle the kills.
//!
//! With its log on, Redis knows after a kill what it knew before: nothing is lost and nothing is repeated. A Redis that keeps nothing forgets
//! with every kill: nothing is lost, and what is repeated is counted, and told of by the program.
//!
//! `HIGHWATER_KILLS` (of the pipeline) and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one.

use std::env;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use highwater::operators::testing::redis::{Keeps, Server, Settings};
use highwater_examples::orders::dice::Dice;
use highwater_examples::orders::{Ended, InputSpec, Orders};

/// What was done and what was found.
#[derive(Default)]
struct Proof {
    kills: u64,
    kills_of_redis: u64,
    runs: u64,
    replayed: u64,
    duplicates: u64,
    lost: u64,
    repeated: u64,
    /// Lines of a copy that passed in place of its first, which the oracle expects in the first's place.
    out_of_order: u64,
    found_out: u64,
}

#[test]
fn with_its_log_on_nothing_is_lost_and_nothing_repeated() {
    let proof = prove(Keeps::All);
    assert_eq!((proof.lost, proof.repeated, proof.out_of_order, proof.found_out), (0, 0, 0, 0));
}

#[test]
fn a_redis_that_keeps_nothing_repeats_what_it_forgot_and_loses_nothing() {
    let proof = prove(Keeps::Nothing);
    assert_eq!(proof.lost, 0);
    assert!(proof.found_out > 0, "that it forgot was not found out");
    assert!(proof.repeated <= proof.duplicates, "{} repeats of {} duplicates", proof.repeated, proof.duplicates);
}

fn prove(keeps: Keeps) -> Proof {
    let kills: u64 = setting("HIGHWATER_KILLS", || 4);
    let events: u64 = setting("HIGHWATER_EVENTS", || 40_000);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("{keeps:?}: HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_EVENTS={events}");
    let server = Settings::default().keeps(keeps).start().unwrap();
    let (mut proof, mut dice, mut input) = (Proof::default(), Dice::new(seed), 0);
    while proof.kills < kills {
        proof.one_input(&server, kills, events, seed.wrapping_add(input), &mut dice);
        input += 1;
        assert!(input <= kills + 10, "most runs end before they can be killed: set HIGHWATER_EVENTS higher");
    }
    println!("{}", proof.table(keeps));
    proof
}

impl Proof {
    /// Works through one input, killed on the way, to its end; Redis is killed all the while.
    fn one_input(&mut self, server: &Server, kills: u64, events: u64, seed: u64, dice: &mut Dice) {
        let folder = tempfile::tempdir().unwrap();
        let spec = InputSpec { events, customers: 500, duplicates: 0.1, seed };
        let orders = Orders::new(built_example("orders"), folder.path(), spec).dedup_in(server.url().reveal());
        orders.make_input().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let over = &over;
            let mut redis_dice = Dice::new(dice.bits());
            let killer = scope.spawn(move || {
                let mut kills = 0;
                while !over.load(Ordering::Relaxed) {
                    // Time for some work between two kills; not a wait for anything.
                    thread::park_timeout(Duration::from_millis(200 + redis_dice.below(600)));
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    server.kill().unwrap();
                    server.start_again().unwrap();
                    kills += 1;
                }
                kills
            });
            let ended = loop {
                let (workers, size) = (dice.pick(&[1, 2, 4]), dice.pick(&[10, 100, 1_000, 10_000]));
                let run = orders.start(Some(workers), Some(size)).unwrap();
                self.runs += 1;
                if self.kills >= kills {
                    break run.wait().unwrap();
                }
                let ended = run.kill_after(Duration::from_millis(100 + dice.below(900))).unwrap();
                self.look(&ended);
                if !ended.was_killed() {
                    break ended;
                }
                self.kills += 1;
            };
            over.store(true, Ordering::Relaxed);
            killer.thread().unpark();
            self.kills_of_redis += killer.join().unwrap();
            self.look(&ended);
            let report = ended.report().unwrap_or_else(|problem| panic!("{problem}"));
            assert!(report.unbalanced().is_empty(), "the books do not balance: {:?}", report.unbalanced());
            self.replayed += report.replayed;
        });
        let verdict = orders.verify().unwrap();
        assert_eq!(verdict.wrong, 0, "{verdict}");
        self.out_of_order += verdict.out_of_order;
        self.lost += verdict.lost;
        self.repeated += verdict.repeated;
        self.duplicates += 2 * (verdict.read - verdict.expected_all);
    }

    fn look(&mut self, ended: &Ended) {
        self.found_out +=
            (ended.stderr.matches("Redis has lost ids").count() + ended.stdout.matches("Redis has lost ids").count()) as u64;
    }

    fn table(&self, keeps: Keeps) -> Table {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["what", &format!("Redis keeps {keeps:?}")]);
        let rows = [
            ("kills of the pipeline", self.kills),
            ("kills of Redis", self.kills_of_redis),
            ("runs", self.runs),
            ("duplicates in the input, at both outputs at most", self.duplicates),
            ("replayed, sum of last runs", self.replayed),
            ("times a worker told that Redis had lost ids", self.found_out),
            ("lost", self.lost),
            ("repeated", self.repeated),
            ("a copy in place of its first", self.out_of_order),
        ];
        for (what, how_many) in rows {
            table.add_row([what.to_owned(), how_many.to_string()]);
        }
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
