//! Jobs in the memory of this process: for tests, and for work that may be lost with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_operators::action::BoxFuture;
use highwater_operators::checkpoint::store::Parked;
use highwater_operators::epoch::unix_ms;
use highwater_operators::{Change, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::job::{self, Lane};
use super::store::{
    BATCH_MAX, Claim, Counts, Enqueued, Fate, JobNumber, JobStore, Leased, NewJob, Reason, Remember, Settlement, Taken,
};

/// Jobs in memory. Clones are the same queue.
///
/// Nothing outlives the process: of the contract's guarantee this keeps all but what is said of durability.
#[derive(Clone, Debug, Default)]
pub struct MemoryJobStore {
    state: Arc<Mutex<State>>,
    came: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    remember: Remember,
    last_number: JobNumber,
    last_fence: u64,
    jobs: BTreeMap<JobNumber, Entry>,
    /// Those that wait for their time, which may have come, and those that are leased: when each may be taken.
    due: BTreeSet<(Instant, JobNumber)>,
    lanes: HashMap<String, Lined>,
    live: HashSet<String>,
    done: Done,
}

#[derive(Debug)]
struct Entry {
    id: String,
    lane: Option<Lane>,
    body: Bytes,
    attempts: u32,
    enqueued: Instant,
    place: Place,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// It may be taken from then on.
    Due(Instant),
    /// Behind another one of its lane, and not before then.
    Behind(Instant),
    Leased {
        fence: u64,
        until: Instant,
    },
    Parked {
        reason: Reason,
        at_ms: u64,
    },
}

/// A lane with a job in it.
#[derive(Debug)]
struct Lined {
    first: JobNumber,
    behind: BTreeSet<JobNumber>,
}

/// Ids of jobs that are no more, in two generations: when the newer is full or old enough, the older goes.
#[derive(Debug, Default)]
struct Done {
    newer: HashSet<String>,
    since: Option<Instant>,
    older: HashSet<String>,
}

impl Done {
    fn add(&mut self, id: String, remember: Remember, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if self.newer.len() >= remember.most.max(1) || now.duration_since(since) >= remember.time {
            self.older = std::mem::take(&mut self.newer);
            self.since = Some(now);
        }
        self.newer.insert(id);
    }

    fn has(&self, id: &str) -> bool {
        self.newer.contains(id) || self.older.contains(id)
    }
}

impl MemoryJobStore {
    /// An empty queue.
    pub fn new() -> Self {
        MemoryJobStore::default()
    }

    /// How long ids of finished jobs are remembered.
    pub fn remember(self, remember: Remember) -> Self {
        self.state.lock().remember = remember;
        self
    }
}

impl State {
    /// Lets a job wait for its time.
    fn put(&mut self, number: JobNumber, at: Instant) {
        if let Some(entry) = self.jobs.get_mut(&number) {
            entry.place = Place::Due(at);
            self.due.insert((at, number));
        }
    }

    /// Lets a job into its lane: it is the first, or waits behind.
    fn line_up(&mut self, number: JobNumber, at: Instant) {
        let Some(lane) = self.jobs.get(&number).and_then(|entry| entry.lane.as_ref()) else { return self.put(number, at) };
        match self.lanes.get_mut(&lane.key) {
            Some(lined) if lined.first != number => {
                lined.behind.insert(number);
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.place = Place::Behind(at);
                }
            }
            Some(_) => self.put(number, at),
            None => {
                self.lanes.insert(lane.key.clone(), Lined { first: number, behind: BTreeSet::new() });
                self.put(number, at);
            }
        }
    }

    /// A job leaves its lane: the next one of it may be taken.
    fn leave_lane(&mut self, number: JobNumber, lane: Option<&Lane>) {
        let Some(lane) = lane else { return };
        let Some(lined) = self.lanes.get_mut(&lane.key).filter(|lined| lined.first == number) else { return };
        match lined.behind.pop_first() {
            Some(next) => {
                lined.first = next;
                if let Some(&Place::Behind(at)) = self.jobs.get(&next).map(|entry| &entry.place) {
                    self.put(next, at);
                }
            }
            None => drop(self.lanes.remove(&lane.key)),
        }
    }

    /// A job is no more; its id is remembered.
    fn forget(&mut self, number: JobNumber) {
        let Some(entry) = self.jobs.remove(&number) else { return };
        self.leave_lane(number, entry.lane.as_ref());
        self.live.remove(&entry.id);
        self.done.add(entry.id, self.remember, Instant::now());
    }

    fn enqueue(&mut self, job: &NewJob) -> Enqueued {
        if self.done.has(&job.id) || !self.live.insert(job.id.clone()) {
            return Enqueued::Known;
        }
        let now = Instant::now();
        self.last_number += 1;
        let (number, at) = (self.last_number, now + job.delay);
        let (id, lane, body) = (job.id.clone(), job.lane.clone(), job.body.clone());
        self.jobs.insert(number, Entry { id, lane, body, attempts: 0, enqueued: now, place: Place::Due(at) });
        self.line_up(number, at);
        Enqueued::New
    }

    fn take(&mut self, most: usize, lease: Duration) -> Taken {
        let now = Instant::now();
        let mut jobs = Vec::new();
        while let Some(&(_, number)) = self.due.first().filter(|(at, _)| *at <= now && jobs.len() < most) {
            self.due.pop_first();
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            self.last_fence += 1;
            entry.attempts += 1;
            let returned = matches!(entry.place, Place::Leased { .. });
            entry.place = Place::Leased { fence: self.last_fence, until: now + lease };
            let claim = Claim { number, fence: self.last_fence };
            jobs.push(Leased { claim, attempt: entry.attempts, returned, body: entry.body.clone() });
        }
        // Only now, or a lease of no time would be taken twice in one call.
        self.due.extend(jobs.iter().map(|job| (now + lease, job.claim.number)));
        let next = self.due.first().map(|(at, _)| at.saturating_duration_since(now));
        Taken { jobs, next }
    }

    /// Until when a claim has its job, if it still does.
    fn held(&self, claim: Claim) -> Option<Instant> {
        match self.jobs.get(&claim.number)?.place {
            Place::Leased { fence, until } if fence == claim.fence => Some(until),
            _ => None,
        }
    }

    fn renew(&mut self, claim: Claim, lease: Duration) -> bool {
        let Some(until) = self.held(claim) else { return false };
        let later = Instant::now() + lease;
        self.due.remove(&(until, claim.number));
        self.due.insert((later, claim.number));
        if let Some(entry) = self.jobs.get_mut(&claim.number) {
            entry.place = Place::Leased { fence: claim.fence, until: later };
        }
        true
    }

    fn settle(&mut self, settlement: &Settlement) -> bool {
        let number = settlement.claim.number;
        let Some(until) = self.held(settlement.claim) else { return false };
        self.due.remove(&(until, number));
        match &settlement.fate {
            Fate::Finished => self.forget(number),
            Fate::Retry(wait) => self.put(number, Instant::now() + *wait),
            Fate::Released(wait) => {
                let mut at = Instant::now() + *wait;
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.attempts -= 1;
                    if wait.is_zero() {
                        at = entry.enqueued;
                    }
                }
                self.put(number, at);
            }
            Fate::Parked(reason) => {
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.place = Place::Parked { reason: reason.clone(), at_ms: unix_ms() };
                }
                if let Some(lane) = settlement.lane.as_ref().filter(|lane| !lane.hold) {
                    self.leave_lane(number, Some(lane));
                }
            }
        }
        true
    }

    fn is_parked(&self, number: JobNumber) -> bool {
        self.jobs.get(&number).is_some_and(|entry| matches!(entry.place, Place::Parked { .. }))
    }

    fn counts(&self) -> Counts {
        let now = Instant::now();
        let mut counts = Counts::default();
        for entry in self.jobs.values() {
            match entry.place {
                Place::Due(at) if at <= now => {
                    counts.ready += 1;
                    counts.age = counts.age.max(now - entry.enqueued);
                }
                Place::Due(_) => counts.later += 1,
                Place::Behind(_) => counts.behind += 1,
                Place::Leased { .. } => counts.in_flight += 1,
                Place::Parked { .. } => counts.parked += 1,
            }
        }
        counts
    }

    fn parked(&self, after: JobNumber, most: usize) -> Vec<Parked> {
        let parked = |(number, entry): (&JobNumber, &Entry)| match &entry.place {
            Place::Parked { reason, at_ms } => Some(job::parked(*number, &entry.body, reason.clone(), *at_ms)),
            _ => None,
        };
        self.jobs.range(after + 1..).filter_map(parked).take(most).collect()
    }

    fn edit(&mut self, number: JobNumber, change: &Change) -> Result<bool> {
        let Some(entry) = self.jobs.get_mut(&number).filter(|entry| matches!(entry.place, Place::Parked { .. })) else {
            return Ok(false);
        };
        entry.body = job::encode(&job::Content { change: change.clone(), ..job::decode(&entry.body)? })?;
        Ok(true)
    }
}

