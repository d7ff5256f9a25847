//! A pipeline with an action that refuses some changes until it is mended, and what stands parked of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater::operators::action::NamedAction;
use highwater::operators::checkpoint::embedded::DataDirectory;
use highwater::operators::checkpoint::place::{Inspect, Letters, StorePlace};
use highwater::operators::checkpoint::postgres::PostgresCheckpointStore;
use highwater::operators::checkpoint::store::Parked;
use highwater::operators::parked::Filter;
use highwater::prelude::*;
use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::Started;
use super::input::{Input, Item, Script};

/// What was called: action, id of the change, idempotency key.
pub type Calls = Arc<Mutex<Vec<(&'static str, String, String)>>>;

/// What is said of the action beside.
pub type Tweak = Arc<dyn Fn(NamedAction, &Shop) -> NamedAction + Send + Sync>;

/// An action that refuses fragile changes until it is mended, and keeps what it was answered.
pub struct Fragile {
    pub name: &'static str,
    pub calls: Calls,
    pub mended: Arc<AtomicBool>,
}

impl Action for Fragile {
    fn call(&self, delivery: Delivery) -> BoxFuture<'_> {
        Box::pin(async move {
            let fate = delivery.row().str("fate").unwrap_or_default().into_owned();
            if fate == "fragile" && !self.mended.load(Ordering::SeqCst) {
                return Err(Error::park("422 Unprocessable").with_response(format!("{} is not to my taste", delivery.id())));
            }
            self.calls.lock().push((self.name, delivery.id().to_owned(), delivery.idempotency_key()));
            Ok(())
        })
    }
}

/// A pipeline with one such action and, if wanted, a change that hangs until the gate is opened.
#[derive(Clone)]
pub struct Shop {
    pub folder: Arc<TempDir>,
    pub calls: Calls,
    pub mended: Arc<AtomicBool>,
    pub gate: Arc<Semaphore>,
    pub items: u64,
    /// Every n-th is fragile.
    pub every: u64,
    pub keys: u64,
    pub url: Option<String>,
    pub tweak: Tweak,
}

impl Shop {
    pub fn new(items: u64, every: u64) -> Self {
        Shop {
            folder: Arc::new(super::folder()),
            calls: Calls::default(),
            mended: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            items,
            every,
            keys: 50,
            url: None,
            tweak: Arc::new(|action, _| action),
        }
    }

    /// The action as this makes it.
    pub fn with_action(&mut self, tweak: impl Fn(NamedAction, &Shop) -> NamedAction + Send + Sync + 'static) {
        self.tweak = Arc::new(tweak);
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn place(&self) -> Box<dyn StorePlace> {
        match &self.url {
            Some(url) => Box::new(PostgresCheckpointStore::at(url)),
            None => Box::new(DataDirectory::at(self.data())),
        }
    }

    pub fn inspect(&self) -> Box<dyn Inspect> {
        self.place().inspect("test").unwrap().expect("a run was there")
    }

    pub fn letters(&self) -> Arc<dyn Letters> {
        self.place().letters("test").unwrap()
    }

    pub fn settings(&self, workers: u64) -> Settings {
        Settings { checkpoint: self.url.as_deref().map(Into::into), ..super::settings(self.data(), workers) }
    }

    pub fn build(&self) -> Build {
        let (every, keys) = (self.every, self.keys);
        let items = (0..self.items).map(|n| {
            let item = Item::good(format!("c{n}"), format!("k{}", n % keys));
            if n % every == 0 { item.fate("fragile") } else { item }
        });
        let gate = Item::good(format!("gate{}", self.items), "gate");
        let input = Arc::new(Input::of(items.chain([gate])));
        let shop = self.clone();
        super::build(move |flow| {
            let gate = shop.gate.clone();
            let waits = run(move |_| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await?.forget();
                    Ok(())
                }
            });
            let act = Fragile { name: "act", calls: shop.calls.clone(), mended: shop.mended.clone() };
            let act = action("act", act).when(|change| !change.id().starts_with("gate"));
            flow.source(Script { input: input.clone(), seed: 5 })
                .dedup(Dedup::latest(100_000))
                .fan_out([
                    (shop.tweak)(act, &shop),
                    action("gate", waits).when(|change| change.id().starts_with("gate")).timeout(hours(1)),
                ])
                .checkpoint(Checkpoint::every(millis(3)));
            Ok(())
        })
    }

    pub fn start(&self, settings: &Settings) -> Started {
        super::start(settings, &self.build(), Control::default())
    }

    /// Runs to the end, with the gate open.
    pub fn run(&self, workers: u64) -> Report {
        self.gate.add_permits(100);
        super::run(&self.settings(workers), &self.build()).unwrap()
    }

    pub fn fragile(&self) -> u64 {
        self.items.div_ceil(self.every)
    }

    pub fn parked(&self) -> Vec<Parked> {
        all(&*self.inspect(), &Filter::default())
    }

    pub fn delivered(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        self.calls
            .lock()
            .iter()
            .filter(|(name, ..)| *name == "act")
            .for_each(|(_, id, _)| *times.entry(id.clone()).or_default() += 1);
        times
    }

    /// The books say what was done: so many stand parked, so many were dropped, all others were delivered, each once and again at
    /// most so often.
    pub fn check(&self, report: &Report, parked: u64, dropped: u64, repeats: usize) {
        let books = &report.actions["act"];
        assert_eq!((books.read, books.in_flight), (self.items + 1, 0));
        assert_eq!((books.parked, books.dropped), (parked + dropped, dropped));
        assert_eq!(books.delivered, self.items - parked - dropped);
        let delivered = self.delivered();
        assert_eq!(delivered.len() as u64, books.delivered);
        let repeated: usize = delivered.values().map(|times| times - 1).sum();
        assert!(repeated <= repeats, "{repeated} repeats");
        assert_eq!(self.inspect().parked_count(), parked);
    }
}

pub fn all(inspection: &dyn Inspect, filter: &Filter) -> Vec<Parked> {
    let (mut records, mut next) = (Vec::new(), Some(0));
    while let Some(after) = next {
        // Odd pages, so that their edges are met.
        let page = inspection.parked_page(filter, after, 7).unwrap();
        records.extend(page.records);
        next = page.next;
    }
    records
}
