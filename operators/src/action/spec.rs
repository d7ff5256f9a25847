//! How a user names an action and bounds it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::action::call::{Action, BatchAction, Planned, Surroundings};
use crate::action::cut_back::CutBackSink;
use crate::action::transactional::TransactionalSink;
use crate::change::Change;
use crate::condition::{self, Condition};
use crate::guard::backoff::Backoff;
use crate::parked::Schedule;
use crate::process::Process;

/// A named action with its bounds, as given to a fan-out.
pub type NamedAction = ActionSpec;

/// An action, its name and its bounds.
#[derive(Clone)]
pub struct ActionSpec {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) when: Option<Condition>,
    pub(crate) max_parallelism: usize,
    pub(crate) timeout: Duration,
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) repeatable: bool,
    pub(crate) hold: bool,
    pub(crate) hold_budget: Duration,
    pub(crate) batch_max: usize,
    pub(crate) allow_private: bool,
    pub(crate) retry_parked: Schedule,
    pub(crate) on_parked: Option<Arc<ActionSpec>>,
}

/// The ways in which an action is carried out.
#[derive(Clone)]
pub enum Kind {
    /// A call per change.
    Each(Arc<dyn Action>),
    /// A call per batch.
    Batch(Arc<dyn BatchAction>),
    /// Files that are cut back to the checkpoint on resume.
    CutBack(Arc<dyn CutBackSink>),
    /// Transactions that hold their outcomes too.
    Transactional(Arc<dyn TransactionalSink>),
}

/// What can be made an action: an [`Action`], a [`BatchAction`], a [`CutBackSink`] or a [`TransactionalSink`]. `M` only tells them apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no action",
    label = "not an action",
    note = "an action is `run(|change| async move {{ ..; Ok(()) }})`, `batch(|changes| async move {{ .. }})` with a result for each, a sink such as `JsonLines::append(..)`, or a type of your own that implements `Action` or `BatchAction`"
)]
pub trait IntoAction<M> {
    /// The way in which it is carried out.
    fn into_kind(self) -> Kind;
}

/// Marks what is an action by [`Action`].
#[derive(Debug)]
pub struct ByAction;
/// Marks what is an action by [`BatchAction`].
#[derive(Debug)]
pub struct ByBatchAction;
/// Marks what is an action by [`CutBackSink`].
#[derive(Debug)]
pub struct ByCutBackSink;
/// Marks what is an action by [`TransactionalSink`].
#[derive(Debug)]
pub struct ByTransactionalSink;

impl<A: Action> IntoAction<ByAction> for A {
    fn into_kind(self) -> Kind {
        Kind::Each(Arc::new(self))
    }
}

impl<A: BatchAction> IntoAction<ByBatchAction> for A {
    fn into_kind(self) -> Kind {
        Kind::Batch(Arc::new(self))
    }
}

impl<S: CutBackSink> IntoAction<ByCutBackSink> for S {
    fn into_kind(self) -> Kind {
        Kind::CutBack(Arc::new(self))
    }
}

impl<S: TransactionalSink> IntoAction<ByTransactionalSink> for S {
    fn into_kind(self) -> Kind {
        Kind::Transactional(Arc::new(self))
    }
}

/// Names an action. The name is part of its identity: outcomes, parked changes and idempotency keys go by it.
pub fn action<M>(name: impl Into<String>, action: impl IntoAction<M>) -> NamedAction {
    let kind = action.into_kind();
    let (max_parallelism, batch_max) = match kind {
        Kind::Transactional(_) => (TRANSACTIONS, CHANGES_PER_TRANSACTION),
        Kind::Batch(ref action) => (100, action.batch_max().unwrap_or(500)),
        _ => (100, 500),
    };
    ActionSpec {
        name: name.into(),
        kind,
        when: None,
        max_parallelism,
        timeout: Duration::from_secs(30),
        attempts: 5,
        backoff: Backoff::default(),
        repeatable: false,
        hold: false,
        hold_budget: Duration::from_secs(300),
        batch_max,
        allow_private: false,
        retry_parked: Schedule::default(),
        on_parked: None,
    }
}

