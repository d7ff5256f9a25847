//! The store of one process of a run: what the keeper's thread owns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;

use super::group::Draft;
use super::ledger::{Kind, NoteKey, key};
use super::link::Of;
use super::open::Found;
use super::read;
use super::save::{Floor, raise};
use super::sweep::Dead;
use super::text::bigint;
use super::write::Writer;
use crate::checkpoint::place::Seat;
use crate::checkpoint::store::{CheckpointStore, Group, Parked, ParkedId, Restored, Save};
use crate::error::{Error, Result};
use crate::halt::Halt;
use crate::parked::{Filter, Page};
use crate::position::Epoch;

/// A checkpoint store in Postgres, as one process of a run writes it.
///
/// While the database is away, [`commit`](CheckpointStore::commit) waits and tries again, until the run is ended from outside.
pub struct PostgresStore {
    of: Of,
    writer: Writer,
    seat: Seat,
    group: i64,
    restored: Option<Restored>,
    actions: std::collections::BTreeMap<String, u16>,
    /// The last save: the next must follow it.
    last: Option<Save>,
    floor: Floor,
    /// Outcomes of earlier runs that still count.
    earlier: HashSet<NoteKey>,
    /// Chunks of this run, in the order of their writing: number of the group, last epoch.
    chunks: VecDeque<(i64, Epoch)>,
    dead: Arc<Dead>,
    halt: Option<Arc<Halt>>,
}

impl PostgresStore {
    pub(super) fn new(of: Of, seat: Seat, found: &mut Found, dead: Arc<Dead>) -> Self {
        let restored = std::mem::take(&mut found.restored);
        PostgresStore {
            of,
            writer: Writer { process: seat.process as i32, generation: bigint(found.generation) },
            seat,
            group: 0,
            actions: restored.actions.clone(),
            last: found.last.take(),
            floor: std::mem::take(&mut found.floor),
            earlier: restored.notes.iter().map(key).collect(),
            restored: Some(restored),
            chunks: VecDeque::new(),
            dead,
            halt: None,
        }
    }

    /// The contract's own rules, checked where breaking them could not be undone.
    fn check(&self, save: &Save) -> Result {
        if self.seat.process != 0 {
            return Err(Error::stop(format!("process {} saves no checkpoint: the first process does", self.seat.process)));
        }
        self.last.as_ref().map_or(Ok(()), |last| save.may_follow(last))
    }

    /// Writes a group, as often as it takes. The number of the group is what keeps it from being written twice.
    fn write(&mut self, draft: &Draft<'_>) -> Result {
        let group = self.group + 1;
        let (of, writer) = (&self.of, self.writer);
        let given_up = given_up(&self.halt);
        let write = |failed| async move { of.link.faults.step(Box::pin(writer.write(of, draft, group, failed > 0))).await };
        of.link.insist("a group for the checkpoint store could not be written", given_up, write)?;
        self.group = group;
        Ok(())
    }

    /// What no longer counts, now that this is saved.
    fn bury(&mut self, save: &Save) {
        self.dead.saved(save.epoch);
        self.dead.floor(&self.floor);
        if self.earlier.is_empty() {
            self.dead.earlier.store(true, Ordering::Release);
        }
        self.last = Some(Save { state: Vec::new(), forgotten: Vec::new(), ..save.clone() });
    }

    fn bury_chunks(&mut self) {
        let saved = self.dead.saved_epoch();
        // In the order of their writing: what was noted again later counts, so nothing before a chunk may outlive it.
        while let Some((group, _)) = self.chunks.pop_front_if(|(_, last)| *last < saved) {
            self.dead.chunks.store(group, Ordering::Release);
        }
    }
}

fn given_up(halt: &Option<Arc<Halt>>) -> impl Fn(Duration) -> bool {
    let halt = halt.clone();
    move |_| halt.as_ref().is_some_and(|halt| halt.is_halted())
}

impl CheckpointStore for PostgresStore {
    fn restore(&mut self) -> Result<Restored> {
        self.restored.take().ok_or_else(|| Error::stop("what the last run left was taken before"))
    }

    fn action(&mut self, name: &str) -> Result<u16> {
        if let Some(number) = self.actions.get(name) {
            return Ok(*number);
        }
        let number = u16::try_from(self.actions.len())
            .map_err(|_| Error::stop("the checkpoint store has numbers for 65,536 action names, and all are taken"))?;
        self.write(&Draft::action(number, name))?;
        self.actions.insert(name.to_owned(), number);
        Ok(number)
    }

    fn commit(&mut self, group: &Group) -> Result<()> {
        let Group { partitions, notes, parked, resolved, save } = group;
        if partitions.is_empty() && notes.is_empty() && parked.is_empty() && resolved.is_empty() && save.is_none() {
            return Ok(());
        }
        let mut floor = std::borrow::Cow::Borrowed(&self.floor);
        if let Some(save) = save {
            self.check(save)?;
            raise(floor.to_mut(), save);
        }
        let draft = Draft::of(group, &floor, &self.earlier)?;
        let floor = floor.into_owned();
        self.write(&draft)?;
        for key in &draft.forgotten {
            self.earlier.remove(key);
        }
        if let Some(noted) = draft.chunks.iter().find(|chunk| chunk.kind == Kind::Noted) {
            self.chunks.push_back((self.group, noted.last_epoch));
        }
        if let Some(save) = save {
            self.floor = floor;
            self.bury(save);
        }
        self.bury_chunks();
        Ok(())
    }

    fn parked(&mut self, id: ParkedId) -> Result<Option<Parked>> {
        Ok(self.parked_all(&[id])?.pop())
    }

    fn parked_all(&mut self, ids: &[ParkedId]) -> Result<Vec<Parked>> {
        let of = &self.of;
        let read = |_| async move { of.link.faults.step(Box::pin(read::records(of, ids))).await };
        of.link.insist("parked changes could not be read", given_up(&self.halt), read)
    }

    fn parked_page(&mut self, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
        let of = &self.of;
        let read = |_| async move { of.link.faults.step(Box::pin(read::page(of, filter, after, most))).await };
        of.link.insist("parked changes could not be read", given_up(&self.halt), read)
    }

    fn attend(&mut self, halt: &Arc<Halt>) {
        self.halt = Some(halt.clone());
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStore({}, {:?}, group {})", self.of.pipeline, self.writer, self.group)
    }
}
