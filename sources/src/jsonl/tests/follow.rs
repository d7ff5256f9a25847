//! A log that grows, and what rotations do to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::time::Instant;

use super::*;

/// A run that follows, turn by turn.
struct Tail {
    source: JsonLinesSource,
    bound: Arc<dyn Source>,
    readers: BTreeMap<String, Box<dyn Reader>>,
    ids: Vec<String>,
    tokens: BTreeMap<String, ResumeToken>,
}

impl Tail {
    fn start(source: JsonLinesSource, tokens: BTreeMap<String, ResumeToken>) -> Result<Tail> {
        let known: Vec<Known> =
            tokens.iter().map(|(name, token)| Known { name: name.clone(), token: Some(token.clone()) }).collect();
        let bound = source.bind(&known)?.unwrap();
        let partitions = bound.partitions()?;
        let mut tail = Tail { source, bound, readers: BTreeMap::new(), ids: Vec::new(), tokens };
        partitions.into_iter().for_each(|partition| tail.open(partition));
        Ok(tail)
    }

    fn restart(&self) -> Result<Tail> {
        Tail::start(self.source.clone(), self.tokens.clone())
    }

    fn open(&mut self, found: PartitionName) {
        let partition = Partition { id: self.readers.len() as u32, name: found.name.clone() };
        let window = InFlight::new(u64::MAX, u64::MAX);
        let reader = self.bound.open(&partition, self.tokens.get(&found.name), &window).unwrap();
        assert!(self.readers.insert(found.name, reader).is_none(), "a partition is found once");
    }

    fn turn(&mut self) {
        for found in self.bound.look().unwrap().0 {
            self.open(found);
        }
        for (name, reader) in &mut self.readers {
            let mut batch = Batch::default();
            if reader.read(&mut batch).unwrap() == Read::Some {
                self.ids.extend(batch.changes.iter().map(|change| change.id().to_owned()));
                self.tokens.insert(name.clone(), batch.token);
            }
        }
    }

    /// Takes turns until something holds.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Tail) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < Duration::from_secs(20), "never came: {what}; read {:?}", self.ids);
            self.turn();
        }
    }

    /// Takes turns until these were read, in any order of partitions, and then some more: nothing may come again.
    #[track_caller]
    fn expect(&mut self, range: std::ops::Range<usize>) {
        self.until("lines", |tail| tail.ids.len() >= range.len());
        (0..20).for_each(|_| self.turn());
        let mut read: Vec<usize> = self.ids.drain(..).map(|id| id.parse().unwrap()).collect();
        read.sort_unstable();
        assert_eq!(read, range.collect::<Vec<_>>());
    }

    fn is_sealed(&self) -> bool {
        self.tokens.values().all(|token| Progress::from_token(token).unwrap().sealed)
    }
}

/// A log in a folder of its own.
struct Log(tempfile::TempDir);

