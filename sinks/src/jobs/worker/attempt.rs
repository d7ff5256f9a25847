//! A worker: one job after the other, each tried once, for as long as it is ours.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use highwater_operators::checkpoint::store::Cause;
use highwater_operators::guard::panic::{Guarded, guarded};
use highwater_operators::{Error, ErrorKind, Result};

use super::Pool;
use super::held::Held;
use crate::jobs::figures::add;
use crate::jobs::job::Job;
use crate::jobs::store::{Fate, Reason};

/// When to come back if nothing was asked and nobody says when.
const NOT_ASKED: Duration = Duration::from_secs(1);

/// How an attempt ended.
enum End {
    /// With an answer, or the text of a panic.
    Answered(Result<Result, String>),
    /// Not in time.
    TooLong,
    /// The job is not ours any more.
    Lost,
}

impl Pool {
    pub(super) async fn work(self: &Arc<Self>) {
        while let Some(held) = self.desk.next().await {
            let began = Instant::now();
            let (fate, was_tried) = match self.unfit(&held) {
                Some(reason) => (Some(self.park(&held, reason)), false),
                None => {
                    let end = self.attempt(&held).await;
                    (self.judge(&held, end), true)
                }
            };
            self.desk.done(&held, fate, was_tried.then(|| began.elapsed()));
        }
    }

    /// Why a job is not to be tried at all.
    fn unfit(&self, held: &Held) -> Option<(Cause, Error)> {
        if let Some(error) = &held.unreadable {
            return Some((Cause::Failed, error.in_words()));
        }
        let most = self.settings.attempts;
        (held.leased.attempt > most).then(|| {
            let why =
                format!("all {most} attempts ended without an answer: the workers that made them died, froze or lost the store");
            (Cause::Failed, Error::park(why))
        })
    }

    async fn attempt(&self, held: &Arc<Held>) -> End {
        let call = guarded(|| self.handler.call(Job(held.clone())));
        let mut call = match call {
            Ok(call) => Guarded(call),
            Err(panic) => return End::Answered(Err(panic)),
        };
        // Looked at before each poll: of a process that was frozen, nothing tells the handler that its time is over.
        let mut watched = poll_fn(move |context| match held.is_held() {
            true => std::pin::Pin::new(&mut call).poll(context).map(End::Answered),
            false => Poll::Ready(End::Lost),
        });
        tokio::select! {
            biased;
            end = &mut watched => end,
            () = held.lost() => End::Lost,
            () = tokio::time::sleep(self.settings.timeout) => End::TooLong,
        }
    }

    /// What becomes of the job. `None`: it is not for us to say.
    fn judge(&self, held: &Held, end: End) -> Option<Fate> {
        let error = match end {
            End::Lost => {
                add(&self.figures.lost, 1);
                return None;
            }
            End::Answered(Ok(Ok(()))) => return Some(Fate::Finished),
            End::Answered(Ok(Err(error))) => error,
            End::Answered(Err(panic)) => return Some(self.park(held, (Cause::Panicked, Error::park(panic)))),
            End::TooLong => Error::retry(format!("it took longer than {:?} (timeout)", self.settings.timeout)),
        };
        Some(match error.kind() {
            ErrorKind::Stop => {
                self.desk.end(Some(error));
                Fate::Released(Duration::ZERO)
            }
            ErrorKind::Retry if !error.was_asked() => {
                let wait = error.wait().filter(|wait| !wait.is_zero()).unwrap_or(NOT_ASKED);
                // Whoever would have been asked is away for all jobs: they wait in the queue, in order, not one by one here.
                self.desk.put_off(Instant::now() + wait);
                Fate::Released(wait)
            }
            ErrorKind::Retry if held.leased.attempt < self.settings.attempts => {
                add(&self.figures.retried, 1);
                Fate::Retry(error.wait().unwrap_or_else(|| self.settings.backoff.wait(held.leased.attempt)))
            }
            ErrorKind::Retry | ErrorKind::Park => self.park(held, (Cause::Failed, error)),
        })
    }

    fn park(&self, held: &Held, (cause, error): (Cause, Error)) -> Fate {
        add(&self.figures.parked, 1);
        let (response, attempts) = (error.response().map(str::to_owned), held.leased.attempt);
        Fate::Parked(Reason { cause, error: error.to_string(), response, attempts })
    }
}
