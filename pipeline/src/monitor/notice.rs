//! A notice in the checkpoint store that tells the commands where the monitor of the running pipeline is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use highwater_operators::Result;
use highwater_operators::checkpoint::place::Letters;
use highwater_operators::epoch::unix_ms;
use serde::{Deserialize, Serialize};

use super::{Bound, Watched};

/// Where a monitor is, and whose.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// Its address, as a URL.
    pub url: String,
    /// The process.
    pub pid: u32,
    /// The pipeline.
    pub pipeline: String,
    /// The number of the run.
    pub generation: u64,
    /// When it began to serve, in Unix milliseconds.
    pub started_ms: u64,
    /// Whoever has it may give commands about parked changes, and read them. Notices of earlier programs have none.
    #[serde(default)]
    pub token: String,
}

/// A notice that hangs as long as this lives, unless another run hangs its own.
pub(super) struct Posted {
    letters: Arc<dyn Letters>,
    text: String,
}

impl Notice {
    pub(super) fn new(bound: &Bound, watched: &Watched) -> Self {
        Notice {
            url: format!("http://{}/", reachable(bound.address)),
            pid: std::process::id(),
            pipeline: watched.process.limits.pipeline.clone(),
            generation: watched.process.generation,
            started_ms: unix_ms(),
            token: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// Hangs it up.
    pub(super) fn post(&self, letters: Arc<dyn Letters>) -> Result<Posted> {
        let text = serde_json::to_string_pretty(self).expect("a notice is plain data");
        letters.post(&text)?;
        Ok(Posted { letters, text })
    }

    /// The notice that hangs there, if there is one. It may be of a run that was killed.
    pub(crate) fn read(letters: &dyn Letters) -> Option<Notice> {
        serde_json::from_str(&letters.notice()?).ok()
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.letters.take_down(&self.text);
    }
}

/// Where this machine reaches what listens there.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
