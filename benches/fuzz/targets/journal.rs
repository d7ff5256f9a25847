//! The embedded store's reader: any bytes in the journal give an error or a state. A journal that was cut gives the state after
//! the last commit that is whole; one with a bit flipped gives that or an error, never a state that was not.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::checkpoint::embedded::{EmbeddedStore, Inspection};
use highwater_operators::checkpoint::store::{
    Cause, CheckpointStore, Group, History, Note, Outcome, Parked, ParkedHead, Resolution, Resolved, Save, StateSegment,
};
use highwater_operators::position::{Position, ResumeToken};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const NAME: &str = "fuzz";
const JOURNAL: &str = "journal-000001.hw";
/// The number of the entry that ends a snapshot, and of one that holds parked changes (`docs/state-format.md`).
const SNAPSHOT_END: u8 = 7;
const SNAPSHOT_PARKED: u8 = 6;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    match mode % 5 {
        0 => drop(open(rest)),
        1 => drop(open(&[&header(), rest].concat())),
        2 => cut_or_flipped(rest),
        3 => drop(open(&framed(rest))),
        _ => drop(open(&with_parked(rest))),
    }
});

/// What a state says, as far as two can be told apart by it.
type State = (u64, Option<u64>, usize, Vec<u64>, BTreeMap<String, (u64, u64)>);

/// Opens a journal of these bytes in every way there is.
fn open(bytes: &[u8]) -> Option<State> {
    let folder = highwater_fuzz::folder();
    std::fs::write(folder.path().join(JOURNAL), bytes).unwrap();
    let seen = EmbeddedStore::inspect(folder.path());
    let state = seen.as_ref().ok().map(read);
    let opened = EmbeddedStore::open(folder.path(), NAME).and_then(|mut store| store.restore());
    match (&seen, opened) {
        (Ok(seen), Ok(restored)) => assert_eq!(restored.parked.len(), seen.parked_heads().len()),
        // What it holds beside may be damaged without the journal being so, but not the other way round.
        (Ok(_), Err(_)) | (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => panic!("opened what cannot be inspected: {error}"),
    }
    state
}

fn read(seen: &Inspection) -> State {
    let _ = (seen.pipeline(), seen.started(), seen.state(), seen.journal_bytes(), seen.torn_bytes(), seen.actions());
    let heads: Vec<u64> = seen.parked_heads().map(|head| head.id).collect();
    for id in &heads {
        if let Ok(Some(parked)) = seen.parked(*id) {
            let change = &parked.change;
            let _ =
                (change.id(), change.key(), change.table(), change.key_hash(), change.before().to_vec(), format!("{change:?}"));
            assert_eq!(change.detached(), *change);
        }
    }
    (seen.generation(), seen.checkpoint().map(|save| save.number), seen.notes(), heads, seen.resolved().clone())
}

/// A journal with a little of everything, and what it says after each commit, by its length then.
static WHOLE: LazyLock<(Vec<u8>, Vec<(usize, State)>)> = LazyLock::new(|| {
    let folder = highwater_fuzz::folder();
    let mut store = EmbeddedStore::open(folder.path(), NAME).unwrap();
    let mut states = Vec::new();
    let length = |path: &Path| std::fs::metadata(path.join(JOURNAL)).unwrap().len() as usize;
    let mut state_after = |path: &Path| states.push((length(path), read(&EmbeddedStore::inspect(path).unwrap())));
    state_after(folder.path());
    let action = store.action("mail").unwrap();
    state_after(folder.path());
    for n in 0..6_u64 {
        let position = Position { partition: 0, at: n, within: 0 };
        let (id, row) = (format!("c{n}"), format!("{{\"n\":{n}}}"));
        let parts = Parts {
            id: &id,
            table: "t",
            key: Some("k"),
            operation: Operation::Insert,
            time_ms: 5,
            before: None,
            after: Some(&row),
        };
        let change = Change::new(Bytes::new(), position, parts).unwrap();
        let note = Note { action, change: u128::from(n), position, epoch: 10 + n, outcome: Outcome::Parked };
        let parked = Parked {
            id: n + 1,
            action: "mail".to_owned(),
            cause: Cause::Failed,
            error: "503".to_owned(),
            attempts: 3,
            parked_at_ms: 1,
            hash: u128::from(n),
            change,
            history: History { response: Some("busy".to_owned()), rounds: n as u32, ..History::default() },
        };
        let resolved = Resolved { id: n, action: "mail".to_owned(), resolution: Resolution::Delivered };
        let save = Save {
            number: n / 2 + 1,
            epoch: 10 + n,
            mark: BTreeMap::from([(0, ResumeToken { order: n, detail: Bytes::from_static(b"detail") })]),
            books: BTreeMap::from([("read jsonl".to_owned(), n)]),
            files: Vec::new(),
            state: vec![StateSegment { operator: "dedup".to_owned(), bytes: Bytes::from(vec![n as u8; 40]) }],
            state_from: BTreeMap::from([("dedup".to_owned(), n / 4 + 1)]),
            forgotten: Vec::new(),
            ended: false,
        };
        let group = Group {
            partitions: vec![(n as u32, format!("jsonl/{n}"))],
            notes: vec![note],
            parked: vec![parked],
            resolved: if n % 3 == 2 { vec![resolved] } else { Vec::new() },
            save: (n % 2 == 0).then_some(save),
        };
        store.commit(&group).unwrap();
        state_after(folder.path());
    }
    (std::fs::read(folder.path().join(JOURNAL)).unwrap(), states)
});

fn cut_or_flipped(input: &[u8]) {
    let (whole, states) = &*WHOLE;
    let [low, high, flip, ..] = *input else { return };
    let at = usize::from(u16::from_le_bytes([low, high])) % whole.len();
    if flip == 0 {
        let expected = states.iter().rev().find(|(length, _)| *length <= at).map(|(_, state)| state);
        let seen = open(&whole[..at]);
        if let Some(expected) = expected {
            assert_eq!(seen.as_ref(), Some(expected), "cut at {at}");
        }
        return;
    }
    let mut bytes = whole.clone();
    bytes[at] ^= flip;
    if let Some(seen) = open(&bytes) {
        assert!(states.iter().any(|(_, state)| *state == seen), "a flip at {at} made a state that never was: {seen:?}");
    }
}

const STATE_ID: u128 = 7;

/// The header of a journal, as `docs/state-format.md` has it.
fn header() -> Vec<u8> {
    let mut header = b"\x89HWJ\r\n\x1a\n".to_vec();
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&(NAME.len() as u32).to_le_bytes());
    header.extend_from_slice(&STATE_ID.to_le_bytes());
    header.extend_from_slice(&1_u64.to_le_bytes());
    header.extend_from_slice(NAME.as_bytes());
    let sum = crc32fast::hash(&header);
    header.extend_from_slice(&sum.to_le_bytes());
    header
}

