//! The embedded store: the suite of every store, and what is its own: torn tails, damage, locks, compaction, requests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::checkpoint::embedded::{EmbeddedStore, Fault, Faults, Medium, Settings};
use highwater_operators::checkpoint::requests::{Request, leave_request, pending_requests, remove_request};
use highwater_operators::checkpoint::store::{
    Cause, CheckpointStore, Group, Note, Outcome, Parked, Resolution, Resolved, Save, StateSegment,
};
use highwater_operators::testing::store_suite::{self, Failure, Storage};
use highwater_operators::{ErrorKind, Position, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

/// A data directory whose disk can fail, and which loses unsynced bytes when the power does.
struct Directory {
    folder: TempDir,
    faults: Faults,
    compact_above: u64,
    power_fails: bool,
}

impl Directory {
    fn new(compact_above: u64, power_fails: bool) -> Self {
        Directory { folder: TempDir::new().unwrap(), faults: Faults::default(), compact_above, power_fails }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

impl Storage for Directory {
    type Store = EmbeddedStore;

    fn open(&mut self) -> Result<EmbeddedStore> {
        let medium = Medium::with_faults(self.faults.clone());
        EmbeddedStore::open_with(&self.path(), "orders", Settings { compact_above: self.compact_above, medium })
    }

    fn fail(&mut self, nth: u64, failure: Failure) {
        let fault = match failure {
            Failure::Before => Fault::Before,
            Failure::After => Fault::After,
            Failure::Partly => Fault::Torn(nth as usize * 37),
        };
        self.faults.fail(nth, fault);
    }

    fn recover(&mut self, random: &mut SmallRng) {
        self.faults.revive();
        if self.power_fails {
            for path in files(&self.path()) {
                let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                let length = file.metadata().unwrap().len();
                let synced = self.faults.synced_length(&file).unwrap().min(length);
                file.set_len(random.random_range(synced..=length)).unwrap();
            }
        }
    }
}

/// Journals in a directory, finished or not.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("journal-"));
    files.sort();
    files
}

fn journal(directory: &Path) -> PathBuf {
    let files = files(directory);
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn note(n: u64) -> Note {
    let position = Position { partition: 0, at: n, within: 0 };
    Note { action: 0, change: n.into(), position, epoch: n, outcome: Outcome::Delivered }
}

fn notes(numbers: impl IntoIterator<Item = u64>) -> Group {
    Group { notes: numbers.into_iter().map(note).collect(), ..Group::default() }
}

fn save(number: u64, state: &[u8]) -> Group {
    let state = vec![StateSegment { operator: "dedup".into(), bytes: Bytes::copy_from_slice(state) }];
    let state_from = [("dedup".to_owned(), number.saturating_sub(1))].into();
    Group { save: Some(Save { number, epoch: number, state, state_from, ..Save::default() }), ..Group::default() }
}

fn parked(id: u64, text: &[u8]) -> Parked {
    let parts = Parts {
        id: "7",
        table: "orders",
        key: None,
        operation: Operation::Insert,
        time_ms: 5,
        before: None,
        after: Some(&text.iter().map(|byte| char::from(*byte)).collect::<String>()),
    };
    let position = Position { partition: 0, at: id, within: 0 };
    Parked {
        id,
        action: "receipt".into(),
        cause: Cause::Failed,
        error: "no answer".into(),
        attempts: 3,
        parked_at_ms: 9,
        hash: id.into(),
        change: Change::new(Bytes::new(), position, parts).unwrap(),
        history: Default::default(),
    }
}

/// Everything a store tells, but for the generation, as something to compare.
fn told(store: &mut EmbeddedStore) -> String {
    let mut restored = store.restore().unwrap();
    restored.generation = 0;
    restored.notes.sort_by_key(|note| (note.change, note.action, note.position.at));
    let records: Vec<_> = restored.parked.iter().map(|head| store.parked(head.id).unwrap()).collect();
    format!("{restored:?} {records:?}")
}

/// The sentence with which a directory is refused.
fn refusal(directory: &Path, pipeline: &str) -> String {
    let error = EmbeddedStore::open(directory, pipeline).err().expect("this directory must be refused");
    assert_eq!(error.kind(), ErrorKind::Stop);
    error.to_string()
}

/// A closed store of three groups; the bytes of its journal, and where the frame of each group begins and ends.
fn three_groups() -> (TempDir, Vec<u8>, [u64; 4]) {
    let folder = TempDir::new().unwrap();
    let mut store = EmbeddedStore::open(folder.path(), "orders").unwrap();
    let mut ends = [0; 4];
    ends[0] = fs::metadata(journal(folder.path())).unwrap().len();
    for n in 0..3 {
        let group = Group { parked: vec![parked(n + 1, b"{}")], ..save(n + 1, b"some state") };
        store.commit(&Group { notes: vec![note(100 + n)], ..group }).unwrap();
        ends[n as usize + 1] = fs::metadata(journal(folder.path())).unwrap().len();
    }
    drop(store);
    let bytes = fs::read(journal(folder.path())).unwrap();
    (folder, bytes, ends)
}

/// The number of the last save after opening a directory whose journal holds these bytes.
fn last_save(folder: &Path, bytes: &[u8]) -> Result<u64> {
    fs::write(journal(folder), bytes).unwrap();
    let restored = EmbeddedStore::open(folder, "orders")?.restore()?;
    assert_eq!(restored.notes.len() as u64, restored.checkpoint.as_ref().unwrap().number, "a group is whole or absent");
    Ok(restored.checkpoint.unwrap().number)
}

#[test]
fn passes_the_suite() {
    store_suite::run_all(|| Directory::new(64 << 20, false));
}

#[test]
fn passes_the_suite_when_the_power_fails() {
    store_suite::run_all(|| Directory::new(64 << 20, true));
}

#[test]
fn passes_the_suite_when_it_compacts_all_the_time() {
    store_suite::run_all(|| Directory::new(0, false));
    store_suite::run_all(|| Directory::new(0, true));
}

/// Goal: whatever part of the last frame a crash leaves, the groups before it are there and the next one can follow.
/// Method: the journal cut at every length, and the rest replaced by zeros or by noise.
#[test]
fn a_torn_tail_is_cut_off_at_every_length() {
    let (folder, bytes, [_, _, start, end]) = three_groups();
    for cut in start..end {
        assert_eq!(last_save(folder.path(), &bytes[..cut as usize]).unwrap(), 2, "cut at {cut}");
        for filling in [0, 0xa5] {
            let mut torn = bytes.clone();
            // A last byte that was right by chance would make the frame whole.
            torn[cut as usize..].iter_mut().for_each(|byte| *byte = if *byte == filling { !filling } else { filling });
            assert_eq!(last_save(folder.path(), &torn).unwrap(), 2, "{filling} from {cut}");
        }
    }
    assert_eq!(last_save(folder.path(), &bytes).unwrap(), 3);
    fs::write(journal(folder.path()), &bytes[..end as usize - 1]).unwrap();
    let mut store = EmbeddedStore::open(folder.path(), "orders").unwrap();
    assert_eq!(EmbeddedStore::inspect(folder.path()).unwrap().torn_bytes(), 0, "the tail is gone, not only passed over");
    store.commit(&save(3, b"again")).unwrap();
    drop(store);
    assert_eq!(EmbeddedStore::open(folder.path(), "orders").unwrap().restore().unwrap().checkpoint.unwrap().number, 3);
}

#[test]
fn a_flipped_bit_before_the_last_frame_is_refused_with_file_and_offset() {
    let (folder, bytes, [start, middle, last, _]) = three_groups();
    let path = journal(folder.path());
    for at in start..last {
        let mut flipped = bytes.clone();
        flipped[at as usize] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        let sentence = refusal(folder.path(), "orders");
        let frame = if at < middle { start } else { middle };
        assert!(sentence.contains(&format!("{} is damaged at offset {frame}", path.display())), "byte {at}: {sentence}");
        assert_eq!(fs::read(&path).unwrap(), flipped, "a refused journal is left as it is");
        assert!(EmbeddedStore::inspect(folder.path()).is_err(), "byte {at}");
    }
}

/// The header and the snapshot behind it were synced before the file got its name, so nothing there is a torn tail.
#[test]
fn a_flipped_bit_in_front_is_refused_even_if_nothing_follows() {
    let folder = TempDir::new().unwrap();
    drop(EmbeddedStore::open(folder.path(), "orders").unwrap());
    let path = journal(folder.path());
    let bytes = fs::read(&path).unwrap();
    // The last frame is the generation that opening began: 24 bytes of header, then what has a length of its own.
    let snapshot_end = EmbeddedStore::inspect(folder.path()).unwrap().journal_bytes().0 as usize - 24 - 12;
    for at in (0..snapshot_end).rev() {
        for cut in [bytes.len(), at + 1] {
            let mut flipped = bytes[..cut].to_vec();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            refusal(folder.path(), "orders");
        }
    }
    fs::write(&path, b"").unwrap();
    assert!(refusal(folder.path(), "orders").contains("damaged at offset 0"));
}

/// What users put into their changes is opaque: a copy of this very journal inside a parked change is no frame of it.
#[test]
fn bytes_that_look_like_frames_are_not_taken_for_frames() {
    let (folder, bytes, _) = three_groups();
    let mut store = EmbeddedStore::open(folder.path(), "orders").unwrap();
    let start = EmbeddedStore::inspect(folder.path()).unwrap().journal_bytes().0;
    store.commit(&save(4, &bytes)).unwrap();
    drop(store);
    let mut torn = fs::read(journal(folder.path())).unwrap();
    // The header does not check, and behind it stands a state segment that is a whole journal.
    torn[start as usize] ^= 1;
    assert_eq!(last_save(folder.path(), &torn).unwrap(), 3);
}

#[test]
fn another_pipelines_directory_is_refused_naming_both() {
    let (folder, bytes, _) = three_groups();
    let sentence = refusal(folder.path(), "invoices");
    assert!(sentence.contains("\"orders\"") && sentence.contains("\"invoices\""), "{sentence}");
    assert!(sentence.contains(&folder.path().display().to_string()), "{sentence}");
    assert_eq!(fs::read(journal(folder.path())).unwrap(), bytes);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (folder, mut bytes, _) = three_groups();
    bytes[8] = 2;
    fs::write(journal(folder.path()), &bytes).unwrap();
    let sentence = refusal(folder.path(), "orders");
    assert!(sentence.contains("format version 2") && sentence.contains("up to 1"), "{sentence}");
    assert_eq!(fs::read(journal(folder.path())).unwrap(), bytes);
}

#[test]
fn a_second_run_is_refused_naming_the_first() {
    let folder = TempDir::new().unwrap();
    let mut store = EmbeddedStore::open(folder.path(), "orders").unwrap();
    let sentence = refusal(folder.path(), "orders");
    assert!(sentence.contains(&format!("{} is in use by process {}", folder.path().display(), std::process::id())), "{sentence}");
    store.commit(&notes([1])).unwrap();
    drop(store);
    EmbeddedStore::open(folder.path(), "orders").unwrap();
}

#[test]
fn trouble_with_the_disk_is_told_in_a_sentence() {
    let mut directory = Directory::new(64 << 20, false);
    directory.faults.fail(0, Fault::Before);
    directory.faults.give(std::io::ErrorKind::ReadOnlyFilesystem);
    let sentence = directory.open().err().unwrap().to_string();
    assert!(sentence.contains("must be readable and writable"), "{sentence}");
    directory.faults.revive();

    let mut store = directory.open().unwrap();
    store.commit(&notes([1])).unwrap();
    directory.faults.fail(0, Fault::Torn(40));
    directory.faults.give(std::io::ErrorKind::StorageFull);
    let sentence = store.commit(&notes([2])).unwrap_err().to_string();
    assert!(sentence.contains("the disk is full"), "{sentence}");
    // There is room again, but what the file ends with is unknown: only a new run may go on.
    directory.faults.revive();
    let sentence = store.commit(&notes([3])).unwrap_err().to_string();
    assert!(sentence.contains("after an earlier error") && sentence.contains("the disk is full"), "{sentence}");
    drop(store);
    assert_eq!(directory.open().unwrap().restore().unwrap().notes, [note(1)]);

    let file = directory.folder.path().join("a file");
    fs::write(&file, "").unwrap();
    assert!(refusal(&file, "orders").contains("cannot"));
    let sentence = EmbeddedStore::inspect(directory.folder.path()).err().unwrap().to_string();
    assert!(sentence.contains("is no data directory"), "{sentence}");
}

/// A store with something of everything, much of it dead.
fn worth_compacting(store: &mut EmbeddedStore) {
    store.action("receipt").unwrap();
    store.commit(&Group { partitions: vec![(0, "orders.jsonl".into())], ..notes(0..3000) }).unwrap();
    for number in 1..=20 {
        store.commit(&save(number, &[number as u8; 100_000])).unwrap();
    }
    store.commit(&Group { parked: (1..=5).map(|id| parked(id, &[b'x'; 50_000])).collect(), ..Group::default() }).unwrap();
    let resolved = Resolved { id: 4, action: "receipt".into(), resolution: Resolution::Dropped };
    store.commit(&Group { resolved: vec![resolved], ..notes(4000..4010) }).unwrap();
}

/// Goal: a compacted store tells the same, now, after a restart, and whichever step of the compaction was the last.
/// Method: the same directory is compacted by an open with a threshold of nothing, each time with a later step failing.
#[test]
fn compaction_changes_nothing_and_may_be_cut_short_at_any_step() {
    let mut directory = Directory::new(u64::MAX, false);
    let mut store = directory.open().unwrap();
    worth_compacting(&mut store);
    let expected = told(&mut store);
    drop(store);
    let (long, name) = (fs::read(journal(&directory.path())).unwrap(), journal(&directory.path()));
    let mut steps = Vec::new();
    for nth in 0.. {
        let mut reached = false;
        for fault in [Fault::Before, Fault::After, Fault::Torn(5), Fault::Torn(70_000)] {
            files(&directory.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
            fs::write(&name, &long).unwrap();
            directory.compact_above = 0;
            directory.faults.fail(nth, fault);
            let opened = directory.open();
            reached |= directory.faults.fired();
            steps = directory.faults.steps();
            drop(opened);
            directory.faults.revive();
            directory.compact_above = u64::MAX;
            let mut store = directory.open().unwrap_or_else(|error| panic!("step {nth} {steps:?}: {error}"));
            assert_eq!(told(&mut store), expected, "step {nth}, {fault:?}: {steps:?}");
            // Nothing of the attempt may stay.
            journal(&directory.path());
        }
        if !reached {
            break;
        }
    }
    for step in [
        "compaction.create",
        "compaction.write",
        "compaction.sync",
        "compaction.rename",
        "compaction.sync_directory",
        "journal.remove",
    ] {
        assert!(steps.contains(&step), "{step} was not among {steps:?}");
    }
    let short = fs::metadata(journal(&directory.path())).unwrap().len();
    assert!(short < long.len() as u64 / 4, "{short} of {}", long.len());
}

/// Goal: what is committed while a compaction runs is in the new journal as it was in the old one. Method: seeded groups of
/// all kinds go to a store that compacts often and to one that never does, and both must tell the same, also after a restart; the
/// steps on the disk show that groups did enter meanwhile.
#[test]
fn groups_that_enter_while_it_compacts_are_all_there() {
    let mut amid = 0;
    for seed in 0..6 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut directories = [Directory::new(100_000, false), Directory::new(u64::MAX, false)];
        let mut stores = directories.each_mut().map(|directory| {
            directory.faults.fail(u64::MAX, Fault::Before);
            directory.open().unwrap()
        });
        let (mut saves, mut records) = (0, 0);
        for n in 0..1_500_u64 {
            let mut group = notes(n * 10..n * 10 + random.random_range(1..5));
            if random.random_bool(0.3) {
                saves += 1;
                let length = random.random_range(0..8_000);
                group.save = save(saves, &vec![n as u8; length]).save.map(|save| Save { epoch: n * 10, ..save });
            }
            if random.random_bool(0.2) {
                records += 1;
                group.parked.push(parked(records, &[b'x'; 300]));
            } else if random.random_bool(0.2) && records > 0 {
                let id = random.random_range(1..=records);
                group.resolved.push(Resolved { id, action: "receipt".into(), resolution: Resolution::Dropped });
            }
            stores.iter_mut().for_each(|store| store.commit(&group).unwrap());
        }
        let expected = told(&mut stores[1]);
        let state_id = |text: &str| text.split("state_id: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        let same = |text: String| text.replace(&state_id(&text), "");
        assert_eq!(same(told(&mut stores[0])), same(expected.clone()), "seed {seed}");
        drop(stores);
        let steps = directories[0].faults.steps();
        let renames: Vec<_> = (0..steps.len()).filter(|at| steps[*at] == "compaction.rename").collect();
        // One at the opening, which makes the store.
        assert!(renames.len() > 2, "seed {seed}: it compacted {} times", renames.len());
        amid += steps
            .split(|step| *step == "compaction.rename")
            .filter(|before| {
                let began = before.iter().rposition(|step| *step == "compaction.create");
                began.is_some_and(|began| before[began..].contains(&"journal.sync"))
            })
            .count();
        assert_eq!(same(told(&mut directories[0].open().unwrap())), same(expected), "seed {seed}, after a restart");
    }
    assert!(amid > 0, "no group entered while it compacted");
}

/// The directory was not synced after the rename, and the power loss undid it: the old journal is the store again.
#[test]
fn a_rename_that_did_not_last_is_no_harm() {
    let mut directory = Directory::new(u64::MAX, false);
    let mut store = directory.open().unwrap();
    worth_compacting(&mut store);
    let expected = told(&mut store);
    drop(store);
    directory.compact_above = 0;
    directory.faults.fail(u64::MAX, Fault::Before);
    let copy = fs::read(journal(&directory.path())).unwrap();
    drop(directory.open().unwrap());
    let nth = directory.faults.steps().iter().position(|step| *step == "compaction.sync_directory").unwrap();
    let new = journal(&directory.path());
    let old = directory.path().join("journal-000001.hw");
    fs::remove_file(&new).unwrap();
    fs::write(&old, copy).unwrap();
    directory.faults.revive();
    directory.faults.fail(nth as u64, Fault::Before);
    assert!(directory.open().is_err());
    fs::rename(&new, directory.path().join("journal-000002.hw.new")).unwrap();
    directory.faults.revive();
    assert_eq!(told(&mut directory.open().unwrap()), expected);
}

#[test]
fn a_disk_too_full_to_compact_is_no_reason_to_stop() {
    let mut directory = Directory::new(u64::MAX, false);
    let mut store = directory.open().unwrap();
    worth_compacting(&mut store);
    drop(store);
    directory.compact_above = 0;
    // Steps of opening: lock.open, lock.write, journal.open, write_again, sync_again, write, sync; then compaction begins.
    directory.faults.fail(8, Fault::Torn(10));
    directory.faults.give(std::io::ErrorKind::StorageFull);
    let mut store = directory.open().unwrap();
    assert_eq!(*directory.faults.steps().last().unwrap(), "compaction.header");
    directory.faults.revive();
    store.commit(&notes([9000])).unwrap();
    drop(store);
    assert!(directory.open().unwrap().restore().unwrap().notes.contains(&note(9000)));
}

/// Goal: a person may look at any time. Method: a thread inspects without pause while the store commits and compacts.
#[test]
fn inspection_beside_a_running_store_sees_whole_groups() {
    let mut directory = Directory::new(0, false);
    let path = directory.path();
    let mut store = directory.open().unwrap();
    store.commit(&Group { parked: vec![parked(1, b"{\"a\":1}")], ..save(1, b"one") }).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let (mut looks, mut last) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let seen = EmbeddedStore::inspect(&path).unwrap();
                let number = seen.checkpoint().unwrap().number;
                assert!(number >= last);
                assert_eq!(seen.resolved().get("receipt").map_or(0, |(_, dropped)| *dropped), number - 1);
                assert_eq!(seen.parked(number).unwrap().unwrap().change.after().parse("a"), Some(1));
                (looks, last) = (looks + 1, number);
            }
            looks
        });
        for number in 2..400 {
            let resolved = vec![Resolved { id: number - 1, action: "receipt".into(), resolution: Resolution::Dropped }];
            store.commit(&Group { parked: vec![parked(number, b"{\"a\":1}")], resolved, ..save(number, &[7; 5000]) }).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(looks.join().unwrap() > 0);
    });
    store.action("receipt").unwrap();
    store.commit(&notes(1000..1003)).unwrap();
    let seen = EmbeddedStore::inspect(&path).unwrap();
    assert_eq!((seen.pipeline(), seen.generation(), seen.notes(), seen.torn_bytes()), ("orders", 1, 3, 0));
    assert_eq!(seen.parked_heads().map(|head| head.id).collect::<Vec<_>>(), [399]);
    assert_eq!(seen.actions().len(), 1);
    assert_eq!(seen.state()["dedup"], (2, 10_000));
    assert_eq!(seen.started().1, std::process::id());
    assert!(seen.saved_at_ms().unwrap() >= seen.started().0);
    // A compaction may be under way; what it writes has no name yet.
    let journals: Vec<_> = files(&path).into_iter().filter(|path| path.extension().is_some_and(|end| end == "hw")).collect();
    assert_eq!([seen.journal().to_owned()], *journals);
    assert!(seen.journal_bytes().0 >= seen.journal_bytes().1);
}

