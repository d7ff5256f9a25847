//! What `orders --report json` says in its last line.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The report of one run. What a report leaves out reads as 0: what matters is asked for by [`Report::unbalanced`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Changes read.
    pub read: u64,
    /// Changes dropped as repeats of another.
    pub duplicate: u64,
    /// Lines that are no changes.
    pub rejected: u64,
    /// The books of each action.
    pub actions: BTreeMap<String, ActionBooks>,
    /// Changes that this run read although an earlier one had read them.
    pub replayed: u64,
    /// The most that any run replayed.
    pub replayed_max: u64,
    /// Checkpoints saved.
    pub saves: u64,
    /// How long the run took.
    pub seconds: f64,
    /// Changes read in a second.
    pub events_per_second: f64,
    /// The lookup's cache.
    pub cache: CacheCounts,
    /// Where an earlier run had stopped, if this one resumed it.
    pub resumed_from: Option<Value>,
    /// From the start of the process to its first new change, if the report tells.
    pub first_new_seconds: Option<f64>,
}

/// What became of the changes for one action.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ActionBooks {
    /// Done.
    pub delivered: u64,
    /// Not wanted.
    pub filtered: u64,
    /// Set aside.
    pub parked: u64,
}

/// How often the cache knew the answer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CacheCounts {
    /// It did.
    pub hits: u64,
    /// It did not.
    pub misses: u64,
}

impl Report {
    /// The report in what the program printed: its last line that is not empty.
    ///
    /// # Errors
    ///
    /// A sentence, if that line is no report.
    pub fn parse(stdout: &str) -> Result<Self, String> {
        let line = stdout.lines().rev().find(|line| !line.trim().is_empty()).ok_or("the program printed nothing")?;
        let report: Report =
            serde_json::from_str(line).map_err(|error| format!("the last line is no report ({error}): {line}"))?;
        // Every field has a default, so that an object of any kind would do; one without actions is not ours.
        if report.actions.is_empty() { Err(format!("the report names no action: {line}")) } else { Ok(report) }
    }

    /// The actions whose books do not balance, a sentence each.
    pub fn unbalanced(&self) -> Vec<String> {
        let Report { read, duplicate, rejected, actions, .. } = self;
        let check = |(name, books): (&String, &ActionBooks)| {
            let ActionBooks { delivered, filtered, parked } = books;
            (*read != duplicate + rejected + filtered + delivered + parked).then(|| {
                format!("{name}: read {read}, but duplicate {duplicate} + rejected {rejected} + filtered {filtered} + delivered {delivered} + parked {parked}")
            })
        };
        actions.iter().filter_map(check).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_report() {
        let printed = "done\n{\"read\":10,\"duplicate\":1,\"actions\":{\"all\":{\"delivered\":9}},\"replayed\":3}\n\n";
        let report = Report::parse(printed).unwrap();
        assert_eq!((report.read, report.actions["all"].delivered, report.replayed), (10, 9, 3));
        assert!(Report::parse("").is_err() && Report::parse("done").is_err() && Report::parse("{}").is_err());
    }

    #[test]
    fn books_that_do_not_balance_are_named() {
        let report = r#"{"read":10,"duplicate":1,"rejected":2,"actions":{"all":{"delivered":7},"paid":{"delivered":2,"filtered":3,"parked":1}}}"#;
        let unbalanced = Report::parse(report).unwrap().unbalanced();
        assert!(unbalanced.len() == 1 && unbalanced[0].starts_with("paid"), "{unbalanced:?}");
    }
}
