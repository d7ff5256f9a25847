//! Files as input, through whole pipelines: compressed or not, in directories, coming while the pipeline runs, broken.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use highwater::prelude::*;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use highwater::sources::JsonLinesSource;
use support::books;
use support::record::{Record, Recorder};

fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{{\"id\":{n},\"op\":\"insert\",\"key\":\"k{}\",\"after\":{{\"n\":{n}}}}}\n", n % 20)).collect()
}

/// Compresses with the program of this name, as a person or a rotation would.
fn compress(program: &str, text: &str) -> Vec<u8> {
    let child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {program}, of the package of that name: {error}"));
    let (mut stdin, text) = (child.stdin.take().unwrap(), text.to_owned());
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// A pipeline that writes its changes to files and records them.
fn through(source: JsonLinesSource, out: PathBuf, record: &Record) -> Build {
    let record = record.clone();
    support::build(move |flow| {
        flow.source(source.clone())
            .fan_out([
                action("file", JsonLines::append(&out)),
                action("act", Recorder { name: "act", record: record.clone() }).max_parallelism(4),
            ])
            .checkpoint(Checkpoint::every(millis(2)));
        Ok(())
    })
}

/// The ids that stand in the output, sorted.
fn ids_below(out: &Path) -> Vec<u64> {
    let mut ids = Vec::new();
    for file in fs::read_dir(out).into_iter().flatten().flatten() {
        for line in fs::read_to_string(file.path()).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            ids.push(line["id"].as_str().unwrap().parse().unwrap());
        }
    }
    ids.sort_unstable();
    ids
}

struct Case {
    folder: tempfile::TempDir,
    record: Record,
}

