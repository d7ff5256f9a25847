use std::collections::HashMap;

use super::*;

fn read_all(source: &Generator, partition: u32, from: u64) -> Vec<Change> {
    let window = InFlight::new(u64::MAX, u64::MAX);
    let name = source.partitions().unwrap()[partition as usize].name.clone();
    let token = ResumeToken { order: from, ..ResumeToken::default() };
    let mut reader = source.open(&Partition { id: partition, name }, Some(&token), &window).unwrap();
    let mut all = Vec::new();
    loop {
        let mut batch = Batch::default();
        match reader.read(&mut batch).unwrap() {
            Read::Some => all.append(&mut batch.changes),
            Read::Idle(_) | Read::Away(_) => std::thread::yield_now(),
            Read::End => return all,
        }
    }
}

fn load() -> Generator {
    Generator::new(5).changes(10_001).partitions(2).keys(100).skew(1.0).duplicates(0.1).payload(30)
}

#[test]
fn every_run_reads_the_same_from_any_place() {
    let all = read_all(&load(), 0, 0);
    assert_eq!((all.len(), read_all(&load(), 1, 0).len()), (5001, 5000));
    for from in [1, 17, 4999, 5001] {
        assert_eq!(read_all(&load(), 0, from), all[from as usize..]);
    }
    assert!(all.iter().zip(0..).all(|(change, at)| change.position().at == at));
    let longer = read_all(&load().changes(30_000), 0, 0);
    assert_eq!(longer[..5001], all);
    assert_ne!(load().seed, 6);
    assert_ne!(read_all(&Generator { seed: 6, ..load() }, 0, 0)[0].row().raw_json(), all[0].row().raw_json());
}

#[test]
fn rows_say_what_their_change_says() {
    for change in read_all(&load(), 1, 0) {
        let row: serde_json::Value = serde_json::from_str(change.after().raw_json().unwrap()).unwrap();
        assert_eq!(row["key"], change.key());
        assert_eq!(change.id(), format!("1-{}", row["number"]));
        assert_eq!((change.table(), row["pad"].as_str().unwrap().len()), ("generated", 30));
        assert_eq!(change.operation() == Operation::Insert, row["status"] == "new");
    }
}

#[test]
fn copies_and_keys_come_as_often_as_asked_for() {
    let all = read_all(&load().changes(100_000), 0, 0);
    let mut first: HashMap<&str, &Change> = HashMap::new();
    let mut copies = 0;
    for change in &all {
        if let Some(original) = first.get(change.id()) {
            copies += 1;
            assert_eq!(original.row().raw_json(), change.row().raw_json());
        } else {
            first.insert(change.id(), change);
        }
    }
    let share = f64::from(copies) / all.len() as f64;
    assert!((0.09..0.11).contains(&share), "{share}");
    let mut keys: HashMap<&str, u32> = HashMap::new();
    all.iter().for_each(|change| *keys.entry(change.key()).or_default() += 1);
    // With an exponent of 1 the first of 100 keys has 1/5.19 of all.
    let hot = f64::from(keys["k0"]) / all.len() as f64;
    assert!((0.17..0.22).contains(&hot), "{hot}");
    assert!(keys["k0"] > keys["k1"] && keys["k1"] > keys["k9"]);
    assert_eq!(keys.len(), 100);
}

#[test]
fn equal_keys_are_equal() {
    let mut keys: HashMap<String, u32> = HashMap::new();
    for change in read_all(&Generator::new(1).changes(100_000).keys(10), 0, 0) {
        *keys.entry(change.key().to_owned()).or_default() += 1;
    }
    assert!(keys.values().all(|count| (9_500..10_500).contains(count)), "{keys:?}");
}

#[test]
fn a_pace_owes_what_was_not_taken_in_time() {
    let since = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    let mut pace = Pace { since, per_second: 100.0, made: 0 };
    let due = pace.due().unwrap();
    assert!(due >= 200);
    pace.made = due + 1000;
    let wait = pace.due().unwrap_err();
    assert!(wait > Duration::from_secs(8) && wait < Duration::from_secs(11), "{wait:?}");
    let began = Instant::now();
    let paced = read_all(&Generator::new(1).changes(500).rate(5_000), 0, 0);
    assert!(paced.len() == 500 && began.elapsed() >= Duration::from_millis(99));
}
