//! What a new run does with the outcomes that it finds in a target.
//!
//! Outcomes above the mark become notes of our own ledger, so that from here on one place knows them: dedup, the gate and the
//! checkpoint treat them as any other note, and what is met again is forgotten with the mark. A change that stands parked and
//! has an outcome was retried, and the process died before the record's end was durable: it ends now.
//!
//! The notes are durable before the target forgets anything, and nothing is read before that: a crash in between finds the same
//! again. An outcome below the mark's epoch is dead. All that is found is of the last run that read anything, and that run's
//! epochs began above the mark it started from; so the comparison holds whether or not it had saved a mark of its own.

use std::time::{Duration, Instant};

use hashbrown::HashSet;
use tokio::runtime::Handle;

use super::outcomes::{self, Entry};
use super::{Forget, RunOf, TransactionalSink};
use crate::checkpoint::store::{CheckpointStore, Group, Note, Outcome, Resolution, Resolved, Restored};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::backoff::Backoff;
use crate::halt::Halt;
use crate::position::Epoch;

/// How long a run waits at its start for a target that is away.
const PATIENCE: Duration = Duration::from_secs(120);

/// The epoch of a note that was taken over: no mark of this run ends it. When its change is met, it is noted anew.
const UNTIL_MET: Epoch = i64::MAX as Epoch;

/// Raises the generation in the target of an action and takes over what earlier runs recorded there. The action has its number.
///
/// # Errors
/// If the target stays away, holds what this run must not go on with, or the store fails.
pub fn take_over(
    sink: &dyn TransactionalSink,
    run: &RunOf,
    store: &mut dyn CheckpointStore,
    restored: &mut Restored,
    halt: &Halt,
    runtime: &Handle,
) -> Result {
    let recorded = insist(runtime, || runtime.block_on(sink.begin(run)))?;
    if halt.passes("target.raised") {
        return Err(Error::stop("crashed"));
    }
    let mut entries = Vec::new();
    for recorded in recorded {
        entries.extend(outcomes::decode(&recorded.outcomes)?);
    }
    let group = adopt(&entries, &run.action, restored);
    if !group.notes.is_empty() || !group.resolved.is_empty() {
        store.commit(&group)?;
        restored.notes.extend(group.notes);
    }
    if halt.passes("target.taken_over") {
        return Err(Error::stop("crashed"));
    }
    insist(runtime, || runtime.block_on(sink.forget(run, Forget::EarlierRuns)))
}

/// What is to become durable of the outcomes found. Takes the records that end out of `restored`.
fn adopt(entries: &[Entry], action: &str, restored: &mut Restored) -> Group {
    let number = restored.actions.get(action).copied().unwrap_or_default();
    let saved = restored.checkpoint.as_ref().map_or(0, |save| save.epoch);
    let applied: HashSet<_> = entries.iter().map(|entry| (entry.change, entry.position)).collect();
    let mut group = Group::default();
    restored.parked.retain(|head| {
        let is_done = head.action == action && applied.contains(&(head.hash, head.position));
        if is_done {
            let action = action.to_owned();
            group.resolved.push(Resolved { id: head.id, action, resolution: Resolution::Delivered });
        }
        !is_done
    });
    if !group.resolved.is_empty() {
        restored.resolved.entry(action.to_owned()).or_default().0 += group.resolved.len() as u64;
    }
    // A change that our ledger has as parked stays counted as parked, also if it was delivered later.
    let mut noted: HashSet<_> =
        restored.notes.iter().filter(|note| note.action == number).map(|note| (note.change, note.position)).collect();
    for Entry { change, position, epoch } in entries {
        if *epoch > 0 && *epoch >= saved && noted.insert((*change, *position)) {
            let outcome = Outcome::Delivered;
            group.notes.push(Note { action: number, change: *change, position: *position, epoch: UNTIL_MET, outcome });
        }
    }
    group
}

/// Does something again and again while the target is away.
fn insist<T>(runtime: &Handle, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(2) };
    for failed in 1.. {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Retry && began.elapsed() < PATIENCE => {
                if failed == 1 {
                    tracing::warn!(%error, "the target of an action is away; trying again for {PATIENCE:?}");
                }
                runtime.block_on(async { tokio::time::sleep(backoff.wait(failed)).await });
            }
            Err(error) if error.kind() == ErrorKind::Retry => return Err(Error::stop(error.to_string())),
            answer => return answer,
        }
    }
    unreachable!("the attempts do not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::store::{Cause, ParkedHead, Save};
    use crate::position::Position;

    fn place(at: u64) -> Position {
        Position { partition: 0, at, within: 0 }
    }

    fn applied(change: u128, at: u64, epoch: Epoch) -> Entry {
        Entry { change, position: place(at), epoch }
    }

    fn head(id: u64, action: &str, hash: u128, at: u64) -> ParkedHead {
        let (action, cause) = (action.to_owned(), Cause::Failed);
        ParkedHead { id, action, cause, hash, key_hash: 0, position: place(at), time_ms: 0, bytes: 0 }
    }

    #[test]
    fn what_is_above_the_mark_is_noted_and_what_was_parked_ends() {
        let mut restored = Restored {
            checkpoint: Some(Save { epoch: 100, ..Save::default() }),
            actions: [("table".to_owned(), 3)].into(),
            parked: vec![head(1, "table", 7, 70), head(2, "other", 7, 70), head(3, "table", 7, 71)],
            notes: vec![
                Note { action: 3, change: 5, position: place(50), epoch: 101, outcome: Outcome::Parked },
                Note { action: 4, change: 6, position: place(60), epoch: 101, outcome: Outcome::Parked },
            ],
            ..Restored::default()
        };
        let found = [
            applied(1, 10, 99),
            applied(2, 20, 100),
            applied(5, 50, 101),
            applied(6, 60, 101),
            applied(7, 70, 0),
            applied(2, 20, 100),
        ];
        let group = adopt(&found, "table", &mut restored);
        let noted: Vec<_> = group.notes.iter().map(|note| (note.action, note.change, note.epoch)).collect();
        assert_eq!(noted, [(3, 2, UNTIL_MET), (3, 6, UNTIL_MET)]);
        assert_eq!(group.resolved.iter().map(|resolved| resolved.id).collect::<Vec<_>>(), [1]);
        assert_eq!(restored.parked.iter().map(|head| head.id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(restored.resolved["table"], (1, 0));
    }
}
