//! Several processes as one run.
//!
//! ```text
//!             control: beats, epochs, room, questions                 dataflow: changes and progress, by timely
//!   member 1 ─────────────── leader 0 ─────────────── member 2        each process with each
//! ```
//!
//! Process 0 leads: it opens the store, numbers partitions, saves checkpoints and answers for the whole pipeline. The others
//! join the store's run and write their own notes. Beside timely's connections each member has one to the leader. When a
//! process is lost, or fails, all end: a new run continues from the last checkpoint.
//!
//! [`form`] is how they find each other, `link` and `message` what they say, `debts` whose room in the window it is, `mesh` the
//! connections timely runs on, `pulse` how a death is noticed.

mod answer;
mod ask;
pub(crate) mod debts;
pub mod form;
mod link;
mod mesh;
pub(crate) mod message;
mod place;
mod pulse;
mod tally;
mod whole;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};
use timely::communication::AllocatorBuilder;

use self::ask::Asks;
use self::debts::Debts;
use self::link::{Link, Outbox};
pub use self::mesh::Mesh;
use self::message::{Answer, Beat, Farewell, Form, Message, Question};
pub use self::message::{Counts, Welcome};
pub use self::place::Place;
pub use self::whole::Totals;
use crate::error::{Error, Result};
use crate::halt::{Ending, Halt};
use crate::position::{Epoch, PartitionId, ResumeToken};
use crate::process::Process;

/// Both ends of a channel between the threads of a process.
type Channel<T> = (Sender<T>, Receiver<T>);

/// The processes of a run, as one of them sees them. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Shared>);

pub(crate) struct Shared {
    place: Place,
    /// Where each process listens, for messages to people.
    hosts: Vec<String>,
    halt: Arc<Halt>,
    began: Instant,
    /// How long a worker may take for one step, and a process to say that it lives.
    timeout: Duration,
    /// The leader's to every member, or a member's to the leader.
    links: OnceLock<Vec<Arc<Link>>>,
    /// By process, where what is for it goes.
    ways: Vec<Option<Arc<Outbox>>>,
    process: OnceLock<Weak<Process>>,
    debts: Option<Arc<Debts>>,
    /// By process, what it said last of what keeps sources open; see `tally`.
    busy: Vec<AtomicU8>,
    /// The largest epoch that somebody has left.
    left: AtomicU64,
    asks: Asks,
    questions: Channel<(u64, Question)>,
    forming: Channel<(usize, Form)>,
    sockets: Mutex<Option<mesh::Sockets>>,
    beats: Mutex<Vec<Beat>>,
    /// By process, its last known counts, and whether they are its last.
    counts: Mutex<Vec<(Counts, bool)>>,
    /// By worker of this process, how often it has stepped.
    pub(crate) steps: Vec<AtomicU64>,
    over: Mutex<bool>,
    turn: Condvar,
    closed: AtomicBool,
    said_farewell: AtomicBool,
}

impl Cluster {
    /// One process, which is all there is.
    pub fn alone(workers: usize, halt: &Arc<Halt>) -> Self {
        Self::new(Place::alone(workers), Vec::new(), halt, Duration::from_secs(4))
    }

    fn new(place: Place, hosts: Vec<String>, halt: &Arc<Halt>, timeout: Duration) -> Self {
        // A member's way to anybody leads over the leader.
        let to_leader = Arc::new(Outbox::default());
        let way = |process| match process == place.process {
            true => None,
            false if place.leads() => Some(Arc::new(Outbox::default())),
            false => Some(to_leader.clone()),
        };
        let ways: Vec<Option<Arc<Outbox>>> = (0..place.processes).map(way).collect();
        let nudged = ways.clone();
        let debts = place.has_others().then(|| {
            Arc::new(Debts::new(place, move |process| {
                nudged[process].iter().for_each(|way| way.nudge());
            }))
        });
        Cluster(Arc::new(Shared {
            place,
            hosts,
            halt: halt.clone(),
            began: Instant::now(),
            timeout,
            links: OnceLock::new(),
            ways,
            process: OnceLock::new(),
            debts,
            busy: (0..place.processes).map(|_| AtomicU8::new(tally::UNKNOWN)).collect(),
            left: AtomicU64::new(0),
            asks: Asks::default(),
            questions: unbounded(),
            forming: unbounded(),
            sockets: Mutex::new(None),
            beats: Mutex::new(vec![Beat::default(); place.processes]),
            counts: Mutex::new(vec![Default::default(); place.processes]),
            steps: (0..place.workers).map(|_| AtomicU64::new(0)).collect(),
            over: Mutex::new(false),
            turn: Condvar::new(),
            closed: AtomicBool::new(false),
            said_farewell: AtomicBool::new(false),
        }))
    }

