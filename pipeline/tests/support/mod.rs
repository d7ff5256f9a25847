//! What the tests of whole pipelines share: a seeded input, a record of effects, and a plain sequential oracle.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod books;
pub mod fragile;
pub mod input;
pub mod oracle;
pub mod processes;
pub mod record;
pub mod shop;
pub mod table;
pub mod tiers;
pub mod whole;
pub mod writers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use highwater::{Flow, Result};
use tempfile::TempDir;

/// How long a run may take before a test calls it stuck. Only a broken pipeline takes so long.
const STUCK: Duration = Duration::from_secs(60);

/// A folder that is removed with the test; in memory where there is such a place, so that a sync costs nothing.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder for the test can be made")
}

/// Seeds per case: few every day, many where the environment asks for it.
pub fn seeds(few: u64) -> u64 {
    std::env::var("HIGHWATER_SEEDS").ok().map_or(few, |text| text.parse().expect("HIGHWATER_SEEDS is a number"))
}

/// The one seed to run, if a failure is to be looked at again.
pub fn only_seed() -> Option<u64> {
    std::env::var("HIGHWATER_SEED").ok().map(|text| text.parse().expect("HIGHWATER_SEED is a number"))
}

/// A pipeline's closure.
pub fn build(closure: impl for<'s> Fn(&Flow<'s>) -> Result + Send + Sync + 'static) -> Build {
    Arc::new(closure)
}

/// Settings with a data directory and so many workers.
pub fn settings(data: PathBuf, workers: u64) -> Settings {
    Settings { data: Some(data), workers: Some(workers), ..Settings::default() }
}

/// A run on a thread of its own.
pub struct Started {
    pub control: Control,
    ended: mpsc::Receiver<Result<Report>>,
}

/// Starts a run.
pub fn start(settings: &Settings, build: &Build, control: Control) -> Started {
    let (tell, ended) = mpsc::channel();
    let (settings, build, own) = (settings.clone(), build.clone(), control.clone());
    std::thread::spawn(move || {
        // A test that has failed meanwhile does not listen any more.
        let _ = tell.send(highwater::run::run("test", &settings, &build, &own));
    });
    Started { control, ended }
}

impl Started {
    /// The end of the run, if it has ended by itself.
    pub fn ended(&self) -> Option<Result<Report>> {
        self.ended.try_recv().ok()
    }

    /// Waits for the end of the run.
    pub fn end(self) -> Result<Report> {
        self.ended.recv_timeout(STUCK).expect("the run ends, and does not hang or panic")
    }
}

/// Runs a pipeline to its end.
pub fn run(settings: &Settings, build: &Build) -> Result<Report> {
    start(settings, build, Control::default()).end()
}

/// Runs a pipeline until it crashes at a failpoint, or ends because it passes it less often.
pub fn run_and_crash(settings: &Settings, build: &Build, failpoint: &'static str, passage: u64) -> Result<Report> {
    let control = Control::default();
    control.crash_at(failpoint, passage);
    start(settings, build, control).end()
}

/// Waits until something holds. Looks often; fails only if it never does.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < STUCK, "never came: {what}");
        std::thread::yield_now();
    }
}