/// Appends a frame whose sums are right, whatever it says.
fn frame(journal: &mut Vec<u8>, entry: &[u8], attached: &[u8]) {
    let mut seed = [0; 24];
    seed[..16].copy_from_slice(&STATE_ID.to_le_bytes());
    seed[16..].copy_from_slice(&1_u64.to_le_bytes());
    let mut lengths = [0; 16];
    lengths[..4].copy_from_slice(&(entry.len() as u32).to_le_bytes());
    lengths[4..8].copy_from_slice(&crc32fast::hash(entry).to_le_bytes());
    lengths[8..].copy_from_slice(&(attached.len() as u64).to_le_bytes());
    let mut bound = [0; 24];
    bound[..16].copy_from_slice(&lengths);
    bound[16..].copy_from_slice(&(journal.len() as u64).to_le_bytes());
    let check = xxh3_64_with_seed(&bound, xxh3_64(&seed));
    journal.extend_from_slice(&lengths);
    journal.extend_from_slice(&check.to_le_bytes());
    journal.extend_from_slice(entry);
    journal.extend_from_slice(attached);
}

/// Frames with right sums around entries of any bytes.
fn framed(mut input: &[u8]) -> Vec<u8> {
    let mut journal = header();
    frame(&mut journal, &[SNAPSHOT_END], &[]);
    while let [length, attached, rest @ ..] = input {
        let (entry, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let (attached, rest) = rest.split_at(rest.len().min(usize::from(*attached)));
        frame(&mut journal, entry, attached);
        input = rest;
    }
    journal
}

/// A parked change whose record is any bytes.
fn with_parked(record: &[u8]) -> Vec<u8> {
    let head = ParkedHead {
        id: 1,
        action: "mail".to_owned(),
        cause: Cause::Failed,
        hash: 1,
        key_hash: 1,
        position: Position { partition: 0, at: 0, within: 0 },
        time_ms: 0,
        bytes: 0,
    };
    let attachment = (record.len() as u64, crc32fast::hash(record));
    let mut entry = vec![SNAPSHOT_PARKED, 1];
    entry = postcard::to_extend(&(head, attachment), entry).unwrap();
    let mut journal = header();
    frame(&mut journal, &[SNAPSHOT_END], &[]);
    frame(&mut journal, &entry, record);
    journal
}
