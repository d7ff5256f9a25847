//! Tables made at random, changed at random: the copy must be what the same statements make of the same tables elsewhere.

use std::env;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use highwater::testing::postgres::Server;
use highwater_examples::orders::dice::Dice;

use super::Copy;

#[test]
fn random_tables_that_change_at_random_are_as_a_replay_has_them() {
    let seeds: u64 = setting("HIGHWATER_SEEDS", || 2);
    let statements: u64 = setting("HIGHWATER_STATEMENTS", || 150);
    let first = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    for seed in first..first + seeds {
        println!("HIGHWATER_SEED={seed} HIGHWATER_SEEDS=1 HIGHWATER_STATEMENTS={statements}");
        one(seed, statements);
    }
}

fn one(seed: u64, statements: u64) {
    let server = Server::shared();
    let [source, target, replay] = [(); 3].map(|()| server.database().unwrap());
    let mut dice = Dice::new(seed);
    let tables: Vec<Random> = (0..3).map(|number| Random::new(number, &mut dice)).collect();
    let both = |sql: &str| {
        // What one refuses the other does too: a key that is there already.
        let (one, other) = (source.sql(sql), replay.sql(sql));
        assert_eq!(one.is_ok(), other.is_ok(), "seed {seed}: {sql}");
    };
    tables.iter().for_each(|table| both(&table.sql));
    let mut change = |count: u64| {
        for _ in 0..count {
            both(&transaction(&tables, &mut dice));
        }
    };
    change(statements / 3);
    let copy = Copy::new(source.clone(), target, tables.iter().map(|table| table.name.clone()).collect());
    let running = copy.start();
    change(statements / 3);
    running.signal("KILL");
    running.wait();
    let mut running = copy.start();
    change(statements / 3);
    copy.wait_until_equal(&mut running, &replay, &format!("seed {seed}"));
    running.signal("TERM");
    let ended = running.wait();
    assert!(ended.status.success(), "seed {seed}: {}", ended.stderr);
}

/// A type, and a value of it.
type Kind = (&'static str, fn(&mut Dice) -> String);

const KINDS: [Kind; 10] = [
    ("int", |dice| (dice.below(1000) as i64 - 500).to_string()),
    ("numeric", |dice| format!("{}.{:03}", dice.below(1_000_000), dice.below(1000))),
    ("text", |dice| format!("'{}'", ["", "NULL", "it''s", "a\\b", "q\"", "tab\t", "漢"][dice.below(7) as usize])),
    // Too random to be compressed, so it stands apart, and is not sent with what does not change it.
    ("text", large),
    ("text not null default ''", large),
    ("jsonb", |dice| match dice.below(9) {
        0 => "'null'".to_owned(),
        n => format!("'{{\"n\": {n}, \"l\": [null, \"x\"]}}'"),
    }),
    ("text[]", |dice| format!("array['a,b', null, '{}']", dice.below(50))),
    ("bytea", |dice| format!("'\\x{:08x}'", dice.below(1 << 32))),
    ("timestamptz", |dice| format!("timestamptz '2024-01-01' + interval '{} ms'", dice.below(1 << 40))),
    ("bool", |dice| (dice.below(2) == 0).to_string()),
];

fn large(dice: &mut Dice) -> String {
    let words = 100 + dice.below(400);
    format!("'{}'", (0..words).map(|_| format!("{:016x}", dice.bits())).collect::<String>())
}

struct Random {
    name: String,
    sql: String,
    keys: Vec<(String, Kind)>,
    columns: Vec<(String, Kind)>,
}

const KEYS: [Kind; 2] = [("int", |dice| dice.below(40).to_string()), ("text", |dice| format!("'k\"{}'", dice.below(40)))];

impl Random {
    fn new(number: u64, dice: &mut Dice) -> Self {
        let name = format!("r{number}");
        let keys: Vec<_> = (0..1 + dice.below(2)).map(|at| (format!("k{at}"), dice.pick(&KEYS))).collect();
        let columns: Vec<_> = (0..2 + dice.below(5)).map(|at| (format!("\"c {at}\""), dice.pick(&KINDS))).collect();
        let shown =
            |columns: &[(String, Kind)]| columns.iter().map(|(name, (kind, _))| format!("{name} {kind}")).collect::<Vec<_>>();
        // Keys stand between the others.
        let mut all = shown(&columns);
        shown(&keys).into_iter().for_each(|key| all.insert(dice.below(all.len() as u64 + 1) as usize, key));
        let key = keys.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let identity = match dice.below(3) {
            0 => format!("alter table {name} replica identity full;"),
            1 => {
                let not_null =
                    keys.iter().map(|(key, _)| format!("alter table {name} alter {key} set not null;")).collect::<String>();
                format!(
                    "{not_null} create unique index {name}_u on {name} ({key}); alter table {name} replica identity using index {name}_u;"
                )
            }
            _ => String::new(),
        };
        let sql = format!("create table {name} ({}, primary key ({key})); {identity}", all.join(", "));
        Random { name, sql, keys, columns }
    }

    fn statement(&self, dice: &mut Dice) -> String {
        let name = &self.name;
        let one_key = |dice: &mut Dice| {
            let equal = self.keys.iter().map(|(key, (_, value))| format!("{key} = {}", value(dice)));
            equal.collect::<Vec<_>>().join(" and ")
        };
        let first = self.keys[0].0.as_str();
        // Several at once, by the hash of a key, so that it is the same everywhere.
        let some = |dice: &mut Dice| format!("abs(hashtext({first}::text)) % 7 = {}", dice.below(7));
        let maybe = |(_, (_, value)): &(String, Kind), dice: &mut Dice| value(dice);
        match dice.below(20) {
            0..9 => {
                let all: Vec<&(String, Kind)> = self.keys.iter().chain(&self.columns).collect();
                let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                let values: Vec<String> = all.iter().map(|column| maybe(column, dice)).collect();
                format!("insert into {name} ({}) values ({}) on conflict do nothing", names.join(", "), values.join(", "))
            }
            9..15 => {
                let set: Vec<String> = (0..1 + dice.below(2) as usize)
                    .map(|at| &self.columns[at % self.columns.len()])
                    .map(|column| format!("{} = {}", column.0, maybe(column, dice)))
                    .collect();
                let which = if dice.chance(0.3) { some(dice) } else { one_key(dice) };
                format!("update {name} set {} where {which}", set.join(", "))
            }
            15 => {
                let (key, (_, value)) = &self.keys[0];
                format!("update {name} set {key} = {} where {}", value(dice), one_key(dice))
            }
            16..19 => format!("delete from {name} where {}", if dice.chance(0.2) { some(dice) } else { one_key(dice) }),
            _ if dice.chance(0.3) => format!("truncate {name}"),
            _ => format!("delete from {name} where {}", one_key(dice)),
        }
    }
}

/// Some statements as one, some of them undone.
fn transaction(tables: &[Random], dice: &mut Dice) -> String {
    let mut sql = String::from("begin; ");
    for number in 0..1 + dice.below(4) {
        let table = &tables[dice.below(tables.len() as u64) as usize];
        let statement = table.statement(dice);
        match dice.below(10) {
            0 => sql.push_str(&format!("savepoint s{number}; {statement}; rollback to s{number}; ")),
            _ => sql.push_str(&format!("{statement}; ")),
        }
    }
    sql.push_str(if dice.chance(0.05) { "rollback" } else { "commit" });
    sql
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or_else(default)
}