    /// Which process this is.
    pub fn place(&self) -> Place {
        self.0.place
    }

    /// What this process owes others; `None` if there are no others.
    pub(crate) fn debts(&self) -> Option<&Arc<Debts>> {
        self.0.debts.as_ref()
    }

    /// What is heard concerns this process from now on.
    pub(crate) fn attach(&self, process: &Arc<Process>) {
        if self.0.place.has_others() {
            let _ = self.0.process.set(Arc::downgrade(process));
            answer::start(&self.0);
        }
    }

    /// The connections for the dataflow, given to timely. `None` if there is one process.
    ///
    /// # Errors
    /// They broke meanwhile.
    pub fn mesh(&self) -> Result<Option<(Mesh, Vec<AllocatorBuilder>)>> {
        let Some(sockets) = self.0.sockets.lock().take() else { return Ok(None) };
        let shared = Arc::downgrade(&self.0);
        let lost = move |peer| {
            if let Some(shared) = shared.upgrade() {
                shared.lost(peer, "its connection has ended");
            }
        };
        Mesh::start(sockets, self.0.place, Arc::new(lost)).map(Some)
    }

    /// A worker of this process has stepped. `None`: it has ended.
    pub fn stepped(&self, worker: usize, step: Option<u64>) {
        if let Some(steps) = self.0.steps.get(worker) {
            steps.store(step.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Tells everybody that all drain.
    pub(crate) fn stop(&self) {
        self.0.tell_all(|| Message::Stop, None);
    }

    /// An epoch was left that had data: idle sources elsewhere leave it too.
    pub(crate) fn left(&self, epoch: Epoch) {
        if self.0.place.has_others() && self.0.left.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.0.nudge_all();
        }
    }

    /// What keeps sources open here has changed.
    pub(crate) fn busy_changed(&self) {
        self.0.nudge_all();
    }

    /// A checkpoint is durable.
    pub(crate) fn saved(&self, epoch: Epoch, mark: &std::collections::BTreeMap<PartitionId, ResumeToken>) {
        self.0.tell_all(|| Message::Saved(epoch, mark.clone()), None);
    }

    /// Asks all members; [`Asked::wait`] has the answers. To be called by the leader.
    pub(crate) fn ask(&self, question: impl Fn() -> Question) -> Asked<'_> {
        let number = self.0.asks.open();
        self.0.tell_all(|| Message::Ask(number, question()), None);
        Asked { shared: &self.0, number, members: self.0.place.processes - 1 }
    }

    /// Asks one member.
    pub(crate) fn ask_one(&self, process: usize, question: Question) -> Asked<'_> {
        let number = self.0.asks.open();
        self.0.ways[process].iter().for_each(|way| way.send(Message::Ask(number, Question::clone(&question))));
        Asked { shared: &self.0, number, members: 1 }
    }

    /// Says why this process ends the run, if it does and has not said so.
    pub fn say_farewell(&self) {
        let shared = &self.0;
        let ends_early = shared.place.has_others() && shared.halt.is_halted();
        if !ends_early || shared.said_farewell.swap(true, Ordering::AcqRel) {
            return;
        }
        let farewell = shared.halt.look(|ending| match ending {
            Ending::Failed(error) => Some(Farewell::Failed { process: shared.place.process as u32, sentence: error.to_string() }),
            Ending::Abandoned => Some(Farewell::Abandoned),
            // As one that is killed: without a word.
            Ending::Crashed => None,
        });
        match farewell {
            Some(farewell) => shared.tell_all(|| Message::Farewell(farewell.clone()), None),
            None => self.close(Duration::ZERO),
        }
    }

    /// Waits until the workers of all processes have ended, and all is saved. `false`: the run was ended early.
    pub fn end_together(&self, process: &Process) -> bool {
        let shared = &self.0;
        if !shared.place.has_others() {
            return !shared.halt.is_halted();
        }
        if !shared.place.leads() {
            shared.tell_all(|| Message::Ended(Box::new(Counts::of(process))), None);
        }
        let mut over = shared.over.lock();
        while !*over && !shared.halt.is_halted() {
            if shared.place.leads() && shared.counts.lock().iter().skip(1).all(|(_, last)| *last) {
                *over = true;
                shared.tell_all(|| Message::Over, None);
                break;
            }
            shared.turn.wait_for(&mut over, Duration::from_millis(20));
        }
        !shared.halt.is_halted()
    }

