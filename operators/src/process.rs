//! What the workers of one process share: clock, window, books, keeper, and the word that ends it all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::action::cut_back::SinkWriter;
use crate::books::Books;
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::lease::Lease;
use crate::checkpoint::read_so_far::ReadSoFar;
use crate::cluster::Cluster;
use crate::cluster::message::Busy;
use crate::epoch::EpochClock;
use crate::halt::Halt;
use crate::hash::ChangeHasher;
use crate::heritage::Heritage;
use crate::in_flight::InFlight;
use crate::ingest::source::Listeners;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::position::Epoch;
use crate::registry::Registry;
use crate::why::Probes;

/// The shard of a key, one of 256, which timely takes modulo the number of workers: with another number of workers the same
/// shards are dealt anew.
pub fn shard(key_hash: u64) -> u64 {
    key_hash >> 56
}

/// Whether the worker `index` of `peers`, those of all processes, owns a key.
pub fn owns(key_hash: u64, index: usize, peers: usize) -> bool {
    shard(key_hash) as usize % peers == index
}

/// Limits and identity of a process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Changes that may be under way at once.
    pub changes: u64,
    /// Bytes of blocks that may be alive at once.
    pub bytes: u64,
    /// Workers in this process.
    pub workers: usize,
    /// Actions there are, over all fan-outs.
    pub actions: usize,
}

/// What the workers of one process share.
#[derive(Debug)]
pub struct Process {
    /// Limits and identity.
    pub limits: Limits,
    /// The number of this run.
    pub generation: u64,
    /// The processes of this run.
    pub cluster: Cluster,
    /// Whether this run may still act on what cannot be fenced.
    pub lease: Lease,
    /// The clock that makes epochs.
    pub clock: EpochClock,
    /// The window of changes under way.
    pub in_flight: Arc<InFlight>,
    /// The counts.
    pub books: Books,
    /// Hashes of changes.
    pub hasher: ChangeHasher,
    /// Where asynchronous work runs.
    pub runtime: Handle,
    /// The owner of the checkpoint store.
    pub keeper: Keeper,
    /// The thread that writes cut-back files.
    pub sink_writer: SinkWriter,
    /// What ends the process early.
    pub halt: Arc<Halt>,
    /// Figures for people.
    pub stats: Stats,
    /// Where metrics go.
    pub metrics: Metrics,
    /// How far the frontier and the mark have come.
    pub pace: Pace,
    /// Where operators are asked what they hold.
    pub probes: Probes,
    /// What the last run left.
    pub heritage: Heritage,
    /// How far each partition was read, for the figure `replayed`.
    pub read_so_far: ReadSoFar,
    /// Sources that are told of durable checkpoints.
    pub listeners: Listeners,
    /// When this process began to run the pipeline.
    pub started: Instant,
    /// By action, what was resolved before this run: delivered after all, and dropped.
    pub(crate) resolved_before: BTreeMap<String, (u64, u64)>,
    built: AtomicBool,
    stopping: AtomicBool,
    saved_epoch: AtomicU64,
    backlog: AtomicUsize,
    taken_up: AtomicUsize,
    in_hand: AtomicUsize,
    /// What the first worker that names it makes for all: permits of actions, loaders of lookups, ways to workers.
    pub(crate) shared: Registry,
    /// Figures of actions, lookups and readers, by name.
    pub figures: Registry,
}

