//! Seeded changes to a table of orders, and what a plain program makes of them, row by row.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::Path;

use highwater::operators::testing::postgres::Database;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a row of the table holds: status, amount, note, and the number of the change that made it.
pub type Content = [Option<String>; 4];

/// Changes, in their order.
pub struct Shop {
    lines: Vec<String>,
    /// The table after all of them.
    pub rows: BTreeMap<String, Content>,
    /// Distinct changes.
    pub distinct: u64,
    /// Changes whose row the table refuses.
    pub refused: u64,
}

/// The table, whose rows may not be of status `poison`.
pub const TABLE: &str = "create table orders (id text primary key, status text not null check (status <> 'poison'), \
     amount numeric(12, 2), note text, change bigint not null)";

impl Shop {
    /// So many changes of so many keys, some of them copies of an earlier line, some of them refused.
    pub fn seeded(seed: u64, changes: u64, keys: u64, poison: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut shop = Shop { lines: Vec::new(), rows: BTreeMap::new(), distinct: 0, refused: 0 };
        for number in 0..changes {
            if rng.random_bool(0.03) && !shop.lines.is_empty() {
                let back = rng.random_range(0..shop.lines.len().min(50));
                shop.lines.push(shop.lines[shop.lines.len() - 1 - back].clone());
            }
            // A few keys have most of the changes.
            let hottest = rng.random_range(0..keys);
            let key = format!("o-{}", rng.random_range(0..=hottest));
            let line = shop.change(&mut rng, number, &key, poison);
            shop.lines.push(line);
            shop.distinct += 1;
        }
        shop
    }

    fn change(&mut self, rng: &mut StdRng, number: u64, key: &str, poison: bool) -> String {
        let head = format!(r#""id":"c-{number}","table":"orders","key":"{key}","ts":{}"#, 1_700_000_000_000 + number);
        let there = self.rows.contains_key(key);
        if there && rng.random_bool(0.15) {
            self.rows.remove(key);
            return format!(r#"{{{head},"op":"delete","before":{{"id":"{key}"}}}}"#);
        }
        if poison && rng.random_bool(0.01) {
            self.refused += 1;
            return format!(r#"{{{head},"op":"update","after":{{"id":"{key}","status":"poison","change":{number}}}}}"#);
        }
        let status = ["new", "paid", "sh\\tip\\\\ped", "it's \\\"done\\\""][rng.random_range(0..4)];
        let mut after = format!(r#""id":"{key}","status":"{status}","change":{number}"#);
        let amount =
            (!there || rng.random_bool(0.5)).then(|| format!("{}.{:02}", rng.random_range(0..900), rng.random_range(0..100)));
        let note = rng.random_bool(0.5).then(|| rng.random_bool(0.7).then(|| format!("note {number}\u{e9}")));
        if let Some(amount) = &amount {
            write!(after, r#","amount":{amount}"#).unwrap();
        }
        if let Some(note) = &note {
            let text = note.as_ref().map_or("null".to_owned(), |note| format!("\"{note}\""));
            write!(after, r#","note":{text}"#).unwrap();
        }
        let row = self.rows.entry(key.to_owned()).or_default();
        row[0] = Some(status.replace("\\t", "\t").replace("\\\\", "\\").replace("\\\"", "\""));
        row[1] = amount.or(row[1].take());
        row[2] = note.unwrap_or(row[2].take());
        row[3] = Some(number.to_string());
        let op = if there { "update" } else { "insert" };
        format!(r#"{{{head},"op":"{op}","after":{{{after}}}}}"#)
    }

    /// Writes the changes as JSON lines.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.lines.join("\n") + "\n").expect("the input can be written");
    }

    /// The lines themselves.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Holds the table against the replay, row by row.
    pub fn check(&self, database: &Database) {
        let rows = database.sql("select id, status, amount::text, note, change::text from orders order by id").unwrap();
        let found: BTreeMap<String, Content> = rows
            .into_iter()
            .map(|row| {
                let [id, status, amount, note, change]: [Option<String>; 5] = row.try_into().unwrap();
                (id.unwrap(), [status, amount, note, change])
            })
            .collect();
        let keys: HashSet<&String> = self.rows.keys().chain(found.keys()).collect();
        let wrong: Vec<_> = keys.into_iter().filter(|key| self.rows.get(*key) != found.get(*key)).collect();
        if let Some(key) = wrong.first() {
            panic!(
                "{} rows are not as the replay has them; {key}: {:?}, not {:?}",
                wrong.len(),
                found.get(*key),
                self.rows.get(*key)
            );
        }
    }
}
