//! The monitor: what a running pipeline tells over HTTP, and to its own commands.
//!
//! It has a thread of its own and only reads what the pipeline counts anyway, so nobody who looks can slow a worker.
//!
//! | path | what |
//! | --- | --- |
//! | `/` | this list, as a page |
//! | `/metrics` | all metrics, for Prometheus |
//! | `/healthz` | 200 while the mark moves or nothing is under way; 503 and why, if not |
//! | `/api/status` | what `status` prints |
//! | `/api/books` | the books of every action and source |
//! | `/api/why` | what holds the mark |
//! | `POST /api/parked` | lists, counts, retries, edits and drops parked changes; for whoever has the token of the notice |

mod fresh;
pub mod guards;
mod health;
mod list;
mod listen;
pub(crate) mod notice;
pub(crate) mod pages;
pub(crate) mod parked;
mod rates;
pub mod seen_set;
mod server;
pub mod status;
mod watched;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use highwater_operators::Result;
use highwater_operators::checkpoint::place::Letters;

pub use self::list::metrics_page;
pub(crate) use self::listen::Bound;
pub(crate) use self::watched::Watched;
use crate::clerk::Desk;

/// Where the monitor listens if nobody says anything: there, or at the next free port above.
pub const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// A monitor that serves. It stops when it is dropped.
pub(crate) struct Monitor {
    _server: server::Server,
    _notice: Option<notice::Posted>,
}

impl Monitor {
    /// Begins to serve, says where, and leaves a notice in the checkpoint store for the commands.
    pub(crate) fn start(bound: Bound, watched: Arc<Watched>, letters: Option<Arc<dyn Letters>>, desk: Desk) -> Result<Self> {
        let notice = notice::Notice::new(&bound, &watched);
        crate::log::announce(format_args!("monitor at {}", notice.url));
        if !bound.address.ip().is_loopback() {
            crate::log::warn(format_args!("whoever reaches {} can read the monitor: it asks for no password", bound.address));
        }
        let office = parked::Office { desk, token: notice.token.clone() };
        let server = server::Server::start(bound, watched, office)?;
        // Without the notice everything works but the commands, and those take --url.
        let post =
            |letters| notice.post(letters).map_err(|error| tracing::warn!(%error, "cannot leave a notice for `status`")).ok();
        let posted = letters.and_then(post);
        Ok(Monitor { _server: server, _notice: posted })
    }
}