impl Process {
    /// Puts a process together.
    #[allow(clippy::too_many_arguments)] // each is another part; a builder would only name them twice
    pub fn new(
        limits: Limits,
        generation: u64,
        cluster: Cluster,
        lease: Lease,
        in_flight: Arc<InFlight>,
        books: Books,
        hasher: ChangeHasher,
        runtime: Handle,
        keeper: Keeper,
        sink_writer: SinkWriter,
        halt: Arc<Halt>,
        heritage: Heritage,
        read_so_far: ReadSoFar,
        metrics: Metrics,
    ) -> Arc<Self> {
        let saved = heritage.last_save.1;
        if let Some(debts) = cluster.debts() {
            in_flight.owes(debts);
        }
        in_flight.stops_before(keeper.shelves());
        let process = Arc::new(Process {
            clock: EpochClock::after(saved),
            limits,
            generation,
            cluster,
            resolved_before: keeper.resolved(),
            built: AtomicBool::new(false),
            lease,
            in_flight,
            books,
            hasher,
            runtime,
            keeper,
            sink_writer,
            halt,
            stats: Stats::default(),
            metrics,
            pace: Pace::default(),
            probes: Probes::default(),
            heritage,
            read_so_far,
            listeners: Listeners::default(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            saved_epoch: AtomicU64::new(saved),
            backlog: AtomicUsize::new(0),
            taken_up: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            shared: Registry::default(),
            figures: Registry::default(),
        });
        process.cluster.attach(&process);
        process
    }

    /// All workers of this process have built their dataflow: from now on it is known what it has.
    pub fn set_built(&self) {
        self.built.store(true, Ordering::Release);
        self.cluster.busy_changed();
    }

    /// Lets go of what holds this process from within, so that it can be dropped.
    pub fn close(&self) {
        self.shared.clear();
        self.probes.close();
        self.clock.forget();
        self.listeners.over();
    }

    /// Asks all sources, of all processes, to stop reading, so that the pipeline drains, saves and ends.
    pub fn stop(&self) {
        self.stop_here();
        self.cluster.stop();
    }

    /// Asks the sources of this process to stop reading.
    pub(crate) fn stop_here(&self) {
        self.stopping.store(true, Ordering::Release);
        self.clock.wake_all();
    }

    /// Whether the pipeline drains.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// All epochs below it are in a saved checkpoint.
    pub fn saved_epoch(&self) -> Epoch {
        self.saved_epoch.load(Ordering::Acquire)
    }

    /// Called when a checkpoint has become durable.
    pub fn set_saved_epoch(&self, epoch: Epoch) {
        self.saved_epoch.fetch_max(epoch, Ordering::AcqRel);
        self.outcomes_saved(epoch);
    }

    /// Parked changes that are being taken up again keep the sources open; `n` more of them.
    pub fn add_backlog(&self, n: usize) {
        if n > 0 && self.backlog.fetch_add(n, Ordering::AcqRel) == 0 {
            self.cluster.busy_changed();
        }
    }

    /// `n` parked changes were settled.
    pub fn settle_backlog(&self, n: usize) {
        if n > 0 && self.backlog.fetch_sub(n, Ordering::AcqRel) == n {
            self.cluster.busy_changed();
            self.clock.wake_all();
        }
    }

    /// Parked changes are at their actions; they hold no epoch open, and no end of the run must cut their calls off.
    pub(crate) fn taken_up(&self) {
        if self.taken_up.fetch_add(1, Ordering::AcqRel) == 0 {
            self.cluster.busy_changed();
        }
    }

    /// A parked change has left its action.
    pub(crate) fn put_down(&self) {
        if self.taken_up.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.cluster.busy_changed();
            self.clock.wake_all();
        }
    }

    /// A command on a parked record is being carried out.
    pub(crate) fn in_hand(&self) {
        self.in_hand.fetch_add(1, Ordering::AcqRel);
    }

    /// It is carried out.
    pub(crate) fn out_of_hand(&self) {
        self.in_hand.fetch_sub(1, Ordering::AcqRel);
    }

    /// Parked records that commands are being carried out on.
    pub fn commands_in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Acquire)
    }

    /// Whether all workers of this process have built their dataflow: commands reach them from then on.
    pub fn is_built(&self) -> bool {
        self.built.load(Ordering::Acquire)
    }

    /// Whether anything that was set aside is to be taken up, or is at its action.
    pub fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::Acquire) > 0 || self.taken_up.load(Ordering::Acquire) > 0
    }

    /// What keeps the sources of all processes open.
    pub(crate) fn busy(&self) -> Busy {
        Busy {
            begins: !self.built.load(Ordering::Acquire),
            backlog: self.backlog.load(Ordering::Acquire) > 0,
            taken_up: self.taken_up.load(Ordering::Acquire) > 0,
            full: self.keeper.shelves().is_full_here(),
        }
    }

    /// Looks whether other processes have as much parked as may be, and tells them how it is here: nobody reads then.
    pub fn look_at_shelves(&self) {
        self.keeper.shelves().set_others_full(self.cluster.others_are_busy().full);
        self.keeper.shelves().look_again(self.clock.unix_ms());
        self.cluster.busy_changed();
    }

    /// Whether sources that have read all may end. While changes are under way they may not: an action, here or in another
    /// process, may set one aside for lack of room, and would have to take it up again after the end.
    pub fn may_end(&self) -> bool {
        // Room first: what is paid has been heard of before.
        let is_empty = self.in_flight.units() == 0;
        let others = self.cluster.others_are_busy();
        if self.taken_up.load(Ordering::Acquire) > 0 || others.taken_up || others.begins {
            return false;
        }
        self.is_stopping() || (is_empty && self.backlog.load(Ordering::Acquire) == 0 && !others.backlog)
    }
}

/// Figures for people; none of them decides anything.
#[derive(Debug, Default)]
pub struct Stats {
    /// Changes read again that an earlier run had read already.
    pub replayed: AtomicU64,
    /// The last epoch of changes that an earlier run had read, with a margin; 0 if there are none.
    pub replayed_until: AtomicU64,
    /// The most changes that a crash at any moment would have made the next run read again.
    pub replayed_max: AtomicU64,
    /// Checkpoints saved.
    pub saves: AtomicU64,
    /// Bytes read by sources.
    pub bytes_read: AtomicU64,
    /// Changes read by this run.
    pub changes_read: AtomicU64,
    /// Microseconds from the start of the process to the first change that had not been read before.
    pub first_new_us: AtomicU64,
}

impl Stats {
    /// Notes how long it took until the first change came that had not been read before. The first call counts.
    pub fn first_new(&self, since_start: Duration) {
        let us = (since_start.as_micros() as u64).max(1);
        let _ = self.first_new_us.compare_exchange(0, us, Ordering::Relaxed, Ordering::Relaxed);
    }
}
