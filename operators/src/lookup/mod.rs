//! Lookups: each change gets a row from elsewhere attached, found by a key in its own row.
//!
//! Every worker keeps what it has found in a cache of its own, without locks. What is not there is asked for in batches,
//! once for all workers; meanwhile the change waits, and with it only the later changes of its key.

mod batching;
pub mod cache;
#[cfg(feature = "disk")]
mod disk;
pub mod loader;
#[cfg(feature = "redis")]
mod redis;
pub mod stats;
pub mod table;
#[cfg(any(feature = "disk", feature = "redis"))]
mod value;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;

use crate::batches::ForEachEpoch;
use crate::change::{Change, Found};
use crate::guard::backoff::Backoff;
use crate::guard::panic::guarded;
pub use crate::lookup::batching::Adaptive;
pub use crate::lookup::cache::{Cache, CacheCounts, CacheStats};
use crate::lookup::cache::{FoundCache, Keys};
#[cfg(feature = "disk")]
pub use crate::lookup::disk::{DiskCache, DiskTier};
pub use crate::lookup::loader::{Answer, Load, LoadEach, Loader, load, load_each};
use crate::lookup::loader::{Ask, Asks};
#[cfg(feature = "redis")]
pub use crate::lookup::redis::{RedisCache, RedisTier};
use crate::offload::{Post, Wake, mailbox};
use crate::position::Epoch;
use crate::process::Process;
use crate::why::{Hold, HolderKind};

/// How a lookup finds its rows: by which key, from where, and what is kept.
///
/// A change whose row has no key, or whose key is unknown to the origin, gets an absent row. A change for which the origin
/// cannot be asked, after all attempts, goes on marked as failed, and every action parks it.
#[derive(Clone)]
pub struct Lookup {
    pub(crate) by: KeyOf,
    pub(crate) origin: Option<Arc<dyn Loader>>,
    pub(crate) cache: Cache,
    pub(crate) attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) batch_max: usize,
    pub(crate) batch_window: Duration,
    pub(crate) adaptive: Option<Adaptive>,
    #[cfg(feature = "redis")]
    pub(crate) shared: Option<RedisCache>,
    #[cfg(feature = "disk")]
    pub(crate) disk: Option<DiskCache>,
}

#[derive(Clone)]
pub(crate) enum KeyOf {
    Field(Arc<str>),
    Closure(KeyClosure),
}

impl KeyOf {
    /// The lookup's key of a change, or the panic of the user's closure.
    pub(crate) fn of<'c>(&self, change: &'c Change) -> Result<Option<Cow<'c, str>>, String> {
        match self {
            KeyOf::Field(field) => Ok(change.row().str(field)),
            KeyOf::Closure(closure) => guarded(|| closure(change)).map(|key| key.map(Cow::Owned)),
        }
    }
}

/// What makes a lookup's key of a change.
type KeyClosure = Arc<dyn Fn(&Change) -> Option<String> + Send + Sync>;

impl Lookup {
    /// Looks up by a field of the change's row: the row after the change or, for a delete, the row before it.
    pub fn by(field: &str) -> Self {
        Self::new(KeyOf::Field(field.into()))
    }

    /// Looks up by what a closure makes of the change; `None` finds nothing.
    pub fn by_key(key: impl Fn(&Change) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::new(KeyOf::Closure(Arc::new(key)))
    }

    fn new(by: KeyOf) -> Self {
        Lookup {
            by,
            origin: None,
            cache: Cache::entries(100_000),
            attempts: 5,
            backoff: Backoff::default(),
            batch_max: 500,
            batch_window: Duration::from_millis(1),
            adaptive: None,
            #[cfg(feature = "redis")]
            shared: None,
            #[cfg(feature = "disk")]
            disk: None,
        }
    }

    /// Where the rows come from.
    pub fn from(mut self, origin: impl Loader) -> Self {
        self.origin = Some(Arc::new(origin));
        self
    }

    /// What is kept. Default: 100,000 entries, for ever.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// A cache in Redis between what workers keep and the origin: what one worker, process or pipeline has loaded the others find there. What it does
    /// not have, or does not answer in time, is asked of the origin.
    #[cfg(feature = "redis")]
    pub fn shared_cache(mut self, cache: RedisCache) -> Self {
        self.shared = Some(cache);
        self
    }

    /// A cache on disk, which survives restarts, between the others and the origin: a process that begins finds there what earlier ones have loaded. A file that
    /// is damaged, or of another origin, is begun anew.
    #[cfg(feature = "disk")]
    pub fn disk_cache(mut self, cache: DiskCache) -> Self {
        self.disk = Some(cache);
        self
    }

