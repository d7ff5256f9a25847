//! Runs a pipeline: plan, store, threads, workers; drain and orderly stop.
//!
//! The order at start matters. The store is opened first: that locks the data directory and raises the generation. Then
//! partitions and actions get their numbers and are held against the checkpoint, files are cut back, and only then does
//! anything read.

mod control;
mod form;
mod idle;
mod open;
mod progress;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use highwater_operators::checkpoint::lease::GivenBack;
use highwater_operators::checkpoint::operator::Cadence;
use highwater_operators::cluster::Mesh;
use highwater_operators::halt::Ending;
use highwater_operators::process::Process;
use highwater_operators::{Epoch, Error, Result};
use parking_lot::Mutex;
use timely::{CommunicationConfig, WorkerConfig};

pub use self::control::Control;
pub(crate) use self::open::Opened;
use crate::clerk::Clerk;
use crate::config::tuning::Tuning;
use crate::exposition::Exposition;
use crate::flow::{Flow, Running};
use crate::monitor::{Bound, Monitor, Watched};
use crate::plan::Plan;
use crate::report::Report;
use crate::settings::Settings;

/// The user's closure, with its arguments bound.
pub type Build = Arc<dyn for<'s> Fn(&Flow<'s>) -> Result + Send + Sync>;

/// Records the shape of a pipeline and what is wrong with it. Nothing is opened.
pub fn plan(build: &Build) -> Result<Plan> {
    plan_with(build, &Tuning::default())
}

/// The same, with what settings say of the parts.
pub(crate) fn plan_with(build: &Build, tuning: &Tuning) -> Result<Plan> {
    let (build, tuning) = (build.clone(), tuning.clone());
    timely::execute_directly(move |worker| {
        let plan = worker.dataflow::<Epoch, _, _>(|scope| {
            let flow = Flow::new(scope, None, tuning.clone());
            let built = build(&flow);
            let mut plan = flow.finish();
            plan.problems.extend(tuning.strangers(&plan));
            built.map(|()| plan)
        });
        // Built to be looked at, not to be run: a source of the user's own in it might never end.
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        plan
    })
}

/// Runs a pipeline until its sources have ended or it is told to stop.
///
/// # Errors
/// If the plan has problems, the data directory or a source is not what it should be, or something failed that the pipeline
/// must not go on with. What was saved stays saved; the next run continues there.
pub fn run(name: &str, settings: &Settings, build: &Build, control: &Control) -> Result<Report> {
    run_planned(name, settings, plan_with(build, &settings.tuning)?, build, control)
}

/// Runs a pipeline whose plan was made before.
pub(crate) fn run_planned(name: &str, settings: &Settings, plan: Plan, build: &Build, control: &Control) -> Result<Report> {
    let plan = Arc::new(plan);
    if !plan.problems.is_empty() {
        return Err(Error::stop(format!("the pipeline is not complete:\n  - {}", plan.problems.join("\n  - "))));
    }
    let bound = Bound::bind(settings.listen_here())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("actions")
        .enable_all()
        .build()
        .map_err(|error| Error::stop(format!("cannot start the runtime: {error}")))?;
    let opened = open::open(name, settings, &plan, runtime.handle().clone(), control)?;
    let process = opened.process.clone();
    control.attach(&process, runtime.handle());
    let cadence = cadence(settings, &plan);
    let clerk = Clerk::start(&process, &opened.letters, &plan, settings.parked_full);
    let watched = || Watched::new(&opened, settings.stall_after);
    let letters = process.cluster.place().leads().then(|| opened.letters.clone());
    let monitor = bound.map(|bound| Monitor::start(bound, watched(), letters, clerk.desk())).transpose();
    let monitor = monitor.map_err(|error| form::give_up(&process.cluster, &process.halt, error))?;
    let running = Arc::new(Running {
        process: process.clone(),
        plan,
        sources: opened.sources.clone(),
        partitions: opened.partitions.clone(),
        cadence,
        tuning: settings.tuning.clone(),
    });
    let workers = start_workers(&process, build.clone(), running);
    let workers = workers.map_err(|error| form::give_up(&process.cluster, &process.halt, error))?;
    let ended = watch(&process, settings, &opened, &workers);
    let joined = end(&process, workers);
    let is_whole = joined.is_some() && !process.halt.is_halted();
    form::part(&process.cluster);
    drop(monitor);
    drop(clerk);
    process.keeper.close();
    process.sink_writer.close();
    // Of several processes, one that has failed must be gone before the next run begins, whatever hangs.
    opened.join((process.cluster.place().has_others() && !is_whole).then_some(LAST));
    if is_whole {
        process.drop_outcomes();
    }
    process.close();
    control.detach();
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Only now: nothing of this run is under way any more.
    process.lease.give_back(if process.halt.is_halted() { GivenBack::AsItStands } else { GivenBack::InOrder });
    for worker in joined.into_iter().flatten() {
        worker.map_err(|error| Error::stop(format!("a worker ended: {error}")))?;
    }
    let ending = process.halt.take()?;
    Ok(Report::new(&process, &opened, ended && is_whole, ending))
}

