//! The side of an action that runs on the runtime: makes the calls, tries again, and gets outcomes noted.
//!
//! One task per action and worker takes whole batches. Each call is polled once where it is made: one that is ready at once,
//! as a call that only hands something on is, costs neither a task nor a timer. The rest is polled as one set. Answers are
//! gathered while there are any, and go to the keeper together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use metrics::Histogram;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::action::call::{BoxFuture, Delivery};
use crate::action::handover::Handover;
use crate::action::parking::{Announced, Failure, Parking};
use crate::action::spec::{ActionSpec, Kind};
use crate::action::stats::ActionStats;
use crate::action::transactional::{Receipt, Shared};
use crate::action::waits::Waits;
use crate::checkpoint::keeper::Drafts;
use crate::checkpoint::store::{Cause, Note, Outcome, Parked, ParkedId, Resolution, Resolved};
use crate::clock::Elapsed;
use crate::epoch::unix_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::panic::{Guarded, guarded};
use crate::metrics::ACTION_DURATION;
use crate::offload::Post;
use crate::position::Epoch;
use crate::process::Process;

/// One change to be delivered.
pub(crate) struct Job {
    /// The worker's name for it.
    pub slot: usize,
    pub delivery: Delivery,
    /// The epoch it holds open; 0 for one that is taken up from the parked.
    pub epoch: Epoch,
    /// The parked record that its outcome replaces.
    pub resolves: Option<ParkedId>,
    pub handover: Handover,
    /// Of a batch: whether it counts among those that wait for a call. Its attempts do not tell: one that asked nothing is taken back.
    pub waits: bool,
}

/// What a call came to: delivered, or why it is parked.
pub(crate) type Judged = Result<(), Failure>;

/// The answer of a call that the worker has to note.
pub(crate) struct Called {
    pub slot: usize,
    pub outcome: Judged,
    pub attempt: u32,
    /// Held until the outcome is durable.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Of a transactional action: to be settled when the outcome is durable.
    pub receipt: Option<Receipt>,
}

/// What the worker is told.
pub(crate) enum Answer {
    /// Answered, for a change that was set aside while it was called.
    Called(Called),
    /// Delivered, durably noted.
    Delivered(Vec<usize>),
    /// Parked, durably.
    Parked(usize),
    /// An attempt failed and will be repeated: a copy of its own size is enough from here on.
    Retrying(usize),
    /// A transaction has come to its end.
    Ended,
}

pub(crate) struct Finished {
    pub job: Job,
    pub outcome: Judged,
    /// Held until the outcome is durable: at most so many calls can have been made and not noted.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What an attempt means: the end of the job, or that it is to be tried again.
type Attempted = Result<Judged, Again>;

/// When to try again.
#[derive(Clone, Copy)]
pub(crate) struct Again {
    /// `None`: as the back-off says.
    wait: Option<Duration>,
    /// Whether anything was asked; else it was no attempt.
    asked: bool,
}

impl Again {
    pub(crate) fn after(error: &Error) -> Self {
        Again { wait: error.wait(), asked: error.was_asked() }
    }
}

/// An answer as it comes: in time? without a panic? successful?
type Raw = Result<Result<Result, String>, Elapsed>;

/// Everything the calls of one action share.
pub(crate) struct Driver {
    pub process: Arc<Process>,
    pub spec: Arc<ActionSpec>,
    pub number: u16,
    /// One per process and action, whatever the number of workers.
    pub permits: Arc<Semaphore>,
    pub post: Post<Vec<Answer>>,
    pub stats: Arc<ActionStats>,
    pub durations: Histogram,
    /// Whom changes wait for. What is durable is counted by the worker, as it hears of it.
    pub waits: Waits,
}

/// Jobs taken together at most.
const GATHER_MAX: usize = 4096;

type Calls = FuturesUnordered<BoxFuture<'static, Vec<Finished>>>;

impl Driver {
    pub(crate) fn new(
        process: &Arc<Process>,
        spec: &Arc<ActionSpec>,
        number: u16,
        permits: &Arc<Semaphore>,
        post: Post<Vec<Answer>>,
    ) -> Self {
        spec.begin(process);
        Driver {
            stats: process.figures.get_or_make(&spec.name, ActionStats::default),
            durations: process.metrics.histogram(&ACTION_DURATION, &spec.name),
            process: process.clone(),
            spec: spec.clone(),
            number,
            permits: permits.clone(),
            post,
            waits: Waits::of(process, &spec.name),
        }
    }

