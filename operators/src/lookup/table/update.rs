//! What changes a table, as it is told to every worker; and the rows of a key within one epoch, version by version.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::rows::Rows;
use crate::change::{Change, Found, Operation};
use crate::ingest::source::OrderOf;
use crate::position::{Order, PartitionId};
use crate::row::{Row, Value, apart};

/// One change of a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Update {
    pub(super) partition: PartitionId,
    pub(super) order: Order,
    pub(super) what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum What {
    /// The row of this key, shared by the workers of a process. Of what was not sent the names are told.
    Put(Arc<str>, Arc<Found>),
    Gone(Arc<str>),
    /// The table was truncated.
    Clear,
}

impl Update {
    /// What a change of the table says; `None`: nothing of its rows.
    pub(super) fn of(change: &Change, stage: &Arc<str>, order_of: OrderOf) -> Option<Update> {
        let key = || Arc::from(change.key());
        let what = match change.operation() {
            Operation::Insert | Operation::Update | Operation::Read => {
                let row = change.after();
                let apart = row.apart().and_then(|names| std::str::from_utf8(names).ok()).map(Box::from);
                let text = Bytes::copy_from_slice(row.raw_json()?.as_bytes());
                What::Put(key(), Arc::new(Found::json(stage.clone(), text, apart)))
            }
            Operation::Delete => What::Gone(key()),
            Operation::Truncate => What::Clear,
            Operation::Message => return None,
        };
        Some(Update { partition: change.position().partition, order: order_of(change), what })
    }
}

/// The versions of rows that one epoch brings, in order.
#[derive(Default)]
pub(super) struct Versions {
    by_key: HashMap<Arc<str>, Vec<Version>>,
    cleared: Vec<Order>,
}

type Version = (Order, Option<Arc<Found>>);

impl Versions {
    /// Sorts what one epoch brings. What was not sent with a row is filled in from the version before.
    pub(super) fn of(mut updates: Vec<Update>, rows: &Rows, stage: &Arc<str>) -> Versions {
        updates.sort_by_key(|update| update.order);
        let mut versions = Versions::default();
        for Update { order, what, .. } in updates {
            let (key, found) = match what {
                What::Clear => {
                    versions.cleared.push(order);
                    continue;
                }
                What::Gone(key) => (key, None),
                What::Put(key, found) if found.row().unchanged().next().is_none() => (key, Some(found)),
                What::Put(key, found) => {
                    let before = versions.at(&key, order, rows);
                    let whole = filled(found.row(), before.as_ref().map_or(Row::ABSENT, |before| before.row()), stage);
                    (key, Some(Arc::new(whole)))
                }
            };
            versions.by_key.entry(key).or_default().push((order, found));
        }
        versions
    }

    /// The row of a key as of a place: the last version at or before it, else as it was before the epoch.
    pub(super) fn at(&self, key: &str, order: Order, rows: &Rows) -> Option<Arc<Found>> {
        let last = self.by_key.get(key).and_then(|versions| versions.iter().rev().find(|(at, _)| *at <= order));
        let cleared = self.cleared.iter().rev().find(|at| **at <= order);
        match (last, cleared) {
            (Some((at, _)), Some(cleared)) if cleared > at => None,
            (Some((_, found)), _) => found.clone(),
            (None, Some(_)) => None,
            (None, None) => rows.get(key).cloned(),
        }
    }

    /// Makes the rows what they are at the end of the epoch; how many were written.
    pub(super) fn apply(self, rows: &mut Rows, epoch: u64, state: &mut Vec<u8>) -> usize {
        let cleared = self.cleared.last().copied();
        if cleared.is_some() {
            rows.clear(epoch, state);
        }
        let mut written = 0;
        for (key, versions) in self.by_key {
            if let Some((at, found)) = versions.into_iter().next_back()
                && cleared.is_none_or(|cleared| cleared <= at)
            {
                rows.put(&key, found, epoch, state);
                written += 1;
            }
        }
        written
    }
}

/// A row with what it lacks from the one before.
fn filled(row: Row<'_>, before: Row<'_>, stage: &Arc<str>) -> Found {
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut documents = Vec::new();
    let mut take = |name: &str, row: Row<'_>| {
        if let Some(written) = row.written(name) {
            let quoted = serde_json::to_string(name).unwrap_or_default();
            if written == "null" && row.get(name) == Some(Value::Other("null")) {
                documents.push(quoted.clone());
            }
            fields.push((quoted, written.to_owned()));
        }
    };
    row.each_written().for_each(|(name, _)| take(&name, row));
    row.unchanged().for_each(|name| take(&name, before));
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let apart = Some(format!("[{}]", documents.join(","))).filter(|names| apart::are_names(names));
    Found::json(stage.clone(), Bytes::from(format!("{{{}}}", fields.join(","))), apart.map(Into::into))
}

#[cfg(test)]
mod tests;
