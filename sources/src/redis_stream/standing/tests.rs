//! The rules against a stream in memory whose losses are known, by seeds; and each refusal by itself.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const COUNT: usize = 5;

/// A stream as Redis keeps it.
#[derive(Default)]
struct Model {
    entries: Vec<(EntryId, u64)>,
    last: EntryId,
    added: u64,
    deleted: EntryId,
    /// Entries that were removed and had not been read.
    lost: u64,
}

impl Model {
    fn facts(&self) -> Facts {
        let first = self.entries.first().map(|entry| entry.0);
        Facts { length: self.entries.len() as u64, first, last: self.last, added: self.added, deleted: self.deleted }
    }

    fn add(&mut self, dice: &mut StdRng) {
        self.last = match dice.random_range(0..3) {
            0 => self.last.next(),
            _ => EntryId { ms: self.last.ms + dice.random_range(1..4), seq: 0 },
        };
        self.added += 1;
        self.entries.push((self.last, dice.random_range(1..u64::MAX)));
    }

    fn remove(&mut self, at: usize, read: EntryId) -> EntryId {
        let (id, _) = self.entries.remove(at);
        self.lost += u64::from(id > read);
        id
    }

    fn trim(&mut self, entries: usize, read: EntryId) {
        for _ in 0..entries.min(self.entries.len()) {
            self.remove(0, read);
        }
    }

    fn delete(&mut self, at: usize, read: EntryId) {
        let id = self.remove(at, read);
        self.deleted = self.deleted.max(id);
    }

    fn at(&self, id: EntryId) -> Entry {
        self.entries.iter().find(|entry| entry.0 == id).map_or(Entry::Absent, |entry| Entry::Says(entry.1))
    }

    /// A check and a read in one step.
    fn read(&self, place: &mut Place, is_new_connection: bool) -> Result<bool, Trouble> {
        let facts = self.facts();
        facts.check(place, if is_new_connection { self.at(place.id) } else { Entry::Unasked })?;
        let entries: Vec<_> = self.entries.iter().filter(|entry| entry.0 > place.id).take(COUNT).collect();
        if let Some(last) = entries.last() {
            (place.id, place.says) = **last;
            place.added = place.added.map(|added| added + entries.len() as u64);
        }
        let is_end = entries.len() < COUNT;
        if is_end {
            facts.read_to_end(place)?;
        }
        Ok(is_end)
    }
}