impl MemoryJobStore {
    /// Who waits now looks; who was about to wait looks too.
    fn wake(&self) {
        self.came.notify_waiters();
        self.came.notify_one();
    }

    /// Does it under the lock, at once.
    fn now<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T) -> BoxFuture<'static, T> {
        let done = work(&mut self.state.lock());
        Box::pin(std::future::ready(done))
    }
}

impl JobStore for MemoryJobStore {
    fn place(&self) -> String {
        "the memory of this process".to_owned()
    }

    fn open(&self) -> BoxFuture<'_, Result> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn enqueue<'a>(&'a self, jobs: &'a [NewJob]) -> BoxFuture<'a, Result<Vec<Enqueued>>> {
        let enqueued = self.now(|state| Ok(jobs.iter().map(|job| state.enqueue(job)).collect()));
        self.wake();
        enqueued
    }

    fn take(&self, most: usize, lease: Duration) -> BoxFuture<'_, Result<Taken>> {
        self.now(|state| Ok(state.take(most.min(BATCH_MAX), lease)))
    }

    fn renew<'a>(&'a self, held: &'a [Claim], lease: Duration) -> BoxFuture<'a, Result<Vec<bool>>> {
        self.now(|state| Ok(held.iter().map(|claim| state.renew(*claim, lease)).collect()))
    }

    fn settle<'a>(&'a self, settled: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<bool>>> {
        let settled = self.now(|state| Ok(settled.iter().map(|settlement| state.settle(settlement)).collect()));
        self.wake();
        settled
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts>> {
        self.now(|state| Ok(state.counts()))
    }

    fn parked(&self, after: JobNumber, most: usize) -> BoxFuture<'_, Result<Vec<Parked>>> {
        self.now(|state| Ok(state.parked(after, most)))
    }

    fn retry<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        let retried = self.now(|state| {
            let mut retried = 0;
            for &number in parked {
                if state.is_parked(number) {
                    if let Some(entry) = state.jobs.get_mut(&number) {
                        entry.attempts = 0;
                    }
                    state.line_up(number, Instant::now());
                    retried += 1;
                }
            }
            Ok(retried)
        });
        self.wake();
        retried
    }

    fn discard<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>> {
        self.now(|state| {
            let meant: Vec<JobNumber> = parked.iter().copied().filter(|number| state.is_parked(*number)).collect();
            meant.iter().for_each(|number| state.forget(*number));
            Ok(meant.len() as u64)
        })
    }

    fn edit<'a>(&'a self, parked: JobNumber, change: &'a Change) -> BoxFuture<'a, Result<bool>> {
        self.now(|state| state.edit(parked, change))
    }

    fn arrived(&self, most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _ = tokio::time::timeout(most, self.came.notified()).await;
        })
    }
}
