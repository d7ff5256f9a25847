//! The workers of a queue in one process.
//!
//! Jobs are taken in batches (`take`), done by so many tasks at once (`attempt`), and what became of them is said in batches too (`settle`), while
//! their leases are renewed (`renew`). All of it meets at a `desk`.

mod attempt;
mod desk;
mod handler;
mod held;
mod renew;
mod settle;
mod take;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::Surroundings;
use highwater_operators::action::call::Planned;
use highwater_operators::clock::Clock;
use highwater_operators::queues::Done;
use highwater_operators::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::desk::Desk;
pub use self::handler::{ByAction, ByHandler, Handle, Handler, IntoHandler, handle};
pub(super) use self::held::Held;
use super::figures::Figures;
use super::queue::{JobQueue, Open};
use super::settings::Settings;
use super::store::JobStore;

/// The workers of a queue in this process, as they will be. See [`JobQueue::work`].
#[must_use = "nothing is done before `run` or `until`"]
pub struct Workers {
    queue: JobQueue,
    handler: Arc<dyn Handler>,
    allow_private: bool,
    drain: Duration,
    until_empty: bool,
    lookups: Vec<String>,
}

impl JobQueue {
    /// Workers that do its jobs: an action, such as a webhook or `run(|change| ..)`, or a closure over the job (`handle(|job| ..)`).
    ///
    /// ```no_run
    /// use highwater_sinks::{MemoryJobQueue, jobs::handle};
    /// let receipts = MemoryJobQueue::with_workers(16).name("receipts");
    /// let done = receipts.work(handle(|job| async move {
    ///     println!("{}", job.key());
    ///     Ok(())
    /// })).run()?;
    /// println!("{} jobs", done.finished);
    /// # Ok::<(), highwater_operators::Error>(())
    /// ```
    pub fn work<M>(&self, handler: impl IntoHandler<M>) -> Workers {
        let handler = handler.into_handler();
        let (queue, drain, lookups) = (self.clone(), Duration::from_secs(30), vec![handler::FOUND.to_owned()]);
        Workers { queue, handler, allow_private: false, drain, until_empty: false, lookups }
    }
}

/// What all tasks of the workers share.
struct Pool {
    settings: Settings,
    handler: Arc<dyn Handler>,
    store: Arc<dyn JobStore>,
    figures: Arc<Figures>,
    open: Arc<Open>,
    desk: Desk,
    until_empty: bool,
}

impl Workers {
    /// Lets actions go to addresses that are not public. Default: webhooks and all that goes over HTTP refuse them.
    pub fn allow_private(mut self, allow: bool) -> Self {
        self.allow_private = allow;
        self
    }

    /// What lookups have attached to the changes before they were enqueued, by name: an action may take fields of that (`{found.customer.tier}`).
    /// What is known of the job itself is always there, as `{found.job.number}`, `{found.job.attempt}` and `{found.job.fence}`.
    pub fn found<S: Into<String>>(mut self, lookups: impl IntoIterator<Item = S>) -> Self {
        self.lookups.extend(lookups.into_iter().map(Into::into));
        self
    }

    /// How long jobs under way may take once the workers are to end; then they are broken off and given back. Default: 30 s.
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// They end by themselves once nothing is left in the queue but what is parked, or waits behind that.
    pub fn until_empty(mut self) -> Self {
        self.until_empty = true;
        self
    }

