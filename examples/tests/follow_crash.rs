//! Follows a log that grows, is rotated in every way and truncated, while the program that follows it is killed again and again.
//!
//! Each line has an id of its own. In the end every id that was ever written must stand in the output exactly once. The kill is
//! a real SIGKILL of a real process, the compression is `gzip`.
//!
//! `HIGHWATER_KILLS` sets the size of the proof, `HIGHWATER_SEED` repeats its decisions (not its moments).

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater::operators::ResumeToken;
use highwater::operators::checkpoint::embedded::EmbeddedStore;
use highwater::operators::ingest::Source;
use highwater::prelude::*;
use highwater_examples::built::{Example, Running};
use highwater_examples::orders::dice::Dice;
use xxhash_rust::xxh3::xxh3_128;

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_log_that_is_rotated_while_its_reader_is_killed_loses_and_repeats_nothing() {
    let kills: u64 = setting("HIGHWATER_KILLS", || 3);
    let seed: u64 = setting("HIGHWATER_SEED", || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
    println!("HIGHWATER_SEED={seed} HIGHWATER_KILLS={kills}");
    let folder = tempfile::tempdir().unwrap();
    let example = Example::built("follow", folder.path());
    fs::create_dir(folder.path().join("logs")).unwrap();
    let (over, alive) = (AtomicBool::new(false), Mutex::new(()));
    let mut dice = Dice::new(seed);
    let (written, rotations, lines_at_kills, mut reader) = thread::scope(|scope| {
        // Whatever happens here, the writer must end, or nobody hears of it.
        let stop = Stop(&over);
        let writer = scope.spawn(|| Writer::new(folder.path(), seed ^ 1, &alive).write_until(&over));
        let mut reader = start(&example, &mut dice);
        let mut lines_at_kills = Vec::new();
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(100 + dice.below(500)));
            // Not while the writer truncates what only the reader has.
            let _alive = alive.lock().unwrap();
            lines_at_kills.push(count_lines(&folder.path().join("out")));
            reader.signal("KILL");
            assert!(!reader.wait().status.success(), "it was killed");
            reader = start(&example, &mut dice);
        }
        drop(stop);
        let (written, rotations) = writer.join().unwrap();
        (written, rotations, lines_at_kills, reader)
    });
    loop {
        reader.wait_until("every line is in the output", |_| count_lines(&folder.path().join("out")) >= written);
        reader.signal("TERM");
        let ended = reader.wait();
        assert!(ended.status.success(), "{}", ended.stderr);
        // What stood there may have been the killed run's, which the last one removed and had no time to write again.
        if count_lines(&folder.path().join("out")) >= written {
            break;
        }
        reader = start(&example, &mut dice);
    }

    let mut times = vec![0_u64; written];
    for id in ids(&folder.path().join("out")) {
        times[id] += 1;
    }
    let lost = times.iter().filter(|times| **times == 0).count();
    let repeated = times.iter().filter(|times| **times > 1).count();
    let met = lines_at_kills.windows(2).filter(|pair| pair[0] != pair[1]).count() + usize::from(lines_at_kills[0] > 0);
    println!("| kills | that met work | lines written | {} | lost | repeated |", Rotation::NAMES.join(" | "));
    println!("| ---: | ---: | ---: | {}---: | ---: |", "---: | ".repeat(Rotation::NAMES.len()));
    let counts: Vec<String> = Rotation::NAMES.iter().map(|name| rotations.get(name).unwrap_or(&0).to_string()).collect();
    println!("| {kills} | {met} | {written} | {} | {lost} | {repeated} |", counts.join(" | "));
    assert_eq!((lost, repeated), (0, 0));
    assert!(met > 0, "every kill came before the first output: the proof shows nothing");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn start(example: &Example, dice: &mut Dice) -> Running {
    let workers = dice.pick(&["1", "2", "4"]);
    let size = dice.pick(&["1", "100", "10000"]);
    example.start(&[
        "--log",
        "logs/app.log",
        "--out",
        "out",
        "--data",
        "state",
        "--report",
        "none",
        "--workers",
        workers,
        "--checkpoint-batch-size",
        size,
    ])
}

struct Rotation;

impl Rotation {
    const NAMES: [&str; 5] = ["renamed", "renamed and compressed", "copied and truncated", "truncated", "deleted"];
}

/// Whatever writes the log and rotates it.
struct Writer<'a> {
    folder: PathBuf,
    dice: Dice,
    /// Held while the reader must not be killed.
    alive: &'a Mutex<()>,
    next: usize,
    /// The first line of the log.
    first_line: String,
    number: u64,
    /// Logs that are not written any more: path and first line.
    old: Vec<(PathBuf, String)>,
    done: BTreeMap<&'static str, u64>,
}

impl<'a> Writer<'a> {
    fn new(folder: &Path, seed: u64, alive: &'a Mutex<()>) -> Self {
        let (folder, dice) = (folder.to_owned(), Dice::new(seed));
        Writer { folder, dice, alive, next: 0, first_line: String::new(), number: 0, old: Vec::new(), done: BTreeMap::new() }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("logs/app.log")
    }

