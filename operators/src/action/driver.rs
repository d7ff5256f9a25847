//! The side of an action that runs on the runtime: makes the calls, tries again, and gets outcomes noted.
//!
//! One task per action and worker takes whole batches and polls its calls as one set: a task per change would cost ten
//! times as much. Answers are gathered while there are any and go to the keeper together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::action::call::{BoxFuture, Delivery};
use crate::action::operator::park;
use crate::action::spec::{ActionSpec, Kind};
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, Note, Outcome, ParkedId, Resolution, Resolved};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::panic::Guarded;
use crate::offload::Post;
use crate::position::Epoch;
use crate::process::Process;

/// One change to be delivered.
pub(crate) struct Job {
    /// The worker's name for it.
    pub slot: usize,
    pub delivery: Delivery,
    /// The epoch it holds open; `None` for one that is taken up from the parked.
    pub epoch: Epoch,
    /// The parked record that its outcome replaces.
    pub resolves: Option<ParkedId>,
    /// Taken with the answer, unless the worker has set the change aside meanwhile.
    pub claim: Claim,
}

/// The right to decide what is noted of a call. It is taken once: by the driver when it has an answer to note, or by the
/// worker when it sets the change aside while it is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Takes the claim. `false`: the other side has it.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The answer of a call that the worker has to note.
pub(crate) struct Called {
    pub slot: usize,
    pub outcome: Result<(), (Cause, String)>,
    pub attempt: u32,
    /// Held until the outcome is durable.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What the worker is told.
pub(crate) enum Answer {
    /// Answered, for a change that was set aside while it was called.
    Called(Called),
    /// Settled durably: delivered, or parked.
    Settled { slot: usize, delivered: bool },
    /// An attempt failed and will be repeated: a copy of its own size is enough from here on.
    Retrying { slot: usize },
}

struct Finished {
    job: Job,
    outcome: Result<(), (Cause, String)>,
    /// Held until the outcome is durable: at most so many calls can have been made and not noted.
    permit: Option<OwnedSemaphorePermit>,
}

/// Everything the calls of one action share.
pub(crate) struct Driver {
    pub process: Arc<Process>,
    pub spec: Arc<ActionSpec>,
    pub number: u16,
    /// One per process and action, whatever the number of workers.
    pub permits: Arc<Semaphore>,
    pub post: Post<Vec<Answer>>,
}

impl Driver {
    /// Starts the task; it ends when the returned sender is dropped and the last call has ended.
    pub(crate) fn start(self) -> UnboundedSender<Vec<Job>> {
        let (sender, inbox) = unbounded_channel();
        let process = self.process.clone();
        // Without tokio's cooperative budget: the set yields by itself when nothing in it is ready.
        process.runtime.spawn(tokio::task::unconstrained(Arc::new(self).drive(inbox)));
        sender
    }

    async fn drive(self: Arc<Self>, mut inbox: UnboundedReceiver<Vec<Job>>) {
        let mut calls: FuturesUnordered<BoxFuture<'static, Vec<Finished>>> = FuturesUnordered::new();
        let mut open = true;
        while open || !calls.is_empty() {
            tokio::select! {
                biased;
                jobs = inbox.recv(), if open => match jobs {
                    Some(jobs) => self.call(jobs, &mut calls),
                    None => open = false,
                },
                Some(mut finished) = calls.next() => {
                    while let Some(Some(more)) = calls.next().now_or_never() {
                        finished.extend(more);
                    }
                    self.settle(finished);
                }
            }
            if self.process.halt.is_halted() {
                return;
            }
        }
    }

