//! The job that the benchmarks of the main example share: its input, made once in a folder of its own.

use std::path::PathBuf;

use highwater_examples::orders::{InputSpec, Orders};
use tempfile::TempDir;

use crate::measure::{Outcome, built_beside, thousands};

/// Which program, which input, where.
#[derive(Clone, Debug, clap::Args)]
pub struct Job {
    /// The built main example. Default: the one built beside this program
    #[arg(long)]
    orders: Option<PathBuf>,
    /// Lines of input
    #[arg(long, default_value_t = 1_000_000)]
    pub events: u64,
    /// Customers that can be looked up
    #[arg(long, default_value_t = 10_000)]
    customers_count: u64,
    /// Share of the lines that are duplicates
    #[arg(long, default_value_t = 0.1)]
    duplicates: f64,
    /// Seed of the input
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Workers of the main example. Default: its own choice
    #[arg(long)]
    pub workers: Option<usize>,
    /// Where a folder for input and output is made, and removed at the end. Default: the system's temporary folder
    #[arg(long)]
    folder: Option<PathBuf>,
}

impl Job {
    /// Makes the input. The folder is removed when it is dropped.
    ///
    /// # Errors
    ///
    /// If the program was not built, or the folder or the input cannot be made.
    pub fn prepare(&self, name: &str) -> Outcome<(TempDir, Orders)> {
        let program = self.orders.clone().map_or_else(|| built_beside("examples/orders"), Ok)?;
        let parent = self.folder.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix(name).tempdir_in(parent)?;
        let Job { events, customers_count: customers, duplicates, seed, .. } = *self;
        let orders = Orders::new(program, folder.path(), InputSpec { events, customers, duplicates, seed });
        eprintln!("making {} lines of input", thousands(events as f64));
        orders.make_input()?;
        Ok((folder, orders))
    }
}
