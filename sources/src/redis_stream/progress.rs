//! Tells consumer groups how far is durable: a thread of its own, so that it outlives the readers until the run's last checkpoint is told.
//!
//! What it tells is for whoever watches (`XINFO GROUPS` and its lag), for trimming, and for whoever reads with the group after us. Nothing here
//! is read from it: where reading goes on stands in the checkpoint. So it may come late, or not at all, without harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use highwater_operators::guard::backoff::Backoff;
use highwater_operators::in_flight::InFlight;
use highwater_operators::redis::{Connection, Line};
use highwater_operators::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use redis::cmd;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::Description;
use super::ask;
use super::begin::{make_group, set_group};
use super::id::EntryId;
use super::token::Place;
use crate::ahead::runtime;

/// It is told so often at most.
const EVERY: Duration = Duration::from_millis(200);
/// How long a run that is over waits for it.
const LAST: Duration = Duration::from_secs(2);
/// Entries acknowledged at once.
const ACKS: u32 = 1000;
/// A server that is away is tried again after waits up to this.
const AWAY: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2) };

/// What is durable and was not told yet.
#[derive(Default)]
pub(super) struct Progress {
    marks: Mutex<BTreeMap<Arc<str>, Place>>,
    /// The streams that this process reads; the others are told by those who read them.
    opened: Mutex<BTreeSet<Arc<str>>>,
    changed: Notify,
    ending: Notify,
    over: AtomicBool,
    refused: OnceLock<Error>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Progress {
    /// Starts the thread, if there is a group to tell.
    pub fn start(self: &Arc<Self>, description: &Arc<Description>, window: &Arc<InFlight>) -> Result {
        let mut thread = self.thread.lock();
        if description.group.is_none() || thread.is_some() {
            return Ok(());
        }
        let runtime = runtime()?;
        let (progress, described, window) = (self.clone(), description.clone(), window.clone());
        let run = move || runtime.block_on(progress.tell_all(&described, &window));
        let started = std::thread::Builder::new().name("redis-groups".into()).spawn(run);
        *thread = Some(started.map_err(|error| Error::stop("cannot start a thread").because(error))?);
        Ok(())
    }

    /// This process reads the stream.
    pub fn opened(&self, stream: &str) {
        self.opened.lock().insert(stream.into());
    }

    /// A checkpoint with this place is durable.
    pub fn saved(&self, stream: &str, place: Place) {
        let Some(stream) = self.opened.lock().get(stream).cloned() else { return };
        self.marks.lock().insert(stream, place);
        self.changed.notify_one();
    }

    /// The run is over: tells what is left, if that does not take long.
    pub fn over(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.notify_one();
        self.ending.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    /// Why the run must not go on.
    pub fn refused(&self) -> Option<Error> {
        self.refused.get().map(Error::in_words)
    }

    async fn tell_all(&self, description: &Description, window: &InFlight) {
        let Ok(url) = &description.url else { return };
        let connection = Connection::new(url, "groups");
        let mut teller = Teller { description, window, acknowledged: BTreeMap::new() };
        let (mut failed, mut limit) = (0, None);
        loop {
            if self.over.load(Ordering::Acquire) {
                limit.get_or_insert_with(|| Instant::now() + LAST);
            }
            let Some((stream, place)) = self.marks.lock().pop_first() else {
                if limit.is_some() {
                    return;
                }
                self.changed.notified().await;
                continue;
            };
            let tell = async { teller.tell(&connection.line().await?, &stream, &place).await };
            let told = match limit {
                None => tell.await,
                Some(limit) => timeout_at(limit, tell).await.unwrap_or_else(|_| Err(Error::retry("Redis does not answer"))),
            };
            match told {
                Ok(()) => failed = 0,
                Err(error) if error.kind() != ErrorKind::Retry => {
                    let _ = self.refused.set(error);
                    return;
                }
                Err(error) if limit.is_some_and(|limit| Instant::now() >= limit) => {
                    tracing::warn!(%stream, "{error}; the group was not told how far it was read: the next run tells it");
                    return;
                }
                Err(error) => {
                    failed += 1;
                    if failed == 1 {
                        tracing::warn!(%stream, "{error}; the group is told later how far it was read");
                    }
                    // Unless a later one has come.
                    self.marks.lock().entry(stream).or_insert(place);
                }
            }
            let wait = if failed > 0 { AWAY.wait(failed) } else { EVERY };
            if limit.is_none() {
                // Once the run is over nothing more comes, and what is left is told at once.
                tokio::select! {
                    () = sleep(wait) => {}
                    () = self.ending.notified() => {}
                }
            } else if failed > 0 {
                sleep(wait.min(EVERY)).await;
            }
        }
    }
}

struct Teller<'a> {
    description: &'a Description,
    window: &'a InFlight,
    /// Up to where what was taken over is acknowledged.
    acknowledged: BTreeMap<Arc<str>, EntryId>,
}

impl Teller<'_> {
    /// Acknowledges what was taken over, then moves the group.
    async fn tell(&mut self, line: &Line, stream: &Arc<str>, place: &Place) -> Result {
        let Some(name) = &self.description.group else { return Ok(()) };
        // Once all that was pending is read, all of it is acknowledged, once.
        let upto = place.pending.unwrap_or(EntryId::MAX);
        if self.acknowledged.get(stream).is_none_or(|done| *done < upto) {
            self.acknowledge(line, stream, name, upto.min(place.id)).await?;
            self.acknowledged.insert(stream.clone(), upto);
        }
        if place.pending.is_some() {
            return Ok(());
        }
        let moved = match ask::group(line, stream, name).await? {
            Some(group) if group.delivered > place.id => Err(Error::stop(format!(
                "the group {name} of the stream {stream} stands at {}, and all up to {} is durable: another program reads with it. Let one owner read \
                 it, or name another group",
                group.delivered, place.id
            ))),
            Some(_) => set_group(line, stream, name, place).await,
            // Whoever reads it tells that the stream is gone, if it is.
            None => remake_group(line, stream, name, place).await,
        };
        if moved.is_ok() && self.window.passes("redis_stream.told") {
            return Err(Error::stop("it has crashed here"));
        }
        moved
    }

    /// Acknowledges what is pending for us, and so was read, up to an entry.
    async fn acknowledge(&self, line: &Line, stream: &str, group: &str, upto: EntryId) -> Result {
        let consumer = Some(self.description.consumer.as_str());
        loop {
            let ids = match ask::pending(line, stream, group, (EntryId::ZERO, upto), ACKS, consumer).await {
                // Somebody has removed the group: then nothing is pending.
                Err(error) if error.to_string().contains("NOGROUP") => return Ok(()),
                ids => ids?,
            };
            if ids.is_empty() {
                return Ok(());
            }
            let mut acks = cmd("XACK");
            acks.arg(stream).arg(group);
            for id in &ids {
                acks.arg(id.to_string());
            }
            line.query::<()>(&format!("acknowledging entries of the stream {stream}"), &acks).await?;
            if self.window.passes("redis_stream.acknowledged") {
                return Err(Error::stop("it has crashed here"));
            }
        }
    }
}

/// Makes a group that somebody has removed, of a stream that is there.
async fn remake_group(line: &Line, stream: &str, group: &str, place: &Place) -> Result {
    let (found, _) = ask::look(line, stream, EntryId::ZERO).await?;
    if found.is_none() { Ok(()) } else { make_group(line, stream, group, place).await }
}
