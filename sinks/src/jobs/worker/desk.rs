//! Where jobs lie in a process: those that were taken and wait for a worker, those that are held, and what became of those that were done.
//!
//! One short lock per job and step; what goes to the store goes in batches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::Error;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::held::Held;
use crate::jobs::store::{BATCH_MAX, Claim, Fate, Settlement};

pub(super) struct Desk {
    state: Mutex<State>,
    workers: usize,
    /// A permit for each job that waits.
    waiting: Semaphore,
    /// There may be room for more.
    room: Notify,
    /// There is something to say.
    said: Notify,
    ended: Notify,
    drained: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Held>>,
    /// All that were taken and of which the store does not know yet what became.
    held: HashMap<Claim, Arc<Held>>,
    running: usize,
    said: Vec<Settlement>,
    /// What a job takes of late, on average, and how large it is.
    mean: Option<Duration>,
    mean_bytes: usize,
    pause: Option<Instant>,
    is_ended: bool,
    is_closed: bool,
    failure: Option<Error>,
}

/// Jobs are taken ahead of the workers for so much of their time: long enough to hide the way to the store and back, short enough that no
/// job waits here while another process has nothing to do.
const AHEAD: Duration = Duration::from_millis(100);

/// Bytes of jobs that are taken ahead, about.
const AHEAD_BYTES: usize = 16 << 20;

impl Desk {
    pub(super) fn new(workers: usize) -> Self {
        Desk {
            state: Mutex::default(),
            workers,
            waiting: Semaphore::new(0),
            room: Notify::new(),
            said: Notify::new(),
            ended: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// How many jobs there is room for, once enough room has come together that asking is worth it.
    pub(super) fn room(&self) -> usize {
        let state = self.state.lock();
        let ahead = self.ahead(&state);
        let most = self.workers + ahead;
        let room = most.saturating_sub(state.held.len());
        let is_worth_it = state.waiting.len() <= ahead / 2 && (room > most / 4 || state.held.len() < self.workers);
        if is_worth_it { room.min(BATCH_MAX) } else { 0 }
    }

    fn ahead(&self, state: &State) -> usize {
        let Some(mean) = state.mean else { return 0 };
        let each = mean.as_secs_f64().max(1e-6);
        let by_time = (self.workers as f64 * AHEAD.as_secs_f64() / each) as usize;
        by_time.min(2 * BATCH_MAX).min(AHEAD_BYTES / state.mean_bytes.max(1))
    }

    /// Waits until there may be room.
    pub(super) async fn roomy(&self) {
        self.room.notified().await;
    }

    /// Until when no more jobs are to be taken.
    pub(super) fn pause(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        state.pause = state.pause.filter(|until| *until > Instant::now());
        state.pause
    }

    /// No more jobs are taken until then, and those that wait here go back: others may fare better with them.
    pub(super) fn put_off(&self, until: Instant) {
        let mut state = self.state.lock();
        state.pause = Some(state.pause.map_or(until, |known| known.max(until)));
        self.send_back(&mut state);
    }

    fn send_back(&self, state: &mut State) {
        let waiting: Vec<_> = state.waiting.drain(..).collect();
        state.said.extend(waiting.iter().map(|job| job.settled(Fate::Released(Duration::ZERO))));
        self.said.notify_one();
    }

    /// Lays down jobs that were taken. Those that came too late go back.
    pub(super) fn lay_down(&self, jobs: Vec<Arc<Held>>) {
        let mut state = self.state.lock();
        for job in &jobs {
            state.held.insert(job.claim(), job.clone());
        }
        if let Some(mean) = jobs.iter().map(|job| job.leased.body.len()).sum::<usize>().checked_div(jobs.len()) {
            state.mean_bytes = mean.max(state.mean_bytes / 2);
        }
        if state.is_ended {
            state.said.extend(jobs.iter().map(|job| job.settled(Fate::Released(Duration::ZERO))));
            self.said.notify_one();
            return;
        }
        let n = jobs.len();
        state.waiting.extend(jobs);
        self.waiting.add_permits(n);
    }

    /// The next job for a worker; `None`: it is to end.
    pub(super) async fn next(&self) -> Option<Arc<Held>> {
        loop {
            self.waiting.acquire().await.ok()?.forget();
            let mut state = self.state.lock();
            if let Some(job) = state.waiting.pop_front() {
                state.running += 1;
                return Some(job);
            }
        }
    }

    /// A worker is done with a job; `took`: how long it was tried, if it was. Without a fate it is another's by now.
    pub(super) fn done(&self, job: &Held, fate: Option<Fate>, took: Option<Duration>) {
        let mut state = self.state.lock();
        state.running -= 1;
        if let Some(took) = took {
            state.mean = Some(state.mean.map_or(took, |mean| (mean * 7 + took) / 8));
        }
        match fate {
            Some(fate) => {
                state.said.push(job.settled(fate));
                if state.said.len() == 1 {
                    self.said.notify_one();
                }
            }
            None => drop(state.held.remove(&job.claim())),
        }
        if state.waiting.len() <= self.ahead(&state) / 2 {
            self.room.notify_one();
        }
        if state.is_ended && state.running == 0 {
            self.drained.notify_one();
        }
    }

    /// Waits until there is something to say, and gives it, a batch at most; `None`: there will be nothing more.
    pub(super) async fn to_say(&self) -> Option<Vec<Settlement>> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.said.is_empty() {
                    let most = state.said.len().min(BATCH_MAX);
                    return Some(state.said.drain(..most).collect());
                }
                if state.is_closed {
                    return None;
                }
            }
            self.said.notified().await;
        }
    }

    /// The store knows what became of these.
    pub(super) fn settled(&self, settled: &[Settlement]) {
        let mut state = self.state.lock();
        for settlement in settled {
            state.held.remove(&settlement.claim);
        }
        self.room.notify_one();
    }

    /// All that are held.
    pub(super) fn held(&self) -> Vec<Arc<Held>> {
        self.state.lock().held.values().cloned().collect()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().held.is_empty()
    }

    /// No more jobs: those that wait go back. Says why, if it is for a failure.
    pub(super) fn end(&self, failure: Option<Error>) {
        let mut state = self.state.lock();
        state.failure = state.failure.take().or(failure);
        state.is_ended = true;
        self.send_back(&mut state);
        if state.running == 0 {
            self.drained.notify_one();
        }
        self.room.notify_one();
        self.ended.notify_one();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().is_ended
    }

    /// Returns once the workers are to end.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Returns once they are to end and no job is under way.
    pub(super) async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Nobody works any more: what was under way was broken off and goes back, that attempt counted.
    pub(super) fn give_back(&self) -> usize {
        let mut state = self.state.lock();
        state.running = 0;
        let told: Vec<Claim> = state.said.iter().map(|settlement| settlement.claim).collect();
        let broken: Vec<_> = state.held.values().filter(|job| !told.contains(&job.claim())).cloned().collect();
        state.said.extend(broken.iter().map(|job| job.settled(Fate::Retry(Duration::ZERO))));
        self.said.notify_one();
        broken.len()
    }

    /// Nothing more will be said.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.waiting.close();
        self.said.notify_one();
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failure.take()
    }
}
