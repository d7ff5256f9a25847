//! Partitions that come while the pipeline runs.
//!
//! One thread per source and process looks for them. A new partition gets its number durably *before* anything of it is read,
//! because a position made with the number must mean the same in the next run; then it goes to the reader of its worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, unbounded};

use crate::checkpoint::keeper::Drafts;
use crate::error::{Error, Result};
use crate::ingest::source::{Partition, PartitionName, Source};
use crate::process::Process;

/// The ways to the workers' readers.
struct Ways(Vec<Receiver<Partition>>);

/// Where the reader of a worker gets its new partitions from. The channel is closed when there will be none.
pub(super) fn new_partitions(process: &Arc<Process>, name: &str, source: &Arc<dyn Source>, worker: usize) -> Receiver<Partition> {
    let ways = process.shared.get_or_make(name, || {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..process.limits.workers).map(|_| unbounded()).unzip();
        if source.grows() {
            let (process, name, source) = (process.clone(), name.to_owned(), source.clone());
            std::thread::Builder::new()
                .name("discovery".into())
                .spawn(move || {
                    if let Err(error) = look(&process, &name, &*source, &senders) {
                        process.halt.fail(error.context(format!("source \"{name}\"")));
                    }
                })
                .expect("the system gives a thread at start");
        }
        Ways(receivers)
    });
    ways.0.get(worker).cloned().unwrap_or_else(never)
}

fn look(process: &Arc<Process>, name: &str, source: &dyn Source, workers: &[Sender<Partition>]) -> Result {
    let over = || process.is_stopping() || process.halt.is_halted();
    while !over() {
        let (found, patience) = source.look()?;
        for PartitionName { name: partition, .. } in found {
            let id = process.heritage.next_partition.fetch_add(1, Ordering::Relaxed);
            if !process.hasher.add_partition(id, source.has_global_ids()) {
                return Err(Error::stop("too many partitions came in one run; start the pipeline again, it continues there"));
            }
            let drafts = Drafts { partitions: vec![(id, format!("{name}/{partition}"))], ..Drafts::default() };
            let worker = workers[id as usize % workers.len()].clone();
            process.keeper.commit(drafts, move |_| {
                // A reader that is gone has stopped: the next run finds the partition again.
                let _ = worker.send(Partition { id, name: partition });
            });
        }
        let next = Instant::now() + patience;
        while !over() && Instant::now() < next {
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
    }
    Ok(())
}
