//! Trying a pipeline out: feed it changes, turn the clock, make actions fail, crash it, and look at what became of it.
//!
//! The pipeline is real: real operators, a real store in a folder of its own, real crashes as far as one process can have them
//! (nothing becomes durable after the instant, everything in memory is forgotten). Only three things are the test's: what is read,
//! the clock that waits go by, and the fate of calls.
//!
//! ```
//! use highwater::prelude::*;
//! use highwater::testing::{Pipeline, change};
//! use serde_json::json;
//!
//! let mut t = Pipeline::new(|flow, input| {
//!     flow.source(input)
//!         .dedup(Dedup::within(minutes(10)))
//!         .fan_out([action("receipt", run(|_| async { Ok(()) })).when(|change| change.became("status", "paid"))])
//!         .checkpoint(Checkpoint::every(millis(200)));
//! });
//! t.feed([
//!     change("1").table("orders").key("o-1").after(&json!({"status": "paid"})),
//!     change("2").table("orders").key("o-2").after(&json!({"status": "new"})),
//! ]);
//! t.fail("receipt", 2, Error::retry("503"));
//! t.settle();
//! assert_eq!(t.delivered("receipt"), [""; 0]); // it waits for its second attempt
//! t.crash();
//! t.resume();
//! t.advance(minutes(1));
//! assert_eq!(t.delivered("receipt"), ["1"]);
//! assert_eq!((t.books("receipt").filtered, t.parked().len()), (1, 0));
//! ```
//!
//! # What goes by the clock
//! Waits between attempts, timeouts of calls, the age of cached rows, hold budgets, the checkpoint's interval. The clock stands until
//! [`Pipeline::advance`] turns it. A window of dedup is measured in the changes' own time. What a closure itself waits for
//! (`tokio::time::sleep`, a server) takes the time it takes.
//!
//! The crate's feature `testing` has this; put it among your dev-dependencies.

mod barrier;
mod calls;
mod input;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_operators::change::ChangeBuilder;
use highwater_operators::checkpoint::embedded::EmbeddedStore;
use highwater_operators::checkpoint::store::Parked;
use highwater_operators::clock::Hand;
use highwater_operators::process::Process;
use highwater_operators::why::Why;
use highwater_operators::{Change, Error, Result};
use tempfile::TempDir;

use self::barrier::Barrier;
use self::calls::Calls;
pub use self::calls::{Answer, Call};
pub use self::input::Input;
use crate::flow::{Built, Flow};
use crate::report::{ActionBooks, Report};
use crate::run::{self, Build, Control};
use crate::settings::Settings;
#[cfg(feature = "postgres")]
pub use highwater_operators::testing::postgres;
#[cfg(feature = "redis")]
pub use highwater_operators::testing::redis;

/// How long a pipeline may be busy before a test is told that it never settles.
const STUCK: Duration = Duration::from_secs(60);
/// Looks in a row at which nothing may have moved.
const STILL: u32 = 5;

/// A change to be fed.
pub fn change(id: impl Into<String>) -> ChangeBuilder {
    Change::builder(id)
}

/// A pipeline that is tried out. It starts when it is first needed.
pub struct Pipeline {
    build: Build,
    settings: Settings,
    folder: TempDir,
    input: Input,
    calls: Arc<Calls>,
    hand: Arc<Hand>,
    barrier: Arc<Barrier>,
    patience: Duration,
    run: Option<Run>,
    crashed: bool,
    report: Option<Report>,
}

/// A run under way.
struct Run {
    control: Control,
    thread: JoinHandle<Result<Report>>,
}

