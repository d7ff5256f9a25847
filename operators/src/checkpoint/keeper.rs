//! The keeper: the one thread that owns the checkpoint store. Whatever is asked of it while it writes goes into the next
//! group, so many small notes share one sync (group commit).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use metrics::Histogram;
use parking_lot::Mutex;

use crate::checkpoint::store::{CheckpointStore, Group, Note, Parked, ParkedId, Resolution, Resolved, Restored, Save};
use crate::epoch::unix_ms;
use crate::error::Result;
use crate::halt::Halt;
use crate::parked::{Filter, Page, Shelves};
use crate::position::PartitionId;

/// What is to become durable together, and whom to tell.
#[derive(Default)]
pub struct Drafts {
    /// Outcomes.
    pub notes: Vec<Note>,
    /// Changes to set aside. A record of id 0 gets the next free id; another id replaces that record.
    pub parked: Vec<Parked>,
    /// Records that are parked no more.
    pub resolved: Vec<Resolved>,
    /// Partitions that are new: number and name.
    pub partitions: Vec<(PartitionId, String)>,
}

/// The numbers that this process gives to parked records.
#[derive(Clone, Copy, Debug)]
pub struct ParkedIds {
    next: ParkedId,
    step: u64,
}

impl ParkedIds {
    /// As a store says that they go on.
    pub fn of(restored: &Restored) -> Self {
        ParkedIds { next: restored.next_parked.max(1), step: restored.parked_step.max(1) }
    }

    fn next(&mut self) -> ParkedId {
        let id = self.next;
        self.next += self.step;
        id
    }
}

type Told<T> = Box<dyn FnOnce(T) + Send>;

enum Request {
    /// Make durable, then tell the ids given to the parked records.
    Commit(Drafts, Told<Vec<ParkedId>>),
    /// Save a checkpoint.
    Save(Box<Save>, Vec<Resolved>, Told<()>),
    /// Read parked records.
    Read(Vec<ParkedId>, Told<Vec<Parked>>),
    /// Read a page of parked records.
    Page(Filter, ParkedId, usize, Told<Page>),
    /// Look at the store: for start and for tests.
    Close,
}

/// The handle by which everybody talks to the keeper. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    requests: Sender<Request>,
    resolved: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    shelves: Arc<Shelves>,
    /// Since when the store works at one group, in Unix milliseconds; 0: it is idle.
    busy_since: Arc<AtomicU64>,
}

