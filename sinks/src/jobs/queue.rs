//! A queue as an action: each change becomes a job, exactly once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::action::call::Planned;
use highwater_operators::action::{BatchAction, BoxFuture, Delivery, Surroundings};
use highwater_operators::epoch::unix_ms;
use highwater_operators::{Change, Error, ErrorKind, Result};

use super::figures::Figures;
use super::job::{Content, encode};
use super::settings::{Kept, Settings};
use super::store::{BATCH_MAX, Counts, Enqueued, JobStore, NewJob};

/// A queue of jobs: an action that enqueues, and workers that do what was enqueued ([`work`](Self::work)).
///
/// ```
/// use highwater_operators::action::{action, run};
/// use highwater_sinks::MemoryJobQueue;
///
/// let thumbnails = MemoryJobQueue::with_workers(16).name("thumbnails").ordered();
/// let enqueue = action("thumbnail", thumbnails.clone());
/// let workers = thumbnails.work(run(|change| async move {
///     println!("a picture of {}", change.key());
///     Ok(())
/// }));
/// ```
///
/// # Guarantee
/// For each change there is exactly one job: it goes by the change's idempotency key, and a change that is sent again, after a crash or an answer
/// that was lost, finds its job, or is remembered as done ([`remember`](Self::remember)). The change counts as delivered once its job is durable.
///
/// Each job is done at least once: whoever takes one has a lease of it, and if that is not renewed it is given to somebody else, under a larger
/// fencing number. It is done a second time only if a worker died, froze or lost its store after it had done the job, and before that was noted.
/// What cannot be done is parked, never dropped.
#[derive(Clone)]
pub struct JobQueue {
    pub(super) settings: Settings,
    /// Made by whoever needs it first, and shared by clones.
    pub(super) open: Arc<OnceLock<Result<Arc<Open>, String>>>,
}

/// Queues in Redis.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub enum RedisJobQueue {}

#[cfg(feature = "redis")]
impl RedisJobQueue {
    /// A queue in the Redis of this URL; a process that works on it does `workers` jobs at once. See [`JobQueue`].
    pub fn with_workers(url: impl Into<String>, workers: usize) -> JobQueue {
        JobQueue::new(Kept::Redis(url.into()), workers)
    }
}

/// Queues in Postgres.
#[cfg(feature = "postgres")]
#[derive(Debug)]
pub enum PostgresJobQueue {}

#[cfg(feature = "postgres")]
impl PostgresJobQueue {
    /// A queue in the table `highwater_jobs` of the database of this URL, which is made if it is not there; a process that works on it does
    /// `workers` jobs at once. See [`JobQueue`].
    pub fn with_workers(url: impl Into<String>, workers: usize) -> JobQueue {
        JobQueue::new(Kept::Postgres(url.into()), workers)
    }
}

/// Queues in the memory of this process, whose jobs are lost with it.
#[derive(Debug)]
pub enum MemoryJobQueue {}

impl MemoryJobQueue {
    /// A queue in memory, of which `workers` jobs are done at once. Clones are the same queue; whatever is said of one makes it another. See
    /// [`JobQueue`].
    pub fn with_workers(workers: usize) -> JobQueue {
        JobQueue::new(Kept::Memory, workers)
    }
}

/// A queue that is in use in this process.
pub(super) struct Open {
    pub store: Arc<dyn JobStore>,
    pub figures: Arc<Figures>,
    ready: tokio::sync::OnceCell<()>,
}

impl Open {
    /// The store, once it has been opened.
    pub(super) async fn ready(&self) -> Result<&Arc<dyn JobStore>> {
        self.ready.get_or_try_init(|| self.store.open()).await?;
        self.figures.watch(&self.store);
        Ok(&self.store)
    }
}

/// When to look again for a store that is away.
const AWAY: Duration = Duration::from_secs(1);

impl JobQueue {
    fn new(kept: Kept, workers: usize) -> Self {
        JobQueue { settings: Settings::new(kept, workers), open: Arc::default() }
    }

    /// A queue in a store of one's own, which has its name already. What [`remember`](Self::remember) says is for the store to keep.
    pub fn in_store(store: Arc<dyn JobStore>, workers: usize) -> Self {
        JobQueue::new(Kept::Own(store), workers)
    }

    pub(super) fn open(&self) -> Result<Arc<Open>> {
        let open = || {
            self.settings.check().map_err(|error| error.to_string())?;
            let store = self.settings.store().map_err(|error| error.to_string())?;
            let figures = Figures::shown(&self.settings.name);
            Ok(Arc::new(Open { store, figures, ready: tokio::sync::OnceCell::new() }))
        };
        self.open.get_or_init(open).clone().map_err(Error::stop)
    }

    /// Its store, opened: what is parked there can be listed, retried, edited and dropped.
    ///
    /// # Errors
    /// Of kind stop if what was said of the queue is wrong, or jobs would not be safe there; of kind retry if the store is away.
    pub async fn store(&self) -> Result<Arc<dyn JobStore>> {
        let open = self.open()?;
        open.ready().await.cloned()
    }

