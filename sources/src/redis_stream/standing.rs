//! Whether a stream still is what it was, and still has all that was not read: told from what Redis says of it, without I/O.
//!
//! A stream has no name of its own that would outlive a restart, and needs none. Redis tells its last id, its first entry, how many entries
//! were ever added, and the highest that was deleted; a [`Place`] has how many had been added up to it, and what its entry says. Those that
//! were added and neither read nor are there are lost; a stream whose numbers cannot come of the one that was read is another.
//!
//! What is told was asked in one transaction with the read that follows: nothing happens in between, so nothing is ever cut off unseen,
//! however fast a producer's `MAXLEN` runs after the reader.

use super::id::EntryId;
use super::token::Place;

/// What Redis says of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Entries there are.
    pub length: u64,
    /// The first of them; none if there are none.
    pub first: Option<EntryId>,
    /// The last id that was given.
    pub last: EntryId,
    /// Entries ever added.
    pub added: u64,
    /// The highest that was deleted by its id.
    pub deleted: EntryId,
}

/// What stands at a place's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It was not asked.
    Unasked,
    Absent,
    /// It says this (a hash).
    Says(u64),
}

/// Why reading cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such stream any more.
    Gone,
    /// It ends before what was read: it was emptied, or a fail-over lost its end.
    Short,
    /// Its numbers or its entries are not those of the stream that was read.
    Other,
    /// The entry was deleted before it was read.
    Deleted(EntryId),
    /// So many entries were trimmed before they were read.
    Trimmed(u64),
    /// All that is there lies above the place, and it cannot be told whether there was more.
    Unclear,
}

impl Facts {
    /// Whether all that is there lies above `id`.
    fn is_above(&self, id: EntryId) -> bool {
        self.first.is_none_or(|first| first > id)
    }

    /// A place at which reading begins: what is gone now is no loss.
    pub fn begin(&self, id: EntryId) -> Place {
        let added = if id >= self.last {
            Some(self.added)
        } else if self.is_above(id) {
            Some(self.added.saturating_sub(self.length))
        } else {
            None
        };
        Place { id, says: 0, added, deleted: self.deleted, pending: None }
    }

    /// Holds a place against what is there.
    ///
    /// # Errors
    /// Something was lost, or it is another stream.
    pub fn check(&self, place: &Place, entry: Entry) -> Result<(), Trouble> {
        let id = place.id;
        if self.last < id {
            return Err(Trouble::Short);
        }
        if place.added.is_some_and(|added| added > self.added) {
            return Err(Trouble::Other);
        }
        if id > EntryId::ZERO {
            let may_be_gone = self.is_above(id) || self.deleted >= id;
            match entry {
                Entry::Absent if place.says != 0 && !may_be_gone => return Err(Trouble::Other),
                Entry::Says(says) if place.says != 0 && place.says != says => return Err(Trouble::Other),
                _ => {}
            }
        }
        if self.is_above(id) {
            let Some(added) = place.added else {
                return if id >= self.last { Ok(()) } else { Err(Trouble::Unclear) };
            };
            let above = self.added - added;
            return match above.checked_sub(self.length) {
                Some(0) => Ok(()),
                Some(lost) if self.deleted > id.max(place.deleted) && lost == 1 => Err(Trouble::Deleted(self.deleted)),
                Some(lost) => Err(Trouble::Trimmed(lost)),
                None => Err(Trouble::Other),
            };
        }
        if self.deleted > id.max(place.deleted) {
            return Err(Trouble::Deleted(self.deleted));
        }
        Ok(())
    }

    /// All that is there was read, up to `place`, in one step with these facts.
    ///
    /// # Errors
    /// Fewer were read than were added.
    pub fn read_to_end(&self, place: &mut Place) -> Result<(), Trouble> {
        match place.added {
            Some(added) if added < self.added => Err(Trouble::Trimmed(self.added - added)),
            Some(added) if added > self.added => Err(Trouble::Other),
            _ => {
                place.added = Some(self.added);
                Ok(())
            }
        }
    }
}

impl Trouble {
    /// The sentence of a refusal: what was found, what was expected, and the way out.
    pub fn sentence(self, stream: &str, place: &Place, facts: Option<&Facts>) -> String {
        let id = place.id;
        let facts = facts.copied().unwrap_or_default();
        let anew = "start with a new data directory (a new name, with checkpoints in Postgres)";
        let behind = |at: &dyn std::fmt::Display| format!(".continue_behind(\"{stream}\", \"{id}\", \"{at}\")");
        let found = match self {
            Trouble::Gone => format!(
                "there is no stream {stream} any more, and the checkpoint stands at its entry {id}: the server was emptied or restarted without its \
                 data, the stream was removed, or another server has the name"
            ),
            Trouble::Short => format!(
                "the stream {stream} ends at {}, and the checkpoint stands at its entry {id}: the server lost its end in a restart or a fail-over, \
                 the stream was made anew, or another server has the name",
                facts.last
            ),
            Trouble::Other => format!(
                "the stream {stream} is not the one that was read up to {id}: that entry is not in it or says something else, or the number of entries \
                 added to it ({}) does not fit; it was made anew, a fail-over lost its end, or another server has the name",
                facts.added
            ),
            Trouble::Deleted(deleted) => {
                format!("the entry {deleted} of the stream {stream} was deleted before it was read; all up to {id} was read")
            }
            Trouble::Trimmed(lost) => {
                let first = facts.first.map_or("nothing is left".to_owned(), |first| format!("it begins at {first} now"));
                format!(
                    "{lost} entries of the stream {stream} were removed before they were read ({first}; all up to {id} was read): trim it by what was \
                     read, `XTRIM {stream} MINID ~ ID` with the group's last-delivered-id, or give MAXLEN more room"
                )
            }
            Trouble::Unclear => format!(
                "all that is left of the stream {stream} lies behind {id}, up to which it was read, and it cannot be told whether entries between were \
                 removed"
            ),
        };
        let way_out = match self {
            Trouble::Gone => format!("bring it back, or {anew}, or say {} to read what comes", behind(&EntryId::ZERO)),
            Trouble::Short => {
                format!("bring it back, or {anew}, or say {} to read on behind what is there", behind(&facts.last))
            }
            Trouble::Other => format!(
                "{anew}, or say {} with the id behind which to read on in place of ID (0-0: from its beginning)",
                behind(&"ID")
            ),
            _ => format!("to give them up and read what is there, say {}", behind(&id)),
        };
        format!("{found}. {way_out}")
    }
}

#[cfg(test)]
mod tests;