fn cadence(settings: &Settings, plan: &Plan) -> Cadence {
    let planned = plan.checkpoint.as_ref().expect("a plan without problems has a checkpoint");
    Cadence {
        batch_size: settings.checkpoint_batch_size.unwrap_or(planned.batch_size),
        interval: settings.checkpoint_interval.map_or(planned.interval, Duration::from_millis),
    }
}

/// How long the workers of a run that was ended early, and what they have left behind, may take to end.
const LAST: Duration = Duration::from_millis(700);

/// Waits for the workers, and lets go of the connections they ran on. Of several processes, one that was ended early does not wait for a
/// worker that hangs: `None`.
fn end(process: &Process, workers: Workers) -> Option<Vec<Result<(), String>>> {
    let Workers { guards, ended, mesh, .. } = workers;
    let Some(mesh) = mesh else { return Some(guards.join()) };
    if process.halt.is_halted() {
        process.cluster.say_farewell();
        mesh.shut_down();
        if ended.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            // It cannot be made to end; the program can.
            std::mem::forget(guards);
            return None;
        }
    }
    let joined = guards.join();
    process.cluster.end_together(process);
    mesh.leave();
    Some(joined)
}

struct Workers {
    guards: timely::communication::WorkerGuards<()>,
    /// Each worker holds a sender, and nothing is ever sent: the channel closes when the last has ended.
    ended: Receiver<()>,
    /// The connections to other processes, if there are any.
    mesh: Option<Mesh>,
}

fn start_workers(process: &Arc<Process>, build: Build, running: Arc<Running>) -> Result<Workers> {
    let count = process.limits.workers;
    let config = if count == 1 { CommunicationConfig::Thread } else { CommunicationConfig::Process(count) };
    let (mesh, allocators, others) = match process.cluster.mesh()? {
        Some((mesh, allocators)) => (Some(mesh), allocators, Box::new(()) as Box<dyn Any + Send>),
        None => {
            let (allocators, others) = config.try_build().map_err(Error::stop)?;
            (None, allocators, others)
        }
    };
    let (at_work, ended) = bounded(0);
    let at_work: Mutex<Vec<Sender<()>>> = Mutex::new(vec![at_work; count]);
    let (process, built) = (process.clone(), Arc::new(AtomicUsize::new(0)));
    // Idle workers park at once: on shared cores a spinning worker takes the time of those that have work.
    let worker_config = WorkerConfig::default().idle_spin(Duration::ZERO);
    let guards = timely::execute::execute_from(allocators, others, worker_config, move |worker| {
        let _at_work = at_work.lock().pop();
        let work = || {
            let result = worker.dataflow_named::<Epoch, _, _>("Pipeline", |scope| {
                let flow = Flow::new(scope, Some(running.clone()), running.tuning.clone());
                let result = build(&flow);
                flow.finish();
                result
            });
            if let Err(error) = result {
                process.halt.fail(error);
            }
            if built.fetch_add(1, Ordering::AcqRel) + 1 == process.limits.workers {
                process.heritage.release();
                process.set_built();
            }
            let own = process.cluster.place().within(worker.index());
            for step in 1.. {
                if !worker.has_dataflows() || process.halt.is_halted() {
                    break;
                }
                process.cluster.stepped(own, Some(step));
                worker.step_or_park(Some(Duration::from_millis(50)));
            }
            process.cluster.stepped(own, None);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        };
        // A worker that is gone would leave the others waiting for ever: its panic ends the whole process.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let text =
                panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
            process.halt.fail(Error::stop(format!("a worker panicked: {}", text.unwrap_or_default())));
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        }
    })
    .map_err(Error::stop)?;
    Ok(Workers { guards, ended, mesh })
}

/// How often a run is looked at while it goes on.
const TICK: Duration = Duration::from_millis(50);

/// Waits for the end: draws progress, bounds the drain. Returns whether all was finished.
fn watch(process: &Arc<Process>, settings: &Settings, opened: &Opened, workers: &Workers) -> bool {
    let bar = progress::Progress::start(process, settings, opened);
    let mut idle = idle::Idle::new(settings.until_idle);
    let mut stopping_since = None;
    let mut ticks = 0u32;
    while workers.ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        if workers.mesh.is_some() && process.halt.is_halted() {
            break;
        }
        if ticks % 20 == 19 {
            opened.exposition.iter().for_each(Exposition::upkeep);
            crate::log::tell_left_out(false);
        }
        bar.update();
        if !process.is_stopping() && idle.is_long(process) {
            process.stop();
        }
        if process.is_stopping() {
            let since = *stopping_since.get_or_insert_with(std::time::Instant::now);
            if since.elapsed() > settings.drain_timeout() {
                process.halt.end(Ending::Abandoned);
            }
        }
        ticks += 1;
    }
    bar.finish();
    !process.halt.is_halted() && !process.is_stopping()
}

/// The names of the partitions of each source, for messages.
pub(crate) type Partitions = BTreeMap<String, Vec<highwater_operators::ingest::Partition>>;
