//! The input of the example, made once from a seed.

use std::path::{Path, PathBuf};

use highwater::prelude::Dedup;
use highwater_examples::orders::{InputSpec, generate_customers, generate_orders};
use indicatif::{ProgressBar, ProgressStyle};

/// What the example works on.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Changes of orders as JSON lines; made if it is not there [default: data/orders-EVENTS-SEED.jsonl]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Customers as CSV: id, name, tier, country; made if it is not there [default: data/customers-COUNT-SEED.csv]
    #[arg(long, value_name = "FILE")]
    customers: Option<PathBuf>,
    /// Where the output goes
    #[arg(long, value_name = "DIR", default_value = "out/orders")]
    pub out: PathBuf,
    /// Redis that holds the ids seen: redis://user:password@host:port/db [default: in memory]
    #[arg(long, value_name = "URL")]
    dedup: Option<String>,
    /// Changes to make
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    events: u64,
    /// Customers to make
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    customers_count: u64,
    /// Share of the changes that are duplicates
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    duplicates: f64,
    /// Seed of what is made
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Args {
    /// The file of changes.
    pub fn input(&self) -> PathBuf {
        let made = || PathBuf::from(format!("data/orders-{}-{}.jsonl", self.events, self.seed));
        self.input.clone().unwrap_or_else(made)
    }

    /// The file of customers.
    pub fn customers(&self) -> PathBuf {
        let made = || PathBuf::from(format!("data/customers-{}-{}.csv", self.customers_count, self.seed));
        self.customers.clone().unwrap_or_else(made)
    }

    /// Where ids are remembered, and how many in memory.
    pub fn dedup(&self) -> Dedup {
        let dedup = Dedup::latest(1_000_000);
        match &self.dedup {
            Some(url) => dedup.in_redis(url),
            None => dedup,
        }
    }

    /// Makes what is not there.
    pub fn make_input(&self) -> highwater::Result {
        let spec =
            InputSpec { events: self.events, customers: self.customers_count, duplicates: self.duplicates, seed: self.seed };
        let (input, customers) = (self.input(), self.customers());
        make_folder_of(&input)?;
        make_folder_of(&customers)?;
        if !customers.exists() {
            generate_customers(&customers, &spec).map_err(|error| cannot_make(&customers, error))?;
        }
        if !input.exists() {
            let bar = ProgressBar::new(spec.events);
            bar.set_style(
                ProgressStyle::with_template("making input  {bar:40} {percent:>3} %  {human_pos} lines")
                    .expect("the template is fixed"),
            );
            generate_orders(&input, &spec, |done| bar.set_position(done)).map_err(|error| cannot_make(&input, error))?;
            bar.finish_and_clear();
        }
        Ok(())
    }
}

fn make_folder_of(file: &Path) -> highwater::Result {
    match file.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|error| cannot_make(folder, error)),
        None => Ok(()),
    }
}

fn cannot_make(path: &Path, error: std::io::Error) -> highwater::Error {
    highwater::Error::stop(format!("cannot make {}", path.display())).because(error)
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..1.0).contains(share)).ok_or_else(|| "must be at least 0 and below 1, as in 0.1".into())
}
