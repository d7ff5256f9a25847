//! What settings say of the parts of a pipeline: it takes the place of what the pipeline's code says.

use std::sync::Arc;
use std::time::Duration;

use highwater_operators::Error;
use highwater_operators::action::NamedAction;
use highwater_operators::dedup::Dedup;
use highwater_operators::lookup::Lookup;

use super::resolve::{Part, Said};
use super::{Origin, PartKind, Value, nearest, setting};
use crate::plan::{Kind, Plan};

/// Settings of parts, in the order in which they count.
#[derive(Clone, Debug, Default)]
pub struct Tuning(Arc<Vec<Said>>);

impl Tuning {
    pub(crate) fn new(said: &[Said]) -> Self {
        let of_parts = |said: &&Said| setting(said.name).is_some_and(|setting| setting.part.is_some());
        Tuning(Arc::new(said.iter().filter(of_parts).cloned().collect()))
    }

    /// With one more: `timeout=10s` for all actions, `action.receipt.timeout=10s` for one.
    ///
    /// # Errors
    /// If there is no such setting, or the value is not allowed.
    ///
    /// ```
    /// use highwater::config::tuning::Tuning;
    /// let tuning = Tuning::default().set("action.receipt.timeout=10s").unwrap();
    /// assert!(tuning.set("action.receipt.timeuot=10s").unwrap_err().to_string().contains("did you mean \"timeout\""));
    /// ```
    pub fn set(mut self, assignment: &str) -> highwater_operators::Result<Self> {
        let said = Said::parse_assignment(assignment, Origin::Flag("set".to_owned())).map_err(Error::stop)?;
        if setting(said.name).is_none_or(|setting| setting.part.is_none()) {
            return Err(Error::stop(format!("{} is no setting of a part of a pipeline", said.name)));
        }
        let all = Arc::make_mut(&mut self.0);
        all.push(said);
        all.sort_by_key(|said| (said.origin.rank(), said.part.is_some()));
        Ok(self)
    }

    /// Everything said of a part, in the order in which it counts.
    pub(crate) fn of_part<'t>(&'t self, kind: PartKind, name: &str) -> impl Iterator<Item = &'t Said> {
        let of_kind = move |said: &&Said| setting(said.name).and_then(|setting| setting.part).is_some_and(|part| part.0 == kind);
        self.0.iter().filter(of_kind).filter(move |said| said.part.as_ref().is_none_or(|(_, part)| part == name))
    }

    pub(crate) fn action(&self, mut action: NamedAction) -> NamedAction {
        let name = action.name().to_owned();
        for said in self.of_part(PartKind::Action, &name) {
            action = match (said.name, &said.value) {
                ("max_parallelism", Value::Whole(n)) => action.max_parallelism(*n as usize),
                ("timeout", Value::Time(Some(time))) => action.timeout(*time),
                ("attempts", Value::Whole(n)) => action.attempts(*n as u32),
                ("hold_budget", Value::Time(Some(time))) => action.hold_budget(*time),
                ("batch_max", Value::Whole(n)) => action.batch_max(*n as usize),
                ("allow_private", Value::Switch(allow)) => action.allow_private(*allow),
                (name, value) => unreachable!("{name} = {value} is no setting of an action"),
            };
        }
        action
    }

    pub(crate) fn lookup(&self, name: &str, mut lookup: Lookup) -> Lookup {
        for said in self.of_part(PartKind::Lookup, name) {
            let bounds = lookup.bounds();
            lookup = match (said.name, &said.value) {
                ("cache_size", Value::Whole(n)) => lookup.cache_size(*n as usize),
                ("cache_ttl", Value::Time(ttl)) => lookup.cache_ttl(*ttl),
                ("lookup_attempts", Value::Whole(n)) => lookup.attempts(*n as u32),
                ("lookup_batch_max", Value::Whole(n)) => lookup.batch(*n as usize, bounds.batch_window),
                ("lookup_batch_window", Value::Time(window)) => lookup.batch(bounds.batch_max, window.unwrap_or(Duration::ZERO)),
                (name, value) => unreachable!("{name} = {value} is no setting of a lookup"),
            };
        }
        lookup
    }

    pub(crate) fn dedup(&self, name: &str, mut dedup: Dedup) -> Dedup {
        for said in self.of_part(PartKind::Dedup, name) {
            dedup = match (said.name, &said.value) {
                ("dedup_window", Value::Time(window)) => dedup.with_window(*window),
                ("dedup_entries", Value::Whole(n)) => dedup.at_most(*n as usize),
                (name, value) => unreachable!("{name} = {value} is no setting of a dedup"),
            };
        }
        dedup
    }

    /// What is said of parts that the pipeline does not have, a sentence each.
    pub(crate) fn strangers(&self, plan: &Plan) -> Vec<String> {
        let mut told: Vec<&Part> = Vec::new();
        let mut problems = Vec::new();
        for said in self.0.iter() {
            let Some(part) = said.part.as_ref().filter(|part| !told.contains(part)) else { continue };
            let (kind, name) = part;
            let of = match kind {
                PartKind::Action => Kind::Action,
                PartKind::Lookup => Kind::Lookup,
                PartKind::Dedup => Kind::Dedup,
            };
            let there: Vec<&str> = plan.nodes.iter().filter(|node| node.kind == of).map(|node| node.name.as_str()).collect();
            if there.contains(&name.as_str()) {
                continue;
            }
            told.push(part);
            let hint = match (nearest(name, there.iter().copied()), there.as_slice()) {
                (Some(near), _) => format!("did you mean \"{near}\"?"),
                (None, []) => "it has none".to_owned(),
                (None, there) => format!("it has: {}", there.join(", ")),
            };
            problems.push(format!("{}: the pipeline has no {} \"{name}\"; {hint}", said.origin, kind.word()));
        }
        problems
    }
}
