//! The checkpoint's own journal beside two embedded databases: the same groups, each durable before the next.
//!
//! A database must be told what a journal knows: that a save kills the notes below it and old state. Each engine does all of
//! it, so that after a reopen each holds the same.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use highwater_benches::measure::{Outcome, median, thousands};
use highwater_operators::checkpoint::embedded::EmbeddedStore;
use highwater_operators::checkpoint::store::{self, CheckpointStore, Group, Note, Save, StateSegment};
use highwater_operators::{Position, ResumeToken};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::TempDir;

/// Commits the same groups to the own journal, to redb and to fjall, in turns, and prints what each commit costs.
#[derive(Parser)]
struct Flags {
    /// Saves in each turn, enough for the own journal to compact. A tenth of them where each entry is a row
    #[arg(long, default_value_t = 5_000)]
    saves: u64,
    /// Groups of notes in each turn
    #[arg(long, default_value_t = 5_000)]
    groups: u64,
    /// Turns; the table shows medians over them
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Where folders are made, and removed at the end: a real disk, or nothing is measured. Default: the system's temporary folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Seen-set entries in the state of one save, and bytes of each: hash of the id, position, time.
const ENTRIES: usize = 1_000;
const ENTRY_BYTES: usize = 44;
/// Saves whose state is alive at any time: 11 MB.
const SAVES_LIVE: u64 = 256;
/// Notes in one group.
const NOTES: u64 = 100;
/// Each so-manieth group of notes comes with a save that kills all notes before it.
const SAVE_EVERY: u64 = 50;

/// What the names of engines end in that keep each seen-set entry as a row.
const BY_ENTRY: &str = "a row per entry";

/// Something that makes groups durable.
trait Engine: Sized {
    const NAME: &'static str;
    fn open(folder: &Path) -> Result<Self, Box<dyn std::error::Error>>;
    fn commit(&mut self, group: &Group) -> Outcome;
    /// Reads what a new run begins with: the number of state entries and of notes.
    fn restore(&mut self) -> Result<(usize, usize), Box<dyn std::error::Error>>;
}

impl Engine for EmbeddedStore {
    const NAME: &'static str = "own journal";

    fn open(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        EmbeddedStore::open(folder, "stores").map_err(|error| error.to_string().into())
    }

    fn commit(&mut self, group: &Group) -> Outcome {
        CheckpointStore::commit(self, group).map_err(|error| error.to_string().into())
    }

    fn restore(&mut self) -> Result<(usize, usize), Box<dyn std::error::Error>> {
        let restored = CheckpointStore::restore(self).map_err(|error| error.to_string())?;
        let entries = restored.state.iter().map(|(_, segment)| segment.bytes.len() / ENTRY_BYTES).sum();
        Ok((entries, restored.notes.len()))
    }
}

/// What a group means to a database: keys with their new values, or without one.
struct Writes {
    save: Option<Vec<u8>>,
    state: Vec<(Vec<u8>, Option<Bytes>)>,
    notes: Vec<([u8; 38], Option<[u8; 9]>)>,
}

/// Keeps what a database has to be told: which keys die.
struct Mapping {
    /// Whether each seen-set entry is a row of its own.
    by_entry: bool,
    notes: Vec<[u8; 38]>,
    /// By save: the keys of its state.
    state: VecDeque<(u64, Vec<Vec<u8>>)>,
}

impl Mapping {
    fn new(by_entry: bool) -> Self {
        Mapping { by_entry, notes: Vec::new(), state: VecDeque::new() }
    }

    fn writes(&mut self, group: &Group) -> Writes {
        let mut writes = Writes { save: None, state: Vec::new(), notes: Vec::new() };
        for note in &group.notes {
            let mut key = [0; 38];
            key[..2].copy_from_slice(&note.action.to_be_bytes());
            key[2..18].copy_from_slice(&note.change.to_be_bytes());
            key[18..22].copy_from_slice(&note.position.partition.to_be_bytes());
            key[22..30].copy_from_slice(&note.position.at.to_be_bytes());
            key[30..].copy_from_slice(&note.position.within.to_be_bytes());
            let mut value = [0; 9];
            value[..8].copy_from_slice(&note.epoch.to_be_bytes());
            value[8] = note.outcome as u8;
            writes.notes.push((key, Some(value)));
            self.notes.push(key);
        }
        let Some(save) = &group.save else { return writes };
        // A note of the same group is above the save; all others are below it.
        let dead = self.notes.len() - group.notes.len();
        writes.notes.extend(self.notes.drain(..dead).map(|key| (key, None)));
        let mut keys = Vec::new();
        for segment in &save.state {
            let size = if self.by_entry { ENTRY_BYTES } else { segment.bytes.len().max(1) };
            for (index, start) in (0..segment.bytes.len()).step_by(size).enumerate() {
                // By entry the key is the hash of the id, as a seen-set would have it; else save and segment.
                let key = if self.by_entry {
                    segment.bytes[start..start + 16].to_vec()
                } else {
                    [save.number.to_be_bytes(), (index as u64).to_be_bytes()].concat()
                };
                writes.state.push((key.clone(), Some(segment.bytes.slice(start..start + size))));
                keys.push(key);
            }
        }
        self.state.push_back((save.number, keys));
        let from = save.state_from.values().copied().next().unwrap_or(0);
        while let Some((_, dead)) = self.state.pop_front_if(|(number, _)| *number < from) {
            writes.state.extend(dead.into_iter().map(|key| (key, None)));
        }
        writes.save = postcard::to_stdvec(&Save { state: Vec::new(), ..save.clone() }).ok();
        writes
    }
}

const SAVE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("save");
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const LEDGER: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("notes");

struct Redb<const BY_ENTRY: bool> {
    database: redb::Database,
    mapping: Mapping,
}

impl<const BY_ENTRY: bool> Engine for Redb<BY_ENTRY> {
    const NAME: &'static str = if BY_ENTRY { "redb, a row per entry" } else { "redb" };

