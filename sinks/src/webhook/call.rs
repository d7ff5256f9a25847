//! A call: the request, and what its answer means for the change.

use std::sync::Arc;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, BoxFuture, Delivery, Surroundings};
use highwater_operators::{Error, Result};

use super::{Description, Webhook};
use crate::http::{Answer, Endpoint, Prepared, Verdict, words};

impl Action for Webhook {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let (open, description) = (self.open()?, self.description());
            let prepared = description.prepare(&delivery)?;
            match description.ask(&open, prepared, delivery.attempt() > 1).await? {
                (Verdict::Delivered, _) => Ok(()),
                (verdict, answer) => Err(description.error(&open, verdict, &answer)),
            }
        })
    }

    fn place(&self) -> Option<String> {
        Some(self.description().shown())
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.description().check(planned)
    }

    fn begin(&self, around: &Surroundings) {
        self.opened(around);
    }
}

impl Webhook {
    pub(super) fn open(&self) -> Result<Arc<Endpoint>> {
        self.open.get("webhook", |around| self.description().open(around))
    }

    pub(super) fn opened(&self, around: &Surroundings) {
        let _ = self.open.begin(around, |around| self.description().open(around));
    }
}

impl Description {
    fn open(&self, around: &Surroundings) -> Result<Endpoint, String> {
        let origin = self.origin.as_ref().filter(|_| self.problems.is_empty()).ok_or_else(|| self.problems.join("; "))?;
        Endpoint::new(self.shown(), std::slice::from_ref(origin), &self.reach, around)
    }

    pub(super) async fn ask(&self, open: &Endpoint, prepared: Prepared, retry: bool) -> Result<(Verdict, Answer)> {
        open.ask(prepared, retry, |answer| self.policy.judge(answer.status)).await
    }

    /// An answer that is no success, as an error with what the endpoint said.
    pub(super) fn error(&self, open: &Endpoint, verdict: Verdict, answer: &Answer) -> Error {
        open.error(verdict, answer, format_args!("{}{}", words(answer.status), answer.said()))
    }
}