    fn call(self: &Arc<Self>, jobs: Vec<Job>, calls: &mut FuturesUnordered<BoxFuture<'static, Vec<Finished>>>) {
        match &self.spec.kind {
            Kind::Each(_) => {
                for job in jobs {
                    let driver = self.clone();
                    calls.push(Box::pin(async move { vec![driver.each(job).await] }));
                }
            }
            Kind::Batch(_) => {
                let size = self.spec.batch_max.min(self.spec.max_parallelism);
                let mut jobs = jobs.into_iter().peekable();
                while jobs.peek().is_some() {
                    let batch: Vec<Job> = jobs.by_ref().take(size).collect();
                    let driver = self.clone();
                    calls.push(Box::pin(async move { driver.batch(batch).await }));
                }
            }
            Kind::CutBack(_) => unreachable!("files are written without calls"),
        }
    }

    /// Delivers one change, with all its attempts.
    async fn each(&self, mut job: Job) -> Finished {
        let Kind::Each(action) = &self.spec.kind else { unreachable!("checked by the caller") };
        loop {
            let permit = self.permit(1).await;
            job.delivery.attempt += 1;
            // Inside a block of its own, so that a panic before the first await is caught too.
            let call = async { action.call(job.delivery.clone()).await };
            let answer = tokio::time::timeout(self.spec.timeout, Guarded(Box::pin(call))).await;
            match self.judge(&job, answer) {
                Some(outcome) => return Finished { job, outcome, permit },
                None => drop(permit),
            }
            self.wait(std::slice::from_mut(&mut job)).await;
        }
    }

    /// Delivers a batch; what fails in it is tried again as a smaller batch.
    async fn batch(&self, mut jobs: Vec<Job>) -> Vec<Finished> {
        let Kind::Batch(action) = &self.spec.kind else { unreachable!("checked by the caller") };
        let mut finished = Vec::with_capacity(jobs.len());
        loop {
            let mut permit = self.permit(jobs.len()).await;
            jobs.iter_mut().for_each(|job| job.delivery.attempt += 1);
            let deliveries: Vec<Delivery> = jobs.iter().map(|job| job.delivery.clone()).collect();
            let call = async { action.call(&deliveries).await };
            let answer = tokio::time::timeout(self.spec.timeout, Guarded(Box::pin(call))).await;
            let mut answers: Vec<Result<Result<Result, String>, tokio::time::error::Elapsed>> = match answer {
                Ok(Ok(answers)) => answers.into_iter().map(|answer| Ok(Ok(answer))).collect(),
                // Which change made the batch panic is not known: each is tried once more alone, and the culprit parked.
                Ok(Err(panic)) if jobs.len() == 1 => vec![Ok(Err(panic))],
                Ok(Err(_)) => {
                    drop(permit);
                    self.settle(std::mem::take(&mut finished));
                    for job in jobs {
                        let alone = Box::pin(self.batch(vec![job])).await;
                        self.settle(alone);
                    }
                    return finished;
                }
                Err(_) => Vec::new(),
            };
            let late = format!("no answer for this change within {:?}", self.spec.timeout);
            answers.resize_with(jobs.len(), || Ok(Ok(Err(Error::retry(late.clone())))));
            let mut again = Vec::new();
            for (job, answer) in jobs.into_iter().zip(answers) {
                match self.judge(&job, answer) {
                    Some(outcome) => {
                        let own = permit.as_mut().and_then(|permit| permit.split(1));
                        finished.push(Finished { job, outcome, permit: own });
                    }
                    None => again.push(job),
                }
            }
            drop(permit);
            if again.is_empty() {
                return finished;
            }
            // Before the others are tried again: who waits for permits must hold none, or two batches wait for each other.
            self.settle(std::mem::take(&mut finished));
            self.wait(&mut again).await;
            jobs = again;
        }
    }

    async fn permit(&self, calls: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed; without a permit the call would only be less bounded.
        let permit = self.permits.clone().acquire_many_owned(calls as u32).await.ok();
        if self.process.halt.is_halted() {
            // Nobody would note what is called now. The task ends with the process.
            std::future::pending::<()>().await;
        }
        permit
    }

