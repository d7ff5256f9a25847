//! Conditions on one field of the row.

use std::cmp::Ordering;
use std::fmt::Display;

use super::{Answer, Condition};
use crate::change::Change;
use crate::row::Value;

/// Begins a condition on one field: `field("amount").above(100)`. It is read in the row after the change; of a delete, in the row
/// before it. A field that is not there fulfils nothing, nor does one that is unchanged and was not sent; `replica identity full` has
/// Postgres send it.
pub fn field(name: &str) -> Field {
    Field(name.to_owned())
}

/// A field, of which something is to be said.
#[derive(Clone, Debug)]
pub struct Field(String);

/// A number to compare a field with: every integer and every float.
pub trait Number: Display + Copy {}

macro_rules! numbers {
    ($($number:ty),*) => { $(impl Number for $number {})* };
}
numbers!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);

impl Field {
    /// Holds if the field has this value, as it is written: `5` is not `5.0`. Null is no value.
    pub fn equals(self, value: impl Display) -> Condition {
        let (field, value) = (self.0, value.to_string());
        Condition::new(format!("{field} = {value}"), false, move |change| change.row().has(&field, &value).into())
    }

    /// Holds if the field has one of these values.
    pub fn is_one_of<V: Display>(self, values: impl IntoIterator<Item = V>) -> Condition {
        let (field, values): (String, Vec<String>) = (self.0, values.into_iter().map(|value| value.to_string()).collect());
        Condition::new(format!("{field} in ({})", values.join(", ")), false, move |change| {
            let row = change.row();
            values.iter().any(|value| row.has(&field, value)).into()
        })
    }

    /// Holds if the field is there and null.
    pub fn is_null(self) -> Condition {
        let field = self.0;
        Condition::new(format!("{field} is null"), false, move |change| (change.row().get(&field) == Some(Value::Null)).into())
    }

    /// Holds if the field is a number above this one, or a text that is one, as a `numeric` of Postgres may be written.
    pub fn above(self, bound: impl Number) -> Condition {
        self.compared(">", bound, Ordering::Greater)
    }

    /// Holds if the field is a number below this one, or a text that is one.
    pub fn below(self, bound: impl Number) -> Condition {
        self.compared("<", bound, Ordering::Less)
    }

    fn compared(self, sign: &str, bound: impl Number, wanted: Ordering) -> Condition {
        let field = self.0;
        let bound = bound.to_string();
        let name = format!("{field} {sign} {bound}");
        let (whole, about) = (bound.parse::<i128>().ok(), bound.parse::<f64>().unwrap_or(f64::NAN));
        Condition::new(name, false, move |change| holds(change, &field, whole, about, wanted))
    }
}

fn holds(change: &Change, field: &str, whole: Option<i128>, about: f64, wanted: Ordering) -> Answer {
    let value = change.row().get(field);
    let text = match &value {
        Some(Value::Text(text)) => text.trim(),
        Some(Value::Other(text)) => text,
        Some(Value::Null | Value::Unchanged) | None => return Answer::Fails,
    };
    let ordering = match (text.parse::<i128>(), whole) {
        // A float would take neighbouring large integers for one.
        (Ok(value), Some(whole)) => Some(value.cmp(&whole)),
        _ => text.parse::<f64>().ok().and_then(|value| value.partial_cmp(&about)),
    };
    (ordering == Some(wanted)).into()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::change::Operation;

    fn holds(condition: &Condition, row: &str) -> bool {
        let row = &RawValue::from_string(row.to_owned()).unwrap();
        let update = Change::builder("c-1").operation(Operation::Update).after(row).build().unwrap();
        let delete = Change::builder("c-1").operation(Operation::Delete).before(row).build().unwrap();
        let answers = [update, delete].map(|change| condition.ask(&change));
        assert_eq!(answers[0], answers[1], "{condition} {row}");
        answers[0] == Answer::Holds
    }

    #[test]
    fn values_are_compared_as_they_are_written() {
        for (condition, row, expected) in [
            (field("a").equals("x"), r#"{"a":"x"}"#, true),
            (field("a").equals("x"), r#"{"a":"y"}"#, false),
            (field("a").equals("null"), r#"{"a":null}"#, false),
            (field("a").equals(5), r#"{"a":5}"#, true),
            (field("a").equals(5), r#"{"a":5.0}"#, false),
            (field("a").equals(true), r#"{"a":true}"#, true),
            (field("a").is_null(), r#"{"a":null}"#, true),
            (field("a").is_null(), r#"{"a":0}"#, false),
            (field("a").is_null(), "{}", false),
            (field("a").is_one_of(["x", "y"]), r#"{"a":"y"}"#, true),
            (field("a").is_one_of(["x", "y"]), r#"{"a":"z"}"#, false),
            (field("a").is_one_of([1, 2]), r#"{"a":2}"#, true),
        ] {
            assert_eq!(holds(&condition, row), expected, "{condition} {row}");
        }
    }

    #[test]
    fn numbers_are_compared_by_their_size() {
        for (condition, row, expected) in [
            (field("a").above(100), r#"{"a":100}"#, false),
            (field("a").above(100), r#"{"a":100.01}"#, true),
            (field("a").above(100), r#"{"a":"9"}"#, false),
            (field("a").above(100), r#"{"a":"1000.50"}"#, true),
            (field("a").above(-1.5), r#"{"a":-1}"#, true),
            (field("a").below(0), r#"{"a":-1e3}"#, true),
            (field("a").below(0), r#"{"a":null}"#, false),
            (field("a").below(0), r#"{"a":"much"}"#, false),
            (field("a").below(0), "{}", false),
            (field("a").below(f64::NAN), r#"{"a":1}"#, false),
            // One apart, and the same as floats.
            (field("a").above(9_007_199_254_740_992_i64), r#"{"a":9007199254740993}"#, true),
            (field("a").below(u64::MAX), r#"{"a":18446744073709551614}"#, true),
        ] {
            assert_eq!(holds(&condition, row), expected, "{condition} {row}");
        }
    }
}