    /// Starts the task; it ends when the returned sender is dropped and the last call has ended.
    pub(crate) fn start(self) -> UnboundedSender<Vec<Job>> {
        let (sender, inbox) = unbounded_channel();
        let process = self.process.clone();
        // Without tokio's cooperative budget: the set yields by itself when nothing in it is ready.
        process.runtime.spawn(tokio::task::unconstrained(Arc::new(self).drive(inbox)));
        sender
    }

    async fn drive(self: Arc<Self>, mut inbox: UnboundedReceiver<Vec<Job>>) {
        let mut calls = Calls::new();
        let mut open = true;
        while open || !calls.is_empty() {
            tokio::select! {
                biased;
                jobs = inbox.recv(), if open => match jobs {
                    // What was sent together is one transaction.
                    Some(jobs) if self.spec.transactional_sink().is_some() => self.call(jobs, &mut calls),
                    Some(mut jobs) => {
                        while jobs.len() < GATHER_MAX && let Ok(more) = inbox.try_recv() {
                            jobs.extend(more);
                        }
                        self.call(jobs, &mut calls);
                        // Calls that are ready at once would otherwise never let another task of the runtime run.
                        tokio::task::yield_now().await;
                    }
                    None => open = false,
                },
                Some(mut finished) = calls.next() => {
                    while let Some(Some(more)) = calls.next().now_or_never() {
                        finished.extend(more);
                    }
                    self.settle(finished, None, None);
                }
            }
            if self.process.halt.is_halted() {
                return;
            }
        }
    }

