//! Several processes of one run, as threads of one test, over one embedded store that they share.
//!
//! Real processes over Postgres are in `examples/tests`; these are quick, and can be made to crash at failpoints.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use highwater::Result;
use highwater::operators::checkpoint::embedded::{DataDirectory, EmbeddedStore};
use highwater::operators::checkpoint::lease::Lease;
use highwater::operators::checkpoint::place::{Inspect, Letters, OpenStore, Seat, StorePlace};
use highwater::operators::checkpoint::store::{CheckpointStore, Group, Parked, ParkedId, Restored};
use highwater::operators::parked::{Filter, Page};
use highwater::report::Report;
use highwater::run::{Build, Control};
use highwater::settings::Settings;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::Started;

/// A data directory that processes share which are threads of one process.
#[derive(Clone)]
pub struct Together {
    directory: PathBuf,
    open: Arc<Mutex<Option<Arc<Mutex<EmbeddedStore>>>>>,
}

impl Together {
    pub fn at(directory: PathBuf) -> Self {
        Together { directory, open: Arc::default() }
    }

    fn place(&self) -> DataDirectory {
        DataDirectory::at(&self.directory)
    }

    fn seated(&self, pipeline: &str, store: Arc<Mutex<EmbeddedStore>>, seat: Seat) -> Result<OpenStore> {
        Ok(OpenStore {
            store: Box::new(Shared { store, seat }),
            letters: self.place().letters(pipeline)?,
            lease: Lease::forever(),
            scratch: Some(self.directory.clone()),
        })
    }
}

impl StorePlace for Together {
    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn takes_several_processes(&self) -> Result {
        Ok(())
    }

    fn check(&self) -> Result {
        self.place().check()
    }

    fn open(&self, pipeline: &str, seat: Seat) -> Result<OpenStore> {
        let mut open = self.open.lock();
        // Closed, and its lock given back, before it is opened again.
        *open = None;
        let store = Arc::new(Mutex::new(EmbeddedStore::open(&self.directory, pipeline)?));
        *open = Some(store.clone());
        self.seated(pipeline, store, seat)
    }

    fn join(&self, pipeline: &str, _: u64, seat: Seat) -> Result<OpenStore> {
        let store = self.open.lock().clone().expect("process 0 has opened it");
        self.seated(pipeline, store, seat)
    }

    fn inspect(&self, pipeline: &str) -> Result<Option<Box<dyn Inspect>>> {
        self.place().inspect(pipeline)
    }

    fn letters(&self, pipeline: &str) -> Result<Arc<dyn Letters>> {
        self.place().letters(pipeline)
    }
}

/// The share of one process in it.
struct Shared {
    store: Arc<Mutex<EmbeddedStore>>,
    seat: Seat,
}

impl CheckpointStore for Shared {
    fn restore(&mut self) -> Result<Restored> {
        let mut restored = self.store.lock().restore()?;
        let (process, processes) = (self.seat.process as u64, self.seat.processes as u64);
        restored.next_parked = restored.next_parked.max(1) + process;
        restored.parked_step = processes;
        Ok(restored)
    }

    fn action(&mut self, name: &str) -> Result<u16> {
        self.store.lock().action(name)
    }

    fn commit(&mut self, group: &Group) -> Result<()> {
        self.store.lock().commit(group)
    }

    fn parked(&mut self, id: ParkedId) -> Result<Option<Parked>> {
        self.store.lock().parked(id)
    }

    fn parked_page(&mut self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        self.store.lock().parked_page(filter, after, most)
    }
}

/// A file of hosts with so many free ports of this machine.
pub fn hosts(folder: &TempDir, processes: u64) -> PathBuf {
    // Not a port of those that the kernel gives to connections: one of another test's would take it before the process does.
    let free = || (0..1_000).find_map(|_| TcpListener::bind(("127.0.0.1", rand::random_range(20_000..32_000))).ok());
    let held: Vec<TcpListener> = (0..processes).map(|_| free().expect("there is a free port")).collect();
    let lines: Vec<String> = held.iter().map(|held| held.local_addr().unwrap().to_string()).collect();
    let path = folder.path().join(format!("hosts-{}", rand::random::<u64>()));
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// Starts all processes of a run. Each has its own handle.
pub fn start_all(settings: &Settings, folder: &TempDir, build: &Build) -> Vec<Started> {
    let controls: Vec<Control> = (0..settings.processes).map(|_| Control::default()).collect();
    start_with(settings, folder, build, &controls)
}

/// The same with handles that were made before.
pub fn start_with(settings: &Settings, folder: &TempDir, build: &Build, controls: &[Control]) -> Vec<Started> {
    let hostfile = hosts(folder, settings.processes);
    let one = |(process, control): (u64, &Control)| {
        let settings = Settings { process, hostfile: Some(hostfile.clone()), ..settings.clone() };
        super::start(&settings, build, control.clone())
    };
    (0..settings.processes).zip(controls).map(one).collect()
}

/// Waits for all; what process 0 came to is first.
pub fn end_all(started: Vec<Started>) -> Vec<Result<Report>> {
    started.into_iter().map(Started::end).collect()
}
