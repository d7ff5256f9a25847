//! Exactly once under fire: the pipeline killed, its server killed, its process frozen until it was replaced and thawed, again and again.
//! Whatever the moments: the orders are row by row what a plain program makes of the same file, and the history has each change once.
//!
//! Checkpoints are in the same Postgres, so that a run can be replaced while it is frozen. `HIGHWATER_KILLS`, `HIGHWATER_RESTARTS`,
//! `HIGHWATER_FREEZES` and `HIGHWATER_EVENTS` set the size of the proof, `HIGHWATER_SEED` repeats one.

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::fmt::Write;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use comfy_table::{Table, presets};
use highwater::operators::testing::postgres::{Database, Server};
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::dice::Dice;
use tempfile::TempDir;

const TABLES: &str =
    "create table orders (id text primary key, status text not null, amount numeric, note text, change bigint not null);
    create table history (place bigserial, change text not null, id text not null, what text not null, at timestamptz not null);";

/// No wait of the proof is longer.
const DEADLINE: Duration = Duration::from_secs(120);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    KillPipeline,
    KillServer,
    Freeze,
}

#[test]
fn whatever_is_killed_or_frozen_the_tables_are_as_a_replay_has_them() {
    let count = |name, few| setting(name, || few);
    let (kills, restarts, freezes) = (count("HIGHWATER_KILLS", 4), count("HIGHWATER_RESTARTS", 1), count("HIGHWATER_FREEZES", 1));
    let events: u64 = count("HIGHWATER_EVENTS", 20_000);
    let seed = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!(
        "HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills} HIGHWATER_RESTARTS={restarts} HIGHWATER_FREEZES={freezes} HIGHWATER_EVENTS={events}"
    );
    let mut dice = Dice::new(seed);
    let mut blows: Vec<Blow> = Vec::new();
    for (blow, times) in [(Blow::KillPipeline, kills), (Blow::KillServer, restarts), (Blow::Freeze, freezes)] {
        blows.extend((0..times).map(|_| blow));
    }
    for at in (1..blows.len()).rev() {
        blows.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let began = Instant::now();
    let mut proof = Proof::new(dice, events);
    // Half of it is left for what is written between a look at the progress and the blow, which on a busy machine is much.
    let share = events * 4 / 10 / (blows.len() as u64).max(1);
    for blow in &blows {
        proof.strike(*blow, share);
    }
    proof.finish();
    proof.check();
    println!("{}", proof.table(began.elapsed()));
    assert!(proof.blows_that_met_work * 2 > blows.len() as u64, "most blows came when all was done: raise HIGHWATER_EVENTS");
}

struct Proof {
    dice: Dice,
    _folder: TempDir,
    example: Example,
    server: Server,
    database: Database,
    right: BTreeMap<String, [Option<String>; 4]>,
    distinct: u64,
    refused: Vec<String>,
    running: Option<Running>,
    told: BTreeMap<&'static str, u64>,
    blows_that_met_work: u64,
}

impl Proof {
    fn new(mut dice: Dice, events: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (lines, right) = changes(&mut dice, events);
        std::fs::write(folder.path().join("changes.jsonl"), lines).unwrap();
        let server = Server::start().unwrap();
        let database = server.database().unwrap();
        database.sql(TABLES).unwrap();
        let example = Example::built("exactly_once", folder.path());
        Proof {
            dice,
            _folder: folder,
            example,
            server,
            database,
            right,
            distinct: events,
            refused: Vec::new(),
            running: None,
            told: BTreeMap::new(),
            blows_that_met_work: 0,
        }
    }

    fn tell(&mut self, what: &'static str) {
        *self.told.entry(what).or_default() += 1;
    }

    fn start(&mut self) -> Running {
        let workers = self.dice.pick(&["1", "2", "4"]);
        let size = self.dice.pick(&["10", "1000", "10000"]);
        self.tell("runs");
        let url = self.database.url().reveal();
        let fixed = ["--target", url, "--checkpoint", url, "--input", "changes.jsonl", "--report", "none"];
        self.example.start(&[&fixed[..], &["--workers", workers, "--checkpoint-batch-size", size]].concat())
    }

    /// Rows in the history, about; `None` while the server is away.
    fn progress(&self) -> Option<u64> {
        self.database.one("select last_value from history_place_seq").ok()?.parse().ok()
    }

    /// Lets the pipeline go on until it has written so many rows more, or is done. A run that has ended by itself, because its
    /// server was killed, is started again. Returns whether it came so far.
    fn go_on(&mut self, by: u64) -> bool {
        let (began, mut from) = (Instant::now(), self.progress());
        loop {
            assert!(
                began.elapsed() < DEADLINE,
                "no progress: {}",
                self.running.as_ref().map(Running::stderr).unwrap_or_default()
            );
            let mut running = match self.running.take() {
                Some(running) => running,
                None => self.start(),
            };
            if running.has_ended() {
                let ended = running.wait();
                if ended.status.success() {
                    self.tell("runs that were done before they were struck");
                    return false;
                }
                self.tell("runs that ended by themselves");
                continue;
            }
            self.running = Some(running);
            let now = self.progress();
            from = from.or(now);
            if now.zip(from).is_some_and(|(now, from)| now >= from + by) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn strike(&mut self, blow: Blow, share: u64) {
        let by = 1 + self.dice.below(2 * share.max(1));
        self.blows_that_met_work += u64::from(self.go_on(by));
        match blow {
            Blow::KillPipeline => {
                self.tell("pipelines killed (kill -9)");
                // Dropped, it is killed.
                self.running = None;
            }
            Blow::KillServer => {
                self.tell("servers killed (kill -9) and restarted");
                self.server.kill().unwrap();
                self.server.start_again().unwrap();
            }
            Blow::Freeze => self.freeze(by),
        }
    }

    /// Freezes the run until another has taken its place and gone on, then thaws it: it must end, with a sentence, and write nothing.
    fn freeze(&mut self, by: u64) {
        let Some(frozen) = self.running.take() else { return };
        frozen.signal("STOP");
        self.tell("leaders frozen, replaced and thawed");
        self.go_on(by.min(2_000));
        frozen.signal("CONT");
        let ended = frozen.wait();
        assert!(
            !ended.status.success() || self.running.is_none(),
            "a run that was replaced came to a good end\n{}",
            ended.stderr
        );
        let last = ended.stderr.lines().last().unwrap_or_default().to_owned();
        self.refused.push(last);
    }

    fn finish(&mut self) {
        while self.go_on(u64::MAX / 2) {}
        // Once more: nothing is left to do, and nothing is done.
        let run = self.start().wait();
        assert!(run.status.success(), "{}", run.stderr);
    }

    fn check(&mut self) {
        let rows = self.database.sql("select id, status, amount::text, note, change::text from orders").unwrap();
        let found: BTreeMap<String, [Option<String>; 4]> =
            rows.into_iter().map(|mut row| (row.remove(0).unwrap(), row.try_into().unwrap())).collect();
        let keys: HashSet<&String> = self.right.keys().chain(found.keys()).collect();
        let wrong: Vec<_> = keys.iter().filter(|key| self.right.get(**key) != found.get(**key)).collect();
        if let Some(key) = wrong.first() {
            panic!(
                "{} orders differ; {key}: {:?}, not {:?}\n{:?}",
                wrong.len(),
                found.get(**key),
                self.right.get(**key),
                self.told
            );
        }
        let counted = self.database.one("select count(*) || ' ' || count(distinct change) from history").unwrap();
        assert_eq!(counted, format!("{0} {0}", self.distinct), "rows and changes in the history; {:?}", self.told);
        let misplaced = "select count(*) from (select change::int - lag(change::int) over (partition by id order by place) step
             from history) s where step < 0";
        assert_eq!(self.database.one(misplaced).unwrap(), "0", "changes of an order out of order");
        assert_eq!(self.database.one("select count(*) from highwater_outcomes").unwrap(), "0", "outcomes kept for nothing");
        *self.told.entry("rows of orders, compared one by one").or_default() = self.right.len() as u64;
        *self.told.entry("rows of the history").or_default() = self.distinct;
    }

    fn table(&self, took: Duration) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(["what", "how many"]);
        for (what, count) in &self.told {
            table.add_row([(*what).to_owned(), count.to_string()]);
        }
        table.add_row(["lost".to_owned(), "0".to_owned()]);
        table.add_row(["repeated".to_owned(), "0".to_owned()]);
        table.add_row(["wrong rows".to_owned(), "0".to_owned()]);
        table.add_row(["seconds".to_owned(), took.as_secs().to_string()]);
        for said in &self.refused {
            println!("a thawed run said: {said}");
        }
        table
    }
}

/// Changes with copies, deletes and updates of some columns only, and what a plain program makes of them.
fn changes(dice: &mut Dice, events: u64) -> (String, BTreeMap<String, [Option<String>; 4]>) {
    let (mut lines, mut orders) = (String::new(), BTreeMap::<String, [Option<String>; 4]>::new());
    let keys = (events / 40).max(20);
    for number in 0..events {
        let hottest = 1 + dice.below(keys);
        let key = format!("o-{}", dice.below(hottest));
        let from = lines.len();
        let head = format!(r#""id":{number},"key":"{key}","ts":{}"#, 1_700_000_000_000_u64 + number);
        if orders.contains_key(&key) && dice.below(8) == 0 {
            orders.remove(&key);
            writeln!(lines, r#"{{{head},"op":"delete","before":{{"id":"{key}"}}}}"#).unwrap();
        } else {
            let row = orders.entry(key.clone()).or_default();
            let status = dice.pick(&["new", "paid", "shipped"]);
            write!(lines, r#"{{{head},"op":"update","after":{{"id":"{key}","status":"{status}","change":{number}"#).unwrap();
            (row[0], row[3]) = (Some(status.to_owned()), Some(number.to_string()));
            if dice.below(2) == 0 {
                let amount = dice.below(100_000).to_string();
                write!(lines, r#","amount":{amount}"#).unwrap();
                row[1] = Some(amount);
            }
            if dice.below(3) == 0 {
                write!(lines, r#","note":"note of {number}""#).unwrap();
                row[2] = Some(format!("note of {number}"));
            }
            lines.push_str("}}\n");
        }
        if dice.below(30) == 0 {
            let copy = lines[from..].to_owned();
            lines.push_str(&copy);
        }
    }
    (lines, orders)
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default(),
    }
}