    /// How it stands.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub async fn counts(&self) -> Result<Counts> {
        self.store().await?.counts().await
    }

    /// Enqueues a job outside of a pipeline, under an id that is unique in the queue: enqueued once more, it is known. Jobs go in by hundreds as
    /// fast as one by one goes: [`enqueue_all`](Self::enqueue_all).
    ///
    /// ```
    /// # async fn example() -> highwater_operators::Result {
    /// use highwater_operators::Change;
    /// use highwater_sinks::{MemoryJobQueue, jobs::Enqueued};
    /// use serde_json::json;
    /// let queue = MemoryJobQueue::with_workers(1);
    /// let change = Change::builder("o-7").after(&json!({"total": 12})).build()?;
    /// assert_eq!(queue.enqueue("receipt of o-7", change.clone()).await?, Enqueued::New);
    /// assert_eq!(queue.enqueue("receipt of o-7", change).await?, Enqueued::Known);
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`store`](Self::store); of kind park if the job is too large. After an error of kind retry the job may be there: enqueue it again.
    pub async fn enqueue(&self, id: impl Into<String>, change: Change) -> Result<Enqueued> {
        let enqueued = self.enqueue_all([(id.into(), change)]).await?;
        enqueued.into_iter().next().unwrap_or_else(|| Err(Error::retry("the store did not answer for it")))
    }

    /// Enqueues many, and answers for each in turn.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), if nothing was enqueued.
    pub async fn enqueue_all(&self, jobs: impl IntoIterator<Item = (String, Change)>) -> Result<Vec<Result<Enqueued>>> {
        let open = self.open()?;
        open.ready().await?;
        let jobs: Vec<_> = jobs.into_iter().map(|(id, change)| self.job(id, "", &change)).collect();
        let mut answers = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        loop {
            let some: Vec<_> = jobs.by_ref().take(BATCH_MAX).collect();
            if some.is_empty() {
                return Ok(answers);
            }
            answers.extend(put(&open, some).await);
        }
    }

    fn job(&self, id: String, action: &str, change: &Change) -> Result<NewJob> {
        let (settings, change) = (&self.settings, change.detached());
        let content = Content { id: id.clone(), action: action.to_owned(), lane: settings.order, enqueued_ms: unix_ms(), change };
        let (body, lane) = (encode(&content)?, content.lane());
        if body.len() > settings.job_bytes_max {
            let (is, most) = (body.len(), settings.job_bytes_max);
            return Err(Error::park(format!("the job would have {is} bytes; at most {most} are taken (job_bytes_max)")));
        }
        Ok(NewJob { id, action: action.to_owned(), lane, delay: settings.delay, body })
    }
}

/// Puts those in that are jobs, and answers for all.
async fn put(open: &Open, jobs: Vec<Result<NewJob>>) -> Vec<Result<Enqueued>> {
    let (mut answers, mut good, mut places) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()), Vec::new());
    for (place, job) in jobs.into_iter().enumerate() {
        match job {
            Ok(job) => {
                good.push(job);
                places.push(place);
                answers.push(Ok(Enqueued::Known));
            }
            Err(error) => answers.push(Err(error)),
        }
    }
    for (place, enqueued) in places.into_iter().zip(put_all(open, &good).await) {
        answers[place] = enqueued;
    }
    answers
}

/// Bytes of jobs that go to the store at once, unless one alone has more.
const PUT_BYTES: usize = 4 << 20;

async fn put_all(open: &Open, jobs: &[NewJob]) -> Vec<Result<Enqueued>> {
    let mut answers = Vec::with_capacity(jobs.len());
    let mut rest = jobs;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fit = rest.iter().take_while(|job| {
            bytes += job.body.len();
            bytes <= PUT_BYTES
        });
        let (some, after) = rest.split_at(fit.count().max(1));
        answers.extend(put_some(open, some).await);
        rest = after;
    }
    answers
}

async fn put_some(open: &Open, jobs: &[NewJob]) -> Vec<Result<Enqueued>> {
    match open.store.enqueue(jobs).await {
        Ok(enqueued) => {
            open.figures.enqueued(&enqueued);
            enqueued.into_iter().map(Ok).collect()
        }
        // One of them is the cause; which, they tell alone.
        Err(error) if error.kind() == ErrorKind::Park && jobs.len() > 1 => {
            let mut answers = Vec::with_capacity(jobs.len());
            for job in jobs {
                answers.extend(Box::pin(put_some(open, std::slice::from_ref(job))).await);
            }
            answers
        }
        Err(error) => jobs.iter().map(|_| Err(error.in_words())).collect(),
    }
}

impl BatchAction for JobQueue {
    fn call<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Vec<Result>> {
        Box::pin(async move {
            // That the store is away says nothing of a change, and a job that may be there already is known when it is put in again.
            let away = |error: Error| match error.kind() {
                ErrorKind::Retry => Error::not_asked(error.to_string(), AWAY),
                _ => error,
            };
            let open = match self.open() {
                Ok(open) => open,
                Err(error) => return batch.iter().map(|_| Err(error.in_words())).collect(),
            };
            if let Err(error) = open.ready().await {
                let error = away(error);
                return batch.iter().map(|_| Err(error.in_words())).collect();
            }
            let action = open.figures.action();
            let mut answers = Vec::with_capacity(batch.len());
            for some in batch.chunks(BATCH_MAX) {
                let job = |delivery: &Delivery| self.job(delivery.idempotency_key(), &action, delivery.change());
                let put = put(&open, some.iter().map(job).collect()).await;
                answers.extend(put.into_iter().map(|answer| answer.map(drop).map_err(away)));
            }
            answers
        })
    }

    fn place(&self) -> Option<String> {
        self.settings.store().ok().map(|store| store.place())
    }

    fn problems(&self, _: &Planned<'_>) -> Vec<String> {
        self.settings.problems()
    }

    fn begin(&self, around: &Surroundings) {
        if let Ok(open) = self.open() {
            open.figures.set_action(&around.action);
        }
    }
}

impl std::fmt::Debug for JobQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.settings.store().map_or_else(|error| error.to_string(), |store| store.place());
        write!(f, "JobQueue(\"{}\", {place})", self.settings.name)
    }
}
