//! A parked record with another row.

use bytes::Bytes;

use crate::change::{Change, Operation, Parts};
use crate::checkpoint::store::{Cause, Parked};
use crate::row::Row;

/// The same record with another row after: id, key, position and the rest stay, so it is the same change to everybody, and has the
/// same idempotency key.
///
/// # Errors
/// A sentence that says why it cannot be: the row is no JSON object, or the change has no row after.
pub fn edited(parked: &Parked, row: &str) -> Result<Parked, String> {
    let row = row.trim();
    let kind = match serde_json::from_str::<serde_json::Value>(row) {
        Err(error) => return Err(format!("the row is no JSON: {error}")),
        Ok(serde_json::Value::Object(_)) => None,
        Ok(serde_json::Value::Array(_)) => Some("a list"),
        Ok(_) => Some("a single value"),
    };
    if let Some(kind) = kind {
        return Err(format!("the row is {kind}; a row is a JSON object, as {{\"status\":\"paid\"}}"));
    }
    let change = &parked.change;
    if parked.cause == Cause::Rejected {
        return Err("what stands there is a line that is no change; append it mended to the source, and drop the record".into());
    }
    if change.operation() == Operation::Delete || change.after().raw_json().is_none() {
        let what = change.operation().as_str();
        return Err(format!("the change is a {what} and has no row after; it can be retried or dropped as it is"));
    }
    let parts = Parts {
        id: change.id(),
        table: change.table(),
        key: Some(change.key()),
        operation: change.operation(),
        time_ms: change.time_ms(),
        before: Row::raw_json(&change.before()),
        after: Some(row),
    };
    let new = Change::new(Bytes::new(), change.position(), parts)?;
    Ok(Parked { change: new.with_attachments_of(change), ..parked.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(change: Change) -> Parked {
        Parked {
            id: 5,
            action: "a".to_owned(),
            cause: Cause::Failed,
            error: "422".to_owned(),
            attempts: 5,
            parked_at_ms: 1,
            hash: 77,
            change,
            history: Default::default(),
        }
    }

    #[test]
    fn only_the_row_after_is_another() {
        let rows = serde_json::json!({"n": "x"});
        let change = Change::builder("7").table("t").key("k").before(&rows).after(&rows).build().unwrap();
        let before = parked(change);
        let after = edited(&before, " {\"n\": 3}\n").unwrap();
        assert_eq!(after.change.after().raw_json(), Some("{\"n\": 3}"));
        assert_eq!(after.change.before().raw_json(), before.change.before().raw_json());
        let same = |parked: &Parked| {
            let change = &parked.change;
            (change.id().to_owned(), change.key().to_owned(), change.position(), change.key_hash(), parked.hash, parked.id)
        };
        assert_eq!(same(&after), same(&before));
    }

    #[test]
    fn what_is_no_row_is_refused_in_words() {
        let change = Change::builder("7").after(&serde_json::json!({"n": 1})).build().unwrap();
        let record = parked(change);
        let refused = |row: &str| edited(&record, row).unwrap_err();
        assert!(refused("{\"n\":").contains("no JSON"));
        assert!(refused("[1]").contains("a list") && refused("7").contains("a single value"));
        let gone = parked(Change::builder("7").before(&serde_json::json!({"n": 1})).build().unwrap());
        assert!(edited(&gone, "{}").unwrap_err().contains("has no row after"));
    }
}