/// Transactions under way at once, unless the user says otherwise: while one is being committed, others are filled.
const TRANSACTIONS: usize = 4;

/// Changes in one transaction at most, unless the user says otherwise.
const CHANGES_PER_TRANSACTION: usize = 2_000;

impl ActionSpec {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes only changes for which `condition` holds; the rest is counted as filtered. What several of [`when`](Self::when) and
    /// [`on`](Self::on) say must all hold.
    pub fn when(self, condition: impl Fn(&Change) -> bool + Send + Sync + 'static) -> Self {
        self.on(Condition::closure(condition))
    }

    /// Takes only changes for which a ready condition holds, whose name screens and metrics show:
    /// `.on(all([table("orders"), became("status", "paid")]))`.
    ///
    /// A change of which the condition cannot say whether it holds, because the source gives no row before an update, is parked.
    pub fn on(mut self, condition: Condition) -> Self {
        self.when = Some(match self.when.take() {
            None => condition,
            Some(earlier) => condition::all([earlier, condition]),
        });
        self
    }

    /// The condition under which it takes a change, if it has one.
    pub fn condition(&self) -> Option<&Condition> {
        self.when.as_ref()
    }

    /// Calls under way at once, dealt to the processes there are (at least one each), and so the most that a crash can repeat. Default:
    /// 100. Of a transactional action: transactions under way at once, of which a crash repeats nothing; default: 4.
    pub fn max_parallelism(mut self, calls: usize) -> Self {
        self.max_parallelism = calls.max(1);
        self
    }