    fn open(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let database = redb::Database::create(folder.join("stores.redb"))?;
        let begin = database.begin_write()?;
        begin.open_table(SAVE)?;
        begin.open_table(STATE)?;
        begin.open_table(LEDGER)?;
        begin.commit()?;
        Ok(Redb { database, mapping: Mapping::new(BY_ENTRY) })
    }

    fn commit(&mut self, group: &Group) -> Outcome {
        let writes = self.mapping.writes(group);
        // A transaction is durable when `commit` returns, unless told otherwise.
        let transaction = self.database.begin_write()?;
        {
            let mut notes = transaction.open_table(LEDGER)?;
            for (key, value) in &writes.notes {
                match value {
                    Some(value) => drop(notes.insert(&key[..], &value[..])?),
                    None => drop(notes.remove(&key[..])?),
                }
            }
            let mut state = transaction.open_table(STATE)?;
            for (key, value) in &writes.state {
                match value {
                    Some(value) => drop(state.insert(&key[..], &value[..])?),
                    None => drop(state.remove(&key[..])?),
                }
            }
            if let Some(save) = &writes.save {
                transaction.open_table(SAVE)?.insert("last", &save[..])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn restore(&mut self) -> Result<(usize, usize), Box<dyn std::error::Error>> {
        let transaction = self.database.begin_read()?;
        let (mut entries, mut notes) = (0, 0);
        for row in transaction.open_table(STATE)?.iter()? {
            entries += Bytes::copy_from_slice(row?.1.value()).len() / ENTRY_BYTES;
        }
        for row in transaction.open_table(LEDGER)?.iter()? {
            notes += row?.0.value().len().min(1);
        }
        Ok((entries, notes))
    }
}

struct Fjall<const BY_ENTRY: bool> {
    database: Database,
    save: Keyspace,
    state: Keyspace,
    notes: Keyspace,
    mapping: Mapping,
}

impl<const BY_ENTRY: bool> Engine for Fjall<BY_ENTRY> {
    const NAME: &'static str = if BY_ENTRY { "fjall, a row per entry" } else { "fjall" };

    fn open(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let database = Database::builder(folder).open()?;
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default);
        let (save, state, notes) = (keyspace("save")?, keyspace("state")?, keyspace("notes")?);
        Ok(Fjall { database, save, state, notes, mapping: Mapping::new(BY_ENTRY) })
    }

    fn commit(&mut self, group: &Group) -> Outcome {
        let writes = self.mapping.writes(group);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in writes.notes {
            match value {
                Some(value) => batch.insert(&self.notes, key, value),
                None => batch.remove(&self.notes, key),
            }
        }
        for (key, value) in writes.state {
            match value {
                Some(value) => batch.insert(&self.state, key, &value[..]),
                None => batch.remove(&self.state, key),
            }
        }
        if let Some(save) = writes.save {
            batch.insert(&self.save, "last", save);
        }
        Ok(batch.commit()?)
    }

    fn restore(&mut self) -> Result<(usize, usize), Box<dyn std::error::Error>> {
        let snapshot = self.database.snapshot();
        let (mut entries, mut notes) = (0, 0);
        for row in snapshot.iter(&self.state) {
            entries += Bytes::copy_from_slice(&row.into_inner()?.1).len() / ENTRY_BYTES;
        }
        for row in snapshot.iter(&self.notes) {
            notes += row.into_inner()?.0.len().min(1);
        }
        Ok((entries, notes))
    }
}

/// Numbers without a pattern that a compression could use, the same in every turn.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn save(number: u64, epoch: u64) -> Save {
    Save {
        number,
        epoch,
        mark: (0..4).map(|partition| (partition, ResumeToken { order: number, detail: Bytes::from_static(&[7; 24]) })).collect(),
        books: (0..24).map(|line| (format!("action {}.line {}", line / 6, line % 6), number * 1_000 + line)).collect(),
        state_from: [("dedup".to_owned(), (number + 1).saturating_sub(SAVES_LIVE))].into(),
        ..Save::default()
    }
}

/// A save of a mark, books and 1,000 seen-set entries.
fn save_group(number: u64, noise: &mut Noise) -> Group {
    let bytes: Vec<u8> =
        std::iter::repeat_with(|| noise.next().to_le_bytes()).take(ENTRIES * ENTRY_BYTES / 8).flatten().collect();
    let state = vec![StateSegment { operator: "dedup".into(), bytes: bytes.into() }];
    Group { save: Some(Save { state, ..save(number, number) }), ..Group::default() }
}

/// 100 notes; now and then with a save.
fn note_group(number: u64, noise: &mut Noise) -> Group {
    let note = |index| Note {
        action: (index % 3) as u16,
        change: u128::from(noise.next()) << 64 | u128::from(noise.next()),
        position: Position { partition: 0, at: number * 40_000 + index * 400, within: 0 },
        epoch: number,
        outcome: store::Outcome::Delivered,
    };
    let notes = (0..NOTES).map(note).collect();
    Group { notes, save: number.is_multiple_of(SAVE_EVERY).then(|| save(number / SAVE_EVERY, number)), ..Group::default() }
}

/// What one turn of one engine measured.
struct Turn {
    microseconds: Vec<f64>,
    seconds: f64,
    restore_milliseconds: f64,
    megabytes: f64,
}

fn turn<E: Engine>(flags: &Flags, count: u64, group: Make) -> Result<Turn, Box<dyn std::error::Error>> {
    let folder = match &flags.folder {
        Some(folder) => TempDir::new_in(folder)?,
        None => TempDir::new()?,
    };
    let mut engine = E::open(folder.path())?;
    let mut noise = Noise(1);
    let mut microseconds = Vec::with_capacity(count as usize);
    for number in 1..=count {
        let group = group(number, &mut noise);
        let begun = Instant::now();
        engine.commit(&group)?;
        microseconds.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let seconds = microseconds.iter().sum::<f64>() / 1e6;
    microseconds.sort_by(f64::total_cmp);
    drop(engine);
    let begun = Instant::now();
    let mut engine = E::open(folder.path())?;
    let (entries, notes) = engine.restore()?;
    let restore_milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    let of_saves = group(1, &mut noise).save.is_some();
    let live = if of_saves { count.min(SAVES_LIVE) * ENTRIES as u64 } else { (count % SAVE_EVERY + 1) * NOTES };
    if entries as u64 + notes as u64 != live {
        return Err(format!("{}: {entries} entries and {notes} notes came back, not {live} in all", E::NAME).into());
    }
    drop(engine);
    let megabytes = size(folder.path())? as f64 / 1e6;
    // What the next engine does must not wait for this one's rests.
    std::thread::sleep(Duration::from_millis(200));
    Ok(Turn { microseconds, seconds, restore_milliseconds, megabytes })
}

/// Bytes that the files below a folder take on the disk.
fn size(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

/// Makes the group of a number.
type Make = fn(u64, &mut Noise) -> Group;
/// One turn of one engine.
type Play = fn(&Flags, u64, Make) -> Result<Turn, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let flags = Flags::parse();
    let engines: [(&str, Play); 5] = [
        (EmbeddedStore::NAME, turn::<EmbeddedStore>),
        (Redb::<false>::NAME, turn::<Redb<false>>),
        (Fjall::<false>::NAME, turn::<Fjall<false>>),
        (Redb::<true>::NAME, turn::<Redb<true>>),
        (Fjall::<true>::NAME, turn::<Fjall<true>>),
    ];
    let works: [(&str, u64, u64, Make, usize); 2] = [
        ("save, 1,000 entries of 44 bytes", flags.saves, ENTRIES as u64, save_group, 5),
        ("group of 100 notes", flags.groups, NOTES, note_group, 3),
    ];
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["durable commit", "engine", "p50 us", "p99 us", "max ms", "entries/s", "open + restore ms", "MB on disk"]);
    for (work, count, entries, group, rivals) in works {
        let mut turns: Vec<Vec<Turn>> = engines[..rivals].iter().map(|_| Vec::new()).collect();
        for _ in 0..flags.turns {
            for (turns, (name, play)) in turns.iter_mut().zip(&engines) {
                turns.push(play(&flags, if name.ends_with(BY_ENTRY) { count / 10 } else { count }, group)?);
            }
        }
        for (turns, (name, _)) in turns.iter().zip(&engines) {
            let over = |measure: fn(&Turn) -> f64| median(&turns.iter().map(measure).collect::<Vec<_>>());
            table.add_row([
                work.to_owned(),
                (*name).to_owned(),
                thousands(over(|turn| turn.microseconds[turn.microseconds.len() / 2])),
                thousands(over(|turn| turn.microseconds[turn.microseconds.len() * 99 / 100])),
                format!("{:.1}", over(|turn| turn.microseconds[turn.microseconds.len() - 1] / 1e3)),
                thousands(entries as f64 * over(|turn| turn.microseconds.len() as f64 / turn.seconds)),
                format!("{:.1}", over(|turn| turn.restore_milliseconds)),
                format!("{:.1}", over(|turn| turn.megabytes)),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}
