//! The reading thread of a worker: takes turns among its partitions, waits for room in the window, hands batches over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::epoch::unix_ms;
use crate::error::Result;
use crate::ingest::source::{Batch, Partition, Read, Reader, Source};
use crate::ingest::stats::{ReaderState, ReaderStats};
use crate::offload::Wake;
use crate::process::Process;

/// Batches read ahead of the operator.
const AHEAD: usize = 16;

/// Starts reading; the channel closes when every partition has ended or the pipeline stops.
pub(crate) fn start(
    process: &Arc<Process>,
    source: Arc<dyn Source>,
    partitions: Vec<Partition>,
    wake: Wake,
    fan: u64,
    stats: Arc<ReaderStats>,
) -> Receiver<Batch> {
    let (batches, inbox) = bounded(AHEAD);
    if partitions.is_empty() {
        stats.turn(ReaderState::Ended);
        // The channel is closed: this worker's part of the source has ended before it began.
        return inbox;
    }
    let process = process.clone();
    std::thread::Builder::new()
        .name("reader".into())
        .spawn(move || {
            if let Err(error) = read_all(&process, &*source, partitions, &wake, fan, &batches, &stats) {
                process.halt.fail(error);
            }
            stats.turn(ReaderState::Ended);
            drop(batches);
            wake.wake();
        })
        .expect("the system gives a thread at start");
    inbox
}

fn read_all(
    process: &Process,
    source: &dyn Source,
    partitions: Vec<Partition>,
    wake: &Wake,
    fan: u64,
    batches: &Sender<Batch>,
    stats: &ReaderStats,
) -> Result {
    struct Turn {
        partition: Partition,
        reader: Box<dyn Reader>,
        due: Instant,
        order: u64,
    }
    let mut readers: Vec<Turn> = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let from = process.heritage.mark.get(&partition.id);
        let reader = source.open(&partition, from, &process.in_flight)?;
        readers.push(Turn { partition, reader, due: Instant::now(), order: from.map_or(0, |token| token.order) });
    }
    let over = || process.is_stopping() || process.halt.is_halted();
    while !readers.is_empty() && !over() {
        let mut index = 0;
        let mut next_due: Option<Instant> = None;
        while index < readers.len() && !over() {
            let Turn { partition, reader, due, order } = &mut readers[index];
            if *due > Instant::now() {
                next_due = Some(next_due.map_or(*due, |next| next.min(*due)));
                index += 1;
                continue;
            }
            if !process.in_flight.has_room() {
                stats.turn(ReaderState::Paused);
                if !process.in_flight.wait_for_room(Duration::from_millis(50)) {
                    continue;
                }
                stats.turn(ReaderState::Reading);
            }
            let mut batch = Batch { partition: partition.id, ..Batch::default() };
            match reader.read(&mut batch)? {
                Read::Some => {
                    *due = Instant::now();
                    next_due = Some(*due);
                    stats.turn(ReaderState::Reading);
                    stats.last_read_ms.store(unix_ms(), Ordering::Relaxed);
                    count_replay(process, &batch, *order);
                    *order = batch.token.order;
                    process.in_flight.take((batch.changes.len() + batch.rejected.len()) as u64 * fan);
                    if batches.send(batch).is_err() {
                        return Ok(());
                    }
                    wake.wake();
                    if process.halt.passes("reader.sent") {
                        return Ok(());
                    }
                    index += 1;
                }
                Read::Idle(patience) => {
                    *due = Instant::now() + patience;
                    next_due = Some(next_due.map_or(*due, |next| next.min(*due)));
                    index += 1;
                }
                Read::End => drop(readers.swap_remove(index)),
            }
        }
        // All are idle: sleep until the first is due, in steps short enough to notice a stop.
        if next_due.is_some_and(|due| due > Instant::now()) {
            stats.turn(ReaderState::Waiting);
        }
        let until = next_due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
        std::thread::sleep(until.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// Counts what an earlier run had read already, by whole batches, and notes the moment of the first that is new.
fn count_replay(process: &Process, batch: &Batch, from: u64) {
    let n = (batch.changes.len() + batch.rejected.len()) as u64;
    if process.read_so_far.was_read(batch.partition, from) {
        process.stats.replayed.fetch_add(n, Ordering::Relaxed);
    } else {
        process.stats.first_new(process.started.elapsed());
    }
    process.read_so_far.note(batch.partition, batch.token.order);
}