#[test]
fn what_is_lost_is_told_and_nothing_else() {
    let seeds: u64 = std::env::var("HIGHWATER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2000);
    let first: u64 = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut told = 0;
    for seed in first..first + seeds {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        for _ in 0..dice.random_range(0..20) {
            model.add(&mut dice);
        }
        // Before it is begun, all may happen.
        for _ in 0..dice.random_range(0..4) {
            let length = model.entries.len();
            match dice.random_range(0..2) {
                0 => model.trim(dice.random_range(0..6), EntryId::ZERO),
                _ if length > 0 => model.delete(dice.random_range(0..length), EntryId::ZERO),
                _ => {}
            }
        }
        model.lost = 0;
        let begin = match dice.random_range(0..3) {
            0 if !model.entries.is_empty() => model.entries[dice.random_range(0..model.entries.len())].0,
            1 => model.last,
            _ => EntryId::ZERO,
        };
        let mut place = model.facts().begin(begin);
        // Half of them lose nothing.
        let careless = dice.random_range(0..2) == 1;
        for step in 0..60 {
            let length = model.entries.len();
            let read = model.entries.partition_point(|entry| entry.0 <= place.id);
            match dice.random_range(0..5) {
                0 | 1 => (0..dice.random_range(1..8)).for_each(|_| model.add(&mut dice)),
                2 => model.trim(dice.random_range(0..=if careless { length } else { read }), place.id),
                3 if length > 0 && (careless || read > 0) => {
                    model.delete(dice.random_range(0..if careless { length } else { read }), place.id);
                }
                _ => match model.read(&mut place, dice.random_range(0..4) == 0) {
                    Ok(true) => assert_eq!(model.lost, 0, "seed {seed}, step {step}: all was read, and the loss was not told"),
                    Ok(false) => {}
                    // Where nothing is left of what was read it may be unknown; then it is refused.
                    Err(Trouble::Unclear) => break,
                    Err(trouble) => {
                        assert!(model.lost > 0, "seed {seed}, step {step}: {trouble:?} at {place:?}, {:?}", model.facts());
                        if let Trouble::Trimmed(lost) = trouble {
                            assert_eq!(lost, model.lost, "seed {seed}, step {step}");
                        }
                        told += 1;
                        break;
                    }
                },
            }
        }
    }
    assert!(told > seeds / 10, "only {told} of {seeds} lost anything: this shows nothing");
}

#[test]
fn another_stream_is_never_read_on() {
    for seed in 1..2000 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        (0..dice.random_range(1..30)).for_each(|_| model.add(&mut dice));
        let mut place = model.facts().begin(EntryId::ZERO);
        while !model.read(&mut place, false).unwrap() {}
        let trimmed = dice.random_range(0..10);
        model.trim(trimmed, place.id);
        // The same name, and another stream: later ids, as clocks go on, or any.
        let mut other = Model::default();
        if dice.random_range(0..2) == 0 {
            other.last = place.id;
        }
        for _ in 0..dice.random_range(0..60) {
            other.add(&mut dice);
        }
        // As many removed as had been added before is the one case that numbers cannot tell; nobody does that.
        let removed = dice.random_range(0..5);
        if place.added == Some(removed) {
            continue;
        }
        other.trim(removed as usize, EntryId::ZERO);
        let read = other.read(&mut place, true);
        assert!(read.is_err(), "seed {seed}: {place:?}, {:?}", other.facts());
    }
}

#[test]
fn a_refusal_says_what_was_found_and_the_way_out() {
    let id = |ms, seq| EntryId { ms, seq };
    let place = Place { id: id(5, 1), says: 7, added: Some(5), ..Place::default() };
    let facts = Facts { length: 3, first: Some(id(9, 0)), last: id(11, 0), added: 10, deleted: EntryId::ZERO };
    let said = |facts: &Facts, entry| facts.check(&place, entry).unwrap_err().sentence("orders", &place, Some(facts));
    let trimmed = said(&facts, Entry::Absent);
    assert!(trimmed.contains("2 entries of the stream orders were removed before they were read"), "{trimmed}");
    assert!(trimmed.contains("begins at 9-0") && trimmed.contains(".continue_behind(\"orders\", \"5-1\", \"5-1\")"), "{trimmed}");
    let deleted = said(&Facts { first: Some(id(1, 0)), deleted: id(8, 0), ..facts }, Entry::Says(7));
    assert!(deleted.contains("the entry 8-0 of the stream orders was deleted before it was read"), "{deleted}");
    let short = said(&Facts { last: id(4, 0), ..facts }, Entry::Absent);
    assert!(short.contains("ends at 4-0, and the checkpoint stands at its entry 5-1") && short.contains("\"4-0\")"), "{short}");
    let other = said(&Facts { first: Some(id(1, 0)), ..facts }, Entry::Says(8));
    assert!(other.contains("is not the one that was read up to 5-1") && other.contains("new data directory"), "{other}");
    let fewer = said(&Facts { added: 3, ..facts }, Entry::Absent);
    assert!(fewer.contains("the number of entries added to it (3)"), "{fewer}");
    let gone = Trouble::Gone.sentence("orders", &place, None);
    assert!(gone.contains("no stream orders any more") && gone.contains("\"0-0\")"), "{gone}");
    let read = facts.check(&Place { added: Some(7), ..place }, Entry::Absent);
    assert_eq!(read, Ok(()), "what was read may be trimmed");
    let unclear = facts.check(&Place { added: None, ..place }, Entry::Absent);
    assert_eq!(unclear, Err(Trouble::Unclear));
}
