//! Looks at server, publication and slot as they are, makes what is missing, and refuses what could not be read without loss.

mod publication;
mod server;
mod slot;

use highwater_operators::postgres::Connection;
use highwater_operators::{Error, Result};

pub(super) use self::publication::Published;
pub(super) use self::slot::{Slot, holder};
use super::lsn::Lsn;
use super::token::{Identity, Place};
use super::{Description, Wanted};

/// All as the server has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub identity: Identity,
    pub slot: Option<Slot>,
    pub published: Option<Published>,
}

impl Found {
    /// The partition's name. The timeline is no part of it: a slot stays the same slot if somebody says that it does.
    pub(super) fn partition(&self, description: &Description) -> String {
        format!("{}-{}-{}", self.identity.system, self.identity.database, description.slot)
    }
}

impl Found {
    /// How far the slot was confirmed.
    pub(super) fn confirmed(&self) -> Lsn {
        self.slot.as_ref().map_or(Lsn(0), |slot| slot.confirmed)
    }
}

/// Looks, makes nothing. Refuses a server that cannot do it, and names that cannot be.
pub(super) async fn look(connection: &Connection, description: &Description) -> Result<Found> {
    slot::check_name(&description.slot)?;
    let identity = server::look(connection, description).await?;
    let slot = slot::look(connection, &description.slot).await?;
    if let Some(slot) = &slot {
        slot.check(&description.slot, identity.database)?;
    }
    let published = publication::look(connection, description).await?;
    Ok(Found { identity, slot, published })
}

/// Refuses to continue where the slot, the publication or the server is not what it was.
pub(super) fn must_continue(found: &Found, place: &Place, description: &Description) -> Result {
    if place.is_anew() {
        return Ok(());
    }
    server::must_be(&found.identity, &place.identity, description)?;
    let Some(slot) = &found.slot else { return Err(slot::is_missing(&description.slot, place.end)) };
    slot.must_be_behind(&description.slot, place.end)?;
    publication::must_be(found.published.as_ref(), place, description)
}

/// Refuses to go on where something that was published is not any more.
pub(super) async fn must_publish(connection: &Connection, found: &Found, place: &Place, description: &Description) -> Result {
    if place.is_anew() {
        return Ok(());
    }
    publication::must_be(found.published.as_ref(), place, description)?;
    match &found.published {
        Some(published) => publication::must_have_all(connection, published, place, description).await,
        None => Ok(()),
    }
}

/// Refuses a slot that was moved beyond `end`.
pub(super) fn must_be_behind(found: &Found, end: Lsn, description: &Description) -> Result {
    match &found.slot {
        Some(slot) => slot.must_be_behind(&description.slot, end),
        None => Err(slot::is_missing(&description.slot, end)),
    }
}

/// Makes what is missing: first the publication, then, if nothing was read yet, the slot. So no change falls between them.
pub(super) async fn make(connection: &Connection, description: &Description, begun: bool) -> Result<Found> {
    let mut found = look(connection, description).await?;
    publication::make(connection, description, found.published.as_ref()).await?;
    if found.slot.is_none() && !begun {
        slot::make(connection, &description.slot).await?;
    }
    found = look(connection, description).await?;
    match (&found.slot, &found.published) {
        (Some(_), Some(_)) => Ok(found),
        (None, _) => Err(Error::retry(format!("the slot {} is gone again; it is looked for once more", description.slot))),
        (_, None) => Err(publication::is_missing(description, false)),
    }
}

/// What to do where nothing can be continued.
pub(super) const RESNAPSHOT: &str = "`resnapshot`, a command of the pipeline's program, has the next run begin anew: it makes the slot again, reads all rows as new changes and keeps what \
     dedup and ledger know";
