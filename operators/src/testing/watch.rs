//! Calls of actions that a test watches, and makes fail.

use std::fmt;
use std::sync::Arc;

use crate::action::spec::{ActionSpec, Kind};
use crate::action::{Action, BatchAction, BoxFuture, Delivery, Surroundings};
use crate::error::{Error, Result};

/// What is to become of a call.
#[derive(Debug)]
pub enum Fate {
    /// It is made.
    Goes,
    /// It fails with this error, and is not made.
    Fails(Error),
    /// It is never answered.
    Hangs,
}

/// Decides on calls, and hears of them.
pub trait Watch: Send + Sync + 'static {
    /// A call is about to be made.
    fn before(&self, action: &str, delivery: &Delivery) -> Fate;

    /// A call was answered.
    fn after(&self, action: &str, delivery: &Delivery, answer: &Result);
}

impl ActionSpec {
    /// The same action, watched. Files are written without calls, and transactions are their target's matter; nothing watches them.
    pub fn watched(&self, watch: Arc<dyn Watch>) -> Self {
        let name = self.name.clone();
        let kind = match &self.kind {
            Kind::Each(inner) => Kind::Each(Arc::new(Watched { name, inner: inner.clone(), watch })),
            Kind::Batch(inner) => Kind::Batch(Arc::new(Watched { name, inner: inner.clone(), watch })),
            Kind::CutBack(sink) => Kind::CutBack(sink.clone()),
            Kind::Transactional(sink) => Kind::Transactional(sink.clone()),
        };
        ActionSpec { kind, ..self.clone() }
    }
}

struct Watched<A: ?Sized> {
    name: String,
    inner: Arc<A>,
    watch: Arc<dyn Watch>,
}

impl<A: ?Sized> Watched<A> {
    /// Lets a call be made, or not. Says how it failed, if it is not made.
    async fn before(&self, delivery: &Delivery) -> Result {
        match self.watch.before(&self.name, delivery) {
            Fate::Goes => Ok(()),
            Fate::Fails(error) => Err(error),
            Fate::Hangs => std::future::pending().await,
        }
    }
}

impl Action for Watched<dyn Action> {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let answer = match self.before(&delivery).await {
                Ok(()) => self.inner.call(delivery.clone()).await,
                Err(error) => Err(error),
            };
            self.watch.after(&self.name, &delivery, &answer);
            answer
        })
    }

    fn place(&self) -> Option<String> {
        self.inner.place()
    }

    fn begin(&self, around: &Surroundings) {
        self.inner.begin(around);
    }
}

impl BatchAction for Watched<dyn BatchAction> {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            let mut answers: Vec<Option<Result>> = Vec::with_capacity(batch.len());
            let mut made = Vec::new();
            for delivery in batch {
                let before = self.before(delivery).await;
                if before.is_ok() {
                    made.push(delivery.clone());
                }
                answers.push(before.err().map(Err));
            }
            let mut made = if made.is_empty() { Vec::new() } else { self.inner.call(&made).await }.into_iter();
            let silent = || Err(Error::retry("no answer for this change"));
            let answers: Vec<Result> =
                answers.into_iter().map(|answer| answer.unwrap_or_else(|| made.next().unwrap_or_else(silent))).collect();
            for (delivery, answer) in batch.iter().zip(&answers) {
                self.watch.after(&self.name, delivery, answer);
            }
            answers
        })
    }

    fn place(&self) -> Option<String> {
        self.inner.place()
    }

    fn begin(&self, around: &Surroundings) {
        self.inner.begin(around);
    }
}

impl<A: ?Sized> fmt::Debug for Watched<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("name", &self.name).finish_non_exhaustive()
    }
}
