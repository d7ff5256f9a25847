//! Lookups in a table that is kept from its own changes: a change gets the row *as of its own place* in the source.
//!
//! Every worker keeps the whole table, and is told of its changes by the worker of their key. A change is held until the frontier has passed its epoch: then
//! all that happened to the table up to it is known. Rows of one epoch have versions, each with its place in the source, and the change gets the last
//! one at or before its own; across epochs the source's own order does that, for it reads in that order.
//!
//! There is no query, nothing to expire, and nothing that was read again can find another row than before. What it costs is memory for the table in each
//! process, and the wait for the end of an epoch, a few milliseconds.
//!
//! The table is operator state: saved with the mark, and after a crash as it was there.

mod rows;
pub mod stats;
mod update;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{Operator, OutputBuilder};
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::{Stream, StreamVec};

use self::rows::{Restored, Rows};
use self::stats::TableStats;
pub use self::update::Update;
use self::update::Versions;
use super::KeyOf;
use crate::batches::ForEachEpoch;
use crate::change::{Change, Found};
use crate::checkpoint::report::Report;
use crate::error::Error;
use crate::ingest::source::OrderOf;
use crate::offload::Wake;
use crate::position::{Epoch, PartitionId};
use crate::process::Process;
use crate::why::{Hold, HolderKind};

/// Which rows a lookup finds, and by what.
#[derive(Clone)]
pub struct TableLookup {
    by: KeyOf,
    rows_max: usize,
    begins_empty: bool,
}

impl TableLookup {
    /// Looks up by a field of the change's row (after the change or, for a delete, before it): a row of the table is found by its key, as
    /// [`Change::key`] has it.
    pub fn by(field: &str) -> Self {
        TableLookup { by: KeyOf::Field(field.into()), rows_max: 10_000_000, begins_empty: false }
    }

    /// Looks up by what a closure makes of the change; `None` finds nothing.
    pub fn by_key(key: impl Fn(&Change) -> Option<String> + Send + Sync + 'static) -> Self {
        TableLookup { by: KeyOf::Closure(Arc::new(key)), ..Self::by("") }
    }

    /// So many rows at most: the run ends if there are more. Each takes some 200 bytes beside its text. Default: 10,000,000.
    #[must_use]
    pub fn at_most(self, rows: usize) -> Self {
        TableLookup { rows_max: rows, ..self }
    }

    /// Lets a pipeline that has run without this lookup begin with an empty table: for one whose rows are all read anew, as after `resnapshot`.
    #[must_use]
    pub fn begins_empty(self) -> Self {
        TableLookup { begins_empty: true, ..self }
    }
}

impl std::fmt::Debug for TableLookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableLookup").field("rows_max", &self.rows_max).finish_non_exhaustive()
    }
}

/// Lookups in a table on a stream that is exchanged by key.
pub trait TableExt<'s>: Sized {
    /// What the changes of `table` say of its rows, told to every worker.
    fn table_updates(self, stage: &str, table: &str, order_of: OrderOf) -> StreamVec<'s, Epoch, Update>;

    /// Attaches to each change the row of the table as of its place, under `name`. Changes keep their time, and their order by key.
    ///
    /// # Guarantee
    /// What is attached depends on nothing but the source: it is the same whenever the change is read, on any number of workers. A change that waits holds its
    /// epoch open.
    fn lookup_table(
        self,
        process: &Arc<Process>,
        name: &str,
        lookup: &TableLookup,
        updates: StreamVec<'s, Epoch, Update>,
        order_of: OrderOf,
    ) -> (Self, Stream<'s, Epoch, Vec<Report>>);
}

