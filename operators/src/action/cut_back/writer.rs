//! The thread that writes the files, and the lengths it has reached at the end of each epoch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use hashbrown::HashMap;
use metrics::Histogram;
use parking_lot::Mutex;

use super::{CutBackOutput, Syncer};
use crate::checkpoint::store::CutBackFile;
use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::in_flight::InFlight;
use crate::position::Epoch;

/// The thread that writes, and the lengths it has reached. Cheap to clone.
#[derive(Clone)]
pub struct SinkWriter {
    jobs: Sender<Job>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    sealed: Vec<CutBackFile>,
    outputs: Vec<Arc<Progress>>,
}

/// How far an output has come.
struct Progress {
    action: String,
    path: String,
    lengths: Mutex<Lengths>,
}

#[derive(Default)]
struct Lengths {
    /// Length at the end of each epoch, from the last saved one on.
    ends: VecDeque<(Epoch, u64)>,
    /// Length at the end of the last epoch taken out of `ends`.
    base: u64,
    synced: u64,
    sync: Option<Arc<Syncer>>,
}

enum Job {
    Open(Arc<Progress>, Box<dyn CutBackOutput>, usize, Histogram),
    Append { output: usize, bytes: Vec<u8>, epoch: Epoch, units: u64 },
    Ticket(Sender<()>),
    Close,
}

impl SinkWriter {
    /// Starts the writing thread. `sealed` are the files of earlier runs, which stay in every checkpoint as they are.
    pub fn start(sealed: Vec<CutBackFile>, window: Arc<InFlight>, halt: Arc<Halt>) -> (Self, JoinHandle<()>) {
        let (jobs, inbox) = unbounded();
        let writer = SinkWriter { jobs, shared: Arc::new(Mutex::new(Shared { sealed, outputs: Vec::new() })) };
        let thread = std::thread::Builder::new()
            .name("sink-writer".into())
            .spawn(move || {
                if let Err(error) = write_all(&inbox, &window, &halt) {
                    halt.fail(error);
                }
            })
            .expect("the system gives a thread at start");
        (writer, thread)
    }

    /// A new output. How long each write takes goes to `durations`.
    pub(super) fn open(&self, action: &str, output: Box<dyn CutBackOutput>, durations: Histogram) -> usize {
        let progress = Arc::new(Progress { action: action.to_owned(), path: output.path(), lengths: Mutex::default() });
        let mut shared = self.shared.lock();
        shared.outputs.push(progress.clone());
        let number = shared.outputs.len() - 1;
        // Sent under the lock, so that numbers and jobs keep one order.
        let _ = self.jobs.send(Job::Open(progress, output, number, durations));
        number
    }

    /// Hands over what an epoch has brought for an output. Epochs come in order; the units are given back once it is written.
    pub(super) fn append(&self, output: usize, bytes: Vec<u8>, epoch: Epoch, units: u64) {
        let _ = self.jobs.send(Job::Append { output, bytes, epoch, units });
    }

    /// All files with the lengths that stand for the epochs below `frontier`, synced to disk.
    pub fn files_at(&self, frontier: Epoch) -> Result<Vec<CutBackFile>> {
        // The writer answers a ticket after everything handed over before it: all of the epochs below the frontier.
        let (answer, ticket) = bounded(1);
        let gone = || Error::stop("the thread that writes output files has ended");
        self.jobs.send(Job::Ticket(answer)).map_err(|_| gone())?;
        ticket.recv().map_err(|_| gone())?;
        let (mut files, outputs) = {
            let shared = self.shared.lock();
            (shared.sealed.clone(), shared.outputs.clone())
        };
        for output in outputs {
            let (length, synced, sync) = {
                let mut lengths = output.lengths.lock();
                while let Some((epoch, length)) = lengths.ends.front().copied() {
                    if epoch >= frontier {
                        break;
                    }
                    lengths.base = length;
                    lengths.ends.pop_front();
                }
                (lengths.base, lengths.synced, lengths.sync.clone())
            };
            // Not under the lock: the writer goes on while the disk works.
            if let (true, Some(sync)) = (length > synced, sync) {
                sync()?;
                output.lengths.lock().synced = length;
            }
            if length > 0 {
                files.push(CutBackFile { action: output.action.clone(), path: output.path.clone(), length });
            }
        }
        Ok(files)
    }

    /// Whether any action writes files.
    pub(crate) fn has_outputs(&self) -> bool {
        !self.shared.lock().outputs.is_empty()
    }

    /// Ends the thread once everything handed over is written.
    pub fn close(&self) {
        let _ = self.jobs.send(Job::Close);
    }
}

impl std::fmt::Debug for SinkWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkWriter")
    }
}

/// An output on the writing thread.
struct Written {
    progress: Arc<Progress>,
    file: Box<dyn CutBackOutput>,
    length: u64,
    durations: Histogram,
}

fn write_all(inbox: &Receiver<Job>, window: &InFlight, halt: &Halt) -> Result {
    let mut outputs: HashMap<usize, Written> = HashMap::new();
    while let Ok(job) = inbox.recv() {
        if halt.is_frozen() {
            return Ok(());
        }
        match job {
            Job::Open(progress, output, number, durations) => {
                outputs.insert(number, Written { progress, file: output, length: 0, durations });
            }
            Job::Append { output, bytes, epoch, units } => {
                let Written { progress, file, length, durations } =
                    outputs.get_mut(&output).expect("an output is opened before it is written");
                let began = Instant::now();
                file.append(&bytes)?;
                durations.record(began.elapsed().as_secs_f64());
                *length += bytes.len() as u64;
                if halt.passes("sink.written") {
                    return Ok(());
                }
                let mut lengths = progress.lengths.lock();
                if lengths.sync.is_none() {
                    lengths.sync = Some(Arc::new(file.syncer()?));
                }
                lengths.ends.push_back((epoch, *length));
                drop(lengths);
                window.give_back(units);
            }
            Job::Ticket(answer) => drop(answer.send(())),
            Job::Close => return Ok(()),
        }
    }
    Ok(())
}
