//! The settings of a run, as the pipeline takes them. Where they come from is told in [`config`](crate::config).

use std::path::PathBuf;
use std::time::Duration;

use highwater_operators::cluster::Place;
use highwater_operators::cluster::form::{Hosts, Secret, read_hosts};
use highwater_operators::{Error, Result};

use crate::config::Listen;
use crate::config::tuning::Tuning;
use crate::store::StoreName;

/// How a pipeline is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory, where checkpoints, ledger and parked changes are kept; `None` is `data/NAME`.
    pub data: Option<PathBuf>,
    /// Where these are kept instead; `None` is where the pipeline says, or else the data directory.
    pub checkpoint: Option<StoreName>,
    /// Worker threads; `None` is one per core but one, which is left to reading, calls and files.
    pub workers: Option<u64>,
    /// How many processes run the pipeline.
    pub processes: u64,
    /// Which of them this is; process 0 leads.
    pub process: u64,
    /// A file with the address of each process, one a line; `None` is ports of this machine from 2101 on.
    pub hostfile: Option<PathBuf>,
    /// Whether processes may listen where other machines reach them: what they say is not encrypted.
    pub trusted_network: bool,
    /// What all processes must know to be taken in.
    pub cluster_secret: Option<Secret>,
    /// How long the other processes are waited for at the start.
    pub gather_timeout: Duration,
    /// How long a worker may take for one step, and about how long another process may be silent, before it is lost. Of no
    /// account with one process.
    pub process_timeout: Duration,
    /// A checkpoint is saved after so many completed changes; `None` is as the pipeline says.
    pub checkpoint_batch_size: Option<u64>,
    /// A checkpoint is saved at least this often, in milliseconds; `None` is as the pipeline says.
    pub checkpoint_interval: Option<u64>,
    /// Changes that may be under way at once.
    pub in_flight_changes: u64,
    /// MiB of changes that may be under way at once.
    pub in_flight_mib: u64,
    /// Changes that may stand parked, over all processes.
    pub parked_max: u64,
    /// MiB of changes that may stand parked, about.
    pub parked_max_mib: u64,
    /// How long a change may stand parked; `None`: however long.
    pub parked_max_age: Option<Duration>,
    /// What happens when as much stands parked as may be.
    pub parked_full: ParkedFull,
    /// The run drains, saves and ends once nothing came and nothing was under way for so long; `None`: it waits for more.
    pub until_idle: Option<Duration>,
    /// Seconds to finish what is under way when asked to stop.
    pub drain_timeout: u64,
    /// What is printed at the end.
    pub report: ReportKind,
    /// Draw no progress bar.
    pub no_progress: bool,
    /// Where metrics, health and books are served.
    pub listen: Listen,
    /// The run is unhealthy once the mark has stood still so long with work under way.
    pub stall_after: Duration,
    /// What takes the place of what the pipeline's code says of its parts.
    pub tuning: Tuning,
}

/// What happens when as much stands parked as may be. What is under way then is still parked where it must be, so the bound is exceeded
/// by at most that; nothing is ever dropped for lack of room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedFull {
    /// Sources do not read until there is room.
    Pause,
    /// The run ends, once it has carried out what was asked of parked changes.
    Stop,
}

/// What is printed at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// Tables for people.
    Table,
    /// One JSON object on the last line.
    Json,
    /// Nothing.
    None,
}

impl Default for Settings {
    /// What suits a program that runs a pipeline by itself: as the command line has it without any flag, but silent and
    /// without a monitor.
    fn default() -> Self {
        Settings {
            data: None,
            checkpoint: None,
            workers: None,
            processes: 1,
            process: 0,
            hostfile: None,
            trusted_network: false,
            cluster_secret: None,
            gather_timeout: Duration::from_secs(60),
            process_timeout: Duration::from_secs(4),
            checkpoint_batch_size: None,
            checkpoint_interval: None,
            in_flight_changes: 8_192,
            in_flight_mib: 64,
            parked_max: 1_000_000,
            parked_max_mib: 4096,
            parked_max_age: None,
            parked_full: ParkedFull::Pause,
            until_idle: None,
            drain_timeout: 10,
            report: ReportKind::None,
            no_progress: true,
            listen: Listen::Nowhere,
            stall_after: Duration::from_secs(60),
            tuning: Tuning::default(),
        }
    }
}

impl Settings {
    /// The data directory of the pipeline of this name.
    pub fn data(&self, name: &str) -> PathBuf {
        self.data.clone().unwrap_or_else(|| PathBuf::from("data").join(name))
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        // A worker on every core would have to share it with the threads that read, call and write, and with their wakes: on two
        // cores the main example takes a fifth longer with two workers than with one.
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64 - 1);
        self.workers.unwrap_or_else(cores).max(1) as usize
    }

    /// Which process this is, of how many.
    ///
    /// # Errors
    /// There is no such process.
    pub fn place(&self) -> Result<Place> {
        match self.process < self.processes {
            true => Ok(Place { process: self.process as usize, processes: self.processes as usize, workers: self.workers() }),
            false => Err(Error::stop(format!(
                "there is no process {} of {}: they are numbered from 0 (--process, --processes)",
                self.process, self.processes
            ))),
        }
    }

    /// Where each process listens.
    ///
    /// # Errors
    /// The file of hosts is not as it should be, or names what others can reach without `trusted_network`.
    pub fn hosts(&self) -> Result<Hosts> {
        let processes = self.processes as usize;
        let hosts = match &self.hostfile {
            Some(path) => read_hosts(path, processes)?,
            None => Hosts::local(processes),
        };
        hosts.check_reach(self.trusted_network)?;
        Ok(hosts)
    }

    /// Where the monitor of this process listens. Each has its own: of an address that was named, the port is the first one's.
    pub(crate) fn listen_here(&self) -> Listen {
        match self.listen {
            Listen::At(mut address) if self.process > 0 && address.port() > 0 => {
                address.set_port(address.port().saturating_add(self.process as u16));
                Listen::From(address)
            }
            listen => listen,
        }
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout)
    }
}