impl Log {
    fn new() -> Self {
        Log(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.at(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn truncate(&self, name: &str) {
        OpenOptions::new().write(true).open(self.at(name)).unwrap().set_len(0).unwrap();
    }

    fn compress(&self, name: &str) {
        let text = fs::read_to_string(self.at(name)).unwrap();
        fs::write(self.at(&format!("{name}.gz")), gzip(&text)).unwrap();
        fs::remove_file(self.at(name)).unwrap();
    }

    fn follow(&self) -> Tail {
        Tail::start(self.source(), BTreeMap::new()).unwrap()
    }

    fn source(&self) -> JsonLinesSource {
        JsonLinesSource::file(self.at("app.log")).follow().settled_after(Duration::from_millis(20))
    }
}

#[test]
fn a_line_is_taken_when_its_newline_is_there() {
    let log = Log::new();
    let mut tail = log.follow();
    tail.turn();
    log.write("app.log", "");
    tail.turn();
    log.write("app.log", "{\"id\":0,");
    (0..10).for_each(|_| tail.turn());
    assert!(tail.readers.is_empty(), "without a whole first line it is no partition");
    log.write("app.log", "\"op\":\"c\"}\n{\"id\":1,");
    tail.expect(0..1);
    log.write("app.log", "\"op\":\"c\"}\n");
    tail.expect(1..2);
    log.write("app.log", lines(2..5000, 100));
    tail.expect(2..5000);
    let mut tail = tail.restart().unwrap();
    log.write("app.log", lines(5000..5001, 100));
    tail.expect(5000..5001);
}

#[test]
fn a_renamed_log_is_read_to_its_end_beside_the_new_one() {
    let log = Log::new();
    log.write("app.log.1", lines(0..10, 5));
    log.write("app.log", lines(10..20, 5));
    let mut tail = log.follow();
    tail.expect(0..20);
    log.rename("app.log", "app.log-20240101");
    log.write("app.log", lines(22..30, 5));
    // Whoever writes has not noticed yet.
    log.write("app.log-20240101", lines(20..22, 5));
    tail.expect(20..30);
    log.compress("app.log-20240101");
    log.write("app.log", lines(30..40, 5));
    tail.expect(30..40);
    assert_eq!(tail.readers.len(), 3);
    tail.restart().unwrap().until("nothing", |tail| tail.ids.is_empty());
}

#[test]
fn a_log_that_is_copied_and_truncated_is_read_on_in_the_copy() {
    let log = Log::new();
    log.write("app.log", lines(0..10, 5));
    let mut tail = log.follow();
    tail.expect(0..10);
    for round in 1..6 {
        let first = round * 100;
        // Written, copied and truncated before anybody looked.
        log.write("app.log", lines(first - 90..first, 5));
        fs::copy(log.at("app.log"), log.at(&format!("app.log.{round}"))).unwrap();
        log.truncate("app.log");
        log.write("app.log", lines(first..first + 10, 5));
        if round % 2 == 0 {
            tail = tail.restart().unwrap();
        }
        tail.expect(first - 90..first + 10);
    }
    assert_eq!(tail.tokens.len(), 6);
}

#[test]
fn a_log_that_is_compressed_while_nobody_reads_is_read_on_where_it_was_left() {
    let log = Log::new();
    log.write("app.log", lines(0..1000, 50));
    let mut tail = log.follow();
    tail.expect(0..1000);
    log.write("app.log", lines(1000..3000, 50));
    log.rename("app.log", "app.log.1");
    log.compress("app.log.1");
    log.write("app.log", lines(3000..3010, 50));
    let mut tail = tail.restart().unwrap();
    tail.expect(1000..3010);
    assert_eq!(tail.readers.len(), 2);
}

#[test]
fn a_log_written_anew_with_the_same_first_line_is_another_partition() {
    let log = Log::new();
    let header = "{\"id\":0,\"op\":\"c\",\"table\":\"header\"}\n";
    log.write("app.log", format!("{header}{}", lines(1..20, 5)));
    let mut tail = log.follow();
    tail.expect(0..20);
    // Cut in place, when all of it was read.
    log.truncate("app.log");
    log.write("app.log", header);
    (0..10).for_each(|_| tail.turn());
    log.write("app.log", lines(20..21, 5));
    tail.until("the line behind the header", |tail| tail.ids == ["0", "20"]);
    tail.until("the first content counts as complete", |tail| {
        tail.tokens.values().any(|token| Progress::from_token(token).unwrap().sealed)
    });
    // Longer than it was before, so only what it says tells it apart.
    log.truncate("app.log");
    log.write("app.log", format!("{header}{}", lines(21..60, 5)));
    tail.ids.clear();
    tail.until("all of the third", |tail| tail.ids.len() >= 40);
    assert_eq!((tail.ids.len(), tail.tokens.len()), (40, 3));
    let names: Vec<String> = tail.tokens.keys().cloned().collect();
    tail.until("the second counts as complete", |tail| {
        tail.tokens.values().filter(|token| Progress::from_token(token).unwrap().sealed).count() == 2
    });
    let mut again = tail.restart().unwrap();
    log.write("app.log", lines(60..61, 5));
    again.expect(60..61);
    assert_eq!(again.tokens.keys().cloned().collect::<Vec<_>>(), names);
}

#[test]
fn what_was_read_whole_may_go_and_what_was_not_is_refused() {
    let log = Log::new();
    log.write("app.log", lines(0..10, 5));
    let mut tail = log.follow();
    tail.expect(0..10);
    // The newest file is never complete: it may have grown while nobody looked.
    assert!(!tail.is_sealed());
    let unsealed = tail.tokens.clone();
    log.rename("app.log", "app.log.1");
    log.write("app.log", lines(10..12, 5));
    // However coarse the clock of the file system is.
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    OpenOptions::new().append(true).open(log.at("app.log")).unwrap().set_modified(later).unwrap();
    tail.until("the first is complete", |tail| tail.tokens.values().any(|token| Progress::from_token(token).unwrap().sealed));
    fs::remove_file(log.at("app.log.1")).unwrap();
    let mut tail = tail.restart().unwrap();
    log.write("app.log", lines(12..13, 5));
    tail.expect(12..13);

    let error = Tail::start(log.source(), unsealed.clone()).err().unwrap().to_string();
    let name = unsealed.keys().next().unwrap();
    for part in ["which no file of", name, "line 11", ".missing_ok()", "app.log)"] {
        assert!(error.contains(part), "{error} / {part}");
    }
    Tail::start(log.source().missing_ok(), unsealed).unwrap().expect(10..13);
}

#[test]
fn a_new_file_in_a_directory_is_noticed() {
    let log = Log::new();
    let source = JsonLinesSource::directory(log.0.path()).matching("*.jsonl*").follow();
    let mut tail = Tail::start(source, BTreeMap::new()).unwrap();
    log.write("one.jsonl", lines(0..5, 5));
    tail.expect(0..5);
    log.write("two.jsonl", lines(5..9, 5));
    fs::write(log.at("three.jsonl.gz"), gzip(&lines(9..20, 5))).unwrap();
    log.write("four.tmp", lines(50..60, 5));
    tail.expect(5..20);
    let error = tail.source.clone().partitions_max(2).partitions().unwrap_err().to_string();
    assert!(error.contains("more than the 2 that are allowed"), "{error}");
}
