//! A small file in the data directory that tells the commands where the monitor of the running pipeline is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use highwater_operators::epoch::unix_ms;
use highwater_operators::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Bound, Watched};

const NAME: &str = "monitor.json";

/// Where a monitor is, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A notice that hangs as long as this lives.
pub(super) struct Posted {
    path: PathBuf,
    own: Notice,
}

impl Notice {
    pub(super) fn new(bound: &Bound, watched: &Watched) -> Self {
        Notice {
            url: format!("http://{}/", reachable(bound.address)),
            pid: std::process::id(),
            pipeline: watched.process.limits.pipeline.clone(),
            generation: watched.process.generation,
            started_ms: unix_ms(),
        }
    }

    /// Writes it, whole at once. Not synced: after a power cut nothing runs that it could tell of.
    pub(super) fn post(&self, data: &Path) -> Result<Posted> {
        let (path, unfinished) = (data.join(NAME), data.join(format!(".{NAME}.{}", self.pid)));
        let text = serde_json::to_vec_pretty(self).expect("a notice is plain data");
        fs::write(&unfinished, text)
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(|error| Error::stop(format!("cannot write {}", path.display())).because(error))?;
        Ok(Posted { path, own: self.clone() })
    }

    /// The notice in a data directory, if one hangs there. It may be of a run that was killed.
    pub(crate) fn read(data: &Path) -> Option<Notice> {
        serde_json::from_slice(&fs::read(data.join(NAME)).ok()?).ok()
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        // Another run may have begun meanwhile and hung its own.
        let own =
            fs::read(&self.path).is_ok_and(|text| serde_json::from_slice(&text).is_ok_and(|notice: Notice| notice == self.own));
        if own {
            let _ = fs::remove_file(&self.path);
        }
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
