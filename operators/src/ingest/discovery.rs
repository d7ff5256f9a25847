//! Partitions that come while the pipeline runs.
//!
//! One thread per source looks for them, in the process that leads. A new partition gets its number durably *before* anything of
//! it is read, because a position made with the number must mean the same in the next run; every process knows the number before
//! a change of it can come there; then it goes to the reader of its worker, wherever that is. The sources of the other processes
//! look too, so that they find what they are given.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use hashbrown::HashSet;

use crate::checkpoint::keeper::Drafts;
use crate::error::{Error, Result};
use crate::ingest::source::{Partition, PartitionName, Source};
use crate::process::Process;

/// The ways of new partitions of a source.
pub(crate) struct Ways {
    to_readers: Vec<Receiver<Partition>>,
    /// Whether the source's ids are unique beyond one partition.
    pub global_ids: bool,
    /// Where a member hears of partitions that its workers are to read.
    pub told: Option<Sender<Partition>>,
}

/// How long a partition that the leader has found may stay unseen here.
const UNSEEN: Duration = Duration::from_secs(60);

/// Where the reader of a worker gets its new partitions from. The channel is closed when there will be none.
pub(super) fn new_partitions(process: &Arc<Process>, name: &str, source: &Arc<dyn Source>, worker: usize) -> Receiver<Partition> {
    let ways = process.shared.get_or_make(name, || {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..process.limits.workers).map(|_| unbounded()).unzip();
        let (told, dealt) = (source.grows() && !process.cluster.place().leads()).then(unbounded).unzip();
        if source.grows() {
            let (process, name, source) = (process.clone(), name.to_owned(), source.clone());
            std::thread::Builder::new()
                .name("discovery".into())
                .spawn(move || {
                    let looked = match dealt {
                        None => look(&process, &name, &*source, &senders),
                        Some(dealt) => follow(&process, &*source, &dealt, &senders),
                    };
                    if let Err(error) = looked {
                        process.halt.fail(error.context(format!("source \"{name}\"")));
                    }
                })
                .expect("the system gives a thread at start");
        }
        Ways { to_readers: receivers, global_ids: source.has_global_ids(), told }
    });
    ways.to_readers.get(process.cluster.place().within(worker)).cloned().unwrap_or_else(never)
}

fn is_over(process: &Process) -> bool {
    process.is_stopping() || process.halt.is_halted()
}

/// Waits until it is time to look again, in steps short enough to notice a stop.
fn rest(process: &Process, patience: Duration) {
    let next = Instant::now() + patience;
    while !is_over(process) && Instant::now() < next {
        std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
}

/// The leader looks, numbers, and deals.
fn look(process: &Arc<Process>, name: &str, source: &dyn Source, workers: &[Sender<Partition>]) -> Result {
    let place = process.cluster.place();
    while !is_over(process) {
        let (found, patience) = source.look()?;
        for PartitionName { name: partition, .. } in found {
            let id = process.heritage.next_partition.fetch_add(1, Ordering::Relaxed);
            if !process.hasher.add_partition(id, source.has_global_ids()) {
                return Err(Error::stop("too many partitions came in one run; start the pipeline again, it continues there"));
            }
            let drafts = Drafts { partitions: vec![(id, format!("{name}/{partition}"))], ..Drafts::default() };
            let (tell, durable) = bounded(1);
            process.keeper.commit(drafts, move |_| {
                let _ = tell.send(());
            });
            // A keeper that is gone has failed, or the run is over.
            if durable.recv().is_err() {
                return Ok(());
            }
            if place.has_others()
                && let Err(error) = process.deal(name, id, &partition)
            {
                return if is_over(process) { Ok(()) } else { Err(error) };
            }
            if place.process_of(place.reader_of(id)) == place.process {
                // A reader that is gone has stopped: the next run finds the partition again.
                let _ = workers[place.within(place.reader_of(id))].send(Partition { id, name: partition });
            }
        }
        rest(process, patience);
    }
    Ok(())
}

/// A member looks too, but reads only what it is told to.
fn follow(process: &Process, source: &dyn Source, dealt: &Receiver<Partition>, workers: &[Sender<Partition>]) -> Result {
    let place = process.cluster.place();
    let mut seen: HashSet<String> = source.partitions()?.into_iter().map(|partition| partition.name).collect();
    let mut waiting: Vec<(Partition, Instant)> = Vec::new();
    while !is_over(process) {
        let (found, patience) = source.look()?;
        seen.extend(found.into_iter().map(|partition| partition.name));
        let next = Instant::now() + patience;
        loop {
            waiting.extend(dealt.try_iter().map(|partition| (partition, Instant::now())));
            for (partition, _) in waiting.extract_if(.., |(partition, _)| seen.contains(&partition.name)) {
                let _ = workers[place.within(place.reader_of(partition.id))].send(partition);
            }
            if let Some((partition, _)) = waiting.iter().find(|(_, since)| since.elapsed() > UNSEEN) {
                return Err(Error::stop(format!(
                    "process 0 has found partition {}, and process {} does not see it: a source of several processes must be the \
                     same for all of them",
                    partition.name, place.process
                )));
            }
            // What is waited for is looked for at once.
            if is_over(process) || !waiting.is_empty() || Instant::now() >= next {
                break;
            }
            rest(process, Duration::from_millis(50).min(next.saturating_duration_since(Instant::now())));
        }
        if !waiting.is_empty() {
            rest(process, Duration::from_millis(50));
        }
    }
    Ok(())
}
