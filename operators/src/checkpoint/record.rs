//! A parked record as bytes: the record, and behind it its history.
//!
//! What stands behind a record was not there from the first. A program that does not know it stops reading before it, and a
//! record that has none is one whose history is empty; so neither needs a new format.

use crate::checkpoint::store::{History, Parked};
use crate::error::{Error, Result};

/// Appends a record.
///
/// # Errors
/// It cannot be encoded, which no record that was made is.
pub(crate) fn encode_record(parked: &Parked, into: Vec<u8>) -> Result<Vec<u8>> {
    let failed = |error| Error::stop("a parked record could not be encoded").because(error);
    let into = postcard::to_extend(parked, into).map_err(failed)?;
    match parked.history == History::default() {
        true => Ok(into),
        false => postcard::to_extend(&parked.history, into).map_err(failed),
    }
}

/// The record of these bytes, unless they are damaged.
pub(crate) fn decode_record(bytes: &[u8]) -> Option<Parked> {
    let (mut parked, rest) = postcard::take_from_bytes::<Parked>(bytes).ok()?;
    if !rest.is_empty() {
        parked.history = postcard::from_bytes(rest).ok()?;
    }
    parked.change.is_sound().then_some(parked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;
    use crate::checkpoint::store::Cause;

    /// Found by fuzzing: a record whose sums are right and whose change points outside of its bytes.
    #[test]
    fn a_record_that_points_outside_of_itself_is_none() {
        static OUTSIDE: [u8; 24] = [0, 0, 4, 0, 1, 0, 1, 0, 0, 4, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0x7a, 0, 0x38, 0, 0];
        assert!(postcard::from_bytes::<Parked>(&OUTSIDE).is_ok());
        assert!(decode_record(&OUTSIDE).is_none());
    }

    #[test]
    fn a_record_comes_back_with_its_history_and_one_of_an_earlier_program_without() {
        let change = Change::builder("7").table("t").key("k").before(&serde_json::json!({})).build().unwrap();
        let history = History { response: Some("busy".to_owned()), tried_at_ms: 9, rounds: 2, next_try_ms: 11 };
        let (cause, error) = (Cause::Failed, "503".to_owned());
        let parked =
            Parked { id: 1, action: "a".to_owned(), cause, error, attempts: 1, parked_at_ms: 3, hash: 1, change, history };
        let encoded = encode_record(&parked, Vec::new()).unwrap();
        assert_eq!(decode_record(&encoded).as_ref(), Some(&parked));
        let of_earlier = postcard::to_stdvec(&parked).unwrap();
        let without = Parked { history: History::default(), ..parked };
        assert_eq!(decode_record(&of_earlier), Some(without.clone()));
        assert_eq!(encode_record(&without, Vec::new()).unwrap(), of_earlier);
        // And an earlier program reads the new one.
        assert_eq!(postcard::from_bytes::<Parked>(&encoded).unwrap(), without);
    }
}