#[test]
fn requests_are_taken_in_order_and_once() {
    let folder = TempDir::new().unwrap();
    assert_eq!(pending_requests(folder.path()).unwrap(), []);
    let left = [Request::Retry { id: 7 }, Request::Drop { id: 7 }, Request::Retry { id: 1 }];
    let paths = left.clone().map(|request| leave_request(folder.path(), request).unwrap());
    assert_eq!(fs::read_to_string(&paths[0]).unwrap(), "{\"kind\":\"retry\",\"id\":7}");
    fs::write(folder.path().join("requests/by-hand.json"), "{\"kind\":\"dorp\",\"id\":7}").unwrap();
    fs::write(folder.path().join("requests/.half.json"), "{\"kin").unwrap();
    let pending = pending_requests(folder.path()).unwrap();
    assert_eq!(pending, paths.iter().cloned().zip(left.clone()).collect::<Vec<_>>());
    assert!(folder.path().join("requests/by-hand.json.refused").exists());
    remove_request(&pending[0].0).unwrap();
    remove_request(&pending[0].0).unwrap();
    assert_eq!(pending_requests(folder.path()).unwrap(), pending[1..]);
    assert!(leave_request(&folder.path().join("nowhere"), left[0].clone()).unwrap_err().to_string().contains("nowhere"));
}
