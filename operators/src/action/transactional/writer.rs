//! The side of a transactional action that runs on the runtime: one transaction per batch, until it is known what became of it.

use std::sync::Arc;
use std::time::Instant;

use super::outcomes::{self, Entry};
use super::{RunOf, Shared, Transaction, TransactionalSink};
use crate::action::driver::{Again, Driver, Finished, Job};
use crate::action::parking::Failure;
use crate::action::spec::ActionSpec;
use crate::checkpoint::store::Cause;
use crate::error::{Error, ErrorKind};
use crate::process::Process;

impl Shared {
    /// What the workers of a process share of an action, made by the first that asks.
    pub(crate) fn of(process: &Arc<Process>, spec: &ActionSpec, sink: &Arc<dyn TransactionalSink>) -> Arc<Shared> {
        let run = RunOf {
            pipeline: process.limits.pipeline.clone(),
            action: spec.name.clone(),
            generation: process.generation,
            state_id: process.hasher.state_id(),
            process: process.cluster.place().process as u32,
        };
        process.shared.get_or_make(&spec.name, || Shared { sink: sink.clone(), run, applied: Default::default() })
    }
}

impl Driver {
    /// Applies a batch, and settles each of its changes. A change for which the target refuses the whole is found by halves,
    /// in order, and parked; the others go through.
    pub(crate) async fn transaction(self: Arc<Self>, shared: Arc<Shared>, jobs: Vec<Job>) {
        let permit = self.permit(1).await;
        // The last is next.
        let mut parts = vec![jobs];
        while let Some(mut jobs) = parts.pop() {
            let number = shared.applied.next_number();
            match self.apply(&shared, number, &mut jobs).await {
                Ok(()) => {
                    let last_epoch = jobs.iter().map(|job| job.epoch).max().unwrap_or_default();
                    let receipt = shared.applied.add(number, last_epoch);
                    let finished = jobs.into_iter().map(|job| Finished { job, outcome: Ok(()), permit: None }).collect();
                    self.settle(finished, None, Some(&receipt));
                    receipt.settled();
                }
                Err(Refusal::Stopped) => return,
                Err(Refusal::Because(_)) if jobs.len() > 1 => {
                    let second = jobs.split_off(jobs.len() / 2);
                    parts.extend([second, jobs]);
                }
                Err(Refusal::Because(why)) => {
                    let culprit = jobs.into_iter().map(|job| Finished { job, outcome: Err(why.clone()), permit: None });
                    self.settle(culprit.collect(), None, None);
                }
            }
        }
        drop(permit);
        self.ended();
    }

    /// Tries a transaction until it is known to be committed, or refused for what it holds. That the target is away is no
    /// failed attempt: it says nothing of the changes.
    async fn apply(&self, shared: &Shared, number: u64, jobs: &mut [Job]) -> Result<(), Refusal> {
        let entry = |job: &Job| Entry { change: job.delivery.hash(), position: job.delivery.position(), epoch: job.epoch };
        let outcomes = outcomes::encode(jobs.iter().map(entry));
        loop {
            let began = Instant::now();
            self.begin(jobs);
            if self.process.halt.passes("transaction.begins") || self.process.halt.is_halted() {
                return Err(Refusal::Stopped);
            }
            let transaction = Transaction { run: &shared.run, number, outcomes: &outcomes, jobs };
            let answer = self.in_time(|| shared.sink.apply(transaction)).await;
            self.durations.record_many(began.elapsed().as_secs_f64(), jobs.len());
            let error = match answer {
                Ok(Ok(Ok(()))) => {
                    if self.process.halt.passes("transaction.committed") {
                        return Err(Refusal::Stopped);
                    }
                    *self.stats.trouble.lock() = None;
                    return Ok(());
                }
                Ok(Err(panic)) => return Err(Refusal::Because(Failure::new(Cause::Panicked, panic))),
                Ok(Ok(Err(error))) => error,
                Err(_) => Error::retry(format!("{}: no answer within {:?}", shared.sink.place(), self.spec.timeout)),
            };
            match error.kind() {
                ErrorKind::Retry => {
                    let trouble = error.to_string();
                    if self.stats.trouble.lock().replace(trouble.clone()).is_none() {
                        tracing::warn!(action = %self.spec.name, error = %trouble, "nothing is written for now; trying again");
                    }
                    self.wait(jobs, Again::after(&error)).await;
                }
                ErrorKind::Park => return Err(Refusal::Because(Failure::of(&error))),
                ErrorKind::Stop => {
                    self.process.halt.fail(error.context(format!("action \"{}\"", self.spec.name)));
                    return Err(Refusal::Stopped);
                }
            }
        }
    }
}

/// Why a transaction is not committed, and will not be as it is.
enum Refusal {
    /// Some change in it is the cause.
    Because(Failure),
    /// The process ends.
    Stopped,
}
