//! A change made in memory, by those who have no source to read it from.

use bytes::Bytes;
use serde::Serialize;

use super::{Change, Operation, Parts};
use crate::error::{Error, Result};
use crate::position::Position;

/// What is known of a change that is being made. See [`Change::builder`].
#[derive(Clone, Debug)]
#[must_use = "it becomes a change by `build`"]
pub struct ChangeBuilder {
    id: String,
    table: String,
    key: Option<String>,
    operation: Option<Operation>,
    time_ms: i64,
    before: Option<Result<String, String>>,
    after: Option<Result<String, String>>,
}

impl Change {
    /// Makes a change in memory. The id must be unique in its source, or the change may be taken for a duplicate.
    ///
    /// ```
    /// use highwater_operators::{Change, Operation};
    /// use serde_json::json;
    /// let change = Change::builder("c-1").table("orders").key("o-1").after(&json!({"status": "paid"})).build().unwrap();
    /// assert_eq!((change.operation(), change.after().str("status").as_deref()), (Operation::Insert, Some("paid")));
    /// ```
    pub fn builder(id: impl Into<String>) -> ChangeBuilder {
        let (table, key, operation) = (String::new(), None, None);
        ChangeBuilder { id: id.into(), table, key, operation, time_ms: 0, before: None, after: None }
    }

    /// The same change at another place: for sources that give changes made elsewhere their place.
    pub fn with_position(mut self, position: Position) -> Self {
        (self.partition, self.at, self.within) = (position.partition, position.at, position.within);
        self
    }
}

impl ChangeBuilder {
    /// The table it happened in. Default: empty.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// The row's key. Default: the id.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What happened. Default: what the rows say, an insert if there is none before, a delete if there is none after, else an update.
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Commit time in Unix milliseconds. Default: 0.
    pub fn time_ms(mut self, time_ms: i64) -> Self {
        self.time_ms = time_ms;
        self
    }

    /// The row before the change: anything that becomes an object of JSON.
    pub fn before(mut self, row: &impl Serialize) -> Self {
        self.before = Some(object(row));
        self
    }

    /// The row after the change: anything that becomes an object of JSON.
    pub fn after(mut self, row: &impl Serialize) -> Self {
        self.after = Some(object(row));
        self
    }

    /// The change. It stands nowhere until a source gives it its place.
    ///
    /// # Errors
    /// A row is no object, or a name is longer than it may be. The error is of kind park: made again it would fail again.
    pub fn build(self) -> Result<Change> {
        let row = |what: &str, row: Option<Result<String, String>>| {
            row.transpose().map_err(|why| Error::park(format!("the row {what} {why}")))
        };
        let (before, after) = (row("before", self.before)?, row("after", self.after)?);
        let operation = self.operation.unwrap_or(match (&before, &after) {
            (None, _) => Operation::Insert,
            (Some(_), None) => Operation::Delete,
            (Some(_), Some(_)) => Operation::Update,
        });
        let parts = Parts {
            id: &self.id,
            table: &self.table,
            key: self.key.as_deref(),
            operation,
            time_ms: self.time_ms,
            before: before.as_deref(),
            after: after.as_deref(),
        };
        Change::new(Bytes::new(), Position { partition: 0, at: 0, within: 0 }, parts).map_err(Error::park)
    }
}

fn object(row: &impl Serialize) -> Result<String, String> {
    match serde_json::to_string(row) {
        Ok(text) if text.starts_with('{') => Ok(text),
        Ok(text) => Err(format!("is {text:.40}; it must be an object")),
        Err(error) => Err(format!("cannot be written as JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_say_what_happened() {
        let row = json!({"a": 1});
        let operation = |builder: ChangeBuilder| builder.build().unwrap().operation();
        assert_eq!(operation(Change::builder("1")), Operation::Insert);
        assert_eq!(operation(Change::builder("1").before(&row)), Operation::Delete);
        assert_eq!(operation(Change::builder("1").before(&row).after(&row)), Operation::Update);
        assert_eq!(operation(Change::builder("1").after(&row).operation(Operation::Read)), Operation::Read);
    }

    #[test]
    fn a_row_must_be_an_object() {
        let error = Change::builder("1").after(&json!([1])).build().unwrap_err();
        assert_eq!(error.to_string(), "the row after is [1]; it must be an object");
    }
}
