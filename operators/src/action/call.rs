//! What an action is: a call per change, or a call per batch of changes.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use xxhash_rust::xxh3::xxh3_128;

use crate::change::Change;
use crate::checkpoint::store::{Cause, ChangeHash, Parked};
use crate::clock::Clock;
use crate::error::Result;
use crate::hash::ChangeHasher;

/// A future on the heap.
pub type BoxFuture<'a, T = Result> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something done for each change.
///
/// # Guarantee
/// For one key, changes are first delivered in source order, one at a time. A change is delivered again only if the process
/// died after the call and before its outcome was noted; the idempotency key is then the same.
///
/// ```
/// use highwater_operators::action::{Action, BoxFuture, Delivery};
/// struct Print;
/// impl Action for Print {
///     fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
///         Box::pin(async move {
///             println!("{} {}", delivery.idempotency_key(), delivery.id());
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait Action: Send + Sync + 'static {
    /// Does it once. An error's kind decides: try again, park, or stop the pipeline. Any `?` means try again.
    fn call(&self, delivery: Delivery) -> BoxFuture<'_>;

    /// Where it goes, for people; without secrets.
    fn place(&self) -> Option<String> {
        None
    }

    /// What is wrong with it, a sentence each: asked before anything runs.
    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let _ = planned;
        Vec::new()
    }

    /// Told before the first call, by every worker of a process.
    fn begin(&self, around: &Surroundings) {
        let _ = around;
    }
}

/// What is known of a pipeline before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Planned<'a> {
    /// The names of its lookups.
    pub lookups: &'a [&'a str],
    /// Whether the action may go to addresses that are not public.
    pub allow_private: bool,
}

/// Where an action finds itself.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The name of the action.
    pub action: String,
    /// Calls of it under way at once in this process.
    pub max_parallelism: usize,
    /// The time by which it waits.
    pub clock: Clock,
    /// Whether it may go to addresses that are not public.
    pub allow_private: bool,
}

/// Something done for many changes at once. No batch holds two changes of one key.
pub trait BatchAction: Send + Sync + 'static {
    /// Does it, and answers for each change in the order given. A missing answer counts as an error to be tried again.
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>>;

    /// The same with a batch that may be kept: for actions that would copy it otherwise.
    fn call_owned(&self, batch: Vec<Delivery>) -> BoxFuture<'_, Vec<Result>> {
        Box::pin(async move { self.call(&batch).await })
    }

    /// As for an [`Action`].
    fn place(&self) -> Option<String> {
        None
    }

    /// As for an [`Action`].
    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let _ = planned;
        Vec::new()
    }

    /// As for an [`Action`].
    fn begin(&self, around: &Surroundings) {
        let _ = around;
    }

    /// The largest batch it wants, if it wants to say so.
    fn batch_max(&self) -> Option<usize> {
        None
    }
}

/// A change on its way to an action.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(crate) change: Change,
    pub(crate) scope: Arc<Scope>,
    /// The parked record it was taken up from, with the hash it was parked under. Else that is made when somebody needs it.
    pub(crate) earlier: Option<Arc<Earlier>>,
    pub(crate) attempt: u32,
}

/// What is known of a change from the parked record that it was taken up from.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub hash: ChangeHash,
    pub cause: Cause,
    pub parked_at_ms: u64,
    pub attempts: u32,
    pub rounds: u32,
}

impl Earlier {
    pub(crate) fn of(parked: &Parked) -> Self {
        let Parked { hash, cause, parked_at_ms, attempts, history, .. } = parked;
        Earlier { hash: *hash, cause: *cause, parked_at_ms: *parked_at_ms, attempts: *attempts, rounds: history.rounds }
    }
}

/// What the idempotency keys of one action are made of, beside the change itself.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Pipeline and action.
    pub(crate) name: String,
    pub(crate) hasher: ChangeHasher,
    /// Where no dedup stands before the action, ids need not be unique and the position tells copies apart.
    pub(crate) unique_ids: bool,
    /// The idempotency key itself, of a delivery that was made elsewhere under it.
    pub(crate) known: Option<Box<str>>,
}

