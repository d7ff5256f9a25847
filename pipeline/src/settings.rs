//! The settings of a run: flags, and environment variables of the same names with `HIGHWATER_` in front.

use std::path::PathBuf;
use std::time::Duration;

/// How a pipeline is run.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Running")]
pub struct Settings {
    /// Where checkpoints, ledger and parked changes are kept [default: data/NAME]
    #[arg(long, value_name = "DIR", env = "HIGHWATER_DATA")]
    pub data: Option<PathBuf>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", env = "HIGHWATER_WORKERS", value_parser = clap::value_parser!(u64).range(1..=256))]
    pub workers: Option<u64>,

    /// Save a checkpoint after so many completed changes; nothing is lost at any size [default: as the pipeline says]
    #[arg(long, value_name = "N", env = "HIGHWATER_CHECKPOINT_BATCH_SIZE", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_batch_size: Option<u64>,

    /// Save a checkpoint at least this often, in milliseconds [default: as the pipeline says]
    #[arg(long, value_name = "MS", env = "HIGHWATER_CHECKPOINT_INTERVAL", value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_interval: Option<u64>,

    /// Changes that may be under way at once
    #[arg(long, value_name = "N", env = "HIGHWATER_IN_FLIGHT_CHANGES", default_value_t = 32_768, value_parser = clap::value_parser!(u64).range(1..))]
    pub in_flight_changes: u64,

    /// MiB of changes that may be under way at once
    #[arg(long, value_name = "MIB", env = "HIGHWATER_IN_FLIGHT_MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub in_flight_mib: u64,

    /// Seconds to finish what is under way after Ctrl-C; what is not finished then is read again by the next run
    #[arg(long, value_name = "SECONDS", env = "HIGHWATER_DRAIN_TIMEOUT", default_value_t = 10)]
    pub drain_timeout: u64,

    /// What is printed at the end
    #[arg(long, value_name = "KIND", env = "HIGHWATER_REPORT", value_enum, default_value_t = ReportKind::Table)]
    pub report: ReportKind,

    /// Draw no progress bar (there is none either where standard error is no terminal)
    #[arg(long, env = "HIGHWATER_NO_PROGRESS")]
    pub no_progress: bool,
}

/// What is printed at the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportKind {
    /// Tables for people.
    Table,
    /// One JSON object on the last line.
    Json,
    /// Nothing.
    None,
}

impl Default for Settings {
    /// What the command line gives without any flag, and without reading the environment.
    fn default() -> Self {
        Settings {
            data: None,
            workers: None,
            checkpoint_batch_size: None,
            checkpoint_interval: None,
            in_flight_changes: 32_768,
            in_flight_mib: 64,
            drain_timeout: 10,
            report: ReportKind::None,
            no_progress: true,
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
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        self.workers.unwrap_or_else(cores).max(1) as usize
    }

    /// How long a drain may take.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout)
    }
}
