//! The checkpoint operator: where the frontier becomes a mark.
//!
//! **Notation.** *F* is the frontier at this operator: the least epoch that may still bring a report. Every operator before
//! it holds an epoch open until the last outcome of the epoch is durable, so
//!
//! > every change of an epoch below *F* has a durable outcome for every action.
//!
//! **The mark** at *F* is, per partition, the resume token of the last batch read under an epoch below *F*. Epochs never
//! fall and a reader hands batches over in order, so every batch before that token was read under an epoch below *F* too:
//! all before the mark is done.
//!
//! **What is saved with it** is what belongs to the epochs below *F* and nothing else: counts, operator state, file
//! lengths. Reports travel as data under their epochs, so all of them are here when *F* has passed.
//!
//! The steps of a run of the operator: 1. take reports in, by epoch; 2. fold what lies below the frontier, checking the
//! books of each epoch; 3. take the answer of a save that has ended; 4. begin the next save, if one is due.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::frontier::MutableAntichain;

use crate::batches::ForEachEpoch;
use crate::books::{Account, LineId};
use crate::checkpoint::cut_off::{Counted, CutOff, Noted};
use crate::checkpoint::report::{Oldest, Report};
use crate::checkpoint::saver::{self, Saver};
use crate::checkpoint::store::{Resolved, Save, StateSegment};
use crate::error::Error;
use crate::offload::{Inbox, Wake, mailbox};
use crate::position::{Epoch, PartitionId, ResumeToken};
use crate::process::Process;

/// When a save may begin: so many changes completed above the saved mark, or the interval passed, and none running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Changes completed above the saved mark.
    pub batch_size: u64,
    /// Time since the last save began.
    pub interval: Duration,
}

/// Saves checkpoints from the reports of all operators. Runs on worker 0.
///
/// # Guarantee
/// A mark is saved only when all before it has durable outcomes and the books of every epoch below it balance. Otherwise the
/// pipeline stops and says which action's books do not, and by how much.
pub fn checkpoint<'s>(
    reports: StreamVec<'s, Epoch, Report>,
    process: &Arc<Process>,
    cadence: Cadence,
) -> Stream<'s, Epoch, Vec<()>> {
    let scope = reports.scope();
    let mut builder = OperatorBuilder::new("Checkpoint".to_owned(), scope);
    let mut input = builder.new_input(reports, Exchange::new(|_: &Report| 0));
    let (done_out, done) = builder.new_output::<Vec<()>>();
    let _done_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<()>>>::from(done_out);
    let info = builder.operator_info();
    let wake = Wake::new(scope.worker().sync_activator_for(info.address.to_vec()));
    let again = scope.activator_for(info.address);
    let (process, index) = (process.clone(), scope.index());
    builder.build_reschedule(move |capabilities| {
        drop(capabilities);
        let (post, inbox) = mailbox::<saver::Saved>(&wake);
        let mut desk = (index == 0).then(|| Desk::new(&process, cadence, inbox, saver::start(&process, post)));
        move |frontiers: &[MutableAntichain<Epoch>]| {
            wake.ran();
            // `Halt::Abandoned` still lets a running save end; nothing new begins.
            let frontier = frontiers[0].frontier().first().copied();
            if process.cluster.place().within(index) == 0 {
                process.pace.frontier_at(frontier);
            }
            let Some(desk) = desk.as_mut().filter(|_| !process.halt.is_halted()) else {
                input.for_each(|_, _| {});
                return false;
            };
            // STEP 1: reports wait under their epoch, and hold no capability: the frontier alone says when they count.
            input.for_each_epoch(|capability, batches| {
                let Some(epoch) = capability.least().copied() else { return };
                for report in batches.iter_mut().flat_map(|batch| batch.drain(..)) {
                    desk.open.entry(epoch).or_default().take(report);
                }
            });
            let step = desk.fold(frontier).map(|()| {
                desk.hear();
                desk.begin(frontier)
            });
            match step {
                Ok(Next::At(due)) => again.activate_after(process.clock.save_due_in(due)),
                Ok(Next::Nothing) => {}
                Err(error) => process.halt.fail(error),
            }
            process.pace.unsaved(desk.saving || desk.dirty);
            // At the end of all input the operator stays until the last save is durable.
            desk.saving || desk.is_dirty()
        }
    });
    done
}

/// When the operator wants to run again by itself.
enum Next {
    At(Duration),
    Nothing,
}

/// Reports of one epoch, or of all that are folded and not saved yet.
#[derive(Default)]
struct Gathered {
    mark: BTreeMap<PartitionId, ResumeToken>,
    counts: Vec<(LineId, u64)>,
    state: Vec<(String, Vec<u8>)>,
    oldest: Vec<(String, usize, Oldest)>,
    met: Vec<Noted>,
    caught_up: Vec<PartitionId>,
    ended: Vec<Resolved>,
}

