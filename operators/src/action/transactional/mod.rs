//! Actions that commit what they do together with the outcome, in one transaction of their target: nothing is ever done twice.
//!
//! What a call has done and whether it is known to be done cannot be made one, where they stand in two places: a crash between
//! the two repeats the call. A target with transactions keeps both itself. Each transaction writes the rows of a batch and, in
//! the same step, the outcomes of its changes; our own ledger notes nothing. Who starts a run goes by three steps, in this order:
//!
//! 1. *raise* the generation in the target. Every transaction takes a share of the row that holds it, so the raise waits for those
//!    under way, and what a replaced run begins later finds a newer number and writes nothing;
//! 2. *take over* the outcomes that stand there ([`take_over`]): those above the mark become notes of our own ledger, those of
//!    parked changes settle their records, and then the target forgets them;
//! 3. only then is anything read.
//!
//! So the target holds outcomes of one run only, and each is dropped once a mark above it is durable (`applied`).

mod applied;
mod outcomes;
mod take_over;
mod writer;

use std::sync::Arc;

use crate::action::call::{BoxFuture, Delivery};
use crate::action::driver::Job;
use crate::error::Result;

pub(crate) use self::applied::{Applied, Receipt};
pub use self::take_over::take_over;

/// Something done for many changes at once, in one transaction that holds their outcomes too.
///
/// # Guarantee
/// If the target keeps what is asked of it here, each change is applied exactly once, whatever was killed, frozen or cut off
/// meanwhile, and changes of one key in source order.
pub trait TransactionalSink: Send + Sync + 'static {
    /// Where it writes, for people.
    fn place(&self) -> String;

    /// Before a run reads anything: raises the generation in the target, durably, to `run`'s, waiting for the transactions of
    /// earlier runs and ending those that do not end. Returns every outcome recorded there. Called by one process of a run;
    /// nothing of it may be needed by [`apply`](Self::apply) in another.
    ///
    /// # Errors
    /// Of kind *retry* if the target is away; *stop* if it holds a later generation, or one of another checkpoint.
    fn begin<'a>(&'a self, run: &'a RunOf) -> BoxFuture<'a, Result<Vec<Recorded>>>;

    /// Carries out a transaction, whole or not at all: takes a share of the generation, records the outcomes under run and
    /// number unless they are there already, applies the changes in order if they were not, and commits.
    ///
    /// `Ok` says that it is durable, now or by an earlier try of the same number. What applies the changes, and the commit, must be
    /// sent only once the outcomes are known to stand in the open transaction: whatever of an earlier try is still on its way then
    /// either holds that place, so that this one waits for it, or has no commit behind it.
    ///
    /// # Errors
    /// *Retry*: the target is away, in a conflict, or the answer was lost; the same transaction is tried again until it is known.
    /// *Park*: nothing is written, because of some change in it. *Stop*: this run was replaced, or the target is not as it must be.
    fn apply<'a>(&'a self, transaction: Transaction<'a>) -> BoxFuture<'a>;

    /// Drops outcomes that nobody will ask for again.
    fn forget<'a>(&'a self, run: &'a RunOf, which: Forget) -> BoxFuture<'a>;
}

/// Whose transaction it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOf {
    /// The pipeline.
    pub pipeline: String,
    /// The action.
    pub action: String,
    /// The number of the run.
    pub generation: u64,
    /// The random number of the checkpoint that this run continues: another checkpoint knows nothing of the outcomes here.
    pub state_id: u128,
    /// The process of the run; transactions are numbered by each for itself.
    pub process: u32,
}

/// Changes that are applied together.
#[derive(Clone, Copy)]
pub struct Transaction<'a> {
    /// Whose it is.
    pub run: &'a RunOf,
    /// Its number, unique within the process of the run; another try of the same changes has the same.
    pub number: u64,
    /// The outcomes of its changes, to be kept as they are and given back by [`TransactionalSink::begin`].
    pub outcomes: &'a [u8],
    jobs: &'a [Job],
}

impl<'a> Transaction<'a> {
    /// The changes, those of a key in source order.
    pub fn changes(&self) -> impl ExactSizeIterator<Item = &'a Delivery> + use<'a> {
        self.jobs.iter().map(|job| &job.delivery)
    }
}

/// The outcomes of a transaction that were found in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// As [`Transaction::outcomes`] gave them.
    pub outcomes: Vec<u8>,
}

/// Outcomes to be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forget {
    /// All that earlier runs recorded: they were taken over.
    EarlierRuns,
    /// Those of these transactions of this process.
    Transactions(Vec<u64>),
}

/// What the workers of a process share of one such action.
pub(crate) struct Shared {
    pub sink: Arc<dyn TransactionalSink>,
    pub run: RunOf,
    pub applied: Applied,
}
