//! A pipeline inside a program of your own: started on threads of its own, stopped by a handle.

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;

use highwater_operators::{Error, Result};
use tokio::sync::oneshot;

use crate::flow::{Built, Flow};
use crate::report::Report;
use crate::run::{self, Build, Control};
use crate::settings::Settings;

/// Starts a pipeline beside the rest of the program, and returns at once. Nothing is printed, and no signals are listened to.
///
/// `build` is called once to make the plan and once on each worker; it must build the same steps each time.
///
/// ```
/// use highwater::prelude::*;
/// use highwater::settings::Settings;
/// # let folder = tempfile::tempdir().unwrap();
/// # let settings = Settings { data: Some(folder.path().into()), workers: Some(1), ..Settings::default() };
///
/// let (feed, source) = Channel::bounded(1_000);
/// let pipeline = highwater::start("orders", &settings, move |flow| {
///     flow.source(source.clone())
///         .fan_out([action("print", run(|change| async move { println!("{}", change.id()); Ok(()) }))])
///         .checkpoint(Checkpoint::every(millis(50)));
/// })?;
/// feed.blocking_send(Change::builder("c-1").key("o-1").build()?)?;
/// drop(feed);
/// assert_eq!(pipeline.wait()?.actions["print"].delivered, 1);
/// # Ok::<(), highwater::Error>(())
/// ```
///
/// # Errors
/// The pipeline is not complete, as `check` would say it. What goes wrong later is told by [`Started::wait`].
pub fn start<F, R>(name: &str, settings: &Settings, build: F) -> Result<Started>
where
    F: for<'s> Fn(&Flow<'s>) -> R + Send + Sync + 'static,
    R: Built,
{
    let build: Build = Arc::new(move |flow: &Flow<'_>| build(flow).built());
    let plan = run::plan_with(&build, &settings.tuning)?;
    if !plan.problems.is_empty() {
        return Err(Error::stop(format!("the pipeline is not complete:\n  - {}", plan.problems.join("\n  - "))));
    }
    // Its sources are those of a plan that is not run: dropped here, so that none of them waits for a reader.
    drop(plan);
    let control = Control::default();
    let (name, settings, own) = (name.to_owned(), settings.clone(), control.clone());
    let (tell, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("pipeline".to_owned())
        .spawn(move || {
            // Who has dropped the handle does not want to know.
            let _ = tell.send(run::run(&name, &settings, &build, &own));
        })
        .map_err(|error| Error::stop(format!("cannot start a thread: {error}")))?;
    Ok(Started { control, ended, thread })
}

/// A pipeline that was started by [`start`]. Dropping it leaves the pipeline running.
#[derive(Debug)]
pub struct Started {
    control: Control,
    ended: oneshot::Receiver<Result<Report>>,
    thread: JoinHandle<()>,
}

impl Started {
    /// Asks the pipeline to end: the first time by finishing and saving what is under way, the second time at once. Either is
    /// safe.
    pub fn stop(&self) {
        self.control.stop();
    }

    /// What the pipeline can be stopped by from elsewhere.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Whether the pipeline has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end on a thread that may block: until the sources have ended or the pipeline was stopped.
    ///
    /// # Errors
    /// What the pipeline stopped at. What was saved stays saved; the next run continues there.
    pub fn wait(self) -> Result<Report> {
        let Started { ended, thread, .. } = self;
        // Before the thread is joined: it may have to say what it died of.
        let report = ended.blocking_recv();
        let joined = thread.join();
        report.map_err(|_| died(joined.err()))?
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn ended(self) -> impl Future<Output = Result<Report>> + Send {
        let ended = self.ended;
        async move { ended.await.map_err(|_| died(None))? }
    }
}

fn died(panic: Option<Box<dyn std::any::Any + Send>>) -> Error {
    let text = panic.as_ref().and_then(|panic| panic.downcast_ref::<&str>()).copied().unwrap_or_default();
    Error::stop(format!("the pipeline's thread panicked: {text}"))
}