impl Gathered {
    fn take(&mut self, report: Report) {
        match report {
            Report::Read { partition, token } => {
                let mark = self.mark.entry(partition).or_default();
                if token.order >= mark.order {
                    *mark = token;
                }
            }
            Report::Count { line, n } => match self.counts.iter_mut().find(|(known, _)| *known == line) {
                Some((_, count)) => *count += n,
                None => self.counts.push((line, n)),
            },
            Report::State { operator, worker, bytes, oldest } => {
                self.oldest.push((operator.clone(), worker, oldest));
                if !bytes.is_empty() {
                    self.state.push((operator, bytes));
                }
            }
            Report::Met { action, change, position } => self.met.push((action, change, position)),
            Report::CaughtUp { partition } => self.caught_up.push(partition),
            Report::Ended(resolved) => self.ended.push(resolved),
        }
    }
}

impl Gathered {
    /// Whether a save would differ by it. Where the oldest state is, is said again with every save.
    fn is_news(&self) -> bool {
        !(self.mark.is_empty() && self.counts.is_empty() && self.state.is_empty() && self.met.is_empty() && self.ended.is_empty())
    }
}

struct Desk {
    process: Arc<Process>,
    cadence: Cadence,
    saved: Inbox<saver::Saved>,
    saver: Saver,
    accounts: BTreeMap<String, Account>,
    read_lines: Vec<LineId>,
    /// Reports by epoch, above the frontier.
    open: BTreeMap<Epoch, Gathered>,
    /// Absolute values for everything below the frontier.
    mark: BTreeMap<PartitionId, ResumeToken>,
    counts: Vec<u64>,
    oldest: BTreeMap<(String, usize), Oldest>,
    /// What has come since the last save began.
    state: BTreeMap<String, Vec<u8>>,
    met: Vec<Noted>,
    ended: Vec<Resolved>,
    cut_off: CutOff,
    folded_to: Epoch,
    dirty: bool,
    /// Changes read since the pipeline began: before this run, and now.
    read_begun: u64,
    read: u64,
    /// Changes read in the epochs of the save that runs, and of the last durable one.
    read_saving: u64,
    read_saved: u64,
    saving: bool,
    /// Whether the last save says that all sources had ended.
    end_is_saved: bool,
    number: u64,
    /// Epoch and number of this run's saves, as far as state of their epochs is alive.
    numbers: VecDeque<(Epoch, u64)>,
    began: Instant,
}

impl Desk {
    fn new(process: &Arc<Process>, cadence: Cadence, saved: Inbox<saver::Saved>, saver: Saver) -> Self {
        let counts = process.books.restored_counts();
        let accounts = process.books.accounts();
        let mut read_lines: Vec<LineId> = accounts.values().flat_map(|account| account.read.iter().copied()).collect();
        read_lines.sort_unstable();
        read_lines.dedup();
        let read = read_lines.iter().map(|line| counts[*line as usize]).sum();
        let (number, epoch) = process.heritage.last_save;
        Desk {
            mark: process.heritage.mark.clone(),
            process: process.clone(),
            cadence,
            saved,
            saver,
            accounts,
            read_lines,
            open: BTreeMap::new(),
            counts,
            oldest: BTreeMap::new(),
            state: BTreeMap::new(),
            met: Vec::new(),
            ended: Vec::new(),
            cut_off: CutOff::default(),
            folded_to: epoch,
            dirty: false,
            read_begun: read,
            read,
            read_saving: read,
            read_saved: read,
            saving: false,
            end_is_saved: process.heritage.ended,
            number,
            numbers: VecDeque::new(),
            began: process.clock.now(),
        }
    }

    fn is_dirty(&self) -> bool {
        self.dirty || !self.open.is_empty()
    }

    /// STEP 2: everything below the frontier becomes part of the absolute values, epoch by epoch, if its books balance.
    fn fold(&mut self, frontier: Option<Epoch>) -> Result<(), Error> {
        while let Some(entry) = self.open.first_entry() {
            if frontier.is_some_and(|frontier| *entry.key() >= frontier) {
                break;
            }
            let (epoch, gathered) = entry.remove_entry();
            self.dirty |= gathered.is_news();
            for (line, n) in gathered.counts {
                self.count(line, n);
                if self.read_lines.contains(&line) {
                    self.read += n;
                }
            }
            self.cut_off.met(&gathered.met);
            self.met.extend(gathered.met);
            gathered.caught_up.into_iter().for_each(|partition| self.count_cut_off(partition));
            for (action, account) in &self.accounts {
                account.check(action, &self.counts).map_err(|sentence| {
                    Error::stop(format!("{sentence} (epoch {epoch}); no checkpoint is saved beyond the last one"))
                })?;
            }
            self.mark.extend(gathered.mark);
            for (operator, bytes) in gathered.state {
                self.state.entry(operator).or_default().extend_from_slice(&bytes);
            }
            self.oldest.extend(gathered.oldest.into_iter().map(|(operator, worker, oldest)| ((operator, worker), oldest)));
            self.ended.extend(gathered.ended);
        }
        self.folded_to = self.folded_to.max(frontier.unwrap_or_else(|| self.process.clock.mint() + 1));
        Ok(())
    }