impl Deref for Delivery {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.change
    }
}

impl Delivery {
    /// The change itself.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// The change's hash in the ledger.
    pub(crate) fn hash(&self) -> ChangeHash {
        self.earlier.as_ref().map_or_else(|| self.scope.hasher.hash(&self.change), |earlier| earlier.hash)
    }

    /// A delivery outside of a pipeline, of a change that already has its idempotency key: a job that was queued under it.
    ///
    /// ```
    /// use highwater_operators::{Change, action::Delivery};
    /// let change = Change::builder("c-1").build().unwrap();
    /// assert_eq!(Delivery::under("the key", change, 1).idempotency_key(), "the key");
    /// ```
    pub fn under(idempotency_key: impl Into<Box<str>>, change: Change, attempt: u32) -> Self {
        // Of no checkpoint, and one for all: a hasher has room for the partitions of a run, which is no small thing.
        static HASHER: LazyLock<ChangeHasher> = LazyLock::new(|| ChangeHasher::new(0, Vec::new()));
        let (hasher, known) = (HASHER.clone(), Some(idempotency_key.into()));
        let scope = Arc::new(Scope { name: String::new(), hasher, unique_ids: true, known });
        Delivery { change, scope, earlier: None, attempt }
    }

    /// Which attempt this is, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The same for every attempt and every repeat of this change at this action, and for nothing else: a receiver that
    /// remembers it can drop repeats.
    pub fn idempotency_key(&self) -> String {
        if let Some(known) = &self.scope.known {
            return known.clone().into();
        }
        let mut made_of = Vec::with_capacity(self.scope.name.len() + 40);
        made_of.extend_from_slice(self.scope.name.as_bytes());
        made_of.extend_from_slice(&self.hash().to_le_bytes());
        if !self.scope.unique_ids {
            let position = self.change.position();
            made_of.extend_from_slice(&position.partition.to_le_bytes());
            made_of.extend_from_slice(&position.at.to_le_bytes());
            made_of.extend_from_slice(&position.within.to_le_bytes());
        }
        format!("{:032x}", xxh3_128(&made_of))
    }
}

/// An async closure as an action, see [`run`].
#[derive(Clone, Debug)]
pub struct Run<F>(F);

/// Makes an action of an async closure over a change.
///
/// ```
/// use highwater_operators::action::{action, run};
/// let print = action("print", run(|change| async move {
///     println!("{}", change.id());
///     Ok(())
/// }));
/// ```
pub fn run<F, Fut>(call: F) -> Run<F>
where
    F: Fn(Change) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    Run(call)
}

impl<F, Fut> Action for Run<F>
where
    F: Fn(Change) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin((self.0)(delivery.change))
    }
}

/// An async closure over a batch as an action, see [`batch`].
#[derive(Clone, Debug)]
pub struct Batch<F>(F);

/// Makes an action of an async closure over a batch of changes; it answers for each, in order.
///
/// ```
/// use highwater_operators::action::{action, batch};
/// let count = action("count", batch(|changes| async move { changes.iter().map(|_| Ok(())).collect() }));
/// ```
pub fn batch<F, Fut>(call: F) -> Batch<F>
where
    F: Fn(Vec<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<Result>> + Send + 'static,
{
    Batch(call)
}

impl<F, Fut> BatchAction for Batch<F>
where
    F: Fn(Vec<Delivery>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<Result>> + Send + 'static,
{
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin((self.0)(batch.to_vec()))
    }

    fn call_owned(&self, batch: Vec<Delivery>) -> BoxFuture<'_, Vec<Result>> {
        Box::pin((self.0)(batch))
    }
}

#[cfg(feature = "testing")]
impl Delivery {
    /// A delivery without a pipeline around it, for tests of actions.
    pub fn alone(change: Change, attempt: u32) -> Self {
        let hasher = ChangeHasher::new(1, Vec::new());
        let scope = Arc::new(Scope { name: "alone/".to_owned(), hasher, unique_ids: true, known: None });
        Delivery { change, scope, earlier: None, attempt }
    }
}