impl<'s> TableExt<'s> for StreamVec<'s, Epoch, Change> {
    fn table_updates(self, stage: &str, table: &str, order_of: OrderOf) -> StreamVec<'s, Epoch, Update> {
        let (name, stage, table) = (format!("Table {table}"), Arc::<str>::from(stage), table.to_owned());
        let updates = self.unary::<CapacityContainerBuilder<Vec<Update>>, _, _, _>(Pipeline, &name, move |_, _| {
            move |input, output| {
                input.for_each_epoch(|capability, batches| {
                    let mut session = output.session(&capability);
                    let changes = batches.iter().flatten().filter(|change| change.table() == table);
                    changes.filter_map(|change| Update::of(change, &stage, order_of)).for_each(|update| session.give(update));
                });
            }
        });
        updates.broadcast()
    }

    fn lookup_table(
        self,
        process: &Arc<Process>,
        name: &str,
        lookup: &TableLookup,
        updates: StreamVec<'s, Epoch, Update>,
        order_of: OrderOf,
    ) -> (Self, Stream<'s, Epoch, Vec<Report>>) {
        let scope = self.scope();
        let mut builder = OperatorBuilder::new(format!("Lookup {name}"), scope);
        let mut changes_in = builder.new_input(self, Pipeline);
        let mut updates_in = builder.new_input(updates, Pipeline);
        let (changes_out, changes) = builder.new_output::<Vec<Change>>();
        let (reports_out, reports) = builder.new_output::<Vec<Report>>();
        let mut changes_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Change>>>::from(changes_out);
        let mut reports_out = OutputBuilder::<Epoch, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
        let wake = Wake::new(scope.worker().sync_activator_for(builder.operator_info().address.to_vec()));
        let (process, worker) = (process.clone(), scope.index());
        let mut desk = Desk::new(&process, name, lookup, order_of, worker, scope.peers());
        let mut probe = process.probes.register("lookup", name, worker, &wake);
        builder.build(move |mut capabilities| {
            let mut at_start = capabilities.pop();
            drop(capabilities);
            move |frontiers| {
                wake.ran();
                let mut changes_handle = changes_out.activate();
                let mut reports_handle = reports_out.activate();
                if let Some(capability) = at_start.take() {
                    // Until every worker has said what it holds no saved state may be forgotten.
                    let mut state = Vec::new();
                    desk.rows.begin(*capability.time(), &mut state);
                    reports_handle.session(&capability).give(desk.report(state));
                }
                changes_in.for_each_epoch(|capability, batches| {
                    let Some(held) = capability.retain_least(0).zip(capability.retain_least(1)) else { return };
                    let open = desk.open.entry(*held.0.time()).or_insert_with(|| Open::new(held));
                    open.changes.extend(batches.iter_mut().map(std::mem::take));
                });
                updates_in.for_each_epoch(|capability, batches| {
                    let Some(held) = capability.retain_least(0).zip(capability.retain_least(1)) else { return };
                    let open = desk.open.entry(*held.0.time()).or_insert_with(|| Open::new(held));
                    open.updates.extend(batches.iter_mut().flat_map(std::mem::take));
                });
                let frontier = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied()).min();
                while let Some(entry) =
                    desk.open.first_entry().filter(|entry| frontier.is_none_or(|frontier| *entry.key() < frontier))
                {
                    if process.halt.is_halted() {
                        desk.open.clear();
                        return;
                    }
                    let (epoch, open) = entry.remove_entry();
                    let (for_changes, for_reports) = &open.held;
                    let mut session = changes_handle.session(for_changes);
                    match desk.close(epoch, open.changes, open.updates, |mut batch| session.give_container(&mut batch)) {
                        Ok(None) => {}
                        Ok(Some(report)) => reports_handle.session(for_reports).give(report),
                        Err(error) => {
                            process.halt.fail(error);
                            return;
                        }
                    }
                }
                probe.answer(|| desk.oldest());
            }
        });
        (changes, reports)
    }
}

/// What came of an epoch that is not over.
struct Open {
    held: (Capability<Epoch>, Capability<Epoch>),
    changes: Vec<Vec<Change>>,
    updates: Vec<Update>,
}

impl Open {
    fn new(held: (Capability<Epoch>, Capability<Epoch>)) -> Self {
        Open { held, changes: Vec::new(), updates: Vec::new() }
    }
}

struct Desk {
    stage: Arc<str>,
    worker: usize,
    lookup: TableLookup,
    order_of: OrderOf,
    nothing: Arc<Found>,
    rows: Rows,
    open: BTreeMap<Epoch, Open>,
    /// The one partition that rows and changes stand in.
    partition: Option<PartitionId>,
    stats: Arc<TableStats>,
    /// Whether this worker tells what is held.
    tells: bool,
}

impl Desk {
    fn new(process: &Arc<Process>, name: &str, lookup: &TableLookup, order_of: OrderOf, worker: usize, peers: usize) -> Self {
        let stage = Arc::<str>::from(name);
        let mut rows = Rows::new(worker, peers);
        let saved = process.shared.get_or_make(name, || Saved::of(process, &stage)).take();
        let is_known = !saved.is_empty();
        rows.restore(&saved);
        if !is_known && !lookup.begins_empty && !process.heritage.mark.is_empty() {
            process.halt.fail(Error::stop(format!(
                "the table lookup \"{name}\" is new, and the rows of its table were read before it was there: read them anew (`resnapshot`) and say \
                 `.begins_empty()`, or begin with a new checkpoint"
            )));
        }
        let desk = Desk {
            nothing: Arc::new(Found::nothing(stage.clone())),
            stage,
            worker,
            lookup: lookup.clone(),
            order_of,
            rows,
            open: BTreeMap::new(),
            partition: None,
            stats: process.figures.get_or_make(name, TableStats::default),
            tells: process.cluster.place().within(worker) == 0,
        };
        desk.count();
        desk
    }

