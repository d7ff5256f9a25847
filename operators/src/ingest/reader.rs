//! The reading thread of a worker: takes turns among its partitions, waits for room in the window, hands batches over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::epoch::unix_ms;
use crate::error::Result;
use crate::ingest::source::{Batch, Partition, Read, Reader, Source};
use crate::ingest::stats::{ReaderState, ReaderStats};
use crate::offload::Wake;
use crate::process::Process;

/// Batches read ahead of the operator.
const AHEAD: usize = 16;

/// Partitions that are read at once, beyond those that have nothing to read now. The others wait for their turn, so that a
/// directory of ten thousand files does not take ten thousand descriptors.
const BUSY_MAX: usize = 16;

/// Starts reading; the channel closes when every partition has ended and no new one can come, or the pipeline stops.
pub(crate) fn start(
    process: &Arc<Process>,
    source: Arc<dyn Source>,
    partitions: Vec<Partition>,
    new: Receiver<Partition>,
    wake: Wake,
    fan: u64,
    stats: Arc<ReaderStats>,
) -> Receiver<Batch> {
    let (batches, inbox) = bounded(AHEAD);
    if partitions.is_empty() && !source.grows() {
        stats.turn(ReaderState::Ended);
        // The channel is closed: this worker's part of the source has ended before it began.
        return inbox;
    }
    let process = process.clone();
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            let (process, source, stats) = (&*process, &*source, &*stats);
            let mut work = Work { process, source, wake: &wake, fan, batches: &batches, stats, turns: Vec::new() };
            if let Err(error) = work.read_all(partitions.into(), new) {
                // What was read before deserves its outcomes: else a run that fails early never gets beyond its first batches.
                let began = Instant::now();
                while process.in_flight.units() > 0 && !work.is_over() && began.elapsed() < LAST_BATCHES {
                    std::thread::sleep(Duration::from_millis(5));
                }
                process.halt.fail(error);
            }
            drop(work);
            stats.turn(ReaderState::Ended);
            drop(batches);
            wake.wake();
        })
        .expect("the system gives a thread at start");
    inbox
}

/// How long what was read before an error may take to be finished.
const LAST_BATCHES: Duration = Duration::from_secs(5);

/// A partition that is being read.
struct Turn {
    partition: Partition,
    reader: Box<dyn Reader>,
    due: Instant,
    order: u64,
    idle: bool,
    /// Whether it was idle because its source could not be asked.
    away: bool,
}

struct Work<'a> {
    process: &'a Process,
    source: &'a dyn Source,
    wake: &'a Wake,
    fan: u64,
    batches: &'a Sender<Batch>,
    stats: &'a ReaderStats,
    turns: Vec<Turn>,
}

/// What a reader's turn came to.
enum Next {
    /// Look again then.
    At(Instant),
    /// The partition has ended.
    Ended,
    /// The pipeline has.
    Over,
}

impl Work<'_> {
    fn is_over(&self) -> bool {
        self.process.is_stopping() || self.process.halt.is_halted()
    }

    fn read_all(&mut self, mut waiting: VecDeque<Partition>, new: Receiver<Partition>) -> Result {
        let mut new = Some(new);
        while !self.is_over() {
            let busy = self.turns.iter().filter(|turn| !turn.idle).count();
            for partition in waiting.drain(..waiting.len().min(BUSY_MAX.saturating_sub(busy))) {
                self.turns.push(open(self.process, self.source, partition)?);
            }
            if self.turns.is_empty() && waiting.is_empty() && new.is_none() {
                return Ok(());
            }
            let mut next_due: Option<Instant> = None;
            let mut index = 0;
            while index < self.turns.len() && !self.is_over() {
                match self.read_one(index)? {
                    Next::Over => return Ok(()),
                    Next::Ended => drop(self.turns.swap_remove(index)),
                    Next::At(due) => {
                        next_due = Some(next_due.map_or(due, |next| next.min(due)));
                        index += 1;
                    }
                }
            }
            // All are idle: sleep until the first is due, in steps short enough to notice a stop.
            let until = match waiting.is_empty() {
                true => next_due.map(|due| due.saturating_duration_since(Instant::now())),
                false => Some(Duration::ZERO),
            };
            let until = until.unwrap_or(STEP).min(STEP);
            // Some sources wait by themselves, and want to be asked again at once.
            let all_idle = waiting.is_empty() && !self.turns.is_empty() && self.turns.iter().all(|turn| turn.idle);
            if !until.is_zero() || all_idle {
                let is_away = self.turns.iter().any(|turn| turn.away);
                self.stats.turn(if is_away { ReaderState::Away } else { ReaderState::Waiting });
            }
            match &new {
                None => std::thread::sleep(until),
                Some(inbox) => match inbox.recv_timeout(until) {
                    Ok(partition) => waiting.push_back(partition),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => new = None,
                },
            }
        }
        Ok(())
    }

    fn read_one(&mut self, index: usize) -> Result<Next> {
        let Turn { partition, reader, due, order, idle, away } = &mut self.turns[index];
        if *due > Instant::now() {
            return Ok(Next::At(*due));
        }
        if !self.process.in_flight.has_room() {
            self.stats.turn(ReaderState::Paused);
            if !self.process.in_flight.wait_for_room(STEP) {
                return Ok(Next::At(Instant::now()));
            }
            self.stats.turn(ReaderState::Reading);
        }
        let mut batch = Batch { partition: partition.id, ..Batch::default() };
        let read = reader.read(&mut batch)?;
        *due = Instant::now();
        (*idle, *away) = (false, false);
        match read {
            Read::Some => {
                self.stats.turn(ReaderState::Reading);
                self.stats.last_read_ms.store(unix_ms(), Ordering::Relaxed);
                count_replay(self.process, &batch, *order);
                *order = batch.token.order;
                self.process.in_flight.take((batch.changes.len() + batch.rejected.len()) as u64 * self.fan);
                if self.batches.send(batch).is_err() {
                    return Ok(Next::Over);
                }
                self.wake.wake();
                if self.process.halt.passes("reader.sent") {
                    return Ok(Next::Over);
                }
            }
            Read::Idle(patience) => {
                *due += patience;
                *idle = true;
            }
            Read::Away(patience) => {
                *due += patience;
                (*idle, *away) = (true, true);
            }
            Read::End => return Ok(Next::Ended),
        }
        Ok(Next::At(*due))
    }
}

/// The longest that a stop goes unnoticed.
const STEP: Duration = Duration::from_millis(50);

fn open(process: &Process, source: &dyn Source, partition: Partition) -> Result<Turn> {
    let from = process.heritage.mark.get(&partition.id);
    let reader = source.open(&partition, from, &process.in_flight)?;
    Ok(Turn { partition, reader, due: Instant::now(), order: from.map_or(0, |token| token.order), idle: false, away: false })
}

/// Counts what an earlier run had read already, by whole batches, and notes the moment of the first that is new.
fn count_replay(process: &Process, batch: &Batch, from: u64) {
    let n = (batch.changes.len() + batch.rejected.len()) as u64;
    if n == 0 {
        // A token alone: how many of them there are differs from run to run.
        return;
    }
    if process.read_so_far.was_read(batch.partition, from) {
        process.stats.replayed.fetch_add(n, Ordering::Relaxed);
        // The batch gets its epoch on the worker, a moment from now.
        process.stats.replayed_until.fetch_max(process.clock.unix_ms() + 1_000, Ordering::Relaxed);
    } else {
        process.stats.first_new(process.started.elapsed());
    }
    process.read_so_far.note(batch.partition, batch.token.order);
}
