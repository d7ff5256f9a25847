//! Where rows come from, and how they are asked for: keys of a short window together, each key once for all workers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hashbrown::HashMap;
use metrics::Histogram;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::action::call::BoxFuture;
use crate::change::{Change, Found};
use crate::epoch::unix_ms;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::panic::Guarded;
#[cfg(feature = "disk")]
use crate::lookup::DiskTier;
#[cfg(feature = "redis")]
use crate::lookup::RedisTier;
use crate::lookup::batching::{Batching, Shape};
#[cfg(feature = "disk")]
use crate::lookup::stats::DiskStats;
use crate::lookup::stats::LoadStats;
#[cfg(feature = "redis")]
use crate::lookup::stats::SharedStats;
use crate::lookup::{KeyOf, Lookup};
use crate::metrics::LOOKUP_DURATION;
use crate::offload::Post;
use crate::process::Process;
use crate::row::Fields;

/// The origin of a lookup's rows.
pub trait Loader: Send + Sync + 'static {
    /// Loads the rows of several keys: one answer for each, in order; `None` where there is no such row.
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>>;

    /// The same for an origin that may fail for some keys and answer the others, which then go on; only those that failed are asked for again, or are
    /// marked as failed, as their error says. Default: [`load`](Self::load), which fails for all or none.
    fn load_each<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Answer>>> {
        Box::pin(async move { Ok(self.load(keys).await?.into_iter().map(Ok).collect()) })
    }

    /// A row that is in memory, so that asking costs no wait: `None` if it has to be loaded, `Some(None)` if there is none.
    fn at_hand(&self, _key: &str) -> Option<Option<Fields>> {
        None
    }

    /// Opens the origin, once per process, before the dataflow starts.
    ///
    /// # Errors
    /// Names what cannot be opened and what can be done.
    fn open(&self) -> Result {
        Ok(())
    }

    /// Where the rows come from, for people.
    fn place(&self) -> String;
}

/// What an origin says of one key: a row, that there is none, or why it cannot be said.
pub type Answer = Result<Option<Fields>>;

/// An async closure as a loader, see [`load`].
#[derive(Clone, Debug)]
pub struct Load<F>(F);

/// An async closure that answers key by key as a loader, see [`load_each`].
#[derive(Clone, Debug)]
pub struct LoadEach<F>(F);

/// Makes a loader of an async closure that takes several keys and gives the rows in order.
///
/// ```
/// use highwater_operators::lookup::{Lookup, load};
/// use highwater_operators::row::Fields;
/// let tiers = Lookup::by("customer_id").from(load(|keys: Vec<String>| async move {
///     Ok(keys.iter().map(|key| Some(Fields::new([("id", Some(key.as_str())), ("tier", Some("pro"))]))).collect())
/// }));
/// ```
pub fn load<F, Fut>(load: F) -> Load<F>
where
    F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Option<Fields>>>> + Send + 'static,
{
    Load(load)
}

impl<F, Fut> Loader for Load<F>
where
    F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Option<Fields>>>> + Send + 'static,
{
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin((self.0)(keys.to_vec()))
    }

    fn place(&self) -> String {
        "a closure".to_owned()
    }
}

/// Makes a loader of an async closure that takes several keys and answers for each, in order: where it fails for one, the others go on.
///
/// ```
/// use highwater_operators::Error;
/// use highwater_operators::lookup::{Lookup, load_each};
/// use highwater_operators::row::Fields;
/// let stock = Lookup::by("article").from(load_each(|keys: Vec<String>| async move {
///     let answer = |key: String| match key.parse::<u64>() {
///         Ok(number) => Ok(Some(Fields::new([("shelf", Some((number % 100).to_string()))]))),
///         Err(_) => Err(Error::park(format!("\"{key}\" is no number of an article"))),
///     };
///     Ok(keys.into_iter().map(answer).collect())
/// }));
/// ```
pub fn load_each<F, Fut>(load: F) -> LoadEach<F>
where
    F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Answer>>> + Send + 'static,
{
    LoadEach(load)
}

impl<F, Fut> Loader for LoadEach<F>
where
    F: Fn(Vec<String>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Answer>>> + Send + 'static,
{
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async move { (self.0)(keys.to_vec()).await?.into_iter().collect() })
    }

    fn load_each<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Answer>>> {
        Box::pin((self.0)(keys.to_vec()))
    }

    fn place(&self) -> String {
        "a closure".to_owned()
    }
}

