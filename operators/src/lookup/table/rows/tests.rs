use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn found(text: &str) -> Arc<Found> {
    Arc::new(Found::json("customer".into(), Bytes::copy_from_slice(text.as_bytes()), None))
}

fn held(rows: &Rows) -> BTreeMap<String, String> {
    let text = |found: &Found| found.row().raw_json().unwrap().to_owned();
    rows.rows.iter().map(|(key, kept)| (key.to_string(), text(&kept.found))).collect()
}

/// Segments by save, and of each worker the oldest that it needs.
#[derive(Default)]
struct Saved {
    segments: Vec<(u64, Vec<u8>)>,
}

impl Saved {
    fn save(&mut self, number: u64, state: Vec<u8>, workers: &[Rows]) {
        self.segments.push((number, state));
        let needed = |rows: &Rows| match rows.oldest() {
            Oldest::Save(number) | Oldest::Epoch(number) => number,
            Oldest::Empty => number,
        };
        let oldest = workers.iter().map(needed).min().unwrap();
        self.segments.retain(|(number, state)| *number >= oldest && !state.is_empty());
    }

    fn entries(&self) -> usize {
        let count = |(_, state): &(u64, Vec<u8>)| {
            let mut text = &state[..];
            std::iter::from_fn(|| if text.is_empty() { None } else { decode(&mut text) }).count()
        };
        self.segments.iter().map(count).sum()
    }

    fn restore(&self, index: usize, peers: usize) -> Rows {
        let (mut rows, mut restored) = (Rows::new(index, peers), Vec::new());
        for (number, state) in &self.segments {
            assert!(Restored::read(&"customer".into(), *number, state, &mut restored));
        }
        rows.restore(&restored);
        rows
    }
}

/// Goal: what is restored is what was there, on other numbers of workers, and what is saved stays bounded. Method: seeded puts, removals and truncations, one save
/// an epoch, segments forgotten as soon as nobody needs them; held against a map.
#[test]
fn rows_are_restored_as_they_were_and_their_log_stays_short() {
    for seed in 0..8 {
        let mut dice = StdRng::seed_from_u64(seed);
        let keys = [1, 40, 900][dice.random_range(0..3)];
        let (mut saved, mut expected) = (Saved::default(), BTreeMap::new());
        let mut workers: Vec<Rows> = vec![Rows::new(0, 1)];
        let mut written = 0;
        for number in 1..400 {
            if dice.random_bool(0.02) {
                let peers = [1, 2, 4][dice.random_range(0..3)];
                workers = (0..peers).map(|index| saved.restore(index, peers)).collect();
                assert!(workers.iter().all(|rows| held(rows) == expected), "seed {seed}, save {number}");
            }
            let mut state = Vec::new();
            workers.iter_mut().for_each(|rows| rows.begin(number, &mut state));
            let changes = dice.random_range(0..60);
            for change in 0..changes {
                let key = Arc::<str>::from(format!("k{}", dice.random_range(0..keys)));
                let row = dice.random_bool(0.8).then(|| format!(r#"{{"n":{number},"c":{change}}}"#));
                workers.iter_mut().for_each(|rows| rows.put(&key, row.as_deref().map(found), number, &mut state));
                match row {
                    Some(row) => drop(expected.insert(key.to_string(), row)),
                    None => drop(expected.remove(&*key)),
                }
            }
            if dice.random_bool(0.01) {
                workers.iter_mut().for_each(|rows| rows.clear(number, &mut state));
                expected.clear();
            }
            workers.iter_mut().for_each(|rows| rows.sweep(changes, number, &mut state));
            saved.save(number, state, &workers);
            written += changes;
            assert!(workers.iter().all(|rows| rows.len() == expected.len()));
            // Twice the rows and the slack, each once more if it was written anew; and the truncations' own.
            assert!(saved.entries() <= 2 * (2 * keys + SLACK as usize) + keys + 500, "seed {seed}: {} entries", saved.entries());
        }
        assert!(written > 10_000, "so the log was swept");
        assert!(saved.segments.len() < 399, "{} segments", saved.segments.len());
        let rows = saved.restore(0, 1);
        let size: usize = rows.rows.iter().map(|(key, kept)| key.len() + kept.found.size()).sum();
        assert_eq!((held(&rows), rows.bytes()), (expected, size));
    }
}

/// Goal: an empty table is known to have been begun, however long it stays empty.
#[test]
fn an_empty_table_is_known() {
    let (mut saved, mut rows) = (Saved::default(), Rows::new(0, 1));
    for number in 1..9_000 {
        let mut state = Vec::new();
        rows.begin(number, &mut state);
        let key = Arc::<str>::from("k");
        rows.put(&key, Some(found("{}")), number, &mut state);
        rows.put(&key, None, number, &mut state);
        rows.sweep(2, number, &mut state);
        saved.save(number, state, std::slice::from_ref(&rows));
    }
    let begun = saved.segments.iter().any(|(_, state)| {
        let mut text = &state[..];
        std::iter::from_fn(|| if text.is_empty() { None } else { decode(&mut text) }).any(|(key, _)| key.is_none())
    });
    assert!(begun && saved.segments.len() < 8_000);
}

#[test]
fn what_is_no_state_is_refused() {
    let mut state = Vec::new();
    encode("k", Some(&found("{\"a\":1}")), &mut state);
    for end in 1..state.len() {
        assert!(!Restored::read(&"customer".into(), 1, &state[..end], &mut Vec::new()), "{end}");
    }
    assert!(!Restored::read(&"customer".into(), 1, &[1, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], &mut Vec::new()));
}
