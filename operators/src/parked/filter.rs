//! Which parked records are meant.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::store::{Cause, Parked, ParkedHead, ParkedId};

/// Which parked records are meant: those for which all holds that is said. Nothing said: all of them.
///
/// ```
/// use highwater_operators::checkpoint::store::Cause;
/// use highwater_operators::parked::Filter;
/// let refused = Filter { action: Some("receipt".into()), error: Some("422".into()), ..Filter::default() };
/// assert!(!refused.is_all() && Filter::default().is_all());
/// let text = serde_json::to_string(&refused).unwrap();
/// assert_eq!(text, r#"{"action":"receipt","error":"422"}"#);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// One of these numbers. Empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<ParkedId>,
    /// Meant for this action (or, of rejected lines, read from this source).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Parked for this cause.
    #[serde(skip_serializing_if = "Option::is_none", with = "word")]
    pub cause: Option<Cause>,
    /// Of this key, to the letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The error holds this text, whatever its capitals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Parked, or tried last, at this Unix millisecond or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Parked, or tried last, before this Unix millisecond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// Some parked records in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Those that are meant.
    pub records: Vec<Parked>,
    /// After which number the next page begins; `None`: there is no more.
    pub next: Option<ParkedId>,
}

impl Filter {
    /// Exactly these records.
    pub fn of(ids: impl IntoIterator<Item = ParkedId>) -> Self {
        Filter { ids: ids.into_iter().collect(), ..Filter::default() }
    }

    /// Whether it means all that is parked.
    pub fn is_all(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether a record can be meant, by its head alone. What this refuses need not be read.
    pub fn may_mean(&self, head: &ParkedHead) -> bool {
        (self.ids.is_empty() || self.ids.contains(&head.id))
            && self.action.as_ref().is_none_or(|action| *action == head.action)
            && self.cause.is_none_or(|cause| cause == head.cause)
            && self.key_hash().is_none_or(|hash| hash == head.key_hash)
    }

    /// Whether a record is meant.
    pub fn means(&self, parked: &Parked) -> bool {
        let at = parked.last_tried_ms();
        (self.ids.is_empty() || self.ids.contains(&parked.id))
            && self.action.as_ref().is_none_or(|action| *action == parked.action)
            && self.cause.is_none_or(|cause| cause == parked.cause)
            && self.key.as_ref().is_none_or(|key| key == parked.change.key())
            && self.error.as_ref().is_none_or(|text| holds(&parked.error, text))
            && self.since_ms.is_none_or(|since| at >= since)
            && self.until_ms.is_none_or(|until| at < until)
    }

    fn key_hash(&self) -> Option<u64> {
        self.key.as_ref().map(|key| xxh3_64(key.as_bytes()))
    }
}

fn holds(error: &str, text: &str) -> bool {
    error.contains(text) || error.to_lowercase().contains(&text.to_lowercase())
}

/// A cause by its word.
mod word {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::checkpoint::store::Cause;

    pub(super) fn serialize<S: Serializer>(cause: &Option<Cause>, to: S) -> Result<S::Ok, S::Error> {
        match cause {
            Some(cause) => to.serialize_str(cause.word()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cause>, D::Error> {
        let Some(word) = Option::<String>::deserialize(from)? else { return Ok(None) };
        Cause::of(&word).map(Some).ok_or_else(|| D::Error::custom(format!("\"{word}\" is no cause")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;

    fn parked(id: ParkedId, key: &str, error: &str) -> Parked {
        let change = Change::builder(format!("c{id}")).key(key).build().unwrap();
        Parked {
            id,
            action: "a".to_owned(),
            cause: Cause::Failed,
            error: error.to_owned(),
            attempts: 1,
            parked_at_ms: 100 * id,
            hash: 0,
            change,
            history: Default::default(),
        }
    }

    #[test]
    fn a_record_is_meant_if_all_holds_that_is_said() {
        let one = parked(3, "k", "POST /: 422 Unprocessable");
        let text = |error: &str| Filter { error: Some(error.to_owned()), ..Filter::default() };
        assert!(Filter::default().means(&one) && text("unproc").means(&one) && !text("503").means(&one));
        let keyed = |key: &str| Filter { key: Some(key.to_owned()), action: Some("a".to_owned()), ..Filter::default() };
        assert!(keyed("k").means(&one) && keyed("k").may_mean(&one.head()));
        assert!(!keyed("l").means(&one) && !keyed("l").may_mean(&one.head()));
        let between = |since, until| Filter { since_ms: Some(since), until_ms: Some(until), ..Filter::default() };
        assert!(between(300, 301).means(&one) && !between(301, 400).means(&one) && !between(0, 300).means(&one));
        assert!(Filter::of([3]).means(&one) && !Filter::of([4]).may_mean(&one.head()));
    }

    #[test]
    fn it_is_read_as_it_is_written_and_what_it_does_not_know_is_refused() {
        let filter = Filter { cause: Some(Cause::Lookup), until_ms: Some(7), ..Filter::of([1, 2]) };
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, r#"{"ids":[1,2],"cause":"lookup","until_ms":7}"#);
        assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
        assert!(serde_json::from_str::<Filter>(r#"{"cuase":"failed"}"#).is_err());
        assert!(serde_json::from_str::<Filter>(r#"{"cause":"tired"}"#).is_err());
    }
}
