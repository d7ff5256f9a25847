//! Opens everything a run needs, and refuses what does not fit the checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_operators::action::ActionSpec;
use highwater_operators::action::cut_back::SinkWriter;
use highwater_operators::action::transactional::{RunOf, take_over};
use highwater_operators::books::Books;
use highwater_operators::checkpoint::keeper::{Keeper, ParkedIds};
use highwater_operators::checkpoint::lease::Lease;
use highwater_operators::checkpoint::place::{Letters, OpenStore, Seat, StorePlace};
use highwater_operators::checkpoint::read_so_far::ReadSoFar;
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{
    Cause, CheckpointStore, CutBackFile, Group, Parked, ParkedHead, Resolution, Resolved, Restored,
};
use highwater_operators::cluster::Cluster;
use highwater_operators::halt::Halt;
use highwater_operators::hash::ChangeHasher;
use highwater_operators::heritage::Heritage;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::Known;
use highwater_operators::ingest::{Partition, Source};
use highwater_operators::metrics::{COMMIT_DURATION, Metrics};
use highwater_operators::parked::{Bound, Shelves};
use highwater_operators::process::{Limits, Process};
use highwater_operators::{Error, Result};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::config::Listen;
use crate::exposition::Exposition;
use crate::plan::Plan;
use crate::report::About;
use crate::run::Partitions;
use crate::run::control::Control;
use crate::run::form::{form, give_up, taken, told};
use crate::settings::Settings;