    /// Works until Ctrl-C (or SIGTERM), on a runtime of its own. Then no more jobs are taken, those under way are finished, and the rest is given
    /// back at once. A second Ctrl-C breaks off what is under way.
    ///
    /// # Errors
    /// As [`until`](Self::until).
    pub fn run(self) -> Result<Done> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::stop("the workers have no runtime").because(error))?;
        runtime.block_on(async {
            // One for all: whoever asks twice is heard twice.
            let mut asked = Asked::listen()?;
            let (first, again) = (Notify::new(), Notify::new());
            let hears = async {
                asked.next().await;
                first.notify_one();
                asked.next().await;
                again.notify_one();
                std::future::pending::<()>().await
            };
            tokio::select! {
                done = self.work_until(first.notified(), again.notified()) => done,
                () = hears => unreachable!("it goes on until it is dropped"),
            }
        })
    }

    /// Works until `end`, then as [`run`](Self::run), but for Ctrl-C, of which this does not hear.
    ///
    /// While the store is away this waits for it. Dropped half-way, nothing is given back: jobs come back when their leases end.
    ///
    /// # Errors
    /// Of kind stop: what was said of the queue or of the handler is wrong, jobs would not be safe in the store, it refuses for good, or a handler
    /// said to stop.
    pub async fn until(self, end: impl Future<Output = ()>) -> Result<Done> {
        self.work_until(end, std::future::pending()).await
    }

    async fn work_until(self, end: impl Future<Output = ()>, at_once: impl Future<Output = ()>) -> Result<Done> {
        let pool = self.pool()?;
        let mut tasks = Tasks::start(&pool);
        tokio::select! {
            () = end => {}
            () = pool.desk.ended() => {}
        }
        pool.desk.end(None);
        let drained = async {
            tokio::select! {
                () = pool.desk.drained() => true,
                () = tokio::time::sleep(self.drain) => false,
                () = at_once => false,
            }
        };
        if !drained.await {
            tasks.workers.shutdown().await;
            pool.give_back();
        }
        tasks.finish(&pool).await;
        pool.desk.failure().map_or_else(|| Ok(pool.figures.done()), Err)
    }

    fn pool(&self) -> Result<Arc<Pool>> {
        let settings = self.queue.settings.clone();
        let open = self.queue.open()?;
        let lookups: Vec<&str> = self.lookups.iter().map(String::as_str).collect();
        let planned = Planned { lookups: &lookups, allow_private: self.allow_private };
        let problems = self.handler.problems(&planned);
        if !problems.is_empty() {
            return Err(Error::stop(format!("what does the jobs of queue \"{}\": {}", settings.name, problems.join("; "))));
        }
        self.handler.begin(&Surroundings {
            action: settings.name.clone(),
            max_parallelism: settings.workers,
            clock: Clock::default(),
            allow_private: self.allow_private,
        });
        let desk = Desk::new(settings.workers);
        let (store, figures, handler) = (open.store.clone(), open.figures.clone(), self.handler.clone());
        Ok(Arc::new(Pool { settings, handler, store, figures, open, desk, until_empty: self.until_empty }))
    }
}

/// Ctrl-C and SIGTERM.
struct Asked {
    interrupt: Signal,
    terminate: Signal,
}

impl Asked {
    fn listen() -> Result<Self> {
        let heard = |kind| signal(kind).map_err(|error| Error::stop("signals cannot be heard").because(error));
        Ok(Asked { interrupt: heard(SignalKind::interrupt())?, terminate: heard(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How long the last jobs that are asked for are waited for, to be given back at once.
const LAST_TAKE: Duration = Duration::from_secs(5);

/// The tasks of a pool. They end with this.
struct Tasks {
    workers: JoinSet<()>,
    takes: JoinSet<()>,
    settles: JoinSet<()>,
    renews: JoinSet<()>,
}

impl Tasks {
    fn start(pool: &Arc<Pool>) -> Self {
        let mut tasks = Tasks { workers: JoinSet::new(), takes: JoinSet::new(), settles: JoinSet::new(), renews: JoinSet::new() };
        for _ in 0..pool.settings.workers {
            let pool = pool.clone();
            tasks.workers.spawn(async move { pool.work().await });
        }
        let (takes, settles, renews) = (pool.clone(), pool.clone(), pool.clone());
        tasks.takes.spawn(async move { takes.take_until_the_end().await });
        tasks.settles.spawn(async move { settles.settle_until_the_end().await });
        tasks.renews.spawn(async move { renews.renew_for_ever().await });
        tasks
    }

    /// Nothing is under way any more: waits until all of that is said, or cannot be for as long as leases last.
    async fn finish(mut self, pool: &Pool) {
        // What is being taken just then is given back, unless the store does not answer.
        let taken = async { while self.takes.join_next().await.is_some() {} };
        if tokio::time::timeout(pool.settings.lease.min(LAST_TAKE), taken).await.is_err() {
            self.takes.shutdown().await;
        }
        pool.desk.close();
        let all_said = async { while self.settles.join_next().await.is_some() {} };
        if tokio::time::timeout(pool.settings.lease, all_said).await.is_err() {
            let queue = &pool.settings.name;
            tracing::warn!(queue, "the store is away, and is not told of the last jobs: they will be done once more");
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({:?})", self.queue)
    }
}
