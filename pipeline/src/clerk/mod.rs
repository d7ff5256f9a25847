//! The clerk: the thread of a run that works through what stands parked, for people and for schedules.
//!
//! It reads records in pages through the keeper, never all of them, and passes commands on to the workers that own the keys; it
//! never holds up a worker, and the keeper for no longer than a page takes. What is asked of it comes by the monitor ([`Desk`]) and as
//! letters in the checkpoint store, which a run that is not there yet finds when it begins.

pub(crate) mod ask;
mod letters;
mod rounds;
mod work;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use highwater_operators::checkpoint::place::Letters;
use highwater_operators::process::Process;
use highwater_operators::{Error, Result};

use self::ask::{Answer, Ask};
use self::letters::Post;
use self::rounds::Rounds;
use crate::plan::Plan;
use crate::settings::ParkedFull;

/// How often letters, schedules and bounds are looked after.
const ROUND: Duration = Duration::from_secs(1);
/// The pause when there is nothing to do.
const PAUSE: Duration = Duration::from_millis(100);
/// How long somebody who asks waits for the clerk.
const PATIENCE: Duration = Duration::from_secs(30);

/// The clerk of a run. Its thread ends when this is dropped.
pub(crate) struct Clerk {
    desk: Desk,
    closing: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Where the clerk is asked. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk(Sender<Job>);

/// What is asked, and whom to answer.
type Job = (Ask, Sender<Result<Answer>>);

impl Desk {
    /// Asks the clerk, and waits for the answer.
    ///
    /// # Errors
    /// The run ends, or the store does not answer.
    pub(crate) fn ask(&self, ask: Ask) -> Result<Answer> {
        let (tell, told) = bounded(1);
        let gone = || Error::stop("the run ends and takes no more commands; leave it to the next run");
        self.0.send((ask, tell)).map_err(|_| gone())?;
        match told.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(Error::stop("the checkpoint store does not answer; `why` says what holds it")),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Clerk {
    /// Starts the clerk. What letters ask for is begun once the workers are there; until then, and as long as such a letter is
    /// worked through, the sources stay open.
    pub(crate) fn start(process: &Arc<Process>, letters: &Arc<dyn Letters>, plan: &Plan, full: ParkedFull) -> Self {
        let (sender, jobs) = unbounded();
        let (closing, closed) = bounded(0);
        let post = Post::open(process, letters);
        let rounds = Rounds::new(process, plan, full);
        let process = process.clone();
        let work = move || Work { process, jobs, closed, post, rounds }.run();
        let thread = std::thread::Builder::new().name("clerk".into()).spawn(work).expect("the system gives a thread at start");
        Clerk { desk: Desk(sender), closing: Some(closing), thread: Some(thread) }
    }

    /// Where it is asked.
    pub(crate) fn desk(&self) -> Desk {
        self.desk.clone()
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(self.closing.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    process: Arc<Process>,
    jobs: Receiver<Job>,
    /// Closed when the run is over.
    closed: Receiver<()>,
    post: Post,
    rounds: Rounds,
}

impl Work {
    fn run(mut self) {
        // Commands reach a worker once it has built its dataflow.
        while !self.process.is_built() {
            if self.is_over(Duration::from_millis(1)) {
                return;
            }
        }
        let mut next_round = Instant::now();
        loop {
            if Instant::now() >= next_round {
                self.post.look();
                self.rounds.look(&self.post);
                next_round = Instant::now() + ROUND;
            }
            // A slice of each, so that nobody who asks waits for a long letter.
            let busy = [self.post.work(), self.rounds.work()].contains(&true);
            let pause = if busy { Duration::ZERO } else { PAUSE.min(self.rounds.until_due()) };
            match self.jobs.recv_timeout(pause) {
                Ok((ask, tell)) => drop(tell.send(work::answer(&self.process, self.post.letters(), ask))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.is_over(Duration::ZERO) {
                return;
            }
        }
    }

    fn is_over(&self, patience: Duration) -> bool {
        self.process.halt.is_halted() || self.closed.recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }
}
