//! What of a table is still to be read: ranges of its key, each open at its lower end.
//!
//! A range that begins and ends with the same key is that one row: it would be empty otherwise. Such a row was read already, and is wanted again,
//! because the stream did not tell all of it.

use super::super::relation::Relation;
use super::super::token::{Key, Parts, Range};

/// Rows that are wanted again at most. Beyond it the whole table is read again, which takes longer and is as right.
const AGAIN_MAX: usize = 64;

/// The key beyond which a range is still to be read; `None`: it begins with the first.
pub(super) fn from(range: &Range) -> Option<&Key> {
    range.read_to.as_ref().or(range.above.as_ref())
}

/// The key of the only row, if the range is one.
pub(super) fn only(range: &Range) -> Option<&Key> {
    range.above.as_ref().filter(|above| Some(*above) == range.up_to.as_ref())
}

/// A range was read further, up to this key or to its end. Does nothing if the range is not as it was before: rows of it were wanted again meanwhile.
pub(super) fn advance(parts: &mut Parts, before: &Range, read_to: Option<Key>) {
    let Parts::Ranges(ranges) = parts else { return };
    let Some(at) = ranges.iter().position(|range| range == before) else { return };
    match read_to {
        Some(key) => ranges[at].read_to = Some(key),
        None => _ = ranges.remove(at),
    }
    if ranges.is_empty() {
        *parts = Parts::Done;
    }
}

/// Whether the ranges are all of the table, and nothing of them was read.
pub(super) fn is_untouched(ranges: &[Range]) -> bool {
    let begins = ranges.first().is_some_and(|first| first.above.is_none());
    let ends = ranges.last().is_some_and(|last| last.up_to.is_none());
    let joined = ranges.windows(2).all(|pair| pair[0].up_to.is_some() && pair[0].up_to == pair[1].above);
    begins && ends && joined && ranges.iter().all(|range| range.read_to.is_none() && only(range).is_none())
}

/// The row of this key is wanted again.
pub(super) fn again(parts: &mut Parts, key: Key) {
    let row = Range { above: Some(key.clone()), read_to: None, up_to: Some(key) };
    match parts {
        Parts::Done => *parts = Parts::Ranges(vec![row]),
        Parts::Ranges(ranges) if ranges.contains(&row) => {}
        Parts::Ranges(ranges) if ranges.iter().filter(|range| only(range).is_some()).count() < AGAIN_MAX => ranges.push(row),
        Parts::Ranges(ranges) => *ranges = vec![Range { above: None, read_to: None, up_to: None }],
    }
}

/// The values of a change's key in the order of these names, if they are the names of its key.
pub(super) fn in_order<'n, 'v>(
    names: impl Iterator<Item = &'n str>,
    relation: &Relation,
    key: &[&'v str],
) -> Option<Vec<&'v str>> {
    let of_change: Vec<&str> = relation.key_names().collect();
    let find = |name: &str| of_change.iter().position(|other| *other == name).and_then(|at| key.get(at).copied());
    let values = names.map(find).collect::<Option<Vec<&str>>>()?;
    (values.len() == of_change.len()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Key> {
        Some(vec![text.to_owned()])
    }

    fn two() -> Parts {
        let range = |above, up_to| Range { above, read_to: None, up_to };
        Parts::Ranges(vec![range(None, key("m")), range(key("m"), None)])
    }

    #[test]
    fn ranges_go_away_as_they_are_read() {
        let mut parts = two();
        let Parts::Ranges(ranges) = parts.clone() else { panic!("{parts:?}") };
        assert!(is_untouched(&ranges) && !is_untouched(&ranges[1..]) && !is_untouched(&ranges[..1]) && !is_untouched(&[]));
        advance(&mut parts, &ranges[1], Some(vec!["p".into()]));
        let Parts::Ranges(now) = &parts else { panic!("{parts:?}") };
        assert!(!is_untouched(now));
        assert_eq!((from(&now[0]), from(&now[1])), (None, key("p").as_ref()));
        // Read to the end from where it was before, not from where it is.
        advance(&mut parts, &ranges[1], None);
        assert_ne!(parts, Parts::Ranges(vec![ranges[0].clone()]));
        advance(&mut parts, &Range { read_to: Some(vec!["p".into()]), ..ranges[1].clone() }, None);
        assert_eq!(parts, Parts::Ranges(vec![ranges[0].clone()]));
        advance(&mut parts, &ranges[0], None);
        assert_eq!(parts, Parts::Done);
    }

    #[test]
    fn rows_are_wanted_again_one_by_one_and_then_all() {
        let mut parts = Parts::Done;
        again(&mut parts, vec!["a".into()]);
        again(&mut parts, vec!["a".into()]);
        let Parts::Ranges(ranges) = &parts else { panic!("{parts:?}") };
        assert_eq!((ranges.len(), only(&ranges[0])), (1, key("a").as_ref()));
        (0..AGAIN_MAX).for_each(|n| again(&mut parts, vec![n.to_string()]));
        let Parts::Ranges(ranges) = &parts else { panic!("{parts:?}") };
        assert!(is_untouched(ranges), "{ranges:?}");
    }
}
