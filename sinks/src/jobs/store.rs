//! Where jobs are kept: the contract that every store keeps, whatever it is made of.

use std::time::Duration;

use bytes::Bytes;
use highwater_operators::action::BoxFuture;
use highwater_operators::checkpoint::store::{Cause, Parked, ParkedId};
use highwater_operators::{Change, Result};

use super::job::Lane;

/// The number of a job in its queue, growing in the order of enqueuing. A job that is parked is known by it to people too.
pub type JobNumber = ParkedId;

/// A job that is to be enqueued.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Its id, the idempotency key: a job of an id that the queue knows is not enqueued again.
    pub id: String,
    /// The action that enqueues it, for people who look into the store.
    pub action: String,
    /// The key whose jobs are done in order, one at a time; without one it goes by itself.
    pub lane: Option<Lane>,
    /// How long it may not be taken.
    pub delay: Duration,
    /// The job itself, as [`encode`](super::job::encode) makes it. A store need not read it.
    pub body: Bytes,
}

/// What became of a job that was to be enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It is in the queue, durably.
    New,
    /// One of its id is there, or has been done and is remembered: nothing was changed.
    Known,
}

/// The right to say what becomes of a job: its number, and the fencing number that grows each time it is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The job.
    pub number: JobNumber,
    /// The fencing number.
    pub fence: u64,
}

/// A job that was taken: for the time of its lease it is nobody else's.
#[derive(Clone, Debug, PartialEq)]
pub struct Leased {
    /// The right to say what becomes of it.
    pub claim: Claim,
    /// Which attempt this is, counted from 1; attempts whose worker died are counted.
    pub attempt: u32,
    /// Whether it came back because a lease had ended.
    pub returned: bool,
    /// The job itself, as it was enqueued, or edited since.
    pub body: Bytes,
}

/// Some jobs that were taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Taken {
    /// They, those that wait longest first.
    pub jobs: Vec<Leased>,
    /// If there were fewer than asked for: in how long the next one may be taken that is there, because a delay, a wait or a lease ends then.
    pub next: Option<Duration>,
}

/// What becomes of a job that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    /// The right to say so.
    pub claim: Claim,
    /// Its id.
    pub id: String,
    /// Its lane, as it was enqueued.
    pub lane: Option<Lane>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is done. Its id stays known.
    Finished,
    /// It is tried again after this wait. The attempt counts.
    Retry(Duration),
    /// It was not tried: it goes back, after this wait; without one to where it was. No attempt is counted.
    Released(Duration),
    /// It is set aside, to be retried, edited or dropped.
    Parked(Reason),
}

/// Why a job is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// In a word.
    pub cause: Cause,
    /// The last error, for a person to read.
    pub error: String,
    /// What the other side answered, as far as it is kept.
    pub response: Option<String>,
    /// Attempts made.
    pub attempts: u32,
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that may be taken now.
    pub ready: u64,
    /// Jobs whose time has not come: delayed, or waiting for their next attempt.
    pub later: u64,
    /// Jobs behind an earlier one of their lane.
    pub behind: u64,
    /// Jobs that a worker holds, or held when it died.
    pub in_flight: u64,
    /// Jobs set aside.
    pub parked: u64,
    /// How long the oldest of those has waited that may be taken now.
    pub age: Duration,
}

/// How long ids of jobs are remembered that are no more: while they are, a job of such an id is not enqueued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remember {
    /// For so long at least, unless there are more than `most`. Default: 24 hours.
    pub time: Duration,
    /// So many at least, once there have been as many; never more than twice this. Default: 500,000.
    pub most: usize,
}

impl Default for Remember {
    fn default() -> Self {
        Remember { time: Duration::from_secs(24 * 3600), most: 500_000 }
    }
}

/// Keeps the jobs of one queue.
///
/// # Guarantee
/// Each call is one atomic step, durable when it answers: a process or a server that dies leaves each job either as it was before or as it is
/// after, never nowhere. After an error it is not known which; every call may simply be made again.
///
/// A job is given out by [`take`](Self::take) to one caller, under a fencing number that is larger than every one it was given out under
/// before. It comes back by itself when its lease ends. From the moment at which it is given out again, [`renew`](Self::renew) and
/// [`settle`](Self::settle) refuse the older numbers. The store measures leases by its own clock from when it answers, and so never ends one
/// before who holds it thinks it has ended, as long as that clock is not put forward.
///
/// Of a lane (see [`Lane`]) one job at most may be taken or stands in the way: the one with the smallest number that is neither done nor, unless
/// the lane holds, parked.
pub trait JobStore: Send + Sync + 'static {
    /// Where it is, for people, without secrets.
    fn place(&self) -> String;

    /// Makes what is missing and looks at what is there. Called once, before anything else; again after an error of kind retry.
    ///
    /// # Errors
    /// Of kind stop if jobs would not be safe here, or the place is used by something else.
    fn open(&self) -> BoxFuture<'_, Result>;

    /// Puts jobs in, at most [`BATCH_MAX`] at once, and says of each whether it is new.
    fn enqueue<'a>(&'a self, jobs: &'a [NewJob]) -> BoxFuture<'a, Result<Vec<Enqueued>>>;

    /// Takes jobs, at most `most` and [`BATCH_MAX`], each for the time of `lease`.
    fn take(&self, most: usize, lease: Duration) -> BoxFuture<'_, Result<Taken>>;

    /// Lets leases end `lease` from now instead. `false`: the job is no longer that claim's.
    fn renew<'a>(&'a self, held: &'a [Claim], lease: Duration) -> BoxFuture<'a, Result<Vec<bool>>>;

    /// Says what becomes of jobs, at most [`BATCH_MAX`] at once, no claim twice. `false`: the job is no longer that claim's, and nothing was changed.
    fn settle<'a>(&'a self, settled: &'a [Settlement]) -> BoxFuture<'a, Result<Vec<bool>>>;

    /// How it stands.
    fn counts(&self) -> BoxFuture<'_, Result<Counts>>;

    /// Parked jobs with numbers above `after`, at most `most`, in the order of their numbers. Jobs that cannot be read are among them, with a
    /// change that says so.
    fn parked(&self, after: JobNumber, most: usize) -> BoxFuture<'_, Result<Vec<Parked>>>;

    /// Puts parked jobs back, as if they had never been tried; says how many there were.
    fn retry<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>>;

    /// Gives parked jobs up, for good: their ids stay known. Says how many there were.
    fn discard<'a>(&'a self, parked: &'a [JobNumber]) -> BoxFuture<'a, Result<u64>>;

    /// Gives a parked job another change. `false`: there is none of this number.
    fn edit<'a>(&'a self, parked: JobNumber, change: &'a Change) -> BoxFuture<'a, Result<bool>>;

    /// Returns when there may be something to take, after `most` at the latest. A reason to look, no more: jobs may have come without it.
    fn arrived(&self, most: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(most.min(Duration::from_millis(50))))
    }
}

/// Jobs in one call at most.
pub const BATCH_MAX: usize = 1_000;
