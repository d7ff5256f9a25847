//! Where reading a stream begins, or goes on: what is there is held against what is known, and what could not be read without loss is refused.
//!
//! **Taking over a group** that another program has used: what it acknowledged is its work; what it was given and has not acknowledged is not
//! done. So reading begins behind the group's last-delivered-id, and what is pending up to there is read before that, in the order of
//! ids. The token tells how far that has come ([`Place::pending`]): after a crash at any step it goes on behind the last pending entry that is
//! durable. Entries are made over to a consumer of ours as they are read, so that later, when a checkpoint has them, those and no others are
//! acknowledged: entries that somebody else was given meanwhile are never taken for ours because of their ids.

use highwater_operators::redis::Line;
use highwater_operators::{Error, Result};
use redis::cmd;

use super::ask::{self, Group};
use super::id::EntryId;
use super::standing::{Entry, Facts, Trouble};
use super::token::Place;
use super::{Begin, Description};

/// A stream as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub place: Place,
    facts: Option<Facts>,
    /// `None`: it has no group of that name, or none is wanted.
    group: Option<Group>,
}

/// Looks at a stream, which was read to `from`, and refuses what cannot be. Writes nothing.
pub(super) async fn look(line: &Line, description: &Description, stream: &str, from: Option<Place>) -> Result<Standing> {
    let (facts, entry) = ask::look(line, stream, from.map_or(EntryId::ZERO, |place| place.id)).await?;
    let group = match (&description.group, facts) {
        (Some(name), Some(_)) => ask::group(line, stream, name).await?,
        _ => None,
    };
    let continued = from.and_then(|place| description.continued(stream, place.id));
    let place = match (from, continued) {
        (None, _) => first(description, facts.as_ref(), group),
        (Some(_), Some(id)) => {
            let place = facts.map_or_else(nothing, |facts| facts.begin(id));
            with_pending(place, group)
        }
        (Some(place), None) => {
            let entry = entry.map_or(Entry::Absent, |entry| Entry::Says(entry.fields().says()));
            let checked = match &facts {
                Some(facts) => facts.check(&place, entry),
                None if place.id > EntryId::ZERO => Err(Trouble::Gone),
                None => Ok(()),
            };
            checked.map_err(|trouble| Error::stop(trouble.sentence(stream, &place, facts.as_ref())))?;
            place
        }
    };
    let standing = Standing { place, facts, group };
    standing.is_alone(description, stream)?;
    Ok(standing)
}

/// Where a stream begins that was not read before.
fn first(description: &Description, facts: Option<&Facts>, group: Option<Group>) -> Place {
    let Some(facts) = facts else { return nothing() };
    if let Some(group) = group.filter(|group| group.delivered > EntryId::ZERO || group.pending > 0) {
        let mut place = facts.begin(group.delivered);
        place.added = group.read.or(place.added);
        return with_pending(place, Some(group));
    }
    match description.begin {
        Begin::First => facts.begin(EntryId::ZERO),
        Begin::End => facts.begin(facts.last),
        Begin::Behind(id) => facts.begin(id),
    }
}

/// The beginning of a stream that is not there yet.
fn nothing() -> Place {
    Place { added: Some(0), ..Place::default() }
}

fn with_pending(place: Place, group: Option<Group>) -> Place {
    let pending = group.filter(|group| group.pending > 0).map(|_| EntryId::ZERO);
    Place { pending, ..place }
}

impl Standing {
    /// Nobody else reads with the group: it stands no further than what was read.
    fn is_alone(&self, description: &Description, stream: &str) -> Result {
        let Some(name) = &description.group else { return Ok(()) };
        let (at, id) = (self.group.unwrap_or_default().delivered, self.place.id);
        if at <= id || self.is_cut_off() {
            return Ok(());
        }
        Err(Error::stop(format!(
            "the group {name} of the stream {stream} stands at {at}, and the checkpoint at {id}: another program has read with it, or the checkpoint \
             is an older copy. Let one owner read it, or name another group; if what that program acknowledged is done, say \
             .continue_behind(\"{stream}\", \"{id}\", \"{at}\"): what it left pending is read then, and what follows"
        )))
    }

    /// Whether the group stands behind the end of its stream, which was cut off since: that tells of no other reader.
    fn is_cut_off(&self) -> bool {
        let end = self.facts.map_or(EntryId::ZERO, |facts| facts.last);
        self.group.is_some_and(|group| group.delivered > end.max(self.place.id))
    }

    /// Makes the group, if it is wanted and not there, and sets back one that stands behind the end of its stream.
    pub(super) async fn settle(&self, line: &Line, description: &Description, stream: &str) -> Result {
        match (&description.group, self.group) {
            (Some(name), None) => make_group(line, stream, name, &self.place).await,
            (Some(name), Some(_)) if self.is_cut_off() => set_group(line, stream, name, &self.place).await,
            _ => Ok(()),
        }
    }

    /// Entries pending in the group.
    pub(super) fn pending(&self) -> u64 {
        self.group.map_or(0, |group| group.pending)
    }

    /// Entries there are above the place that are not to be had any more, if that is known. Told of a stream that is begun.
    pub(super) fn missing(&self) -> Option<u64> {
        let facts = self.facts.as_ref()?;
        let above = facts.first.is_none_or(|first| first > self.place.id);
        let lost = facts.added.checked_sub(self.place.added?)?.checked_sub(facts.length)?;
        (above && lost > 0).then_some(lost)
    }
}

/// Makes a group that stands at a place.
pub(super) async fn make_group(line: &Line, stream: &str, group: &str, place: &Place) -> Result {
    let mut make = cmd("XGROUP");
    make.arg("CREATE").arg(stream).arg(group).arg(place.id.to_string()).arg("MKSTREAM");
    if let Some(added) = place.added {
        make.arg("ENTRIESREAD").arg(added);
    }
    let what = format!("making the group {group} of the stream {stream}");
    match line.query::<()>(&what, &make).await {
        // Somebody was faster: another run of ours, perhaps, that was not told so.
        Err(error) if error.to_string().contains("BUSYGROUP") => Ok(()),
        made => made,
    }
}

/// Lets a group stand at a place.
pub(super) async fn set_group(line: &Line, stream: &str, group: &str, place: &Place) -> Result {
    let mut set = cmd("XGROUP");
    set.arg("SETID").arg(stream).arg(group).arg(place.id.to_string());
    if let Some(added) = place.added {
        set.arg("ENTRIESREAD").arg(added);
    }
    line.query(&format!("telling the group {group} of the stream {stream} how far it was read"), &set).await
}