impl Pipeline {
    /// A pipeline as `build` makes it of a flow and the input that [`feed`](Self::feed) fills. `build` is called once for the plan and once per worker
    /// and run, as always.
    pub fn new<F, R>(build: F) -> Self
    where
        F: for<'s> Fn(&Flow<'s>, Input) -> R + Send + Sync + 'static,
        R: Built,
    {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder for the test can be made");
        let (input, barrier) = (Input::default(), Arc::new(Barrier::default()));
        let (own, workers) = (input.clone(), barrier.clone());
        let build: Build = Arc::new(move |flow: &Flow<'_>| {
            workers.build(flow);
            build(flow, own.clone()).built()
        });
        let settings = Settings { data: Some(folder.path().join("data")), workers: Some(1), ..Settings::default() };
        Pipeline {
            build,
            settings,
            folder,
            input,
            calls: Arc::default(),
            hand: Arc::default(),
            barrier,
            patience: Duration::from_secs(2),
            run: None,
            crashed: false,
            report: None,
        }
    }

    /// Worker threads from the next start on. Default: 1.
    pub fn workers(mut self, workers: u64) -> Self {
        self.set_workers(workers);
        self
    }

    /// The same for a pipeline that was stopped or has crashed.
    pub fn set_workers(&mut self, workers: u64) {
        self.settings.workers = Some(workers);
    }

    /// How much may be under way at once: see the setting `in_flight_changes`.
    pub fn in_flight_changes(mut self, changes: u64) -> Self {
        self.settings.in_flight_changes = changes;
        self
    }

    /// How long, by the machine's clock, a call of your own may take before [`settle`](Self::settle) takes it for one that waits for its timeout.
    /// Default: 2 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A folder for the files of the pipeline under test. It is removed with it.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Gives the pipeline changes to read, in this order, after those it was given before. They stay there: after a crash they are read
    /// again from the mark on.
    ///
    /// # Panics
    /// A change cannot be made, as [`ChangeBuilder::build`] says.
    #[track_caller]
    pub fn feed(&mut self, changes: impl IntoIterator<Item = ChangeBuilder>) {
        let changes = changes.into_iter().map(|change| change.build().unwrap_or_else(|error| panic!("cannot feed: {error}")));
        self.input.push(changes);
    }

    /// The next `times` calls of an action fail with this error, and the action itself is not called.
    pub fn fail(&mut self, action: &str, times: usize, error: Error) {
        self.calls.fail(action, times, &error);
    }

    /// The next `times` calls of an action are never answered: each waits for its timeout.
    pub fn hang(&mut self, action: &str, times: usize) {
        self.calls.hang(action, times);
    }

    /// Waits until all that was fed is read and nothing is under way except what waits for the clock.
    ///
    /// # Panics
    /// The pipeline has ended with an error, or is busy for a minute.
    #[track_caller]
    pub fn settle(&mut self) {
        let began = Instant::now();
        let process = self.process();
        let (mut still, mut before) = (0, None);
        while still < STILL {
            let Some(run) = &self.run else { return };
            if run.thread.is_finished() {
                let ended = self.join();
                panic!("the pipeline has ended: {ended:?}");
            }
            assert!(began.elapsed() < STUCK, "the pipeline does not settle: {:?}", process.why(Duration::from_secs(1)));
            process.clock.wake_all();
            self.barrier.pass(&process);
            let now = self.look(&process);
            let patient = began.elapsed() < self.patience;
            still = if before.as_ref() == Some(&now) && self.is_quiet(&process, &now, patient) { still + 1 } else { 0 };
            before = Some(now);
        }
    }

    /// Turns the clock on, and lets everything happen that becomes due, each at its time, settling in between.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    #[track_caller]
    pub fn advance(&mut self, time: Duration) {
        let until = self.hand.now() + time;
        let process = self.process();
        loop {
            self.settle();
            match self.hand.next(process.pace.unsaved_since().is_some()).filter(|next| *next <= until) {
                Some(next) => self.hand.turn_to(next),
                None => break,
            }
        }
        self.hand.turn_to(until);
        self.settle();
    }

    /// Ends the run as `kill -9` would: nothing becomes durable any more, and all that is in memory is forgotten. The next call that needs
    /// it does not start it again; [`resume`](Self::resume) does.
    pub fn crash(&mut self) {
        let process = self.process();
        process.halt.end(highwater_operators::halt::Ending::Crashed);
        drop(process);
        drop(self.join());
        self.crashed = true;
    }

    /// Starts the pipeline again on what the last run left.
    pub fn resume(&mut self) {
        self.crashed = false;
        drop(self.process());
    }

    /// Ends the run in order: what is under way is finished as far as it does not wait for the clock, and saved.
    ///
    /// # Errors
    /// What the pipeline stopped at.
    pub fn stop(&mut self) -> Result<Report> {
        drop(self.process());
        if let Some(run) = &self.run {
            self.barrier.close();
            run.control.stop();
        }
        self.crashed = true;
        self.join()
    }

    /// The ids of the changes that calls of an action succeeded for, in the order of their success, in all runs. A change that was delivered again
    /// stands here again. Files are written without calls; read them.
    pub fn delivered(&self, action: &str) -> Vec<String> {
        self.calls(action).into_iter().filter(|call| call.answer == Answer::Done).map(|call| call.id).collect()
    }

    /// All calls of an action that were answered, in all runs.
    pub fn calls(&self, action: &str) -> Vec<Call> {
        self.calls.of(action)
    }

    /// The books of an action as they stand; after the run has ended, as they stood then.
    ///
    /// # Panics
    /// There is no such action.
    #[track_caller]
    pub fn books(&self, action: &str) -> ActionBooks {
        let running = self.run.as_ref().and_then(|run| run.control.books());
        let books = running.or_else(|| self.report.as_ref().map(|report| report.actions.clone())).unwrap_or_default();
        books.get(action).cloned().unwrap_or_else(|| panic!("no action \"{action}\" has run; there are {:?}", books.keys()))
    }

    /// What is parked, whole, in the order in which it was parked.
    ///
    /// # Panics
    /// The data directory cannot be read.
    pub fn parked(&self) -> Vec<Parked> {
        let Ok(seen) = EmbeddedStore::inspect(&self.data()) else { return Vec::new() };
        let ids: Vec<u64> = seen.parked_heads().map(|head| head.id).collect();
        ids.into_iter().filter_map(|id| seen.parked(id).expect("the data directory can be read")).collect()
    }

    /// What holds the mark.
    #[track_caller]
    pub fn why(&mut self) -> Why {
        self.process().why(Duration::from_secs(5))
    }

    /// How many of the changes that were fed lie below the saved mark: no crash makes them be read again.
    pub fn saved(&self) -> u64 {
        let seen = EmbeddedStore::inspect(&self.data()).ok();
        seen.and_then(|seen| seen.checkpoint()?.mark.values().map(|token| token.order).max()).unwrap_or(0)
    }

    /// What the run that is under way reads again of what an earlier one had read.
    pub fn replayed(&self) -> u64 {
        let process = self.run.as_ref().and_then(|run| run.control.process());
        process.map_or(0, |process| process.stats.replayed.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn data(&self) -> PathBuf {
        self.settings.data("test")
    }

    /// The run under way; starts one if there is none.
    #[track_caller]
    fn process(&mut self) -> Arc<Process> {
        assert!(!self.crashed, "the pipeline was stopped or has crashed; resume() starts it again");
        if self.run.is_none() {
            self.start();
        }
        let began = Instant::now();
        loop {
            let Some(run) = &self.run else { unreachable!("started above") };
            if let Some(process) = run.control.process().filter(|process| self.barrier.is_built(process.limits.workers)) {
                return process;
            }
            if run.thread.is_finished() {
                let ended = self.join();
                panic!("the pipeline does not start: {ended:?}");
            }
            assert!(began.elapsed() < STUCK, "the pipeline does not start");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn start(&mut self) {
        let mut plan = run::plan(&self.build).unwrap_or_else(|error| panic!("the pipeline cannot be planned: {error}"));
        for spec in plan.actions.values_mut() {
            *spec = Arc::new(spec.watched(self.calls.clone()));
        }
        self.barrier.open();
        self.hand.forget();
        let control = Control::default();
        control.turn_by(&self.hand);
        let (settings, build, own) = (self.settings.clone(), self.build.clone(), control.clone());
        let thread = std::thread::spawn(move || run::run_planned("test", &settings, plan, &build, &own));
        self.run = Some(Run { control, thread });
    }

    /// Waits for the end of the run.
    fn join(&mut self) -> Result<Report> {
        let Some(run) = self.run.take() else { return Err(Error::stop("the pipeline does not run")) };
        let report = run.thread.join().unwrap_or_else(|_| Err(Error::stop("the pipeline panicked")))?;
        self.report = Some(report.clone());
        Ok(report)
    }
}

/// What may not move while the pipeline settles.
#[derive(Debug, PartialEq)]
struct Look {
    read: u64,
    units: u64,
    frontier: Option<u64>,
    saves: u64,
    sleepers: usize,
    fired: u64,
    answered: usize,
    books: std::collections::BTreeMap<String, u64>,
}

impl Pipeline {
    fn look(&self, process: &Process) -> Look {
        let load = |figure: &std::sync::atomic::AtomicU64| figure.load(std::sync::atomic::Ordering::Acquire);
        Look {
            read: self.input.read(),
            units: process.in_flight.units(),
            // The frontier itself moves on with the clock; whether it waits for a change is told by the units.
            frontier: process.pace.frontier().filter(|_| process.in_flight.units() > 0),
            saves: load(&process.stats.saves),
            sleepers: self.hand.sleepers(),
            fired: self.hand.fired(),
            answered: self.calls.answered(),
            books: process.books.live(),
        }
    }

    /// Whether nothing is under way that does not wait for the clock.
    fn is_quiet(&self, process: &Process, look: &Look, patient: bool) -> bool {
        if look.units > 0 {
            self.input.is_busy();
        }
        let calling = self.hand.calls() > self.calls.hanging();
        let saving = process.pace.saving().is_some() || (process.pace.unsaved_since().is_some() && self.hand.save_is_due());
        let waits = look.units == 0 || look.sleepers > 0;
        // All that was read is folded into what the next save would hold, or waits.
        let folded =
            look.units > 0 || process.pace.frontier().is_none_or(|frontier| frontier > self.input.read_at(&process.clock));
        // What a schedule tries again has been tried.
        let shelves = process.keeper.shelves();
        let tried = shelves.next_due().is_none_or(|due| due > process.clock.unix_ms()) && process.commands_in_hand() == 0;
        let waits = waits && (tried || look.sleepers > 0);
        look.read == self.input.fed() && (!calling || !patient) && !saving && waits && folded
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(process) = self.run.as_ref().and_then(|run| run.control.process()) {
            process.halt.end(highwater_operators::halt::Ending::Abandoned);
        }
        drop(self.join());
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("folder", &self.folder.path()).field("runs", &self.run.is_some()).finish_non_exhaustive()
    }
}
