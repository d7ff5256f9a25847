//! What lookups attach to a change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::row::{Fields, Row};

/// What one lookup attached to a change: a row, nothing (no such key), or why it failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub(super) lookup: Arc<str>,
    pub(super) value: FoundValue,
    /// What was attached before.
    pub(super) next: Option<Arc<Found>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum FoundValue {
    Row(Fields),
    Nothing,
    Failed(Box<str>),
}

impl Found {
    /// The lookup found this row.
    pub fn row_of(lookup: Arc<str>, row: Fields) -> Self {
        Found { lookup, value: FoundValue::Row(row), next: None }
    }

    /// There is nothing under the key.
    pub fn nothing(lookup: Arc<str>) -> Self {
        Found { lookup, value: FoundValue::Nothing, next: None }
    }

    /// The stage failed for this change: every action parks it, with this sentence.
    pub fn failed(stage: Arc<str>, why: String) -> Self {
        Found { lookup: stage, value: FoundValue::Failed(why.into()), next: None }
    }

    /// The row, if there is one.
    #[cfg(feature = "redis")]
    pub(crate) fn fields(&self) -> Option<&Fields> {
        match &self.value {
            FoundValue::Row(row) => Some(row),
            _ => None,
        }
    }

    /// The stage that attached this.
    pub fn stage(&self) -> &str {
        &self.lookup
    }

    /// Why the stage failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.value {
            FoundValue::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Whether there is a row.
    pub fn is_row(&self) -> bool {
        matches!(self.value, FoundValue::Row(_))
    }

    /// Bytes of memory it takes, about; names and the stage are shared with others.
    pub fn size(&self) -> usize {
        // An `Arc` has two counts.
        16 + size_of::<Self>()
            + match &self.value {
                FoundValue::Row(row) => row.heap(),
                FoundValue::Nothing => 0,
                FoundValue::Failed(why) => why.len(),
            }
    }

    pub(super) fn row(&self) -> Row<'_> {
        match &self.value {
            FoundValue::Row(row) => Row::fields(row),
            _ => Row::ABSENT,
        }
    }
}
