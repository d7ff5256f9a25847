//! The data directory as a place for checkpoints, and for letters.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{EmbeddedStore, Inspection};
use crate::checkpoint::lease::Lease;
use crate::checkpoint::place::{Inspect, Letters, OpenStore, Seat, StorePlace};
use crate::checkpoint::requests::{Request, RequestId, leave_request, pending_requests, remove_request, request_path};
use crate::checkpoint::store::{Parked, ParkedHead, ParkedId, Save};
use crate::error::{Error, Result};
use crate::parked::{Filter, Page};
use crate::position::PartitionId;

/// The name of the notice's file. It is JSON, and people read it too.
const NOTICE: &str = "monitor.json";

/// A data directory: the place of an [`EmbeddedStore`]. One process holds it at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDirectory(PathBuf);

impl DataDirectory {
    /// The directory of this path, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        DataDirectory(path.into())
    }
}

impl StorePlace for DataDirectory {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn takes_several_processes(&self) -> Result {
        Err(Error::stop(format!(
            "the data directory {} is written by one process alone: its journal has one writer, held by a lock on a file; for \
             several processes keep checkpoints in Postgres (--checkpoint postgres://..), or use more workers in one process",
            self.place()
        )))
    }

    fn check(&self) -> Result {
        match self.0.is_file() {
            true => Err(Error::stop(format!("{} is a file; --data names the directory where state is kept", self.place()))),
            false => Ok(()),
        }
    }

    fn open(&self, pipeline: &str, seat: Seat) -> Result<OpenStore> {
        self.check()?;
        if seat != Seat::ALONE {
            self.takes_several_processes()?;
        }
        let store = Box::new(EmbeddedStore::open(&self.0, pipeline)?);
        Ok(OpenStore { store, letters: Arc::new(self.clone()), lease: Lease::forever(), scratch: Some(self.0.clone()) })
    }

    fn join(&self, _: &str, _: u64, _: Seat) -> Result<OpenStore> {
        self.takes_several_processes()?;
        unreachable!("a data directory takes one process")
    }

    fn inspect(&self, _: &str) -> Result<Option<Box<dyn Inspect>>> {
        match self.0.exists() {
            false => Ok(None),
            true => Ok(Some(Box::new(EmbeddedStore::inspect(&self.0)?))),
        }
    }

    fn letters(&self, _: &str) -> Result<Arc<dyn Letters>> {
        Ok(Arc::new(self.clone()))
    }
}

impl Letters for DataDirectory {
    fn leave(&self, request: Request) -> Result {
        leave_request(&self.0, request).map(drop)
    }

    fn pending(&self) -> Result<Vec<(RequestId, Request)>> {
        let id = |path: PathBuf| RequestId(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        Ok(pending_requests(&self.0)?.into_iter().map(|(path, request)| (id(path), request)).collect())
    }

    fn remove(&self, id: &RequestId) -> Result {
        remove_request(&request_path(&self.0, id))
    }

    /// Writes it, whole at once, for its owner alone: it holds a token. Not synced: after a power cut nothing runs that it could tell
    /// of.
    fn post(&self, notice: &str) -> Result {
        let path = self.0.join(NOTICE);
        let unfinished = self.0.join(format!(".{NOTICE}.{}", std::process::id()));
        let write = || {
            let _ = fs::remove_file(&unfinished);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(notice.as_bytes())?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|error| Error::stop(format!("cannot write {}", path.display())).because(error))
    }

    fn notice(&self) -> Option<String> {
        fs::read_to_string(self.0.join(NOTICE)).ok()
    }

    fn take_down(&self, notice: &str) {
        if self.notice().is_some_and(|hanging| hanging == notice) {
            let _ = fs::remove_file(self.0.join(NOTICE));
        }
    }
}

impl Inspect for Inspection {
    fn pipeline(&self) -> &str {
        self.pipeline()
    }

    fn medium(&self) -> String {
        let (bytes, live) = self.journal_bytes();
        format!("journal {} ({bytes} bytes, {live} alive)", self.journal().display())
    }

    fn generation(&self) -> u64 {
        self.generation()
    }

    fn started(&self) -> (u64, Option<u32>) {
        let (at_ms, process) = self.started();
        (at_ms, Some(process))
    }

    fn checkpoint(&self) -> Option<&Save> {
        self.checkpoint()
    }

    fn saved_at_ms(&self) -> Option<u64> {
        self.saved_at_ms()
    }

    fn partitions(&self) -> &BTreeMap<PartitionId, String> {
        self.partitions()
    }

    fn parked_heads(&self) -> Vec<&ParkedHead> {
        self.parked_heads().collect()
    }

    fn parked(&self, id: ParkedId) -> Result<Option<Parked>> {
        self.parked(id)
    }

    fn parked_page(&self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        self.parked_page(filter, after, most)
    }

    fn parked_count(&self) -> u64 {
        self.parked_heads().len() as u64
    }

    fn notes(&self) -> usize {
        self.notes()
    }
}
