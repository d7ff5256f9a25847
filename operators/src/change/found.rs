//! What lookups attach to a change.

use std::sync::Arc;

use bytes::Bytes;
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
    /// A row as JSON text, and the names of fields of which that does not say all.
    Json(Bytes, Option<Box<str>>),
}

impl Found {
    /// The lookup found this row.
    pub fn row_of(lookup: Arc<str>, row: Fields) -> Self {
        Found { lookup, value: FoundValue::Row(row), next: None }
    }

    /// The lookup found this row: the text of a JSON object, and the [names apart](crate::row::Row::with_names_apart), if there are any.
    pub fn json(lookup: Arc<str>, row: Bytes, apart: Option<Box<str>>) -> Self {
        Found { lookup, value: FoundValue::Json(row, apart), next: None }
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
    #[cfg(any(feature = "disk", feature = "redis"))]
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
        matches!(self.value, FoundValue::Row(_) | FoundValue::Json(..))
    }

    /// Bytes of memory it takes, about; names and the stage are shared with others.
    pub fn size(&self) -> usize {
        // An `Arc` has two counts.
        16 + size_of::<Self>()
            + match &self.value {
                FoundValue::Row(row) => row.heap(),
                FoundValue::Nothing => 0,
                FoundValue::Failed(why) => why.len(),
                FoundValue::Json(row, apart) => row.len() + apart.as_ref().map_or(0, |names| names.len()),
            }
    }

    /// Of a row that is JSON text: the text, and the names apart.
    pub(crate) fn as_json(&self) -> Option<(&[u8], Option<&str>)> {
        match &self.value {
            FoundValue::Json(row, apart) => Some((row, apart.as_deref())),
            _ => None,
        }
    }

    pub(crate) fn row(&self) -> Row<'_> {
        match &self.value {
            FoundValue::Row(row) => Row::fields(row),
            FoundValue::Json(row, Some(apart)) => Row::with_names_apart(row, apart.as_bytes()),
            FoundValue::Json(row, None) => Row::json(row),
            _ => Row::ABSENT,
        }
    }
}