    /// What is wrong with it, a sentence each; that it has no origin is seen by [`origin`](Self::origin).
    pub fn problems(&self) -> Vec<String> {
        #[cfg_attr(not(any(feature = "disk", feature = "redis")), expect(unused_mut))]
        let mut problems = Vec::new();
        #[cfg(feature = "redis")]
        problems.extend(self.shared.iter().flat_map(RedisCache::problems));
        #[cfg(feature = "disk")]
        problems.extend(self.disk.iter().flat_map(DiskCache::problems));
        problems
    }

    /// Attempts to ask the origin before a change goes on as failed. Default: 5.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The waits between attempts. Default: full jitter up to 50 ms, doubling, at most 10 s.
    pub fn backoff(mut self, base: Duration, max: Duration) -> Self {
        self.backoff = Backoff { base, max };
        self
    }

    /// Keys asked for at once at most, and how long the first of them waits for others. Default: 500 and 1 ms.
    pub fn batch(mut self, keys_max: usize, window: Duration) -> Self {
        self.batch_max = keys_max.max(1);
        self.batch_window = window;
        self
    }

    /// Fits batches to what the origin can do, on an interval: larger and gathered for longer while rows come soon enough, smaller and sooner when they do not. What
    /// [`batch`](Self::batch) says are the most keys and the longest window then; give it a window of some milliseconds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use highwater_operators::lookup::{Adaptive, Lookup};
    /// let lookup = Lookup::by("customer_id")
    ///     .batch(1_000, Duration::from_millis(20))
    ///     .adaptive(Adaptive { max_latency: Duration::from_millis(150), ..Adaptive::default() });
    /// ```
    pub fn adaptive(mut self, aim: Adaptive) -> Self {
        self.adaptive = Some(aim);
        self
    }