impl Case {
    fn new() -> Self {
        Case { folder: support::folder(), record: Record::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, workers: u64) -> Settings {
        support::settings(self.at("data"), workers)
    }

    fn build(&self, source: JsonLinesSource) -> Build {
        through(source, self.at("out"), &self.record)
    }

    fn ids(&self) -> Vec<u64> {
        ids_below(&self.at("out"))
    }
}

#[test]
fn plain_and_compressed_give_the_same_and_a_crash_amid_compressed_content_loses_nothing() {
    let text = lines(0..12_000);
    let (one, two) = text.split_at(text.len() / 2);
    let contents = [
        ("plain", text.clone().into_bytes()),
        ("gzip", [compress("gzip", one), compress("gzip", two)].concat()),
        ("zstd", [compress("zstd", one), compress("zstd", two)].concat()),
    ];
    for (what, bytes) in contents {
        for crash_at in [None, Some(1), Some(2), Some(3)] {
            let case = Case::new();
            fs::write(case.at("in"), &bytes).unwrap();
            let build = case.build(JsonLines::file(case.at("in")));
            if let Some(passage) = crash_at {
                let ended = support::run_and_crash(&case.settings(2), &build, "save.committed", passage);
                assert!(ended.is_err() || !ended.unwrap().ended, "{what}: it crashed");
                case.record.next_run();
            }
            let report = support::run(&case.settings(3), &build).unwrap();
            assert_eq!(report.actions["file"].delivered, 12_000, "{what}");
            assert_eq!(case.ids(), (0..12_000).collect::<Vec<_>>(), "{what} {crash_at:?}");
            // Compressed after it was read: the same partition, and nothing to read.
            fs::write(case.at("in"), compress("gzip", &text)).unwrap();
            assert_eq!(support::run(&case.settings(1), &build).unwrap().read_now, 0, "{what}");
        }
    }
}

#[test]
fn a_directory_ends_when_its_files_were_read_and_the_next_run_reads_what_is_new() {
    let case = Case::new();
    fs::create_dir(case.at("in")).unwrap();
    for n in 0..40_u64 {
        fs::write(case.at(&format!("in/{n}.jsonl")), lines(n * 100..(n + 1) * 100)).unwrap();
    }
    let build = case.build(JsonLines::dir(case.at("in")).matching("*.jsonl"));
    let report = support::run(&case.settings(3), &build).unwrap();
    assert_eq!((report.read, case.ids()), (4_000, (0..4_000).collect()));
    fs::rename(case.at("in/0.jsonl"), case.at("in/elsewhere.jsonl")).unwrap();
    fs::write(case.at("in/40.jsonl"), lines(4_000..4_010)).unwrap();
    let report = support::run(&case.settings(2), &build).unwrap();
    assert_eq!((report.read_now, case.ids()), (10, (0..4_010).collect()));
    fs::remove_file(case.at("in/elsewhere.jsonl")).unwrap();
    let error = support::run(&case.settings(2), &build).unwrap_err().to_string();
    assert!(error.contains("which no file of") && error.contains("give the file back"), "{error}");
}

/// Goal: a partition that comes while the pipeline runs is read by whichever worker it falls to, on every number of workers, and
/// by the next run under the same number. Method: files come one after the other, each when the one before was read.
#[test]
fn files_that_come_while_the_pipeline_runs_are_read_and_keep_their_numbers() {
    for workers in [1, 2, 4] {
        let case = Case::new();
        fs::create_dir(case.at("in")).unwrap();
        let build = case.build(JsonLines::dir(case.at("in")).follow());
        let started = support::start(&case.settings(workers), &build, Control::default());
        let mut slowest = Duration::ZERO;
        for n in 0..12_u64 {
            fs::write(case.at("in/.coming"), lines(n * 10..(n + 1) * 10)).unwrap();
            let began = Instant::now();
            fs::rename(case.at("in/.coming"), case.at(&format!("in/{n}"))).unwrap();
            support::until("the new file was read", || case.record.of("act").len() as u64 == (n + 1) * 10);
            slowest = slowest.max(began.elapsed());
        }
        assert!(slowest < Duration::from_secs(5), "a new file was noticed after {slowest:?}");
        started.control.stop();
        assert_eq!(started.end().unwrap().read, 120);
        let partitions = books::inspect(&case.at("data")).partitions().clone();
        assert_eq!(partitions.len(), 12);
        // The next run, on another number of workers.
        let started = support::start(&case.settings(5 - workers), &build, Control::default());
        fs::write(case.at("in/new"), lines(120..130)).unwrap();
        support::until("the file of the second run was read", || case.record.of("act").len() == 130);
        started.control.stop();
        assert_eq!(started.end().unwrap().read_now, 10);
        let later = books::inspect(&case.at("data")).partitions().clone();
        assert!(partitions.iter().all(|(number, name)| later[number] == *name), "{partitions:?} {later:?}");
        assert_eq!(case.ids(), (0..130).collect::<Vec<_>>());
        books::check_order(&case.record, "act");
    }
}

#[test]
fn a_crash_right_after_a_partition_has_come_loses_and_repeats_nothing() {
    for (failpoint, passage) in
        [("group.before_commit", 1), ("group.committed", 1), ("group.committed", 3), ("ingest.emitted", 2)]
    {
        let case = Case::new();
        fs::create_dir(case.at("in")).unwrap();
        let build = case.build(JsonLines::dir(case.at("in")).follow());
        let control = Control::default();
        control.crash_at(failpoint, passage);
        let started = support::start(&case.settings(2), &build, control);
        for n in 0..4_u64 {
            fs::write(case.at(&format!("in/{n}")), lines(n * 10..(n + 1) * 10)).unwrap();
        }
        let _ = started.end();
        // Until it ends by itself: what stands in the output when it begins is the crashed run's, and may yet be removed.
        let whole = case.build(JsonLines::dir(case.at("in")));
        support::run(&case.settings(3), &whole).unwrap();
        assert_eq!(case.ids(), (0..40).collect::<Vec<_>>(), "{failpoint} {passage}");
    }
}

#[test]
fn broken_lines_are_parked_or_stop_the_run_as_the_source_is_told() {
    let case = Case::new();
    fs::write(case.at("in"), format!("{}nothing\n{}", lines(0..50), lines(50..60))).unwrap();
    let build = case.build(JsonLines::file(case.at("in")).on_reject(OnReject::Stop));
    for _ in 0..2 {
        let error = support::run(&case.settings(2), &build).unwrap_err().to_string();
        assert!(error.contains("line 51 (byte ") && error.contains("OnReject::Park"), "{error}");
        let inspection = books::inspect(&case.at("data"));
        let mark = inspection.checkpoint().and_then(|save| save.mark.values().next().map(|token| token.order));
        assert!(mark.is_none_or(|mark| mark <= lines(0..50).len() as u64), "the mark stays before the line: {mark:?}");
        case.record.next_run();
    }
    assert!(case.record.times("act").values().all(|times| *times == 1), "what stands before the line was done once");
    let build = case.build(JsonLines::file(case.at("in")));
    let report = support::run(&case.settings(2), &build).unwrap();
    assert_eq!((report.read, report.rejected, report.actions["act"].delivered), (61, 1, 60));
    assert_eq!(case.ids(), (0..60).collect::<Vec<_>>());
}

/// Goal: a line that is longer than allowed takes no more memory than what is allowed.
#[test]
fn a_line_of_a_hundred_megabytes_is_rejected_and_its_neighbours_are_read() {
    let case = Case::new();
    let mut file = fs::File::create(case.at("in")).unwrap();
    file.write_all(lines(0..3).as_bytes()).unwrap();
    file.write_all(b"{\"id\":\"").unwrap();
    (0..100).for_each(|_| file.write_all(&[b'x'; 1 << 20]).unwrap());
    file.write_all(b"\"}\n").unwrap();
    file.write_all(lines(3..6).as_bytes()).unwrap();
    drop(file);
    let build = case.build(JsonLines::file(case.at("in")).line_max(1 << 20));
    let report = support::run(&case.settings(1), &build).unwrap();
    assert_eq!((report.read, report.rejected), (7, 1));
    assert_eq!(case.ids(), (0..6).collect::<Vec<_>>());
    let inspection = books::inspect(&case.at("data"));
    let head = inspection.parked_heads().next().unwrap();
    let parked = inspection.parked(head.id).unwrap().unwrap();
    assert!(parked.error.contains("line 4 (byte ") && parked.error.contains("longer than 1 MiB"), "{}", parked.error);
}