    /// Writes until it is told to stop, and through each kind of rotation at least once.
    fn write_until(mut self, over: &AtomicBool) -> (usize, BTreeMap<&'static str, u64>) {
        let began = Instant::now();
        while !over.load(Ordering::Acquire) || self.done.len() < Rotation::NAMES.len() {
            assert!(began.elapsed() < 20 * DEADLINE, "some kinds of rotation never came: {:?}", self.done);
            for _ in 0..self.dice.below(60) + 1 {
                self.append(&mut self.open());
                thread::sleep(Duration::from_micros(self.dice.below(1_500)));
            }
            match self.dice.below(8) {
                0 | 1 => self.rename(),
                2 | 3 => self.rename_and_compress(),
                4 | 5 => self.copy_and_truncate(),
                6 => self.truncate(),
                _ => self.delete(),
            }
        }
        (self.next, self.done)
    }

    fn open(&self) -> File {
        OpenOptions::new().append(true).create(true).open(self.log()).unwrap()
    }

    /// Some lines, the last of them in two pieces now and then.
    fn append(&mut self, file: &mut File) {
        for _ in 0..self.dice.below(20) + 1 {
            let pad = "x".repeat(self.dice.below(200) as usize);
            let (n, key) = (self.next, self.next % 50);
            let line = format!("{{\"id\":{n},\"op\":\"insert\",\"key\":\"k{key}\",\"after\":{{\"n\":{n},\"pad\":\"{pad}\"}}}}\n");
            self.next += 1;
            if file.metadata().unwrap().len() == 0 {
                self.first_line = line.trim_end().to_owned();
            }
            let cut = if self.dice.below(10) == 0 { self.dice.below(line.len() as u64) as usize } else { 0 };
            file.write_all(&line.as_bytes()[..cut]).unwrap();
            if cut > 0 {
                thread::sleep(Duration::from_micros(200));
            }
            file.write_all(&line.as_bytes()[cut..]).unwrap();
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    fn next_path(&mut self) -> PathBuf {
        self.number += 1;
        self.folder.join(format!("logs/app.log.{}", self.number))
    }

    fn move_away(&mut self) -> PathBuf {
        let to = self.next_path();
        let mut old = self.open();
        fs::rename(self.log(), &to).unwrap();
        let first_line = self.first_line.clone();
        if self.dice.below(2) == 0 {
            // Who writes has not noticed yet.
            self.append(&mut old);
        }
        self.old.push((to.clone(), first_line));
        to
    }

    fn rename(&mut self) {
        self.move_away();
        self.count("renamed");
    }

    fn rename_and_compress(&mut self) {
        let to = self.move_away();
        self.compress(&to);
        self.count("renamed and compressed");
    }

    fn compress(&mut self, path: &Path) {
        let status = Command::new("gzip").arg(path).status().expect("gzip is on the machine; it is in the package gzip");
        assert!(status.success());
        self.old.last_mut().unwrap().0 = PathBuf::from(format!("{}.gz", path.display()));
    }

    fn copy_and_truncate(&mut self) {
        let to = self.next_path();
        fs::copy(self.log(), &to).unwrap();
        OpenOptions::new().write(true).open(self.log()).unwrap().set_len(0).unwrap();
        self.old.push((to.clone(), self.first_line.clone()));
        if self.dice.below(2) == 0 {
            self.compress(&to);
        }
        self.count("copied and truncated");
    }

    /// Without a copy this is safe only when the reader has *saved* that it has read everything.
    fn truncate(&mut self) {
        let alive = self.alive;
        let _alive = alive.lock().unwrap();
        let (length, first_line) = (fs::metadata(self.log()).unwrap().len(), self.first_line.clone());
        self.until("the mark covers the log", |writer| writer.mark(&first_line).is_some_and(|token| token.order >= length));
        OpenOptions::new().write(true).open(self.log()).unwrap().set_len(0).unwrap();
        self.append(&mut self.open());
        self.until("the log that was cut counts as complete", |writer| writer.is_complete(&first_line));
        self.count("truncated");
    }

    /// Deletes old logs that were read whole, as the checkpoint says.
    fn delete(&mut self) {
        let mut old = std::mem::take(&mut self.old);
        old.retain(|(path, first_line)| {
            let is_complete = self.is_complete(first_line);
            if is_complete {
                fs::remove_file(path).unwrap();
                *self.done.entry("deleted").or_default() += 1;
            }
            !is_complete
        });
        self.old = old;
    }

    fn is_complete(&self, first_line: &str) -> bool {
        let source = JsonLines::file("any").follow();
        self.mark(first_line).is_some_and(|token| source.may_be_missing("", &token))
    }

    /// Where the checkpoint continues the log of this first line.
    fn mark(&self, first_line: &str) -> Option<ResumeToken> {
        let inspection = EmbeddedStore::inspect(&self.folder.join("state")).ok()?;
        let name = format!("jsonl/{:032x}", xxh3_128(first_line.as_bytes()));
        let (number, _) = inspection.partitions().iter().find(|(_, known)| **known == name)?;
        inspection.checkpoint()?.mark.get(number).cloned()
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < DEADLINE, "never came: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn texts(out: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(out).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_to_string(file.path()).ok())
}

fn count_lines(out: &Path) -> usize {
    texts(out).map(|text| text.lines().count()).sum()
}

fn ids(out: &Path) -> Vec<usize> {
    let id = |line: &str| -> usize {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["id"].as_str().unwrap().parse().unwrap()
    };
    texts(out).flat_map(|text| text.lines().map(id).collect::<Vec<_>>()).collect()
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    match env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default(),
    }
}