/// Rows asked for, with where they are to go.
pub(crate) struct Ask {
    pub keys: Vec<String>,
    pub post: Post<Vec<(String, Arc<Found>)>>,
}

/// Where a worker asks. One task per lookup and process answers them all.
#[derive(Clone)]
pub(crate) struct Asks {
    asks: UnboundedSender<Ask>,
    by: KeyOf,
    under_way: Arc<UnderWay>,
}

/// The batches that are being asked for, by number.
type UnderWay = Mutex<HashMap<u64, (Vec<String>, Asking)>>;

/// How it stands with a batch that is being asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// Since when, in Unix milliseconds.
    pub since: u64,
    /// Which attempt it is, and how many there are at most.
    pub attempt: (u32, u32),
    /// When the next attempt is made, if the last one failed.
    pub next_try: Option<u64>,
}

/// Batches of one lookup under way at once.
const BATCHES_MAX: usize = 8;

impl Asks {
    /// Where the workers ask for rows of a lookup. The first to ask starts the task that answers.
    pub(crate) fn of(process: &Arc<Process>, stage: &str, lookup: &Lookup) -> Self {
        Asks::clone(&process.shared.get_or_make(stage, || Self::start(process, stage, lookup)))
    }

    fn start(process: &Arc<Process>, stage: &str, lookup: &Lookup) -> Self {
        let (asks, inbox) = unbounded_channel();
        let under_way = Arc::<UnderWay>::default();
        let desk = Arc::new(Desk {
            process: process.clone(),
            stage: stage.into(),
            lookup: lookup.clone(),
            stats: process.figures.get_or_make(stage, LoadStats::default),
            durations: process.metrics.histogram(&LOOKUP_DURATION, stage),
            under_way: under_way.clone(),
            #[cfg(feature = "redis")]
            shared: lookup.shared.as_ref().and_then(|shared| {
                let tier = shared.open(&process.limits.pipeline, stage).ok()?;
                Some(Arc::new(tier.counted_by(process.figures.get_or_make(stage, SharedStats::default))))
            }),
            #[cfg(feature = "disk")]
            disk: lookup.disk.as_ref().map(|disk| {
                let origin = lookup.origin.as_ref().map(|origin| origin.place()).unwrap_or_default();
                let origin = format!("{}/{stage}: {origin}", process.limits.pipeline);
                let stats = process.figures.get_or_make(stage, DiskStats::default);
                Arc::new(DiskTier::new(disk, stage, process.cluster.place().process, origin, stats))
            }),
        });
        process.runtime.spawn(desk.answer(inbox));
        Asks { asks, by: lookup.by.clone(), under_way }
    }

    /// The lookup's key of a change, or the panic of the user's closure.
    pub(crate) fn key_of(&self, change: &Change) -> Result<Option<String>, String> {
        Ok(self.by.of(change)?.map(Cow::into_owned))
    }

    /// How it stands with a key that was asked for; `None` while it waits for its batch.
    pub(crate) fn asking(&self, key: &str) -> Option<Asking> {
        let under_way = self.under_way.lock();
        under_way.values().find(|(keys, _)| keys.iter().any(|asked| asked == key)).map(|(_, asking)| *asking)
    }

    pub(crate) fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }
}

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asks")
    }
}

type Loaded = Vec<(String, Arc<Found>)>;

/// What became of a batch: rows, and the keys that are to be asked for again after so many failed attempts.
#[derive(Default)]
struct Batch {
    loaded: Loaded,
    again: Option<(Vec<String>, u32)>,
    /// Of a batch that was gathered: its keys, how long the first was queued, and how long it took then.
    took: Option<(usize, Duration, Duration)>,
}

struct Desk {
    process: Arc<Process>,
    stage: Arc<str>,
    lookup: Lookup,
    stats: Arc<LoadStats>,
    durations: Histogram,
    under_way: Arc<UnderWay>,
    #[cfg(feature = "redis")]
    shared: Option<Arc<RedisTier>>,
    #[cfg(feature = "disk")]
    disk: Option<Arc<DiskTier>>,
}

