//! The thread that reads ahead: one runtime, and an end that its readers are told.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use highwater_operators::{Error, Result};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A thread that reads ahead, for one reader or for several. It ends with the last of them.
pub(crate) struct Thread {
    what: &'static str,
    handle: Mutex<Option<JoinHandle<Result>>>,
    why: OnceLock<Error>,
    /// Dropped with the last reader: then the thread ends.
    _alive: oneshot::Sender<Infallible>,
}

impl Thread {
    /// Starts a thread of this name, which does what `read` gives until that ends or nobody takes what it has read.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start<R: Future<Output = Result>>(
        what: &'static str,
        read: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Arc<Thread>> {
        let runtime = runtime()?;
        let (alive, gone) = oneshot::channel::<Infallible>();
        let run = move || {
            let ended = runtime.block_on(async {
                tokio::select! {
                    // Nobody takes anything any more: whatever is under way is dropped, and the connections with it.
                    _ = gone => Ok(()),
                    ended = Box::pin(read()) => ended,
                }
            });
            runtime.shutdown_background();
            ended
        };
        let thread = std::thread::Builder::new().name(what.into()).spawn(run);
        let thread = thread.map_err(|error| Error::stop("cannot start a thread").because(error))?;
        Ok(Arc::new(Thread { what, handle: Mutex::new(Some(thread)), why: OnceLock::new(), _alive: alive }))
    }

    /// Why it has ended, which it has.
    pub(super) fn ended(&self) -> Error {
        let mut handle = self.handle.lock();
        let why = self.why.get_or_init(|| match handle.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error,
            _ => Error::stop(format!("the thread \"{}\" has ended", self.what)),
        });
        why.in_words()
    }
}

/// A runtime for one thread: whoever reads one log needs no more.
pub(crate) fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::stop("cannot start a runtime").because(error))
}

/// Asks on a thread of its own: whoever calls may be in a runtime already.
///
/// # Errors
/// Those of the answer; the system gives no thread.
pub(crate) fn apart<T: Send + 'static, F: Future<Output = Result<T>>>(
    what: &'static str,
    ask: impl FnOnce() -> F + Send + 'static,
) -> Result<T> {
    let asks = move || runtime()?.block_on(Box::pin(ask()));
    let thread = std::thread::Builder::new().name(what.into()).spawn(asks);
    let thread = thread.map_err(|error| Error::stop("cannot start a thread").because(error))?;
    thread.join().unwrap_or_else(|_| Err(Error::stop(format!("looking at the {what} panicked"))))
}