impl Keeper {
    /// Starts the keeper's thread. `halt` freezes it: after a crash or a failure nothing more becomes durable.
    pub fn start(
        mut store: Box<dyn CheckpointStore>,
        parked_ids: ParkedIds,
        resolved: BTreeMap<String, (u64, u64)>,
        shelves: Shelves,
        halt: Arc<Halt>,
        durations: Histogram,
    ) -> (Self, JoinHandle<()>) {
        let (requests, inbox) = unbounded();
        let resolved = Arc::new(Mutex::new(resolved));
        let busy_since = Arc::new(AtomicU64::new(0));
        let shelves = Arc::new(shelves);
        store.attend(&halt);
        let keeper = Keeper { requests, resolved: resolved.clone(), shelves: shelves.clone(), busy_since: busy_since.clone() };
        let thread = std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || {
                Work { store, parked_ids, resolved, shelves, halt, told: Vec::new(), busy_since, durations }.run(&inbox)
            })
            .expect("the system gives a thread at start");
        (keeper, thread)
    }

    /// Makes drafts durable; `told` runs on the keeper's thread afterwards, with the ids of the parked records.
    pub fn commit(&self, drafts: Drafts, told: impl FnOnce(Vec<ParkedId>) + Send + 'static) {
        let _ = self.requests.send(Request::Commit(drafts, Box::new(told)));
    }

    /// Saves a checkpoint, and ends parked records with it; `told` runs on the keeper's thread afterwards.
    pub fn save(&self, save: Box<Save>, resolved: Vec<Resolved>, told: impl FnOnce(()) + Send + 'static) {
        let _ = self.requests.send(Request::Save(save, resolved, Box::new(told)));
    }

    /// Reads parked records. Ids that are parked no more are left out.
    pub fn read_parked(&self, ids: Vec<ParkedId>, told: impl FnOnce(Vec<Parked>) + Send + 'static) {
        let _ = self.requests.send(Request::Read(ids, Box::new(told)));
    }

    /// Reads a page of parked records, as [`CheckpointStore::parked_page`] does; `told` runs on the keeper's thread. What it posts to
    /// a worker from there comes before what becomes of those records later, so that no worker acts on one that is gone.
    pub fn page_of_parked(&self, filter: Filter, after: ParkedId, most: usize, told: impl FnOnce(Page) + Send + 'static) {
        let _ = self.requests.send(Request::Page(filter, after, most, Box::new(told)));
    }

    /// How much stands parked.
    pub fn shelves(&self) -> &Arc<Shelves> {
        &self.shelves
    }

    /// By action: how many parked records were delivered after all, and how many dropped, since the pipeline began.
    pub fn resolved(&self) -> BTreeMap<String, (u64, u64)> {
        self.resolved.lock().clone()
    }

    /// Since when the store has been working at one group, in Unix milliseconds; `None`: it is idle.
    pub fn busy_since(&self) -> Option<u64> {
        Some(self.busy_since.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    /// Ends the thread once everything asked before is done.
    pub fn close(&self) {
        let _ = self.requests.send(Request::Close);
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper")
    }
}

/// Requests put into one group at most: bounds the group and the wait of the first in it.
const GROUP_MAX: usize = 256;

struct Work {
    store: Box<dyn CheckpointStore>,
    parked_ids: ParkedIds,
    resolved: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    shelves: Arc<Shelves>,
    halt: Arc<Halt>,
    told: Vec<(Told<Vec<ParkedId>>, Vec<ParkedId>)>,
    busy_since: Arc<AtomicU64>,
    durations: Histogram,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Request>) {
        while let Ok(first) = inbox.recv() {
            let mut group = Group::default();
            let mut saved = None;
            let mut next = Some(first);
            let mut taken = 0;
            let mut reads = Vec::new();
            let mut closing = false;
            while let Some(request) = next.take() {
                match request {
                    Request::Commit(drafts, told) => self.add(&mut group, drafts, told),
                    Request::Save(save, resolved, told) => {
                        group.resolved.extend(resolved);
                        group.save = Some(*save);
                        saved = Some(told);
                    }
                    Request::Read(ids, told) => reads.push(Reading::These(ids, told)),
                    Request::Page(filter, after, most, told) => reads.push(Reading::Page(filter, after, most, told)),
                    Request::Close => closing = true,
                }
                taken += 1;
                // A save ends its group: what is noted after it belongs to the next one.
                if !closing && saved.is_none() && taken < GROUP_MAX {
                    next = inbox.try_recv().ok();
                }
            }
            if let Err(error) = self.commit(group, saved, reads) {
                self.halt.fail(error.context("the checkpoint store failed"));
                return;
            }
            if closing || self.halt.is_frozen() {
                return;
            }
        }
    }

    fn add(&mut self, group: &mut Group, drafts: Drafts, told: Told<Vec<ParkedId>>) {
        let mut ids = Vec::with_capacity(drafts.parked.len());
        for mut parked in drafts.parked {
            if parked.id == 0 {
                parked.id = self.parked_ids.next();
            }
            ids.push(parked.id);
            group.parked.push(parked);
        }
        group.notes.extend(drafts.notes);
        group.resolved.extend(drafts.resolved);
        group.partitions.extend(drafts.partitions);
        self.told.push((told, ids));
    }

    fn commit(&mut self, group: Group, saved: Option<Told<()>>, reads: Vec<Reading>) -> Result<()> {
        let nothing_noted = group.notes.is_empty() && group.parked.is_empty() && group.resolved.is_empty();
        let is_empty = group.save.is_none() && nothing_noted && group.partitions.is_empty();
        if !is_empty {
            self.busy_since.store(unix_ms(), Ordering::Relaxed);
            let began = Instant::now();
            if self.halt.passes("group.before_commit") {
                return Ok(());
            }
            self.store.commit(&group)?;
            self.durations.record(began.elapsed().as_secs_f64());
            self.busy_since.store(0, Ordering::Relaxed);
            if self.halt.passes(if group.save.is_some() { "save.committed" } else { "group.committed" }) {
                return Ok(());
            }
            self.shelves.committed(&group);
        }
        if !group.resolved.is_empty() {
            let mut totals = self.resolved.lock();
            for resolved in &group.resolved {
                let (delivered, dropped) = totals.entry(resolved.action.clone()).or_default();
                match resolved.resolution {
                    Resolution::Delivered => *delivered += 1,
                    Resolution::Dropped => *dropped += 1,
                }
            }
        }
        for (told, ids) in self.told.drain(..) {
            told(ids);
        }
        if let Some(told) = saved {
            told(());
        }
        for reading in reads {
            match reading {
                Reading::These(ids, told) => told(self.store.parked_all(&ids)?),
                Reading::Page(filter, after, most, told) => told(self.store.parked_page(&filter, after, most)?),
            }
        }
        Ok(())
    }
}

/// Parked records that somebody waits for.
enum Reading {
    These(Vec<ParkedId>, Told<Vec<Parked>>),
    Page(Filter, ParkedId, usize, Told<Page>),
}