    /// What an attempt means: the end of the job, or `None` to try again.
    #[allow(clippy::type_complexity)] // the answer as it comes: in time? without a panic? successful?
    fn judge(
        &self,
        job: &Job,
        answer: Result<Result<Result, String>, tokio::time::error::Elapsed>,
    ) -> Option<Result<(), (Cause, String)>> {
        let error = match answer {
            Ok(Ok(Ok(()))) => return Some(Ok(())),
            Ok(Err(panic)) => return Some(Err((Cause::Panicked, panic))),
            Ok(Ok(Err(error))) => error,
            Err(_) => Error::retry(format!("no answer within {:?}", self.spec.timeout)),
        };
        match error.kind() {
            ErrorKind::Retry if job.delivery.attempt < self.spec.attempts => None,
            ErrorKind::Retry | ErrorKind::Park => Some(Err((Cause::Failed, error.to_string()))),
            ErrorKind::Stop => {
                self.process.halt.fail(error.context(format!("action \"{}\"", self.spec.name)));
                None
            }
        }
    }

    async fn wait(&self, jobs: &mut [Job]) {
        let mut told = Vec::new();
        for job in jobs.iter_mut().filter(|job| job.delivery.attempt == 1) {
            // It outlives its batch: kept as a slice it would keep its whole block.
            job.delivery.change = job.delivery.change.detached();
            told.push(Answer::Retrying { slot: job.slot });
        }
        if !told.is_empty() {
            let _ = self.post.send(told);
        }
        let failed = jobs.iter().map(|job| job.delivery.attempt).max().unwrap_or(1);
        tokio::time::sleep(self.spec.backoff.wait(failed)).await;
    }

    /// Gets outcomes noted, and tells the worker once they are durable.
    fn settle(&self, finished: Vec<Finished>) {
        if finished.is_empty() || self.process.halt.passes("action.answered") {
            return;
        }
        let mut drafts = Drafts::default();
        let mut answers = Vec::with_capacity(finished.len());
        let mut permits: Option<OwnedSemaphorePermit> = None;
        let mut set_aside = Vec::new();
        for Finished { job, outcome, permit } in finished {
            let Delivery { change, identity, attempt } = job.delivery;
            if job.resolves.is_none() && !job.claim.take() {
                set_aside.push(Answer::Called(Called { slot: job.slot, outcome, attempt, permit }));
                continue;
            }
            answers.push(Answer::Settled { slot: job.slot, delivered: outcome.is_ok() });
            match (&mut permits, permit) {
                (Some(all), Some(one)) => all.merge(one),
                (none, one) => *none = none.take().or(one),
            }
            let noted = match outcome {
                Ok(()) => Outcome::Delivered,
                Err(_) => Outcome::Parked,
            };
            match (job.resolves, outcome) {
                (Some(id), Ok(())) => {
                    drafts.resolved.push(Resolved { id, action: self.spec.name.clone(), resolution: Resolution::Delivered })
                }
                (resolves, Err((cause, error))) => {
                    let mut parked = park(&self.spec.name, cause, error, attempt, identity.hash, &change);
                    parked.id = resolves.unwrap_or(0);
                    drafts.parked.push(parked);
                }
                (None, Ok(())) => {}
            }
            if job.resolves.is_none() && !(self.spec.repeatable && noted == Outcome::Delivered) {
                drafts.notes.push(Note {
                    action: self.number,
                    change: identity.hash,
                    position: change.position(),
                    epoch: job.epoch,
                    outcome: noted,
                });
            }
        }
        if !set_aside.is_empty() {
            self.post.send(set_aside);
        }
        if answers.is_empty() {
            return;
        }
        let post = self.post.clone();
        let told = move |_| {
            let _ = post.send(answers);
            drop(permits);
        };
        if drafts.notes.is_empty() && drafts.parked.is_empty() && drafts.resolved.is_empty() {
            told(Vec::new());
        } else {
            self.process.keeper.commit(drafts, told);
        }
    }
}