    /// Ends the control connections, after what is still to be said is written, or after a while.
    pub fn close(&self, patience: Duration) {
        let Some(links) = self.0.links.get() else { return };
        self.0.closed.store(true, Ordering::Release);
        let until = Instant::now() + patience;
        for link in links {
            link.outbox.close(until.saturating_duration_since(Instant::now()));
            link.shut_down();
        }
    }

    /// Milliseconds since each other process was last heard of; units of the window that belong to others.
    pub fn figures(&self) -> (Vec<(usize, u64)>, u64) {
        let now = self.0.now_ms();
        let links = self.0.links.get().map(Vec::as_slice).unwrap_or_default();
        let ages = links.iter().map(|link| (link.peer, now.saturating_sub(link.heard_ms.load(Ordering::Relaxed))));
        (ages.collect(), self.0.debts.as_ref().map_or(0, |debts| debts.owed()))
    }
}

/// A question that was asked.
pub(crate) struct Asked<'c> {
    shared: &'c Shared,
    number: u64,
    members: usize,
}

impl Asked<'_> {
    /// The answers of those who answer in time.
    pub(crate) fn wait(self, patience: Duration) -> Vec<(usize, Answer)> {
        self.shared.asks.wait(self.number, self.members, patience, || self.shared.halt.is_halted())
    }

    /// The answers of all.
    ///
    /// # Errors
    /// Somebody did not answer.
    pub(crate) fn wait_all(self, patience: Duration) -> Result<Vec<(usize, Answer)>> {
        let members = self.members;
        let answers = self.wait(patience);
        match answers.len() == members {
            true => Ok(answers),
            false => Err(Error::stop(format!("a process has not answered within {patience:?}"))),
        }
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.process.get()?.upgrade()
    }

    /// Sends to all there is a link to, but for one.
    fn tell_all(&self, message: impl Fn() -> Message, but: Option<usize>) {
        for link in self.links.get().into_iter().flatten().filter(|link| Some(link.peer) != but) {
            link.outbox.send(message());
        }
    }

    fn nudge_all(&self) {
        self.links.get().into_iter().flatten().for_each(|link| link.outbox.nudge());
    }

    /// A process is gone. The first to say so ends the run.
    pub(crate) fn lost(&self, peer: usize, how: &str) {
        if self.closed.load(Ordering::Acquire) || *self.over.lock() || self.halt.is_halted() {
            return;
        }
        let host = self.hosts.get(peer).map(|host| format!(" ({host})")).unwrap_or_default();
        self.halt
            .fail(Error::stop(format!("process {peer}{host} is lost: {how}; the next run continues from the last checkpoint")));
    }

    pub(crate) fn hear(&self, from: usize, message: Message) {
        match message {
            Message::Beat(beat) => self.beats.lock()[from] = beat,
            Message::Tally(tally) => self.tallied(from, tally),
            Message::Form(form) => drop(self.forming.0.send((from, form))),
            Message::Stop => {
                if let Some(process) = self.process() {
                    process.stop_here();
                }
                self.relay(from, || Message::Stop);
            }
            Message::Farewell(farewell) => {
                let said = farewell.clone();
                match farewell {
                    Farewell::Failed { process, sentence } => {
                        self.halt.fail(Error::stop(format!("process {process} has ended the run: {sentence}")));
                    }
                    Farewell::Abandoned => self.halt.end(Ending::Abandoned),
                }
                self.relay(from, || Message::Farewell(said.clone()));
            }
            Message::Ask(number, question) => drop(self.questions.0.send((number, question))),
            Message::Answer(number, answer) => self.asks.answered(from, number, answer),
            Message::Saved(epoch, mark) => {
                if let Some(process) = self.process() {
                    process.set_saved_epoch(epoch);
                    process.pace.save(None);
                    process.listeners.saved(&mark);
                }
            }
            Message::Ended(counts) => {
                self.counts.lock()[from] = (*counts, true);
                self.turn.notify_all();
            }
            Message::Over => {
                *self.over.lock() = true;
                self.turn.notify_all();
            }
        }
    }

    /// The leader passes on to the others what a member said to all.
    fn relay(&self, from: usize, message: impl Fn() -> Message) {
        if self.place.leads() {
            self.tell_all(message, Some(from));
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cluster").field(&self.0.place).finish()
    }
}