    fn count(&mut self, line: LineId, n: u64) {
        if self.counts.len() <= line as usize {
            self.counts.resize(line as usize + 1, 0);
        }
        self.counts[line as usize] += n;
    }

    /// What earlier runs have settled and this one will not meet is counted now.
    fn count_cut_off(&mut self, partition: PartitionId) {
        for Counted { action, delivered, parked, notes } in self.cut_off.caught_up(&self.process.heritage, partition) {
            let Some(account) = self.accounts.get(&action) else { continue };
            let [_, delivered_line, parked_line] = account.own;
            for (line, n) in [(account.cut_off, delivered + parked), (delivered_line, delivered), (parked_line, parked)] {
                self.process.books.count(line, n);
                self.count(line, n);
            }
            self.met.extend(notes);
        }
    }

    /// STEP 3: a save has become durable.
    fn hear(&mut self) {
        for saver::Saved { epoch } in self.saved.drain() {
            let stats = &self.process.stats;
            let exposed = self.process.read_about().0.saturating_sub(self.read_saved - self.read_begun);
            stats.replayed_max.fetch_max(exposed, Ordering::Relaxed);
            stats.saves.fetch_add(1, Ordering::Relaxed);
            self.read_saved = self.read_saving;
            self.process.set_saved_epoch(epoch);
            self.saving = false;
        }
    }

    /// STEP 4: begins a save if one is due. What has come since the one before is merged into it: all values are absolute,
    /// and state waits in `state` until a save takes it.
    fn begin(&mut self, frontier: Option<Epoch>) -> Next {
        let at_end = frontier.is_none() && !self.process.is_stopping();
        self.dirty |= at_end && !self.end_is_saved;
        if self.saving || !self.dirty {
            return Next::Nothing;
        }
        let since = self.process.clock.now().saturating_duration_since(self.began);
        let due = frontier.is_none() || self.read - self.read_saved >= self.cadence.batch_size || since >= self.cadence.interval;
        if !due {
            return Next::At(self.cadence.interval - since);
        }
        self.began = self.process.clock.now();
        self.saving = true;
        self.dirty = false;
        self.read_saving = self.read;
        self.number += 1;
        let epoch = self.folded_to;
        self.numbers.push_back((epoch, self.number));
        let state = std::mem::take(&mut self.state);
        let save = Save {
            number: self.number,
            epoch,
            mark: self.mark.clone(),
            books: self.process.books.named(&self.counts),
            files: Vec::new(),
            state: state.into_iter().map(|(operator, bytes)| StateSegment { operator, bytes: bytes.into() }).collect(),
            state_from: self.state_from(),
            forgotten: std::mem::take(&mut self.met),
            ended: at_end,
        };
        self.end_is_saved = at_end;
        self.saver.save(save, std::mem::take(&mut self.ended));
        Next::Nothing
    }

    /// By operator, the oldest save that still holds state which counts.
    fn state_from(&mut self) -> BTreeMap<String, u64> {
        let mut from = BTreeMap::new();
        let mut least = Epoch::MAX;
        for ((operator, _), oldest) in &self.oldest {
            let save = match *oldest {
                Oldest::Save(number) => number,
                Oldest::Epoch(epoch) => {
                    least = least.min(epoch);
                    // The save that covers an epoch is the first one whose frontier lies above it.
                    self.numbers.iter().find(|(frontier, _)| *frontier > epoch).map_or(self.number, |(_, number)| *number)
                }
                Oldest::Empty => self.number,
            };
            let entry = from.entry(operator.clone()).or_insert(save);
            *entry = save.min(*entry);
        }
        if least < Epoch::MAX {
            while self.numbers.len() > 1 && self.numbers[0].0 <= least {
                self.numbers.pop_front();
            }
        }
        // A worker that has not reported yet may still hold state of any age.
        let workers = self.process.cluster.place().peers();
        from.retain(|operator, _| self.oldest.keys().filter(|(known, _)| known == operator).count() == workers);
        from
    }
}
