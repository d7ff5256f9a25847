//! What a disk does to a run: full, read-only, files not allowed to grow. Every time the main example must say which file and
//! what to do, and must go on as if nothing had been once that is done.
//!
//! Real disks of a few pages are mounted in a namespace of the test's own, where that is permitted to it; a limit on the size
//! of files is always there.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use highwater_examples::built::Example;
use highwater_examples::orders::{InputSpec, Report, generate_customers, generate_orders, verify};
use tempfile::TempDir;

const EVENTS: u64 = 30_000;

/// The main example, in a folder with an input of its own.
struct Shop {
    program: Command,
    folder: TempDir,
}

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = InputSpec { events: EVENTS, customers: 50, duplicates: 0.1, seed: 7 };
        generate_orders(&folder.path().join("orders.jsonl"), &spec, |_| ()).unwrap();
        generate_customers(&folder.path().join("customers.csv"), &spec).unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let program = Example::built("orders", folder.path()).command(&[]);
        Shop { program, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script in which `run NAME DATA OUT` runs the example and keeps what it says in `NAME`, and its code.
    fn script(&self, shell: &[&str], script: &str) -> Output {
        let program = self.program.get_program().to_str().unwrap();
        let run = "run() { \"$PROGRAM\" --input orders.jsonl --customers customers.csv --data \"$2\" --out \"$3\" --workers 2 \
                   --report json > \"$1\" 2>&1; echo \"$?\" > \"$1.code\"; }";
        let mut command = Command::new(shell[0]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HIGHWATER_")) {
            command.env_remove(name);
        }
        command.args(&shell[1..]).arg("-c").arg(format!("{run}\n{script}"));
        command.env("PROGRAM", program).current_dir(self.folder.path()).output().unwrap()
    }

    /// A script on a machine where `disk` is a small disk of its own. Returns `false` where none may be mounted.
    fn with_disk(&self, size: &str, script: &str) -> bool {
        let mount = format!("mount -t tmpfs -o size={size} none disk || exit 77\n{script}");
        let ended = self.script(&["unshare", "--map-root-user", "--mount", "sh"], &mount);
        if !self.path("1.code").exists() {
            eprintln!("no disk may be mounted here: {}", String::from_utf8_lossy(&ended.stderr));
        }
        self.path("1.code").exists()
    }

    /// What the run of this name said, which must have ended with an error in a sentence.
    #[track_caller]
    fn refused(&self, name: &str, parts: &[&str]) {
        let said = fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(fs::read_to_string(self.path(&format!("{name}.code"))).unwrap().trim(), "1", "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    }

    /// The run of this name must have read all, and what stands in the output must be what the oracle says.
    #[track_caller]
    fn finished(&self, name: &str) {
        let said = fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(fs::read_to_string(self.path(&format!("{name}.code"))).unwrap().trim(), "0", "{said}");
        let report = Report::parse(&said).unwrap();
        assert!(report.unbalanced().is_empty() && report.read == EVENTS, "{said}");
        let verdict = verify(&self.path("orders.jsonl"), &self.path("customers.csv"), &self.path("out")).unwrap();
        assert!(verdict.is_clean() && verdict.read == EVENTS, "{verdict}");
    }
}

/// Goal: whatever write of the data directory finds the disk full, the run ends with a sentence, and with room again the next one
/// loses and repeats nothing. Method: disks of several sizes, so that another write is the first to fail.
#[test]
fn a_data_directory_on_a_full_disk_is_told_and_nothing_is_lost() {
    for size in ["16k", "64k", "200k", "500k"] {
        let shop = Shop::new();
        let script = "run 1 disk/state out; mount -o remount,size=64m disk; run 2 disk/state out";
        if shop.with_disk(size, script) {
            shop.refused(
                "1",
                &["disk/state", "the disk is full", "nothing that was acknowledged is lost", "make room and start again"],
            );
            shop.finished("2");
        }
    }
}

#[test]
fn an_output_on_a_full_disk_is_told_and_nothing_is_lost() {
    for size in ["16k", "300k", "1500k"] {
        let shop = Shop::new();
        let script = "run 1 state disk/out; mount -o remount,size=64m disk; run 2 state disk/out; cp -r disk/out out";
        if shop.with_disk(size, script) {
            shop.refused(
                "1",
                &["disk/out/", ".jsonl: No space left on device", "make room on the disk and start again: nothing is lost"],
            );
            shop.finished("2");
        }
    }
}

#[test]
fn a_disk_that_became_read_only_is_told_and_nothing_is_lost() {
    let shop = Shop::new();
    let script = "run 1 disk/state disk/out; mount -o remount,size=64m disk
        mount -o remount,ro disk; run 2 disk/state elsewhere; run 3 state disk/other
        mount -o remount,rw disk; run 4 disk/state disk/out; cp -r disk/out out";
    if shop.with_disk("1m", script) {
        shop.refused("1", &["disk"]);
        shop.refused("2", &["disk/state", "the data directory must be readable and writable"]);
        shop.refused(
            "3",
            &["disk/other", "Read-only file system", "make the disk writable, or name another place for the output"],
        );
        shop.finished("4");
    }
}

/// Goal: as above, where files may not grow beyond a limit: it meets the files of the output first, or the journal.
#[test]
fn files_that_may_not_grow_are_told_and_nothing_is_lost() {
    // In units of 512 bytes. The signal that comes with it would end the process, as `kill -9` does: it is ignored here.
    for limit in [1, 40, 400] {
        let shop = Shop::new();
        shop.script(&["sh"], &format!("(trap '' XFSZ; ulimit -f {limit}; run 1 state out); run 2 state out"));
        // Which file meets the limit first is chance.
        shop.refused("1", &["cannot write ", "may not write files so large", "raise the limit (`ulimit -f`) and start again"]);
        shop.finished("2");
    }

    // Not ignored, it is a crash.
    let shop = Shop::new();
    shop.script(&["sh"], "(ulimit -c 0; ulimit -f 400; run 1 state out); run 2 state out");
    assert_ne!(fs::read_to_string(shop.path("1.code")).unwrap().trim(), "0");
    shop.finished("2");
}

#[test]
fn a_data_directory_below_a_file_and_an_output_that_is_a_file_are_told() {
    let shop = Shop::new();
    fs::write(shop.path("file"), "mine").unwrap();
    shop.script(&["sh"], "run 1 file/state out; run 2 state file; run 3 state out");
    shop.refused("1", &["cannot create file/state", "there is a file where a directory must be", "name another data directory"]);
    shop.refused("2", &["file/", "there is a file where a directory must be", "name another place for the output"]);
    shop.finished("3");
    assert_eq!(fs::read_to_string(shop.path("file")).unwrap(), "mine");
}

/// Goal: what is in the output's place and not the pipeline's stays; what is another data directory's is refused by name.
#[test]
fn an_output_that_is_not_empty_is_left_alone_or_refused() {
    let shop = Shop::new();
    fs::create_dir_all(shop.path("out/all")).unwrap();
    fs::write(shop.path("out/all/mine.jsonl"), "mine").unwrap();
    shop.script(&["sh"], "run 1 state out; mv out/all/mine.jsonl mine; run 2 other out; run 3 state out");
    assert_eq!(fs::read_to_string(shop.path("mine")).unwrap(), "mine");
    shop.refused("2", &["out/all holds output of another data directory (part-000001-", "or move the old files away"]);
    shop.finished("3");
}
