//! Parked records read back from where they stand, one or a page of them.

use std::ops::Bound;

use super::contents::{Contents, Place};
use super::journal::{Journal, damaged};
use crate::checkpoint::record::decode_record;
use crate::checkpoint::store::{Parked, ParkedHead, ParkedId};
use crate::error::Result;
use crate::parked::{Filter, Page};

/// Heads that a page looks at, and records that it reads, at most: whoever asks is not alone.
const LOOKED_AT_MAX: usize = 100_000;
const READ_MAX: usize = 1_000;

pub(super) fn record(journal: &Journal, contents: &Contents, id: ParkedId) -> Result<Option<Parked>> {
    contents.parked.get(&id).map(|(_, place)| read(journal, *place)).transpose()
}

pub(super) fn page(journal: &Journal, contents: &Contents, filter: &Filter, after: ParkedId, most: usize) -> Result<Page> {
    if filter.ids.is_empty() {
        let behind = contents.parked.range((Bound::Excluded(after), Bound::Unbounded));
        return of(journal, behind.map(|(_, (head, place))| (head, *place)), filter, after, most);
    }
    let mut ids: Vec<ParkedId> = filter.ids.iter().copied().filter(|id| *id > after).collect();
    ids.sort_unstable();
    ids.dedup();
    let named = ids.iter().filter_map(|id| contents.parked.get(id));
    of(journal, named.map(|(head, place)| (head, *place)), filter, after, most)
}

fn of<'c>(
    journal: &Journal,
    candidates: impl Iterator<Item = (&'c ParkedHead, Place)>,
    filter: &Filter,
    mut after: ParkedId,
    most: usize,
) -> Result<Page> {
    let mut page = Page::default();
    let mut read_so_far = 0;
    for (looked_at, (head, place)) in candidates.enumerate() {
        let is_enough = looked_at == LOOKED_AT_MAX || read_so_far == READ_MAX || page.records.len() == most;
        if is_enough {
            page.next = Some(after);
            return Ok(page);
        }
        after = head.id;
        if filter.may_mean(head) {
            read_so_far += 1;
            let parked = read(journal, place)?;
            if filter.means(&parked) {
                page.records.push(parked);
            }
        }
    }
    Ok(page)
}

fn read(journal: &Journal, place: Place) -> Result<Parked> {
    decode_record(&journal.attachment(place)?).ok_or_else(|| damaged(&journal.path, place.offset))
}