    /// How long one attempt may take. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Attempts before the change is parked. Default: 5. A transactional action tries as long as its target is away, and parks only
    /// what the target refuses.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The waits between attempts. Default: full jitter up to 50 ms, doubling, at most 10 s.
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        self.backoff = Backoff { base, max };
        self
    }

    /// Declares that doing it twice does no harm: nothing is noted, and what is read again after a crash is done again.
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// When a change is parked, later changes of its key wait behind it, parked too. Default: they pass.
    pub fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    /// What stands parked as failed (or because of a lookup) is tried again by itself: after the first wait, and each time it fails
    /// again after the next one; then it stays for a person. Default: never. When a record is tried next is kept with it, so that it
    /// survives a restart; what a schedule says counts for what is parked from then on.
    ///
    /// ```
    /// use std::time::Duration;
    /// use highwater_operators::action::{action, run};
    /// use highwater_operators::parked::Schedule;
    /// let hours = |hours: u64| Duration::from_secs(3600 * hours);
    /// let patient = action("receipt", run(|_| async { Ok(()) })).retry_parked(Schedule::after([hours(1), hours(12)]));
    /// ```
    pub fn retry_parked(mut self, schedule: Schedule) -> Self {
        self.retry_parked = schedule;
        self
    }

    /// Does something when a change is parked that does not come back by itself: another action, with a name and bounds of its own,
    /// called with a change of table `parked` whose row after says `action`, `cause`, `error`, `attempts`, `response` and the whole
    /// `change`.
    ///
    /// # Guarantee
    /// The hook is called at least once for each change that comes to stand parked, after that is durable, whatever is killed in
    /// between, with the same idempotency key each time. It is not called again when a retry of the record fails. What the hook fails
    /// at is parked under its own name, and calls nobody.
    ///
    /// ```
    /// use highwater_operators::action::{action, run};
    /// let tell = run(|parked| async move {
    ///     eprintln!("{} parked: {}", parked.row().str("action").unwrap_or_default(), parked.row().str("error").unwrap_or_default());
    ///     Ok(())
    /// });
    /// let receipt = action("receipt", run(|_| async { Ok(()) })).on_parked(action("tell", tell));
    /// assert_eq!(receipt.hook().unwrap().name(), "tell");
    /// ```
    pub fn on_parked(mut self, hook: NamedAction) -> Self {
        self.on_parked = Some(Arc::new(hook));
        self
    }

    /// Whether what stands parked is tried again by itself.
    pub fn retries_parked(&self) -> bool {
        !self.retry_parked.is_empty()
    }

    /// What is called when a change is parked.
    pub fn hook(&self) -> Option<&Arc<ActionSpec>> {
        self.on_parked.as_ref()
    }

    /// How long, from reading, a change may wait for its turn before it is set aside so that the mark can move on.
    /// Default: 5 min.
    pub fn hold_budget(mut self, budget: Duration) -> Self {
        self.hold_budget = budget;
        self
    }

    /// Largest batch of a batch action; `max_parallelism` bounds it too. Default: 500. Of a transactional action: changes in one
    /// transaction; default: 2,000.
    pub fn batch_max(mut self, changes: usize) -> Self {
        self.batch_max = changes.max(1);
        self
    }

    /// Lets it go to addresses that are not public: loopback, private networks, link-local. Default: webhooks, mails and
    /// all that goes over HTTP refuse them.
    pub fn allow_private(mut self, allow: bool) -> Self {
        self.allow_private = allow;
        self
    }

    /// Whether a delivery is noted in our ledger.
    pub(crate) fn notes_deliveries(&self) -> bool {
        !self.repeatable && !matches!(self.kind, Kind::Transactional(_))
    }

    /// What it commits to, if it commits its outcomes with what it does.
    pub fn transactional_sink(&self) -> Option<&Arc<dyn TransactionalSink>> {
        match &self.kind {
            Kind::Transactional(sink) => Some(sink),
            _ => None,
        }
    }

    /// Where what it does is kept, for people, if it knows.
    pub fn place(&self) -> Option<String> {
        match &self.kind {
            Kind::CutBack(sink) => Some(sink.place()),
            Kind::Transactional(sink) => Some(sink.place()),
            Kind::Each(action) => action.place(),
            Kind::Batch(action) => action.place(),
        }
    }

    /// What is wrong with it, a sentence each. `lookups` are the names of those that the pipeline has.
    pub fn problems(&self, lookups: &[&str]) -> Vec<String> {
        let planned = Planned { lookups, allow_private: self.allow_private };
        let mut problems = match &self.kind {
            Kind::Each(action) => action.problems(&planned),
            Kind::Batch(action) => action.problems(&planned),
            Kind::CutBack(_) | Kind::Transactional(_) => Vec::new(),
        };
        if let Some(hook) = &self.on_parked {
            problems.extend(hook.problems_as_hook().into_iter().chain(hook.problems(lookups)));
        }
        problems
    }

    /// What keeps it from being called when something is parked.
    fn problems_as_hook(&self) -> Vec<String> {
        let name = &self.name;
        let mut problems = Vec::new();
        if matches!(self.kind, Kind::CutBack(_)) {
            problems.push(format!(
                "its hook \"{name}\" writes files in the order of the source, and a hook is called out of order: use run(..), a webhook \
                 or a table"
            ));
        }
        if self.on_parked.is_some() {
            problems.push(format!("its hook \"{name}\" has a hook of its own; what a hook fails at calls nobody"));
        }
        if self.when.is_some() {
            problems.push(format!(
                "its hook \"{name}\" has a condition; ask in the hook itself, and return Ok(()) where there is nothing to do"
            ));
        }
        problems
    }

    /// Tells it where it finds itself.
    pub(crate) fn begin(&self, process: &Process) {
        let (action, max_parallelism) = (self.name.clone(), process.cluster.place().share(self.max_parallelism));
        let around = Surroundings { action, max_parallelism, clock: process.clock.waits(), allow_private: self.allow_private };
        match &self.kind {
            Kind::Each(action) => action.begin(&around),
            Kind::Batch(action) => action.begin(&around),
            Kind::CutBack(_) | Kind::Transactional(_) => {}
        }
    }

    /// The files it writes, if it writes such as are cut back on resume.
    pub fn cut_back_sink(&self) -> Option<&Arc<dyn CutBackSink>> {
        match &self.kind {
            Kind::CutBack(sink) => Some(sink),
            _ => None,
        }
    }
}

impl fmt::Debug for ActionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActionSpec").field("name", &self.name).field("repeatable", &self.repeatable).finish_non_exhaustive()
    }
}
