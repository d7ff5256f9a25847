//! Conditions that say what they ask: ready ones, put together by [`all`], [`any`] and [`not`], each with a name made from what it
//! says, for screens and metrics.
//!
//! A condition answers in one of three ways, for a source may not tell what stood in a row before. Put together, such an answer
//! counts only where it decides: `all([table("orders"), became("status", "paid")])` asks nothing of other tables.

mod field;
mod ready;

use std::fmt;
use std::sync::Arc;

pub use self::field::{Field, Number, field};
pub use self::ready::{
    all, any, became, changed, changed_from_to, condition, is_delete, is_insert, is_read, is_update, not, operation, table,
};
use crate::change::Change;

/// What a condition says of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// It asks for the row before the change, which the source has not given.
    NoRowBefore,
}

impl From<bool> for Answer {
    fn from(holds: bool) -> Self {
        if holds { Answer::Holds } else { Answer::Fails }
    }
}

/// A condition on a change, with a name. Cheap to clone.
///
/// ```
/// use highwater_operators::Change;
/// use highwater_operators::condition::{Answer, all, became, condition, field, table};
/// let big = condition("a big one", |change| change.after().parse("amount").is_some_and(|amount: f64| amount > 1e6));
/// let paid = all([table("orders"), became("status", "paid"), field("amount").above(100), big]);
/// assert_eq!(paid.name(), "all(table(orders), became(status, paid), amount > 100, a big one)");
/// let change = Change::builder("c-1").table("orders").after(&serde_json::json!({"status": "paid", "amount": 2e6})).build()?;
/// assert_eq!(paid.ask(&change), Answer::Holds);
/// # Ok::<(), highwater_operators::Error>(())
/// ```
#[derive(Clone)]
pub struct Condition {
    name: Arc<str>,
    needs_before: bool,
    ask: Arc<dyn Fn(&Change) -> Answer + Send + Sync>,
}

impl Condition {
    fn new(name: impl Into<Arc<str>>, needs_before: bool, ask: impl Fn(&Change) -> Answer + Send + Sync + 'static) -> Self {
        Condition { name: name.into(), needs_before, ask: Arc::new(ask) }
    }

    /// A closure, which nobody has given a name.
    pub(crate) fn closure(holds: impl Fn(&Change) -> bool + Send + Sync + 'static) -> Self {
        condition("closure", holds)
    }

    /// What it says, in few words.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it asks what stood in an updated row before.
    pub fn needs_before(&self) -> bool {
        self.needs_before
    }

    /// Asks it about a change. Does not allocate, unless a closure of the user's does or a string is written with escapes.
    pub fn ask(&self, change: &Change) -> Answer {
        (self.ask)(change)
    }

    /// The sentence for a change that did not bring the row before it.
    pub(crate) fn missing(&self, change: &Change) -> String {
        let table = if change.table().is_empty() { "the table" } else { change.table() };
        format!(
            "{self} needs the row before an update, and this update has none: in Postgres, `alter table {table} replica identity \
             full`; elsewhere, a source that gives it, or a condition that asks less, as field(..).equals(..)"
        )
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Condition({})", self.name)
    }
}
