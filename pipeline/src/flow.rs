//! The builder: what a user writes between a source and a checkpoint.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::NamedAction;
use highwater_operators::change::Change;
use highwater_operators::checkpoint::operator::{Cadence, checkpoint};
use highwater_operators::checkpoint::place::StorePlace;
use highwater_operators::checkpoint::report::Report;
use highwater_operators::dedup::{Dedup, DedupExt};
use highwater_operators::exchange::ExchangeByKey;
use highwater_operators::fan_out::{FanOutExt, Upstream};
use highwater_operators::filter::{FilterCondition, FilterExt};
use highwater_operators::ingest::{Partition, Source, SourceLines, ingest};
use highwater_operators::lookup::table::{TableExt, TableLookup};
use highwater_operators::lookup::{Lookup, LookupExt};
use highwater_operators::meter::MeterExt;
use highwater_operators::process::Process;
use highwater_operators::{Epoch, Error, Result};
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::operator::empty;
use timely::dataflow::{Scope, Stream, StreamVec};

use crate::config::tuning::Tuning;
use crate::plan::{Kind, Plan};

/// When checkpoints are saved, and where.
#[derive(Clone)]
pub struct Checkpoint {
    pub(crate) interval: Duration,
    pub(crate) batch_size: u64,
    pub(crate) store: Option<Arc<dyn StorePlace>>,
}

impl Checkpoint {
    /// Saves when this time has passed since the last save, or 1,000 changes were completed, whichever comes first.
    pub fn every(interval: Duration) -> Self {
        Checkpoint { interval, batch_size: 1_000, store: None }
    }

    /// Saves once so many changes were completed above the saved mark. Nothing is ever lost; a crash reads again what was
    /// completed since the last save, so this bounds the repeated reading.
    pub fn batch_size(mut self, changes: u64) -> Self {
        self.batch_size = changes.max(1);
        self
    }

    /// Keeps them in this store, unless the setting `checkpoint` names another; without either, in the data directory.
    pub fn in_store(mut self, store: impl StorePlace + 'static) -> Self {
        self.store = Some(Arc::new(store));
        self
    }
}

/// Where a pipeline begins. The closure that gets it runs once for the plan and once per worker.
#[derive(Clone)]
pub struct Flow<'s> {
    scope: Scope<'s, Epoch>,
    site: Rc<Site<'s>>,
}

/// What one call of the user's closure builds.
pub(crate) struct Site<'s> {
    plan: RefCell<Plan>,
    reports: RefCell<Vec<Stream<'s, Epoch, Vec<Report>>>>,
    running: Option<Arc<Running>>,
    /// What settings say of the parts.
    tuning: Tuning,
}

/// What there is when the pipeline runs, beside the plan.
pub(crate) struct Running {
    pub process: Arc<Process>,
    pub plan: Arc<Plan>,
    pub sources: BTreeMap<String, Arc<dyn Source>>,
    pub partitions: BTreeMap<String, Vec<Partition>>,
    pub cadence: Cadence,
    pub tuning: Tuning,
}

/// A stream of changes on its way.
#[derive(Clone)]
pub struct Changes<'s> {
    flow: Flow<'s>,
    stream: StreamVec<'s, Epoch, Change>,
    node: usize,
    upstream: Upstream,
    /// The sources it comes from, if it comes from nowhere else.
    sources: Vec<String>,
}

/// The rows of a table, as its changes tell of them. See [`Changes::table`].
#[derive(Clone)]
pub struct Table<'s> {
    changes: Changes<'s>,
    name: String,
    node: usize,
}

/// The outcomes of one fan-out or several.
#[derive(Clone)]
pub struct Outcomes<'s> {
    flow: Flow<'s>,
    nodes: Vec<usize>,
}

/// What the user's closure may return: nothing, or a result.
pub trait Built {
    /// The result.
    fn built(self) -> Result;
}

impl Built for () {
    fn built(self) -> Result {
        Ok(())
    }
}

impl Built for Result {
    fn built(self) -> Result {
        self
    }
}

impl<'s> Flow<'s> {
    pub(crate) fn new(scope: Scope<'s, Epoch>, running: Option<Arc<Running>>, tuning: Tuning) -> Self {
        let site = Site { plan: RefCell::default(), reports: RefCell::default(), running, tuning };
        Flow { scope, site: Rc::new(site) }
    }

