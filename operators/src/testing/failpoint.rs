//! Named places where a test can make the process "crash": from then on nothing more becomes durable.
//!
//! In a crash all memory is lost and what is durable stays. A test gets the same by freezing every durable write at a
//! named place, throwing the pipeline away and starting another one on the same data directory.

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// Every failpoint, in the order in which a change passes them.
pub const ALL: [&str; 14] = [
    TARGET_RAISED,
    TARGET_TAKEN_OVER,
    READER_SENT,
    INGEST_EMITTED,
    DEDUP_PASSED,
    ACTION_DISPATCHED,
    TRANSACTION_BEGINS,
    TRANSACTION_COMMITTED,
    ACTION_ANSWERED,
    GROUP_BEFORE_COMMIT,
    GROUP_COMMITTED,
    SINK_WRITTEN,
    SAVE_SYNCED,
    SAVE_COMMITTED,
];

/// Those of a source that reads a database by replication, in the order in which a run passes them.
pub const REPLICATION: [&str; 9] = [
    SNAPSHOT_PLANNED,
    SNAPSHOT_EXPORTED,
    SNAPSHOT_REACHED,
    SNAPSHOT_PAGE,
    SNAPSHOT_ROUND_OVER,
    CATCH_UP_BATCH,
    HAND_OVER_COPIED,
    HAND_OVER_STARTED,
    SLOT_CONFIRMED,
];

/// Those of a source that reads streams of Redis.
pub const REDIS_STREAM: [&str; 3] = [STREAM_CLAIMED, STREAM_ACKNOWLEDGED, STREAM_TOLD];

/// Entries that others left pending are made over to us; they are not handed over.
pub const STREAM_CLAIMED: &str = "redis_stream.claimed";
/// Entries that were taken over and are durable are acknowledged, some of them.
pub const STREAM_ACKNOWLEDGED: &str = "redis_stream.acknowledged";
/// A group was told how far is durable.
pub const STREAM_TOLD: &str = "redis_stream.told";

/// It is known by which ranges tables will be read; nothing is.
pub const SNAPSHOT_PLANNED: &str = "snapshot.planned";
/// A snapshot is there; the stream is not yet at its point.
pub const SNAPSHOT_EXPORTED: &str = "snapshot.exported";
/// The stream stands at the snapshot's point; none of its pages is handed over.
pub const SNAPSHOT_REACHED: &str = "snapshot.reached";
/// A page is handed over.
pub const SNAPSHOT_PAGE: &str = "snapshot.page";
/// All pages of a round are handed over; the stream goes on.
pub const SNAPSHOT_ROUND_OVER: &str = "snapshot.round_over";
/// A batch of catching up was read.
pub const CATCH_UP_BATCH: &str = "catch_up.batch";
/// The copy is read to its end; it is still there.
pub const HAND_OVER_COPIED: &str = "hand_over.copied";
/// The slot itself streams.
pub const HAND_OVER_STARTED: &str = "hand_over.started";
/// The server was told how far its log is not needed any more.
pub const SLOT_CONFIRMED: &str = "slot.confirmed";

/// The generation is raised in the target of a transactional action; its outcomes are not taken over.
pub const TARGET_RAISED: &str = "target.raised";
/// The outcomes found in a target are durable in our ledger; the target has them still.
pub const TARGET_TAKEN_OVER: &str = "target.taken_over";
/// A reader has handed over a batch.
pub const READER_SENT: &str = "reader.sent";
/// Ingest has emitted a batch under its epoch.
pub const INGEST_EMITTED: &str = "ingest.emitted";
/// Dedup has let a batch pass.
pub const DEDUP_PASSED: &str = "dedup.passed";
/// An action's changes were handed to the runtime.
pub const ACTION_DISPATCHED: &str = "action.dispatched";
/// A transaction is about to be applied.
pub const TRANSACTION_BEGINS: &str = "transaction.begins";
/// A transaction is committed in its target; nobody here knows yet.
pub const TRANSACTION_COMMITTED: &str = "transaction.committed";
/// Actions have answered; nothing is noted yet.
pub const ACTION_ANSWERED: &str = "action.answered";
/// The keeper is about to commit a group.
pub const GROUP_BEFORE_COMMIT: &str = "group.before_commit";
/// The keeper has committed a group and told nobody yet.
pub const GROUP_COMMITTED: &str = "group.committed";
/// A cut-back sink has written, and not synced.
pub const SINK_WRITTEN: &str = "sink.written";
/// The files of a save are synced; the checkpoint is not written.
pub const SAVE_SYNCED: &str = "save.synced";
/// The checkpoint is written; nobody was told.
pub const SAVE_COMMITTED: &str = "save.committed";

/// Where this process is killed, and at which passage from now.
static DEADLY: Mutex<Option<(String, u64)>> = Mutex::new(None);

/// Has this process killed (`kill -9`, by itself) when a failpoint is passed for the `passage`-th time from now, counted from 1. Other threads
/// run until then: what they have sent is sent. For programs that a test starts, where [`Failpoints`] are for runs within a test.
///
/// # Errors
/// No failpoint has this name.
pub fn die_at(name: &str, passage: u64) -> Result<()> {
    if !ALL.contains(&name) && !REPLICATION.contains(&name) && !REDIS_STREAM.contains(&name) {
        return Err(Error::stop(format!("there is no failpoint {name:?}; there are {}", ALL.join(", "))));
    }
    *DEADLY.lock() = Some((name.to_owned(), passage.max(1)));
    Ok(())
}

/// Passes a failpoint at which the process may be killed.
fn pass_deadly(name: &str) {
    if let Some((_, left)) = DEADLY.lock().as_mut().filter(|(deadly, _)| deadly == name) {
        *left -= 1;
        if *left == 0 {
            // It does not come back.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

/// Which failpoint is to fire and at which passage, and at which one all wait.
#[derive(Debug, Default)]
pub struct Failpoints {
    armed: Mutex<Option<(&'static str, u64)>>,
    stalled: Mutex<Option<&'static str>>,
    goes_on: Condvar,
}

impl Failpoints {
    /// Arms a failpoint: it fires when it is passed for the `passage`-th time, counted from 1.
    pub fn arm(&self, name: &'static str, passage: u64) {
        *self.armed.lock() = Some((name, passage));
    }

    /// From now on whoever passes this failpoint waits there, until [`go_on`](Self::go_on). Not for those that a worker passes.
    pub fn stall(&self, name: &'static str) {
        *self.stalled.lock() = Some(name);
    }

    /// Lets go of whoever waits.
    pub fn go_on(&self) {
        *self.stalled.lock() = None;
        self.goes_on.notify_all();
    }

    /// Passes a failpoint; says whether it fires.
    pub fn pass(&self, name: &str) -> bool {
        pass_deadly(name);
        let mut stalled = self.stalled.lock();
        while stalled.is_some_and(|at| at == name) {
            self.goes_on.wait(&mut stalled);
        }
        drop(stalled);
        let mut armed = self.armed.lock();
        match armed.as_mut() {
            Some((target, left)) if *target == name => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        }
    }
}