    /// Where the rows come from, if it was said.
    pub fn origin(&self) -> Option<&Arc<dyn Loader>> {
        self.origin.as_ref()
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// The counts of a lookup's caches over all workers of the process, by the lookup's name; `None` until a worker has built it.
pub fn cache_stats(process: &Process, lookup: &str) -> Option<Arc<CacheStats>> {
    process.figures.get(lookup)
}

/// Lookup on a stream that is exchanged by key.
pub trait LookupExt: Sized {
    /// Attaches to each change what `lookup` finds, under `name`. Changes keep their time, and their order by key.
    ///
    /// # Guarantee
    /// A change that waits for its row holds its epoch open, so a crash meanwhile reads it again.
    fn lookup(self, process: &Arc<Process>, name: &str, lookup: &Lookup) -> Self;
}

impl<'s> LookupExt for StreamVec<'s, Epoch, Change> {
    fn lookup(self, process: &Arc<Process>, name: &str, lookup: &Lookup) -> Self {
        let (process, lookup, stage, scope) = (process.clone(), lookup.clone(), Arc::<str>::from(name), self.scope());
        self.unary::<CapacityContainerBuilder<Vec<Change>>, _, _, _>(Pipeline, &format!("Lookup {name}"), move |_, info| {
            let wake = Wake::new(scope.worker().sync_activator_for(info.address.to_vec()));
            let (post, inbox) = mailbox(&wake);
            let mut desk = Desk::new(&process, stage.clone(), &lookup, post, scope.peers());
            let mut probe = process.probes.register("lookup", &stage, scope.index(), &wake);
            move |input, out| {
                wake.ran();
                input.for_each_epoch(|capability, batches| {
                    let Some(epoch) = capability.least().copied() else { return };
                    let mut waiting = 0;
                    {
                        let mut session = out.session(&capability);
                        for batch in batches {
                            desk.attach(batch, epoch, &mut waiting);
                            if !batch.is_empty() {
                                session.give_container(batch);
                            }
                        }
                    }
                    if waiting > 0 {
                        let retained = capability.retain_least(out.output_index());
                        desk.wait(waiting, retained);
                    }
                });
                let mut some_came = false;
                for answers in inbox.drain() {
                    if !std::mem::replace(&mut some_came, true) {
                        desk.cache.tick(Instant::now());
                    }
                    for (key, found) in answers {
                        desk.answered(&key, &found, |capability, change| out.session(capability).give(change));
                    }
                }
                if some_came {
                    desk.count();
                }
                desk.ask();
                probe.answer(|| desk.oldest());
            }
        })
    }
}

/// A change that waits for its row, or behind one of its key that does.
struct Waiting {
    change: Change,
    epoch: Epoch,
    wants: Wants,
}

/// What a change waits for.
enum Wants {
    /// The row of this key.
    Row(String),
    /// Only its turn: what is to be attached is known.
    Turn(Arc<Found>),
}

struct Desk {
    stage: Arc<str>,
    by: KeyOf,
    origin: Option<Arc<dyn Loader>>,
    nothing: Arc<Found>,
    cache: FoundCache,
    /// The keys of a batch, and what was found for each; empty between batches.
    keys: Keys,
    found: Vec<Option<Arc<Found>>>,
    process: Arc<Process>,
    asks: Asks,
    post: Post<Vec<(String, Arc<Found>)>>,
    /// By hash of the change's key: its changes that wait, in order. Only the first has been asked for.
    blocked: HashMap<u64, VecDeque<Waiting>>,
    /// By lookup key: the change keys whose first change waits for it.
    asked: HashMap<String, Vec<u64>>,
    to_ask: Vec<String>,
    open: BTreeMap<Epoch, (Capability<Epoch>, usize)>,
}

impl Desk {
    fn new(
        process: &Arc<Process>,
        stage: Arc<str>,
        lookup: &Lookup,
        post: Post<Vec<(String, Arc<Found>)>>,
        peers: usize,
    ) -> Self {
        Desk {
            by: lookup.by.clone(),
            origin: lookup.origin.clone(),
            nothing: Arc::new(Found::nothing(stage.clone())),
            cache: FoundCache::new(
                &lookup.cache,
                peers,
                process.figures.get_or_make(&stage, CacheStats::default),
                process.clock.now(),
            ),
            keys: Keys::default(),
            found: Vec::new(),
            process: process.clone(),
            asks: Asks::of(process, &stage, lookup),
            stage,
            post,
            blocked: HashMap::new(),
            asked: HashMap::new(),
            to_ask: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    /// Attaches what is at hand. What has to wait is taken out of the batch.
    ///
    /// In three passes: the keys of all changes, then all entries, then the rest. So the memory of the changes, that of the
    /// table and that of the entries are each waited for together.
    fn attach(&mut self, batch: &mut Vec<Change>, epoch: Epoch, waiting: &mut usize) {
        let (mut keys, mut found) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.found));
        let mut panicked = HashMap::new();
        keys.clear();
        match &self.by {
            KeyOf::Field(field) => {
                // Rows are met here first, one miss of the cache each: asked for together, they come together.
                std::hint::black_box(batch.iter().fold(0, |touched, change| touched ^ change.touch_row()));
                batch.iter().for_each(|change| keys.push(change.row().str(field).as_deref()));
            }
            KeyOf::Closure(closure) => {
                for (index, change) in batch.iter().enumerate() {
                    let key = guarded(|| closure(change)).unwrap_or_else(|panic| {
                        panicked.insert(index, panic);
                        None
                    });
                    keys.push(key.as_deref());
                }
            }
        }
        let began = Instant::now();
        self.cache.tick(self.process.clock.now());
        self.cache.find(&keys, &mut found);
        self.cache.took(keys.len(), began.elapsed());
        self.ask_anew(&keys);
        let mut answers = found.drain(..).enumerate();
        batch.retain_mut(|change| {
            let (index, answer) = answers.next().expect("one answer for each change");
            match (answer, keys.get(index)) {
                (Some(found), _) => self.attach_in_turn(change, found, epoch, waiting),
                (None, Some(key)) => self.attach_or_wait(change, key, epoch, waiting),
                (None, None) => {
                    let failed = panicked.remove(&index).map(|panic| Arc::new(Found::failed(self.stage.clone(), panic)));
                    self.attach_in_turn(change, failed.unwrap_or_else(|| self.nothing.clone()), epoch, waiting)
                }
            }
        });
        drop(answers);
        (self.keys, self.found) = (keys, found);
        self.count();
    }

    /// Asks for what was found and is past its time; nobody waits for it.
    fn ask_anew(&mut self, keys: &Keys) {
        for key in self.cache.stale().iter().filter_map(|index| keys.get(*index as usize)) {
            if !self.asked.contains_key(key) {
                self.asked.insert(key.to_owned(), Vec::new());
                self.to_ask.push(key.to_owned());
            }
        }
    }

    /// Adds up what the cache has counted.
    fn count(&mut self) {
        self.cache.flush(&self.stage);
    }

    /// A change for which nothing is to be asked still waits behind the changes of its key that wait for a row. Returns whether
    /// it passes now.
    fn attach_in_turn(&mut self, change: &mut Change, found: Arc<Found>, epoch: Epoch, waiting: &mut usize) -> bool {
        if !self.blocked.is_empty()
            && let Some(queue) = self.blocked.get_mut(&change.key_hash())
        {
            queue.push_back(Waiting { change: change.detached(), epoch, wants: Wants::Turn(found) });
            *waiting += 1;
            return false;
        }
        change.attach_own(found);
        true
    }

    /// A change whose row was not in the cache when its batch was looked through. Returns whether it passes now.
    fn attach_or_wait(&mut self, change: &mut Change, key: &str, epoch: Epoch, waiting: &mut usize) -> bool {
        let change_key = change.key_hash();
        if !self.blocked.contains_key(&change_key) {
            // An earlier change of the batch may have brought it.
            if let Some(found) = self.cache.get(key) {
                change.attach_own(found);
                return true;
            }
            if let Some(found) = self.at_hand(key) {
                change.attach(&found);
                self.cache.put(key, found);
                return true;
            }
            self.await_row(key, change_key);
        }
        let held = Waiting { change: change.detached(), epoch, wants: Wants::Row(key.to_owned()) };
        self.blocked.entry(change_key).or_default().push_back(held);
        *waiting += 1;
        false
    }

    fn at_hand(&self, key: &str) -> Option<Arc<Found>> {
        let row = self.origin.as_ref()?.at_hand(key)?;
        Some(row.map_or_else(|| self.nothing.clone(), |row| Arc::new(Found::row_of(self.stage.clone(), row))))
    }

    fn await_row(&mut self, key: &str, change_key: u64) {
        match self.asked.get_mut(key) {
            Some(keys) => keys.push(change_key),
            None => {
                self.asked.insert(key.to_owned(), vec![change_key]);
                self.to_ask.push(key.to_owned());
            }
        }
    }

    /// The epoch stays open for so many changes more.
    fn wait(&mut self, waiting: usize, capability: Option<Capability<Epoch>>) {
        let Some(capability) = capability else { return };
        self.open.entry(*capability.time()).or_insert_with(|| (capability, 0)).1 += waiting;
    }

    /// The change that holds the oldest epoch here.
    fn oldest(&self) -> Option<Hold> {
        let (epoch, _) = self.open.first_key_value()?;
        // The first of a key has been asked for; a later one of the same epoch waits behind one that is as old or older.
        let firsts = self.blocked.values().filter_map(VecDeque::front);
        let Waiting { change, epoch, wants } = firsts.min_by_key(|waiting| (waiting.epoch != *epoch, waiting.epoch))?;
        let mut hold = Hold::new(*epoch, HolderKind::Lookup);
        hold.change = Some((change.key().to_owned(), change.id().to_owned()));
        if let Wants::Row(key) = wants
            && let Some(asking) = self.asks.asking(key)
        {
            hold.attempt = Some(asking.attempt);
            hold.since = asking.since;
            hold.next_try = asking.next_try;
            if hold.next_try.is_some() {
                hold.kind = HolderKind::LookupRetry;
            }
        }
        Some(hold)
    }

    /// Asks for what is missing: one message for all keys of this run of the operator.
    fn ask(&mut self) {
        if !self.to_ask.is_empty() {
            self.asks.ask(Ask { keys: std::mem::take(&mut self.to_ask), post: self.post.clone() });
        }
    }

    /// A row has come: its changes go on, and behind them what now finds its row at hand.
    fn answered(&mut self, key: &str, found: &Arc<Found>, mut give: impl FnMut(&Capability<Epoch>, Change)) {
        // What is not there needs no more memory than its key.
        let found = if found.is_row() || found.failure().is_some() { found } else { &self.nothing.clone() };
        if found.failure().is_none() {
            self.cache.put(key, found.clone());
        }
        for change_key in self.asked.remove(key).unwrap_or_default() {
            let mut row = Some(found.clone());
            while let Some(queue) = self.blocked.get_mut(&change_key) {
                let Some(first) = queue.front() else {
                    self.blocked.remove(&change_key);
                    break;
                };
                let found = match &first.wants {
                    Wants::Turn(found) => found.clone(),
                    Wants::Row(key) => match row.take().or_else(|| self.cache.get(key)) {
                        Some(found) => found,
                        None => {
                            let next = key.clone();
                            self.await_row(&next, change_key);
                            break;
                        }
                    },
                };
                let Waiting { mut change, epoch, .. } = queue.pop_front().expect("looked at above");
                change.attach(&found);
                let (capability, left) = self.open.get_mut(&epoch).expect("an epoch with changes waiting is open");
                give(capability, change);
                *left -= 1;
                if *left == 0 {
                    self.open.remove(&epoch);
                }
            }
        }
    }
}