    /// Changes from a source.
    ///
    /// The source is opened once per process; its partitions are dealt to the workers.
    pub fn source(&self, source: impl Source) -> Changes<'s> {
        let place = source.place();
        let name = self.site.plan.borrow().next_name(Kind::Source, source.kind());
        let node = self.add(Kind::Source, &name, place, Vec::new());
        let Some((running, process)) = self.running() else {
            self.site.plan.borrow_mut().sources.insert(name.clone(), Arc::new(source));
            return self.planned(node, vec![name]);
        };
        let (Some(source), Some(partitions)) = (running.sources.get(&name), running.partitions.get(&name)) else {
            return self.planned(node, vec![name]);
        };
        let (changes, reports) = ingest(self.scope, process, &name, source.clone(), partitions, running.plan.fan(node));
        self.report(reports);
        let lines = SourceLines::new(&process.books, &name);
        let upstream = Upstream { read: vec![lines.read.id], ended: vec![lines.rejected.id], ..Upstream::default() };
        let stream = changes.exchange_by_key(process, Some(running.plan.fan(node)));
        Changes { flow: self.clone(), stream, node, upstream, sources: vec![name] }
    }

    /// Changes from timely operators of your own. What comes in is counted as read, and keeps its epoch.
    pub fn from_stream(&self, stream: StreamVec<'s, Epoch, Change>) -> Changes<'s> {
        let name = self.site.plan.borrow().next_name(Kind::ComeIn, "stream");
        let node = self.add(Kind::ComeIn, &name, String::new(), Vec::new());
        let Some((running, process)) = self.running() else { return self.planned(node, Vec::new()) };
        let line = process.books.line(&format!("read {name}"));
        let upstream = Upstream { read: vec![line.id], ..Upstream::default() };
        // Room is taken where the key lives: nobody knows which process such a change comes from. It owes nobody.
        let (stream, reports) = stream.exchange_by_key(process, None).come_in(process, line, running.plan.fan(node));
        self.report(reports);
        Changes { flow: self.clone(), stream, node, upstream, sources: Vec::new() }
    }

    /// The timely scope, for operators of your own.
    pub fn scope(&self) -> Scope<'s, Epoch> {
        self.scope
    }

    fn running(&self) -> Option<(&Arc<Running>, &Arc<Process>)> {
        self.site.running.as_ref().map(|running| (running, &running.process))
    }

    fn planned(&self, node: usize, sources: Vec<String>) -> Changes<'s> {
        Changes { flow: self.clone(), stream: empty(self.scope), node, upstream: Upstream::default(), sources }
    }

    fn report(&self, reports: Stream<'s, Epoch, Vec<Report>>) {
        self.site.reports.borrow_mut().push(reports);
    }

    /// Records a step. A worker that builds another shape than the plan's stops the pipeline.
    fn add(&self, kind: Kind, name: &str, detail: String, inputs: Vec<usize>) -> usize {
        let node = self.site.plan.borrow_mut().add(kind, name.to_owned(), detail, inputs);
        if let Some((running, process)) = self.running() {
            let built = self.site.plan.borrow().nodes[node].clone();
            if running.plan.nodes.get(node) != Some(&built) {
                process.halt.fail(Error::stop(format!(
                    "worker {} built another pipeline than was planned: step {} is {:?} {name:?}; the closure must build the \
                     same steps each time it is called",
                    self.scope.index(),
                    node + 1,
                    kind
                )));
            }
        }
        node
    }

    /// Ends the building: the plan, or the checkpoint behind everything.
    pub(crate) fn finish(self) -> Plan {
        if let Some((running, process)) = self.running() {
            let reports = self.scope.concatenate(self.site.reports.take());
            checkpoint(reports, process, running.cadence);
        }
        let mut plan = self.site.plan.take();
        plan.check();
        plan
    }
}

impl<'s> Changes<'s> {
    /// Lets each change pass once.
    ///
    /// # Guarantee
    /// A change is dropped only if another one of its id was seen elsewhere; a change that is read again after a crash passes.
    pub fn dedup(self, dedup: Dedup) -> Self {
        let name = self.flow.site.plan.borrow().next_name(Kind::Dedup, "dedup");
        let Changes { flow, stream, node, mut upstream, sources } = self;
        let dedup = flow.site.tuning.dedup(&name, dedup);
        let node = flow.add(Kind::Dedup, &name, dedup.to_string(), vec![node]);
        flow.site.plan.borrow_mut().dedups.insert(name.clone(), dedup.clone());
        upstream.unique_ids = true;
        let stream = match flow.running() {
            None => stream,
            Some((running, process)) => {
                let (stream, reports) = stream.dedup(process, &name, dedup, running.plan.fan(node));
                flow.report(reports);
                upstream.ended.push(process.books.line(&format!("duplicate {name}")).id);
                stream
            }
        };
        Changes { flow, stream, node, upstream, sources }
    }

