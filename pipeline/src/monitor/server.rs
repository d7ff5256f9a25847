//! Serves HTTP on a thread of its own, and bounds what a client can ask of it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use highwater_operators::{Error, Result};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::parked::Office;
use super::{Bound, Watched, pages, parked};

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must have come within this time, and fit in so many bytes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_MAX: usize = 16 << 10;
/// A connection lives no longer: clients connect again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// A server that runs. It stops when this is dropped.
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(bound: Bound, watched: Arc<Watched>, office: Office) -> Result<Self> {
        let failed = |error| Error::stop("cannot start the monitor; --listen none does without").because(error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .thread_name("monitor")
            .build()
            .map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            runtime.block_on(async move {
                let serve = async {
                    match TcpListener::from_std(bound.listener) {
                        Ok(listener) => serve(listener, watched.clone(), office).await,
                        Err(error) => tracing::error!(%error, "the monitor cannot listen"),
                    }
                };
                tokio::select! {
                    _ = stopped => {}
                    () = serve => {}
                    () = look(&watched) => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        };
        let thread = std::thread::Builder::new().name("monitor".to_owned()).spawn(work).map_err(failed)?;
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks at the pipeline once a second, for rates and for health.
async fn look(watched: &Watched) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        watched.look(Instant::now());
    }
}

async fn serve(listener: TcpListener, watched: Arc<Watched>, office: Office) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let router = pages::router(watched).merge(parked::router(office));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), place));
            }
            Err(error) => {
                // Out of files, most likely: that passes when others close theirs.
                tracing::warn!(%error, "the monitor cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: axum::Router, place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that goes away, or sends nonsense, is its own affair.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
    drop(place);
}