    fn call(self: &Arc<Self>, jobs: Vec<Job>, calls: &mut Calls) {
        match &self.spec.kind {
            Kind::Each(_) => self.call_each(jobs, calls),
            Kind::Batch(_) => {
                // As many as there are permits in this process: who waits for more waits for ever.
                let size = self.spec.batch_max.min(self.process.cluster.place().share(self.spec.max_parallelism));
                let mut jobs = jobs.into_iter().peekable();
                while jobs.peek().is_some() {
                    let batch: Vec<Job> = jobs.by_ref().take(size).collect();
                    let driver = self.clone();
                    let mut batch: BoxFuture<'static, _> = Box::pin(async move {
                        driver.batch(batch).await;
                        Vec::new()
                    });
                    if (&mut batch).now_or_never().is_none() {
                        calls.push(batch);
                    }
                }
            }
            Kind::Transactional(sink) => {
                let (driver, shared) = (self.clone(), Shared::of(&self.process, &self.spec, sink));
                calls.push(Box::pin(async move {
                    driver.transaction(shared, jobs).await;
                    Vec::new()
                }));
            }
            Kind::CutBack(_) => unreachable!("files are written without calls"),
        }
    }

    /// Makes a call for each job, as far as there are permits. What is ready at once is settled together.
    fn call_each(self: &Arc<Self>, jobs: Vec<Job>, calls: &mut Calls) {
        let mut permits = self.permits_at_once(jobs.len());
        let permitted = permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let (began, now) = (Instant::now(), unix_ms());
        self.waits.called(permitted);
        let mut finished = Vec::with_capacity(permitted);
        for (place, job) in jobs.into_iter().enumerate() {
            let driver = self.clone();
            if place >= permitted {
                calls.push(Box::pin(async move { vec![driver.retried(job).await] }));
                continue;
            }
            let mut attempt: BoxFuture<'static, _> = Box::pin(driver.attempt(job, now));
            match (&mut attempt).now_or_never() {
                Some((job, Ok(outcome))) => finished.push(Finished { job, outcome, permit: None }),
                Some((job, Err(again))) => {
                    drop(permits.as_mut().and_then(|permits| permits.split(1)));
                    let driver = self.clone();
                    calls.push(Box::pin(async move { vec![driver.wait_and_retry(job, again).await] }));
                }
                None => {
                    let permit = permits.as_mut().and_then(|permits| permits.split(1));
                    let driver = self.clone();
                    calls.push(Box::pin(async move {
                        let finished = match attempt.await {
                            (job, Ok(outcome)) => Finished { job, outcome, permit },
                            (job, Err(again)) => {
                                drop(permit);
                                driver.wait_and_retry(job, again).await
                            }
                        };
                        vec![finished]
                    }));
                }
            }
        }
        if !finished.is_empty() {
            // They were polled one after the other: each took its share.
            self.durations.record_many(began.elapsed().as_secs_f64() / finished.len() as f64, finished.len());
        }
        self.settle(finished, permits, None);
    }

    /// As many permits as there are, up to `calls`, without waiting.
    fn permits_at_once(&self, calls: usize) -> Option<OwnedSemaphorePermit> {
        let free = self.permits.available_permits().min(calls);
        if free == 0 || self.process.halt.is_halted() {
            return None;
        }
        self.permits.clone().try_acquire_many_owned(free as u32).ok()
    }

    /// Makes one attempt.
    async fn attempt(self: Arc<Self>, mut job: Job, now: u64) -> (Job, Attempted) {
        let Kind::Each(action) = &self.spec.kind else { unreachable!("checked by the caller") };
        self.may_act().await;
        self.begins(&mut job, now);
        let delivery = job.delivery.clone();
        let answer: Raw = match guarded(|| action.call(delivery)) {
            Err(panic) => Ok(Err(panic)),
            Ok(call) => {
                let mut call = Guarded(call);
                match (&mut call).now_or_never() {
                    Some(answer) => Ok(answer),
                    None => {
                        let began = Instant::now();
                        let answer = self.process.clock.timeout(self.spec.timeout, call).await;
                        self.durations.record(began.elapsed().as_secs_f64());
                        answer
                    }
                }
            }
        };
        let outcome = self.judge(&mut job, answer);
        (job, outcome)
    }

    /// Makes all attempts, each when there is a permit.
    async fn retried(self: Arc<Self>, job: Job) -> Finished {
        let permit = self.permit(1).await;
        self.waits.called(1);
        match self.clone().attempt(job, unix_ms()).await {
            (job, Ok(outcome)) => Finished { job, outcome, permit },
            (job, Err(again)) => {
                drop(permit);
                self.wait_and_retry(job, again).await
            }
        }
    }

    async fn wait_and_retry(self: Arc<Self>, mut job: Job, mut again: Again) -> Finished {
        loop {
            self.wait(std::slice::from_mut(&mut job), again).await;
            let permit = self.permit(1).await;
            match self.clone().attempt(job, unix_ms()).await {
                (job, Ok(outcome)) => return Finished { job, outcome, permit },
                (failed, Err(when)) => (job, again) = (failed, when),
            }
        }
    }

    /// An attempt begins.
    fn begins(&self, job: &mut Job, now: u64) {
        job.delivery.attempt += 1;
        job.handover.begins(job.delivery.attempt, now);
        let replayed = self.process.stats.replayed_until.load(Ordering::Relaxed);
        // No more than that can have been sent by each run before and not noted.
        if job.epoch <= replayed && job.delivery.attempt == 1 && replayed > 0 {
            let most = (self.spec.max_parallelism as u64).saturating_mul(self.process.generation.saturating_sub(1));
            let one_more = |so_far| (so_far < most).then_some(so_far + 1);
            let _ = self.stats.repeated.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        }
    }

    /// Makes a call within the time an attempt may take. One that is ready at once costs no timer. Inside: its answer, or its panic.
    pub(crate) async fn in_time<'a, T>(&self, call: impl FnOnce() -> BoxFuture<'a, T>) -> Result<Result<T, String>, Elapsed> {
        let mut call = match guarded(call) {
            Err(panic) => return Ok(Err(panic)),
            Ok(call) => Guarded(call),
        };
        match (&mut call).now_or_never() {
            Some(answer) => Ok(answer),
            None => self.process.clock.timeout(self.spec.timeout, call).await,
        }
    }

    /// Delivers a batch and settles it; what fails in it is tried again as a smaller batch.
    async fn batch(&self, mut jobs: Vec<Job>) {
        let Kind::Batch(action) = &self.spec.kind else { unreachable!("checked by the caller") };
        loop {
            let mut permit = self.permit(jobs.len()).await;
            self.may_act().await;
            let began = Instant::now();
            self.begin(&mut jobs);
            let deliveries: Vec<Delivery> = jobs.iter().map(|job| job.delivery.clone()).collect();
            let answer = self.in_time(|| action.call_owned(deliveries)).await;
            self.durations.record_many(began.elapsed().as_secs_f64(), jobs.len());
            let answers: Vec<Result> = match answer {
                Ok(Ok(answers)) => answers,
                // Which change made the batch panic is not known: each is tried once more alone, and the culprit parked.
                Ok(Err(panic)) if jobs.len() == 1 => {
                    let outcome = Err(Failure::new(Cause::Panicked, panic));
                    let culprit = jobs.pop().map(|job| Finished { job, outcome, permit });
                    return self.settle(culprit.into_iter().collect(), None, None);
                }
                Ok(Err(_)) => {
                    drop(permit);
                    for job in jobs {
                        Box::pin(self.batch(vec![job])).await;
                    }
                    return;
                }
                Err(_) => Vec::new(),
            };
            let mut answers = answers.into_iter();
            let mut finished = Vec::with_capacity(jobs.len());
            let mut again = Vec::new();
            let mut when = Again { wait: None, asked: false };
            for mut job in jobs {
                let answer = answers
                    .next()
                    .unwrap_or_else(|| Err(Error::retry(format!("no answer for this change within {:?}", self.spec.timeout))));
                match self.judge(&mut job, Ok(Ok(answer))) {
                    Ok(outcome) => finished.push(Finished { job, outcome, permit: None }),
                    Err(one) => {
                        when = Again { wait: when.wait.max(one.wait), asked: when.asked || one.asked };
                        again.push(job);
                    }
                }
            }
            // Who waits for permits must hold none, or two batches wait for each other.
            drop(permit.as_mut().and_then(|permit| permit.split(again.len())));
            self.settle(finished, permit, None);
            if again.is_empty() {
                return;
            }
            self.wait(&mut again, when).await;
            jobs = again;
        }
    }

    /// An attempt of all of them begins.
    pub(crate) fn begin(&self, jobs: &mut [Job]) {
        let (now, mut new) = (unix_ms(), 0);
        for job in jobs.iter_mut() {
            new += usize::from(!std::mem::replace(&mut job.waits, true));
            self.begins(job, now);
        }
        self.waits.called(new);
    }

    /// Waits until this run may act on what asks no generation. Asked before each attempt: whoever was frozen, replaced and
    /// thawed must not act on an answer it had before.
    async fn may_act(&self) {
        if !self.process.lease.holds() {
            self.process.lease.held().await;
        }
    }

    pub(crate) async fn permit(&self, calls: usize) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed; without a permit the call would only be less bounded.
        let permit = self.permits.clone().acquire_many_owned(calls as u32).await.ok();
        if self.process.halt.is_halted() {
            // Nobody would note what is called now. The task ends with the process.
            std::future::pending::<()>().await;
        }
        permit
    }

    /// What an attempt means. One that asked nothing is taken back.
    fn judge(&self, job: &mut Job, answer: Raw) -> Attempted {
        let was_asked = !matches!(&answer, Ok(Ok(Err(error))) if !error.was_asked());
        if was_asked && job.delivery.attempt > 1 {
            self.stats.retried.fetch_add(1, Ordering::Relaxed);
        }
        let error = match answer {
            Ok(Ok(Ok(()))) => {
                self.stats.no_trouble();
                return Ok(Ok(()));
            }
            Ok(Err(panic)) => return Ok(Err(Failure::new(Cause::Panicked, panic))),
            Ok(Ok(Err(error))) => error,
            Err(_) => Error::retry(format!("no answer within {:?}", self.spec.timeout)),
        };
        let again = Again::after(&error);
        job.delivery.attempt -= u32::from(!was_asked);
        match error.kind() {
            ErrorKind::Retry if !was_asked || job.delivery.attempt < self.spec.attempts => {
                self.stats.trouble(error.to_string());
                Err(again)
            }
            ErrorKind::Retry | ErrorKind::Park => Ok(Err(Failure::of(&error))),
            ErrorKind::Stop => {
                self.process.halt.fail(error.context(format!("action \"{}\"", self.spec.name)));
                Err(again)
            }
        }
    }

    /// Waits until failed jobs are to be tried again, and those that asked nothing.
    pub(crate) async fn wait(&self, jobs: &mut [Job], again: Again) {
        let failed = jobs.len() as u64;
        if again.asked {
            self.stats.called.fetch_add(failed, Ordering::Relaxed);
            self.stats.failed.fetch_add(failed, Ordering::Relaxed);
        } else {
            self.stats.put_off.fetch_add(failed, Ordering::Relaxed);
        }
        let attempt = jobs.iter().map(|job| job.delivery.attempt).max().unwrap_or(1);
        let wait = again.wait.unwrap_or_else(|| self.spec.backoff.wait(attempt));
        let next_try = unix_ms() + wait.as_millis() as u64;
        let mut told = Vec::new();
        for job in jobs.iter_mut() {
            job.handover.waits(next_try);
            if job.delivery.attempt <= 1 {
                // It outlives its batch: kept as a slice it would keep its whole block.
                job.delivery.change = job.delivery.change.detached();
                told.push(Answer::Retrying(job.slot));
            }
        }
        if !told.is_empty() {
            let _ = self.post.send(told);
        }
        self.stats.retrying.fetch_add(jobs.len() as i64, Ordering::Relaxed);
        self.process.clock.sleep(wait).await;
        self.stats.retrying.fetch_sub(jobs.len() as i64, Ordering::Relaxed);
    }

    /// Gets outcomes noted, and tells the worker once they are durable. `permits` are held until then.
    /// The receipt is that of their transaction.
    pub(crate) fn settle(&self, finished: Vec<Finished>, mut permits: Option<OwnedSemaphorePermit>, receipt: Option<&Receipt>) {
        if finished.is_empty() || self.process.halt.passes("action.answered") {
            return;
        }
        self.stats.called.fetch_add(finished.len() as u64, Ordering::Relaxed);
        let mut drafts = Drafts::default();
        let mut delivered = Vec::with_capacity(finished.len());
        let mut answers = Vec::new();
        let mut set_aside = Vec::new();
        let mut announced = Announced::default();
        for Finished { job, outcome, mut permit } in finished {
            let Job { slot, delivery, epoch, resolves, handover, .. } = job;
            if outcome.is_err() {
                self.stats.failed.fetch_add(1, Ordering::Relaxed);
            }
            if resolves.is_none() && !handover.claim() {
                // The worker notes it. Until then it keeps its permit, also one that was taken for many at once.
                permit = permit.or_else(|| permits.as_mut().and_then(|permits| permits.split(1)));
                let receipt = receipt.filter(|_| outcome.is_ok()).map(Receipt::one_more);
                set_aside.push(Answer::Called(Called { slot, outcome, attempt: delivery.attempt, permit, receipt }));
                continue;
            }
            match (&mut permits, permit) {
                (Some(all), Some(one)) => all.merge(one),
                (none, one) => *none = none.take().or(one),
            }
            let noted = match outcome {
                Ok(()) => Outcome::Delivered,
                Err(_) => Outcome::Parked,
            };
            match (resolves, outcome) {
                (Some(id), Ok(())) => {
                    drafts.resolved.push(Resolved { id, action: self.spec.name.clone(), resolution: Resolution::Delivered })
                }
                (resolves, Err(failure)) => {
                    let (change, hash, earlier) = (delivery.change(), delivery.hash(), delivery.earlier.as_deref());
                    let parking = Parking { change, hash, attempts: delivery.attempt, earlier };
                    let parked = Parked { id: resolves.unwrap_or(0), ..parking.record(&self.process, &self.spec, failure) };
                    announced.add(&self.spec, &mut drafts, parked, earlier);
                }
                (None, Ok(())) => {}
            }
            if resolves.is_none() && (noted == Outcome::Parked || self.spec.notes_deliveries()) {
                drafts.notes.push(Note {
                    action: self.number,
                    change: delivery.hash(),
                    position: delivery.position(),
                    epoch,
                    outcome: noted,
                });
            }
            match noted {
                Outcome::Delivered => delivered.push(slot),
                Outcome::Parked => answers.push(Answer::Parked(slot)),
            }
        }
        if !set_aside.is_empty() {
            self.post.send(set_aside);
        }
        self.waits.answered(delivered.len() + answers.len());
        if !delivered.is_empty() {
            answers.push(Answer::Delivered(delivered));
        }
        if answers.is_empty() {
            return;
        }
        if drafts.notes.is_empty() && drafts.parked.is_empty() && drafts.resolved.is_empty() {
            let _ = self.post.send(answers);
            return;
        }
        let post = self.post.clone();
        let receipt = receipt.filter(|_| !drafts.resolved.is_empty()).map(Receipt::one_more);
        let (process, spec) = (self.process.clone(), self.spec.clone());
        self.process.keeper.commit(drafts, move |ids| {
            announced.pass_on(&process, &spec, &ids);
            let _ = post.send(answers);
            drop(permits);
            receipt.into_iter().for_each(Receipt::settled);
        });
    }

    /// Tells the worker that a transaction has come to its end.
    pub(crate) fn ended(&self) {
        self.post.send(vec![Answer::Ended]);
    }
}
