//! A reader driven step by step, whose tokens are saved when the test says so.

use std::time::{Duration, Instant};

use highwater_operators::Change;
use highwater_operators::ingest::{Batch, Read};
use highwater_operators::testing::postgres::{Database, Server};

use super::super::*;

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A database with a table.
pub(super) fn orders() -> Database {
    let database = Server::shared().database().unwrap();
    database.sql("create table orders(id bigint primary key, status text, amount numeric)").unwrap();
    database
}

/// A slot of the database's own.
pub(super) fn slot(database: &Database) -> PostgresReplication {
    PostgresReplication::at(database.url(), &format!("slot_{}", database.name()))
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub changes: Vec<Change>,
    pub rejected: Vec<String>,
    pub token: Option<ResumeToken>,
}

/// A reader that is on its way.
pub(super) struct Reading {
    source: Arc<dyn Source>,
    partition: Partition,
    reader: Box<dyn Reader>,
    pub found: Found,
    /// Whether each token is durable as soon as it is read.
    pub saves: bool,
}

impl Reading {
    /// As a run begins it.
    pub(super) fn start(source: &PostgresReplication, from: Option<&ResumeToken>) -> Result<Self> {
        let name = source.partitions()?.remove(0).name;
        let known = Known { name: name.clone(), token: from.cloned() };
        let source = source.bind(&[known])?.unwrap();
        let (partition, window) = (Partition { id: 0, name }, InFlight::new(u64::MAX, u64::MAX));
        let reader = source.open(&partition, from, &window)?;
        Ok(Reading { source, partition, reader, found: Found::default(), saves: false })
    }

    /// One read.
    pub(super) fn step(&mut self) -> Result<Read> {
        let mut batch = Batch::default();
        let read = self.reader.read(&mut batch)?;
        if read == Read::Some {
            let before = self.found.token.as_ref().map_or(0, |token| token.order);
            assert!(batch.token.order > before, "tokens grow by reading");
            self.found.changes.append(&mut batch.changes);
            self.found.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
            self.found.token = Some(batch.token);
            if self.saves {
                self.save();
            }
        }
        Ok(read)
    }

    /// What was read is durable.
    pub(super) fn save(&self) {
        if let Some(token) = &self.found.token {
            self.source.saved(&self.partition, token);
        }
    }

    /// Reads until it holds, or the time is over.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&Found) -> bool) {
        let began = Instant::now();
        while !holds(&self.found) {
            self.step().unwrap_or_else(|error| panic!("{what}: {error}"));
            let Found { changes, rejected, .. } = &self.found;
            assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}, after {} changes, {rejected:?}", changes.len());
        }
    }

    /// Reads until the server was asked and has nothing, some times over.
    pub(super) fn until_idle(&mut self) {
        let (began, mut idle) = (Instant::now(), 0);
        while idle < 3 {
            idle = if matches!(self.step().unwrap(), Read::Idle(_)) { idle + 1 } else { 0 };
            assert!(began.elapsed() < DEADLINE, "it does not come to rest");
        }
    }

    /// Reads some times, and nothing is there.
    pub(super) fn nothing_comes(&mut self) {
        let before = self.found.changes.len();
        for _ in 0..5 {
            self.step().unwrap();
        }
        assert_eq!(self.found.changes.len(), before, "something has come");
    }

    /// Reads until it ends, and says why.
    pub(super) fn error(&mut self) -> String {
        let began = Instant::now();
        loop {
            if let Err(error) = self.step() {
                return error.to_string();
            }
            assert!(began.elapsed() < DEADLINE, "it does not end");
        }
    }

    /// Lets go of the slot.
    pub(super) fn end(self) -> Vec<Change> {
        self.found.changes
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.found.changes.iter().map(Change::id).collect()
    }
}