/// Everything a run needs.
pub(crate) struct Opened {
    pub process: Arc<Process>,
    /// The plan's sources, as this run has them.
    pub sources: Sources,
    pub partitions: Partitions,
    /// Letters between people and this run.
    pub letters: Arc<dyn Letters>,
    /// Changes that were done before this run began; `None` in a new store.
    pub resumed_from: Option<u64>,
    /// Bytes to read in all, if every source knows, and bytes that were read before.
    pub bytes: Option<(u64, u64)>,
    /// What there is to say of each action.
    pub about: BTreeMap<String, About>,
    /// Where metrics are gathered.
    pub exposition: Option<Exposition>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Opened {
    /// Waits for the threads of the process, so that the store is closed and its lock given back. With `patience`, no longer than
    /// that: a store that hangs must not keep a run from ending that has failed.
    pub(crate) fn join(&self, patience: Option<Duration>) {
        let until = patience.map(|patience| Instant::now() + patience);
        for thread in self.threads.lock().drain(..) {
            while until.is_some_and(|until| !thread.is_finished() && Instant::now() < until) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if until.is_none() || thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

pub(crate) fn open(name: &str, settings: &Settings, plan: &Plan, runtime: Handle, control: &Control) -> Result<Opened> {
    let place = settings.store(name, plan)?;
    let halt = Arc::new(Halt::default());
    control.arm(&halt);
    let cluster = form(name, settings, plan, &*place, &halt)?;
    open_formed(name, settings, plan, &*place, runtime, control, &cluster, &halt).map_err(|error| give_up(&cluster, &halt, error))
}

/// What the store has, and what it was made to have.
struct Begun {
    store: Box<dyn CheckpointStore>,
    letters: Arc<dyn Letters>,
    lease: Lease,
    scratch: Option<PathBuf>,
    restored: Restored,
    sources: Sources,
    partitions: Partitions,
    bytes: Option<(u64, u64)>,
    /// The output files of earlier runs.
    files: Vec<CutBackFile>,
}

/// Begins a run: alone, or for all processes.
fn begin(name: &str, plan: &Plan, place: &dyn StorePlace, seat: Seat, halt: &Halt, runtime: &Handle) -> Result<Begun> {
    let OpenStore { mut store, letters, lease, scratch } = place.open(name, seat)?;
    let mut restored = store.restore()?;
    drop_orphans(&mut *store, &*letters, plan, &mut restored)?;
    check_actions(plan, &restored)?;
    let sources = bind_sources(plan, &restored)?;
    let named = name_partitions(&sources)?;
    let bytes = bytes_to_read(plan, &named, &restored);
    let partitions = number_partitions(&mut *store, &mut restored, &sources, &named)?;
    for (action, _) in plan.actions_and_hooks() {
        restored.actions.insert(action.to_owned(), store.action(action)?);
    }
    let files = restored.checkpoint.as_ref().map(|save| save.files.clone()).unwrap_or_default();
    cut_back(plan, &files, restored.generation)?;
    take_over_outcomes(name, plan, &mut *store, &mut restored, halt, runtime)?;
    Ok(Begun { store, letters, lease, scratch, restored, sources, partitions, bytes, files })
}

/// Joins the run that the leader has begun.
fn join(name: &str, plan: &Plan, place: &dyn StorePlace, seat: Seat, cluster: &Cluster) -> Result<Begun> {
    let welcome = cluster.welcomed()?;
    let OpenStore { mut store, letters, lease, scratch } = place.join(name, welcome.generation, seat)?;
    let mut restored = store.restore()?;
    for (action, _) in plan.actions_and_hooks() {
        restored.actions.insert(action.to_owned(), store.action(action)?);
    }
    let sources = bind_sources(plan, &restored)?;
    let partitions = taken(welcome, &sources, cluster)?;
    // The files of earlier runs are the leader's, and so is the whole of what there is to read.
    Ok(Begun { store, letters, lease, scratch, restored, sources, partitions, bytes: None, files: Vec::new() })
}

#[allow(clippy::too_many_arguments)] // what `open` has, and what it has found
fn open_formed(
    name: &str,
    settings: &Settings,
    plan: &Plan,
    place: &dyn StorePlace,
    runtime: Handle,
    control: &Control,
    cluster: &Cluster,
    halt: &Arc<Halt>,
) -> Result<Opened> {
    let seat = Seat { process: cluster.place().process, processes: cluster.place().processes };
    let begun = match cluster.place().leads() {
        true => begin(name, plan, place, seat, halt, &runtime)?,
        false => join(name, plan, place, seat, cluster)?,
    };
    let Begun { store, letters, lease, scratch, mut restored, sources, partitions, bytes, files } = begun;
    let (cluster, halt) = (cluster.clone(), halt.clone());
    if cluster.place().leads() {
        cluster.welcome(&told(restored.generation, &partitions));
    }
    for (name, lookup) in &plan.lookups {
        if let Some(origin) = lookup.origin() {
            origin.open().map_err(|error| error.context(format!("lookup \"{name}\"")))?;
        }
    }

    let books = restored.checkpoint.as_ref().map(|save| save.books.clone()).unwrap_or_default();
    let resumed_from = restored
        .checkpoint
        .is_some()
        .then(|| books.iter().filter(|(line, _)| line.starts_with("read ")).map(|(_, count)| count).sum());
    let workers = settings.workers();
    let actions = plan.actions.len().max(1);
    let in_flight = InFlight::new(settings.in_flight_changes * actions as u64, settings.in_flight_mib << 20);
    in_flight.ends_with(&halt);
    // What nobody can ask for is not gathered.
    let (exposition, metrics) = match settings.listen {
        Listen::Nowhere => (None, Metrics::none()),
        _ => Exposition::gather(name),
    };
    let commits = metrics.histogram(&COMMIT_DURATION, "");
    let (ids, resolved, shelves) = (ParkedIds::of(&restored), restored.resolved.clone(), shelves(settings, &cluster, &restored));
    let (keeper, keeper_thread) = Keeper::start(store, ids, resolved, shelves, halt.clone(), commits);
    let (sink_writer, writer_thread) = SinkWriter::start(files, in_flight.clone(), halt.clone());
    let limits = Limits {
        pipeline: name.to_owned(),
        changes: settings.in_flight_changes,
        bytes: settings.in_flight_mib << 20,
        workers,
        actions,
    };
    let hasher = ChangeHasher::new(restored.state_id, global_ids(plan, &partitions));
    let process = Process::new(
        limits,
        restored.generation,
        cluster.clone(),
        lease,
        in_flight,
        Books::restored(books),
        hasher,
        runtime,
        keeper,
        sink_writer,
        halt,
        Heritage::from_restored(&mut restored),
        ReadSoFar::open(scratch.as_deref()),
        metrics,
    );
    for (name, numbered) in &partitions {
        if let Some(source) = sources.get(name) {
            if !source.can_be_read_again() {
                tracing::warn!(source = %name, place = %source.place(), "cannot be read again: what is not done at a crash is lost, save what was sent with a receipt");
            }
            process.listeners.add(source.clone(), numbered.clone());
        }
    }
    process.lease.watch(&process.halt);
    control.set_clock(&process);
    if cluster.place().has_others() {
        cluster.all_ready()?;
    }
    let condition = |spec: &ActionSpec| spec.condition().map(|condition| condition.name().to_owned());
    let about = |spec: &ActionSpec| About { place: spec.place(), condition: condition(spec) };
    let about = plan.actions.iter().map(|(name, spec)| (name.clone(), about(spec))).collect();
    Ok(Opened {
        process,
        sources,
        partitions,
        letters,
        resumed_from,
        bytes,
        about,
        exposition,
        threads: Mutex::new(vec![keeper_thread, writer_thread]),
    })
}

/// Sources by name.
pub(crate) type Sources = BTreeMap<String, Arc<dyn Source>>;

/// Tells every source what earlier runs have read of it.
fn bind_sources(plan: &Plan, restored: &Restored) -> Result<Sources> {
    let mut sources = Sources::new();
    for (name, description) in &plan.sources {
        let own = |(number, full): (&u32, &String)| {
            let partition = full.strip_prefix(name.as_str())?.strip_prefix('/')?;
            let token = restored.checkpoint.as_ref().and_then(|checkpoint| checkpoint.mark.get(number).cloned());
            Some(Known { name: partition.to_owned(), token })
        };
        let known: Vec<Known> = restored.partitions.iter().filter_map(own).collect();
        if let Some(tables) = plan.tables.get(name) {
            description.keeps_tables(tables);
        }
        let bound = description.bind(&known).map_err(|error| error.context(format!("source \"{name}\"")))?;
        sources.insert(name.clone(), bound.unwrap_or_else(|| description.clone()));
    }
    Ok(sources)
}

type Named = BTreeMap<String, Vec<(String, Option<u64>)>>;

/// Asks every source for its partitions. In the store a partition's name has its source's name in front.
fn name_partitions(sources: &Sources) -> Result<Named> {
    let mut named = Named::new();
    for (source, bound) in sources {
        let partitions = bound.partitions().map_err(|error| error.context(format!("source \"{source}\"")))?;
        named.insert(source.clone(), partitions.into_iter().map(|partition| (partition.name, partition.bytes)).collect());
    }
    Ok(named)
}

/// Gives partitions their numbers, durably, and refuses if the mark names one that is there no more.
fn number_partitions(
    store: &mut dyn CheckpointStore,
    restored: &mut Restored,
    sources: &Sources,
    named: &Named,
) -> Result<Partitions> {
    let full = |source: &str, name: &str| format!("{source}/{name}");
    let there: BTreeSet<String> =
        named.iter().flat_map(|(source, names)| names.iter().map(move |(name, _)| full(source, name))).collect();
    if let Some(checkpoint) = &restored.checkpoint {
        for (number, token) in &checkpoint.mark {
            let known = restored.partitions.get(number).map(String::as_str).unwrap_or("unknown");
            let (source, name) = known.split_once('/').unwrap_or((known, ""));
            let may_be_missing = || sources.get(source).is_some_and(|source| source.may_be_missing(name, token));
            if !there.contains(known) && !may_be_missing() {
                let found =
                    if there.is_empty() { "none".to_owned() } else { there.iter().cloned().collect::<Vec<_>>().join(", ") };
                return Err(Error::stop(format!(
                    "the checkpoint continues partition {known}, which its source no longer has (found: {found}); if the input \
                     was replaced on purpose, start with a new checkpoint store, else give the old input back"
                )));
            }
        }
    }
    let mut numbers: BTreeMap<String, u32> = restored.partitions.iter().map(|(number, name)| (name.clone(), *number)).collect();
    let mut next = restored.partitions.keys().last().map_or(0, |last| last + 1);
    let mut group = Group::default();
    let mut partitions = Partitions::new();
    for (source, names) in named {
        let numbered = partitions.entry(source.clone()).or_default();
        for (name, _) in names {
            let id = *numbers.entry(full(source, name)).or_insert_with(|| {
                group.partitions.push((next, full(source, name)));
                next += 1;
                next - 1
            });
            numbered.push(Partition { id, name: name.clone() });
        }
    }
    if !group.partitions.is_empty() {
        // Before any position is made with the numbers: a note must mean the same change in the next run.
        store.commit(&group)?;
        restored.partitions.extend(group.partitions);
    }
    Ok(partitions)
}

fn global_ids(plan: &Plan, partitions: &Partitions) -> Vec<bool> {
    let mut global = Vec::new();
    for (source, numbered) in partitions {
        let is_global = plan.sources[source].has_global_ids();
        for partition in numbered {
            global.resize(global.len().max(partition.id as usize + 1), false);
            global[partition.id as usize] = is_global;
        }
    }
    global
}

/// What stands parked of this process' own, and how much of that there may be.
fn shelves(settings: &Settings, cluster: &Cluster, restored: &Restored) -> Shelves {
    let place = cluster.place();
    let share = |whole: u64| place.share(usize::try_from(whole).unwrap_or(usize::MAX)) as u64;
    let bound = Bound {
        records: share(settings.parked_max),
        bytes: share(settings.parked_max_mib << 20),
        age_ms: settings.parked_max_age.map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    };
    let owner = |head: &ParkedHead| if head.cause == Cause::Rejected { 0 } else { place.owner_of(head.key_hash) };
    Shelves::of(restored.parked.iter().filter(|head| owner(head) == place.process), bound)
}

/// Records that are dropped in one group at most.
const DROPPED_TOGETHER: usize = 1_000;

/// Carries out requests to drop what is parked for actions that the pipeline has no more: no worker would.
fn drop_orphans(store: &mut dyn CheckpointStore, letters: &dyn Letters, plan: &Plan, restored: &mut Restored) -> Result {
    let is_orphan = |action: &str, cause: Cause| cause != Cause::Rejected && !plan.has_action(action);
    let mut gone = BTreeSet::new();
    if restored.parked.iter().any(|head| is_orphan(&head.action, head.cause)) {
        for (asked, request) in letters.pending()? {
            if request.verb() != "drop" {
                continue;
            }
            let (filter, mut next) = (request.filter(), Some(0));
            while let Some(after) = next {
                let page = store.parked_page(&filter, after, DROPPED_TOGETHER)?;
                next = page.next;
                let orphans = page.records.into_iter().filter(|parked| is_orphan(&parked.action, parked.cause));
                let resolved = orphans.map(|Parked { id, action, .. }| Resolved { id, action, resolution: Resolution::Dropped });
                let group = Group { resolved: resolved.collect(), ..Group::default() };
                store.commit(&group)?;
                for resolved in group.resolved {
                    gone.insert(resolved.id);
                    restored.resolved.entry(resolved.action).or_default().1 += 1;
                }
            }
            if let Request::Drop { id } = request
                && gone.contains(&id)
            {
                letters.remove(&asked)?;
            }
        }
    }
    restored.parked.retain(|head| !gone.contains(&head.id));
    Ok(())
}

/// An action that still has parked changes must not vanish under them.
fn check_actions(plan: &Plan, restored: &Restored) -> Result {
    let mut orphaned: BTreeMap<&str, u64> = BTreeMap::new();
    for head in restored.parked.iter().filter(|head| head.cause != Cause::Rejected) {
        if !plan.has_action(&head.action) {
            *orphaned.entry(&head.action).or_default() += 1;
        }
    }
    match orphaned.into_iter().next() {
        None => Ok(()),
        Some((action, count)) => Err(Error::stop(format!(
            "action \"{action}\" is no longer in the pipeline, but {count} changes are parked for it; give it its name back, or \
             drop them with `parked drop --action {action}`"
        ))),
    }
}

/// Fences earlier runs off the targets that keep outcomes themselves, and takes over what they recorded there.
fn take_over_outcomes(
    pipeline: &str,
    plan: &Plan,
    store: &mut dyn CheckpointStore,
    restored: &mut Restored,
    halt: &Halt,
    runtime: &Handle,
) -> Result {
    for (name, spec) in plan.actions_and_hooks() {
        if let Some(sink) = spec.transactional_sink() {
            let run = RunOf {
                pipeline: pipeline.to_owned(),
                action: name.to_owned(),
                generation: restored.generation,
                state_id: restored.state_id,
                process: 0,
            };
            let taken = take_over(&**sink, &run, store, restored, halt, runtime);
            taken.map_err(|error| error.context(format!("action \"{name}\"")))?;
        }
    }
    Ok(())
}

fn cut_back(plan: &Plan, files: &[CutBackFile], generation: u64) -> Result {
    for (name, spec) in &plan.actions {
        if let Some(sink) = spec.cut_back_sink() {
            let own: Vec<CutBackFile> = files.iter().filter(|file| file.action == *name).cloned().collect();
            sink.cut_back(&own, generation).map_err(|error| error.context(format!("action \"{name}\"")))?;
        }
    }
    Ok(())
}

fn bytes_to_read(plan: &Plan, named: &Named, restored: &Restored) -> Option<(u64, u64)> {
    let total = named.values().flatten().map(|(_, bytes)| *bytes).sum::<Option<u64>>()?;
    let mark = restored.checkpoint.iter().flat_map(|save| &save.mark);
    let before = mark.map(|(number, token)| {
        let source = restored.partitions.get(number).and_then(|name| name.split('/').next());
        source.and_then(|source| plan.sources.get(source)).map_or(0, |source| source.bytes_before(token))
    });
    Some((total, before.sum()))
}