impl Desk {
    async fn answer(self: Arc<Self>, mut inbox: UnboundedReceiver<Ask>) {
        // Who waits for a key that is queued or under way: it is loaded once, however many ask.
        let mut waiting: HashMap<String, Vec<Post<Loaded>>> = HashMap::new();
        let mut queue: VecDeque<(String, Instant)> = VecDeque::new();
        let mut batches: FuturesUnordered<BoxFuture<'static, Batch>> = FuturesUnordered::new();
        let most = Shape { keys_max: self.lookup.batch_max, window: self.lookup.batch_window };
        let mut batching = Batching::new(most, self.lookup.adaptive, Instant::now());
        let mut open = true;
        let mut number = 0;
        while open || !batches.is_empty() {
            tokio::select! {
                ask = inbox.recv(), if open => match ask {
                    Some(ask) => enqueue(ask, &mut waiting, &mut queue),
                    None => open = false,
                },
                Some(batch) = batches.next() => {
                    for (key, found) in batch.loaded {
                        for post in waiting.remove(&key).unwrap_or_default() {
                            let _ = post.send(vec![(key.clone(), found.clone())]);
                        }
                    }
                    if let Some((keys, queued, took)) = batch.took
                        && let Some(why) = batching.loaded(keys, queued, took, Instant::now())
                    {
                        self.stats.adaptations.fetch_add(1, Ordering::Relaxed);
                        let Shape { keys_max, window } = batching.shape();
                        tracing::debug!(lookup = %self.stage, keys_max, ?window, "{why}");
                    }
                    if let Some((keys, failed)) = batch.again {
                        let desk = self.clone();
                        number += 1;
                        batches.push(Box::pin(async move { desk.load_again(number, keys, failed).await }));
                    }
                }
            }
            let Shape { keys_max, window } = batching.shape();
            if queue.len() < keys_max && !queue.is_empty() && !window.is_zero() {
                tokio::time::sleep(window).await;
                while let Ok(ask) = inbox.try_recv() {
                    enqueue(ask, &mut waiting, &mut queue);
                }
            }
            while !queue.is_empty() && batches.len() < BATCHES_MAX {
                let began = Instant::now();
                let queued = queue.front().map_or(Duration::ZERO, |(_, since)| began - *since);
                let keys: Vec<String> = queue.drain(..queue.len().min(keys_max)).map(|(key, _)| key).collect();
                self.stats.batches.fetch_add(1, Ordering::Relaxed);
                self.stats.batched.fetch_add(keys.len() as u64, Ordering::Relaxed);
                self.stats.room.fetch_add(keys_max as u64, Ordering::Relaxed);
                let desk = self.clone();
                number += 1;
                batches.push(Box::pin(async move {
                    let asked = keys.len();
                    let batch = desk.load(number, keys).await;
                    Batch { took: Some((asked, queued, began.elapsed())), ..batch }
                }));
            }
            if self.process.halt.is_halted() {
                return;
            }
        }
    }

    /// Loads one batch of keys, with all attempts. Every key gets an answer: from the first tier that has it, or else from the origin. What one does not
    /// have it is told.
    async fn load(&self, number: u64, keys: Vec<String>) -> Batch {
        #[cfg_attr(not(any(feature = "disk", feature = "redis")), expect(unused_mut))]
        let (mut found, mut missing) = (Vec::new(), keys);
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared {
            (found, missing) = shared.get(&self.stage, missing).await;
        }
        #[cfg(feature = "disk")]
        if let Some(disk) = self.disk.as_ref().filter(|_| !missing.is_empty()) {
            let (there, not_there) = disk.get(&self.stage, missing).await;
            self.keep(&there, false);
            found.extend(there);
            missing = not_there;
        }
        if missing.is_empty() {
            return Batch { loaded: found, ..Batch::default() };
        }
        let mut batch = self.load_from_origin(number, missing, 0).await;
        found.append(&mut batch.loaded);
        Batch { loaded: found, ..batch }
    }

    /// Asks the origin again for keys that it has failed for, after a while.
    async fn load_again(&self, number: u64, keys: Vec<String>, failed: u32) -> Batch {
        self.wait(number, &keys, failed).await;
        self.load_from_origin(number, keys, failed).await
    }

    /// Tells the tiers what they did not have: the one on disk only what is new there. Nobody waits for it.
    #[cfg_attr(not(feature = "disk"), expect(unused_variables))]
    fn keep(&self, loaded: &[(String, Arc<Found>)], on_disk: bool) {
        #[cfg(feature = "redis")]
        if let Some(shared) = self.shared.clone().filter(|_| !loaded.is_empty()) {
            let loaded = loaded.to_vec();
            self.process.runtime.spawn(async move { shared.put(&loaded).await });
        }
        #[cfg(feature = "disk")]
        if let Some(disk) = self.disk.clone().filter(|_| on_disk && !loaded.is_empty()) {
            let loaded = loaded.to_vec();
            self.process.runtime.spawn(async move { disk.put(&loaded).await });
        }
    }

