//! What must come of an input, found out one change at a time, with none of the pipeline's code.

use std::collections::{BTreeMap, BTreeSet};

use super::input::{CUSTOMERS, Input, Item};
use super::record::Place;

/// What becomes of every item.
#[derive(Debug, Default)]
pub struct Expected {
    pub read: u64,
    pub duplicate: u64,
    pub rejected: BTreeSet<Place>,
    /// Changes that pass dedup, in order within a partition.
    pub distinct: BTreeMap<Place, Item>,
}

/// What becomes of the changes at one action.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    pub delivered: BTreeSet<Place>,
    pub filtered: BTreeSet<Place>,
    pub parked: BTreeSet<Place>,
}

/// Runs through an input. A copy within the window of an id that passed is a duplicate.
pub fn expect(input: &Input, window_ms: Option<i64>) -> Expected {
    let mut expected = Expected::default();
    for (partition, items) in (0..).zip(&input.partitions) {
        let mut passed: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
        for (at, item) in (0..).zip(items) {
            expected.read += 1;
            if item.broken {
                expected.rejected.insert((partition, at));
                continue;
            }
            let times = passed.entry((&item.key, &item.id)).or_default();
            if times.iter().any(|time| window_ms.is_none_or(|window| (item.time_ms - time).abs() <= window)) {
                expected.duplicate += 1;
                continue;
            }
            times.push(item.time_ms);
            expected.distinct.insert((partition, at), item.clone());
        }
    }
    expected
}

impl Expected {
    /// The outcomes of an action that takes what `when` holds for and parks these fates.
    pub fn outcomes(&self, when: impl Fn(&Item) -> bool, parks: &[&str]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (place, item) in &self.distinct {
            let set = match (when(item), parks.contains(&item.fate)) {
                (false, _) => &mut outcomes.filtered,
                (true, true) => &mut outcomes.parked,
                (true, false) => &mut outcomes.delivered,
            };
            set.insert(*place);
        }
        outcomes
    }
}

/// What the lookup must attach.
pub fn tier(item: &Item) -> Option<String> {
    let customer = item.customer.as_ref()?;
    let number: u32 = customer.strip_prefix('u')?.parse().ok()?;
    (number < CUSTOMERS).then(|| format!("tier-{customer}"))
}