    /// An epoch is over: its changes get their rows and go on, and the table becomes what it is at its end.
    fn close(
        &mut self,
        epoch: Epoch,
        changes: Vec<Vec<Change>>,
        updates: Vec<Update>,
        mut pass: impl FnMut(Vec<Change>),
    ) -> Result<Option<Report>, Error> {
        for partition in updates.iter().map(|update| update.partition) {
            self.stands_in(partition)?;
        }
        let versions = Versions::of(updates, &self.rows, &self.stage);
        let (mut rows_found, mut all) = (0, 0);
        for mut batch in changes {
            all += batch.len() as u64;
            for change in &mut batch {
                let found = match self.lookup.by.of(change) {
                    Ok(None) => self.nothing.clone(),
                    Ok(Some(key)) => {
                        self.stands_in(change.position().partition)?;
                        versions.at(&key, (self.order_of)(change), &self.rows).unwrap_or_else(|| self.nothing.clone())
                    }
                    Err(panic) => Arc::new(Found::failed(self.stage.clone(), panic)),
                };
                rows_found += u64::from(found.is_row());
                change.attach_own(found);
            }
            pass(batch);
        }
        self.stats.answered(rows_found, all - rows_found);
        let mut state = Vec::new();
        let written = versions.apply(&mut self.rows, epoch, &mut state);
        if written == 0 && state.is_empty() {
            return Ok(None);
        }
        self.rows.sweep(written, epoch, &mut state);
        self.count();
        if self.rows.len() > self.lookup.rows_max {
            return Err(Error::stop(format!(
                "the table of lookup \"{}\" has more than {} rows; say `.at_most(..)` if the memory is there, or use a lookup that asks its origin",
                self.stage, self.lookup.rows_max
            )));
        }
        Ok((!state.is_empty()).then(|| self.report(state)))
    }

    fn report(&self, bytes: Vec<u8>) -> Report {
        Report::State { operator: operator(&self.stage), worker: self.worker, bytes, oldest: self.rows.oldest() }
    }

    /// Places of two partitions cannot be compared.
    fn stands_in(&mut self, partition: PartitionId) -> Result<(), Error> {
        match self.partition {
            Some(known) if known != partition => Err(Error::stop(format!(
                "the table of lookup \"{}\" and the changes that look rows up stand in several partitions of their source, whose places cannot be \
                 compared: use a source with one, as replication has, or a lookup that asks its origin",
                self.stage
            ))),
            _ => {
                self.partition = Some(partition);
                Ok(())
            }
        }
    }

    fn count(&self) {
        // Every worker has all rows: one of each process tells.
        if self.tells {
            self.stats.holds(self.rows.len(), self.rows.bytes());
        }
    }

    /// The change that has waited longest.
    fn oldest(&self) -> Option<Hold> {
        let (epoch, open) = self.open.first_key_value()?;
        let change = open.changes.iter().flatten().next()?;
        let mut hold = Hold::new(*epoch, HolderKind::Lookup);
        hold.change = Some((change.key().to_owned(), change.id().to_owned()));
        Some(hold)
    }
}

/// What earlier runs have saved of a table, read once for all workers of a process, and let go by the last.
struct Saved(Mutex<(Arc<Vec<Restored>>, usize)>);

impl Saved {
    fn of(process: &Process, stage: &Arc<str>) -> Self {
        let mut saved = Vec::new();
        let state = process.heritage.state();
        for (save, segment) in state.iter().filter(|(_, segment)| segment.operator == operator(stage)) {
            if !Restored::read(stage, *save, &segment.bytes, &mut saved) {
                process.halt.fail(Error::stop(format!(
                    "the saved rows of the table lookup \"{stage}\" cannot be read: the checkpoint was written by another program, or is damaged"
                )));
            }
        }
        Saved(Mutex::new((Arc::new(saved), process.limits.workers)))
    }

    fn take(&self) -> Arc<Vec<Restored>> {
        let (saved, left) = &mut *self.0.lock();
        *left = left.saturating_sub(1);
        if *left == 0 { std::mem::take(saved) } else { saved.clone() }
    }
}

/// The name of a lookup's state in the checkpoint.
fn operator(name: &str) -> String {
    format!("table {name}")
}