    async fn load_from_origin(&self, number: u64, keys: Vec<String>, failed: u32) -> Batch {
        self.stats.loaded.fetch_add(keys.len() as u64, Ordering::Relaxed);
        let batch = self.attempts(number, keys, failed).await;
        self.under_way.lock().remove(&number);
        self.keep(&batch.loaded, true);
        batch
    }

    /// Writes down how it stands with a batch, for those who want to know what a change waits for.
    fn asking(&self, number: u64, keys: &[String], attempt: u32, next_try: Option<u64>) {
        let asking = Asking { since: unix_ms(), attempt: (attempt, self.lookup.attempts), next_try };
        self.under_way.lock().entry(number).and_modify(|(_, known)| *known = asking).or_insert_with(|| (keys.to_vec(), asking));
    }

    /// Waits before the next attempt.
    async fn wait(&self, number: u64, keys: &[String], failed: u32) {
        let wait = self.lookup.backoff.wait(failed);
        self.asking(number, keys, failed, Some(unix_ms() + wait.as_millis() as u64));
        self.process.clock.sleep(wait).await;
    }

    /// Asks until the origin has answered for some keys at least, or will not.
    async fn attempts(&self, number: u64, keys: Vec<String>, mut failed: u32) -> Batch {
        let Some(origin) = &self.lookup.origin else { return Batch::default() };
        loop {
            self.asking(number, &keys, failed + 1, None);
            let began = Instant::now();
            let call = async { origin.load_each(&keys).await };
            let answer = match self.process.clock.working(Guarded(Box::pin(call))).await {
                Ok(Ok(answers)) if answers.len() == keys.len() => Ok(answers),
                Ok(Ok(answers)) => Err(Error::park(format!("the loader gave {} rows for {} keys", answers.len(), keys.len()))),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(Error::park(panic)),
            };
            self.stats.loads.fetch_add(1, Ordering::Relaxed);
            self.durations.record(began.elapsed().as_secs_f64());
            let error = match answer {
                Ok(answers) => return self.sort(keys, answers, failed),
                Err(error) => error,
            };
            failed += 1;
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
            match error.kind() {
                ErrorKind::Retry if failed < self.lookup.attempts => self.wait(number, &keys, failed).await,
                ErrorKind::Retry | ErrorKind::Park => {
                    let found = Arc::new(Found::failed(self.stage.clone(), error.to_string()));
                    return Batch { loaded: keys.into_iter().map(|key| (key, found.clone())).collect(), ..Batch::default() };
                }
                ErrorKind::Stop => return self.stop(error),
            }
        }
    }

    /// What each key's answer means.
    fn sort(&self, keys: Vec<String>, answers: Vec<Answer>, failed: u32) -> Batch {
        let mut loaded = Vec::with_capacity(keys.len());
        let mut again = Vec::new();
        if answers.iter().any(Result::is_err) {
            self.stats.failed.fetch_add(1, Ordering::Relaxed);
        }
        for (key, answer) in keys.into_iter().zip(answers) {
            let found = match answer {
                Ok(Some(row)) => Found::row_of(self.stage.clone(), row),
                Ok(None) => Found::nothing(self.stage.clone()),
                Err(error) => match error.kind() {
                    ErrorKind::Retry if failed + 1 < self.lookup.attempts => {
                        again.push(key);
                        continue;
                    }
                    ErrorKind::Retry | ErrorKind::Park => Found::failed(self.stage.clone(), error.to_string()),
                    ErrorKind::Stop => return self.stop(error),
                },
            };
            loaded.push((key, Arc::new(found)));
        }
        Batch { loaded, again: (!again.is_empty()).then_some((again, failed + 1)), took: None }
    }

    fn stop(&self, error: Error) -> Batch {
        self.process.halt.fail(error.context(format!("lookup \"{}\"", self.stage)));
        Batch::default()
    }
}

fn enqueue(ask: Ask, waiting: &mut HashMap<String, Vec<Post<Loaded>>>, queue: &mut VecDeque<(String, Instant)>) {
    let now = Instant::now();
    for key in ask.keys {
        let posts = waiting.entry_ref(key.as_str()).or_insert_with(|| {
            queue.push_back((key.clone(), now));
            Vec::new()
        });
        posts.push(ask.post.clone());
    }
}
