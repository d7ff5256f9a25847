//! What tells a newer document from an older one.

use highwater_operators::action::Delivery;
use highwater_operators::{Change, Operation};

use crate::template::Template;

/// What tells a newer document from an older one: a number that never falls from change to change of one key, whatever is read again.
///
/// The index keeps it with the document, and of a delete for a while, and refuses an operation with a smaller one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// The change's place in its source. Sound where places of one key grow with its changes:
    ///
    /// - a Postgres log read by replication: the place of the commit. Changes of one row within one transaction share it; of those the one that is
    ///   delivered last stays, which is the last, unless an earlier one was parked and is retried later (`.hold()` rules that out). A row
    ///   that was there, also one read anew by `resnapshot`, has the place at which it was read.
    /// - a change log in Postgres: the row's id, if the log is written after the row it tells of, in the same transaction.
    /// - one file: the place of the line; a channel or a generator: the number of the change.
    ///
    /// Places of two partitions cannot be compared: of a log that is rotated, of several files, of another server. Where changes of one table come
    /// from a second partition the pipeline stops and says so. Begin a new index when the server's log begins anew (a dump that was restored).
    #[default]
    Place,
    /// The change's time in milliseconds. Sound where the clock behind it never goes back, and times are those of commits, or of changes that are made one
    /// after the other. *Not* for a change log whose time is that of the beginning of its transaction (`now()`). Of several changes in one
    /// millisecond the one that is delivered last stays.
    Time,
    /// None: what is delivered last stays. In one run that is the last of its key; after a crash too; not when a parked change is retried after
    /// later ones of its key have passed, nor when an earlier run's last request comes late.
    None,
}

/// A version, or a template that is filled with one.
#[derive(Clone)]
pub(super) enum Versioning {
    By(Version),
    Template(Template),
}

/// A bit that no place in a log has: by it a row that was there is told from a change in the log.
const NO_LOG: u64 = 1 << 63;

impl Versioning {
    pub(super) fn uses_place(&self) -> bool {
        matches!(self, Versioning::By(Version::Place))
    }

    /// The version of a change.
    ///
    /// # Errors
    /// It has none.
    pub(super) fn of(&self, delivery: &Delivery) -> Result<Option<u64>, String> {
        match self {
            Versioning::By(Version::None) => Ok(None),
            Versioning::By(Version::Time) => match u64::try_from(delivery.time_ms()) {
                Ok(time) if time > 0 => Ok(Some(time)),
                _ => Err("the change has no time, which was to be its version".to_owned()),
            },
            Versioning::By(Version::Place) => match place(delivery.change()) {
                Some(place) => Ok(Some(place)),
                None => {
                    Err("the change's place in its source is no number that grows: say by .version_by(..) what does".to_owned())
                }
            },
            Versioning::Template(template) => {
                let text = template.fill(delivery, |value, out| out.push_str(value)).map_err(|why| format!("version: {why}"))?;
                match text.trim().parse::<i64>() {
                    Ok(version) if version >= 0 => Ok(Some(version as u64)),
                    _ => Err(format!(
                        "{:?} is no version: it is a whole number from 0 to 2^63 - 1",
                        text.get(..80).unwrap_or(&text)
                    )),
                }
            }
        }
    }
}

/// The place of a change in its source.
fn place(change: &Change) -> Option<u64> {
    let at = change.position().at;
    if at & NO_LOG == 0 {
        return Some(at);
    }
    // A row that was there is as of a place in the log, which its id begins with.
    let rest = change.id().strip_prefix("read/").filter(|_| change.operation() == Operation::Read)?;
    let (point, _) = rest.split_once('/')?;
    u64::from_str_radix(point, 16).ok().filter(|point| point & NO_LOG == 0)
}

#[cfg(test)]
mod tests {
    use highwater_operators::position::Position;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_that_was_there_is_as_old_as_its_snapshot() {
        let read = Change::builder("read/16b374e0/public.orders/7").after(&json!({})).operation(Operation::Read);
        let read = read.build().unwrap().with_position(Position { partition: 0, at: NO_LOG | 77, within: 9 });
        assert_eq!(place(&read), Some(0x16b3_74e0));
        let update = Change::builder("u").build().unwrap().with_position(Position { partition: 0, at: 0x16b3_74e8, within: 9 });
        assert_eq!(place(&update), Some(0x16b3_74e8));
        let strange = Change::builder("x").build().unwrap().with_position(Position { partition: 0, at: NO_LOG, within: 0 });
        assert_eq!(place(&strange), None);
    }

    #[test]
    fn a_version_is_a_whole_number() {
        let of = |versioning: Versioning, row: serde_json::Value| {
            versioning.of(&Delivery::alone(Change::builder("1").time_ms(7).after(&row).build().unwrap(), 1))
        };
        let by = || Versioning::Template(Template::parse("{after.rev}").unwrap());
        assert_eq!(of(by(), json!({"rev": 12})), Ok(Some(12)));
        assert_eq!(of(by(), json!({"rev": "12"})), Ok(Some(12)));
        for row in [json!({"rev": -1}), json!({"rev": 1.5}), json!({"rev": "x"}), json!({})] {
            assert!(of(by(), row).is_err());
        }
        assert_eq!(of(Versioning::By(Version::Time), json!({})), Ok(Some(7)));
        assert_eq!(of(Versioning::By(Version::None), json!({})), Ok(None));
    }
}
