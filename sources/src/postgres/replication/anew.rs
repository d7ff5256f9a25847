//! Everything, or some tables, read anew: what a person asks for where a slot is lost, or was made anew by somebody else.
//!
//! The slot's place is given up, and so is what the publication was; how far it was read is kept. Where the slot is still the old one, reading
//! goes on there; else with what the new one has. All rows are read as changes with ids of their own, those of the new snapshot's point: for dedup
//! and ledger they are other changes than the old ones, and the old ones stay what they are.

use highwater_operators::postgres::Table;
use highwater_operators::{Error, Result, ResumeToken};

use super::session::ask;
use super::setup::Found;
use super::token::{self, Parts, Place};
use super::{Description, session};
use crate::ahead;

/// Set in the number of the snapshot until the new place is told.
const ANEW: u32 = 1 << 31;

impl Place {
    /// Whether it was asked to be read anew, and was not begun since.
    pub(super) fn is_anew(&self) -> bool {
        self.snapshot & ANEW != 0
    }

    /// Where reading begins anew, by what there is now.
    pub(super) fn begun_anew(mut self, found: &Found) -> Place {
        let is_the_slot = self.identity == found.identity && found.confirmed() <= self.end;
        if !is_the_slot {
            (self.end, self.within) = (found.confirmed(), None);
        }
        self.identity = found.identity;
        self.publication = found.published.as_ref().map_or(0, |published| published.definition);
        self.snapshot &= !ANEW;
        self
    }
}

/// A token that continues behind `token`, of which these tables are read anew; all if none are named.
pub(super) fn token(description: &Description, token: &ResumeToken, tables: &[String]) -> Result<ResumeToken> {
    let mut place =
        token::read(&token.detail).ok_or_else(|| Error::stop("the checkpoint's token is none of a slot, or of a newer form"))?;
    place.snapshot += 1;
    if tables.is_empty() {
        place.tables.clear();
        place.snapshot |= ANEW;
    } else {
        for oid in numbers(description, tables)? {
            let Some(at) = place.tables.iter().position(|table| table.oid == oid) else {
                return Err(Error::stop("one of the tables is not read from this slot; name those that are"));
            };
            place.tables.remove(at);
        }
        if place.tables.iter().any(|table| table.parts != Parts::Done) {
            return Err(Error::stop(
                "the rows of another table are still being read: let the pipeline finish that first, or read all anew",
            ));
        }
    }
    let tables = token::write_tables(&place.tables);
    Ok(ResumeToken { order: token.order + 1, detail: token::write(&place, &tables) })
}

/// The numbers of tables, by their names.
fn numbers(description: &Description, tables: &[String]) -> Result<Vec<u32>> {
    let find = async || {
        let connection = session::open(description.url()?, "resnapshot").await?;
        let mut found = Vec::new();
        for name in tables {
            let table = Table::parse(name)?;
            let full = Table { schema: Some(table.schema.unwrap_or_else(|| "public".to_owned())), name: table.name };
            let rows = ask(&connection, "looking for a table", "select to_regclass($1)::oid", &[&full.to_string()]).await?;
            let number = rows.first().and_then(|row| row.get::<_, Option<u32>>(0));
            found.push(number.ok_or_else(|| Error::stop(format!("there is no table {full}; mend the name")))?);
        }
        Ok(found)
    };
    ahead::runtime()?.block_on(find())
}