    /// Attaches a row from elsewhere to each change; [`Change::found`] reads it.
    pub fn lookup(self, name: &str, lookup: Lookup) -> Self {
        let Changes { flow, stream, node, upstream, sources } = self;
        let lookup = flow.site.tuning.lookup(name, lookup);
        let detail = lookup.origin().map(|origin| origin.place()).unwrap_or_default();
        let node = flow.add(Kind::Lookup, name, detail, vec![node]);
        let stream = match flow.running() {
            None => {
                flow.site.plan.borrow_mut().lookups.insert(name.to_owned(), lookup);
                stream
            }
            Some((running, process)) => stream.lookup(process, name, running.plan.lookups.get(name).unwrap_or(&lookup)),
        };
        Changes { flow, stream, node, upstream, sources }
    }

    /// The rows of the table of this name ([`Change::table`]), kept from its own changes: for [`lookup_table`](Self::lookup_table). Taking them ends nothing: the
    /// changes go on as they would.
    pub fn table(&self, table: &str) -> Table<'s> {
        let node = self.flow.add(Kind::Table, table, String::new(), vec![self.node]);
        Table { changes: self.clone(), name: table.to_owned(), node }
    }

    /// Attaches to each change a row of a table, as of the change's own place in their source; [`Change::found`] reads it.
    ///
    /// Both must come from one source whose places are ordered, as replication's are. The table is kept in memory, whole in each process, and saved with the
    /// checkpoint; there is no query, and nothing to expire.
    ///
    /// ```no_run
    /// # fn main() -> highwater::Exit {
    /// use highwater::prelude::*;
    /// highwater::main("orders", |flow| {
    ///     let changes = flow.source(JsonLines::file("changes.jsonl"));
    ///     let customers = changes.table("customers");
    ///     changes
    ///         .filter(|change| change.table() == "orders")
    ///         .lookup_table("customer", &customers, TableLookup::by("customer_id"))
    ///         .fan_out([action("all", JsonLines::append("all.jsonl"))])
    ///         .checkpoint(Checkpoint::every(millis(200)));
    /// })
    /// # }
    /// ```
    ///
    /// # Guarantee
    /// A change gets the row as it was when the change was committed, after everything that the source tells before it: on any number of workers, and again
    /// if it is read again after a crash.
    pub fn lookup_table(self, name: &str, table: &Table<'s>, lookup: TableLookup) -> Self {
        let Changes { flow, stream, node, upstream, sources } = self;
        let one_source = (sources.len() == 1 && sources == table.changes.sources).then(|| sources[0].clone());
        let detail = format!("in table {}, as of the change", table.name);
        let node = flow.add(Kind::Lookup, name, detail, vec![node, table.node]);
        let stream = match (flow.running(), one_source) {
            (None, source) => {
                let mut plan = flow.site.plan.borrow_mut();
                let problem = match &source {
                    None => Some("the changes and the table must come from one source, and neither from operators of your own"),
                    Some(source) if plan.sources.get(source).is_none_or(|source| source.order().is_none()) => Some(
                        "the places of its source have no order, or it may have several partitions; replication has, one file of JSON lines, one stream of Redis",
                    ),
                    Some(source) => {
                        plan.tables.entry(source.clone()).or_default().insert(table.name.clone());
                        None
                    }
                };
                plan.problems.extend(problem.map(|problem| format!("table lookup \"{name}\": {problem}")));
                stream
            }
            (Some((running, process)), Some(source)) => match running.plan.sources.get(&source).and_then(|source| source.order())
            {
                Some(order_of) => {
                    let updates = table.changes.stream.clone().table_updates(name, &table.name, order_of);
                    let (stream, reports) = stream.lookup_table(process, name, &lookup, updates, order_of);
                    flow.report(reports);
                    stream
                }
                None => stream,
            },
            (Some(_), None) => stream,
        };
        Changes { flow, stream, node, upstream, sources }
    }

    /// Lets pass what `condition` holds for, and counts the rest as filtered.
    pub fn filter(self, condition: impl FnMut(&Change) -> bool + 'static) -> Self {
        let name = self.flow.site.plan.borrow().next_name(Kind::Filter, "filter");
        let Changes { flow, stream, node, mut upstream, sources } = self;
        let node = flow.add(Kind::Filter, &name, String::new(), vec![node]);
        let stream = match flow.running() {
            None => stream,
            Some((running, process)) => {
                let condition: FilterCondition = Rc::new(RefCell::new(condition));
                upstream.filters.push(&name, condition.clone());
                let (stream, reports) = stream.filter_changes(process, &name, condition, running.plan.fan(node));
                flow.report(reports);
                upstream.ended.push(process.books.line(&format!("filtered {name}")).id);
                stream
            }
        };
        Changes { flow, stream, node, upstream, sources }
    }

    /// The stream of changes, for timely operators of your own; [`Flow::from_stream`] takes what they make. Whoever holds a
    /// change back there must hold its capability too, or a crash loses it; and whoever wants the order of a key kept takes
    /// batches with `for_each`, for timely's `for_each_stamp` sorts them by time and not stably.
    pub fn stream(&self) -> StreamVec<'s, Epoch, Change> {
        let name = self.flow.site.plan.borrow().next_name(Kind::Leave, "stream");
        let node = self.flow.add(Kind::Leave, &name, String::new(), vec![self.node]);
        match self.flow.running() {
            None => self.stream.clone(),
            Some((running, process)) => self.stream.clone().leave(process, running.plan.fan(node)),
        }
    }

    /// Lets a test tell the checkpoint what it likes, as a broken operator would.
    #[cfg(feature = "testing")]
    pub fn misreport(&self, reports: impl FnOnce(&Arc<Process>, StreamVec<'s, Epoch, Change>) -> Stream<'s, Epoch, Vec<Report>>) {
        if let Some((_, process)) = self.flow.running() {
            self.flow.report(reports(process, self.stream.clone()));
        }
    }

    /// Delivers every change to every action.
    pub fn fan_out(self, actions: impl IntoIterator<Item = NamedAction>) -> Outcomes<'s> {
        let Changes { flow, stream, node, upstream, .. } = self;
        let mut specs = Vec::new();
        let mut nodes = Vec::new();
        for spec in actions {
            let spec = flow.site.tuning.action(spec);
            let on = spec.condition().map(|condition| format!("on {condition}"));
            let hook = spec.hook().map(|hook| format!("parked: {}", hook.name()));
            let detail = on.into_iter().chain(spec.place()).chain(hook).collect::<Vec<_>>().join(", ");
            nodes.push(flow.add(Kind::Action, spec.name(), detail, vec![node]));
            let planned = flow.running().and_then(|(running, _)| running.plan.actions.get(spec.name()).cloned());
            specs.push(planned.unwrap_or_else(|| Arc::new(spec)));
        }
        match flow.running() {
            None => {
                let named = specs.into_iter().map(|spec| (spec.name().to_owned(), spec));
                flow.site.plan.borrow_mut().actions.extend(named);
            }
            Some((_, process)) => {
                let reports = stream.fan_out(process, &specs, &upstream);
                flow.report(reports);
            }
        }
        Outcomes { flow, nodes }
    }
}

impl<'s> Outcomes<'s> {
    /// These outcomes and those of another fan-out, for one checkpoint.
    pub fn and(mut self, others: Outcomes<'s>) -> Self {
        self.nodes.extend(others.nodes);
        self
    }

    /// Ends the pipeline: the frontier behind all actions becomes the mark.
    pub fn checkpoint(self, checkpoint: Checkpoint) {
        let detail = format!("every {:?}, or {} changes", checkpoint.interval, checkpoint.batch_size);
        let name = self.flow.site.plan.borrow().next_name(Kind::Checkpoint, "checkpoint");
        self.flow.add(Kind::Checkpoint, &name, detail, self.nodes);
        self.flow.site.plan.borrow_mut().checkpoint = Some(checkpoint);
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let store = self.store.as_ref().map(|store| store.place());
        let Checkpoint { interval, batch_size, .. } = self;
        f.debug_struct("Checkpoint").field("interval", interval).field("batch_size", batch_size).field("store", &store).finish()
    }
}

impl std::fmt::Debug for Flow<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flow")
    }
}

impl std::fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

impl std::fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

impl std::fmt::Debug for Outcomes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outcomes")
    }
}
