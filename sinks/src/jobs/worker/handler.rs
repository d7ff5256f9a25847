//! What does a job: an action, or a closure over the job itself.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use highwater_operators::Result;
use highwater_operators::action::call::Planned;
use highwater_operators::action::{Action, BoxFuture, Delivery, Surroundings};
use highwater_operators::change::Found;
use highwater_operators::row::Fields;

use crate::jobs::job::Job;

/// Does a job, once per attempt.
///
/// An error's kind decides what becomes of the job: *retry* (what every `?` gives) tries it again later, *park* sets it aside, *stop* ends the
/// workers, and the job goes back to where it was. A panic parks it. An error that says that nothing was asked
/// ([`Error::not_asked`](highwater_operators::Error::not_asked)) counts as no attempt, and no more jobs are taken until its time is over.
///
/// Once the job's lease is lost, the future is not polled any more, and dropped.
pub trait Handler: Send + Sync + 'static {
    /// Does it.
    fn call(&self, job: Job) -> BoxFuture<'_>;

    /// What is wrong with it, a sentence each: asked before anything is taken.
    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        let _ = planned;
        Vec::new()
    }

    /// Told before the first call.
    fn begin(&self, around: &Surroundings) {
        let _ = around;
    }
}

/// What can be made a handler: a [`Handler`], or any [`Action`], such as a webhook or `run(|change| ..)`. `M` only tells them apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does no job",
    label = "not a handler",
    note = "what does a job is `handle(|job| async move {{ ..; Ok(()) }})`, an action such as `run(|change| ..)` or `Webhook::post(..)`, or a type of your own that implements `Handler` or `Action`"
)]
pub trait IntoHandler<M> {
    /// The handler.
    fn into_handler(self) -> Arc<dyn Handler>;
}

/// Marks what is a handler by [`Handler`].
#[derive(Debug)]
pub struct ByHandler;
/// Marks what is a handler by [`Action`].
#[derive(Debug)]
pub struct ByAction;

impl<H: Handler> IntoHandler<ByHandler> for H {
    fn into_handler(self) -> Arc<dyn Handler> {
        Arc::new(self)
    }
}

impl<A: Action> IntoHandler<ByAction> for A {
    fn into_handler(self) -> Arc<dyn Handler> {
        Arc::new(Acting(self))
    }
}

/// An action that does jobs. It is called with the job's id as idempotency key, and what is known of the job is found under [`FOUND`].
struct Acting<A>(A);

/// Under which name actions find the job: `{found.job.fence}`.
pub(super) const FOUND: &str = "job";

static FIELDS: LazyLock<Arc<[Box<str>]>> = LazyLock::new(|| ["number", "attempt", "fence"].map(Box::from).into());
static STAGE: LazyLock<Arc<str>> = LazyLock::new(|| FOUND.into());

impl<A: Action> Handler for Acting<A> {
    fn call(&self, job: Job) -> BoxFuture<'_> {
        let known = [job.number(), u64::from(job.attempt()), job.fence()].map(|number| Some(number.to_string()));
        let mut change = job.change().clone();
        change.attach(&Arc::new(Found::row_of(STAGE.clone(), Fields::named(FIELDS.clone(), known))));
        self.0.call(Delivery::under(job.id(), change, job.attempt()))
    }

    fn problems(&self, planned: &Planned<'_>) -> Vec<String> {
        self.0.problems(planned)
    }

    fn begin(&self, around: &Surroundings) {
        self.0.begin(around);
    }
}

/// An async closure as a handler, see [`handle`].
#[derive(Clone, Debug)]
pub struct Handle<F>(F);

/// Makes a handler of an async closure over a job.
///
/// ```
/// use highwater_sinks::MemoryJobQueue;
/// use highwater_sinks::jobs::handle;
///
/// let workers = MemoryJobQueue::with_workers(4).work(handle(|job| async move {
///     println!("job {} of {}, attempt {}, under fence {}", job.number(), job.key(), job.attempt(), job.fence());
///     Ok(())
/// }));
/// ```
pub fn handle<F, Fut>(handler: F) -> Handle<F>
where
    F: Fn(Job) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    Handle(handler)
}

impl<F, Fut> Handler for Handle<F>
where
    F: Fn(Job) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    fn call(&self, job: Job) -> BoxFuture<'_> {
        Box::pin((self.0)(job))
    }
}
