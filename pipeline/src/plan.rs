//! The plan: the shape of a pipeline, recorded before anything runs, with everything that is wrong with it.
//!
//! The user's closure is called once to make the plan, and once per worker to build the dataflow. The objects that must be
//! one per process (sources, lookups, actions) are those of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use highwater_operators::action::ActionSpec;
use highwater_operators::dedup::Dedup;
use highwater_operators::ingest::Source;
use highwater_operators::lookup::Lookup;

use crate::flow::Checkpoint;

/// What a node of the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Where changes come from.
    Source,
    /// Drops duplicates.
    Dedup,
    /// Attaches rows.
    Lookup,
    /// Keeps the rows of a table.
    Table,
    /// Lets some pass.
    Filter,
    /// Changes leave to operators of the user's own.
    Leave,
    /// Changes come from operators of the user's own.
    ComeIn,
    /// Does something.
    Action,
    /// Makes the mark.
    Checkpoint,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::Dedup => "dedup",
            Kind::Lookup => "lookup",
            Kind::Table => "table",
            Kind::Filter => "filter",
            Kind::Leave => "stream out",
            Kind::ComeIn => "stream in",
            Kind::Action => "action",
            Kind::Checkpoint => "checkpoint",
        }
    }
}

/// One step of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Its name, unique among its kind.
    pub name: String,
    /// What there is to say of it.
    pub detail: String,
    /// The nodes it takes from.
    pub inputs: Vec<usize>,
}

/// The shape of a pipeline.
#[derive(Clone, Default)]
pub struct Plan {
    /// The steps, each after those it takes from.
    pub nodes: Vec<Node>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    pub(crate) sources: BTreeMap<String, Arc<dyn Source>>,
    pub(crate) dedups: BTreeMap<String, Dedup>,
    pub(crate) lookups: BTreeMap<String, Lookup>,
    pub(crate) actions: BTreeMap<String, Arc<ActionSpec>>,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// By source, the tables that are kept from its changes.
    pub(crate) tables: BTreeMap<String, BTreeSet<String>>,
}

impl Plan {
    /// Adds a step and returns its number.
    pub(crate) fn add(&mut self, kind: Kind, name: String, detail: String, inputs: Vec<usize>) -> usize {
        self.nodes.push(Node { kind, name, detail, inputs });
        self.nodes.len() - 1
    }

    /// A name for the next step of a kind: the word itself, or with a number from the second one on.
    pub(crate) fn next_name(&self, kind: Kind, word: &str) -> String {
        let taken = |name: &str| self.nodes.iter().any(|node| node.kind == kind && node.name == name);
        match taken(word) {
            false => word.to_owned(),
            true => (2..).map(|n| format!("{word}-{n}")).find(|name| !taken(name)).expect("numbers do not end"),
        }
    }

    /// How many ends a change can reach from a step: actions, and streams of the user's own. So many units of the window it
    /// takes.
    pub fn fan(&self, node: usize) -> u64 {
        let reached = self.downstream(node);
        reached.iter().filter(|node| matches!(self.nodes[**node].kind, Kind::Action | Kind::Leave)).count() as u64
    }

    fn downstream(&self, node: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::from([node]);
        // Nodes come after what they take from, so one pass finds all.
        for (index, candidate) in self.nodes.iter().enumerate() {
            // What goes into a table does not come out as a change.
            let inputs = candidate.inputs.iter().filter(|input| self.nodes[**input].kind != Kind::Table);
            if inputs.into_iter().any(|input| reached.contains(input)) {
                reached.insert(index);
            }
        }
        reached
    }

    /// What is called when something is parked, each with the name of its action.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = (&str, &Arc<ActionSpec>)> {
        self.actions.iter().filter_map(|(name, action)| Some((name.as_str(), action.hook()?)))
    }

    /// All actions, hooks among them: whatever can have parked records.
    pub(crate) fn actions_and_hooks(&self) -> impl Iterator<Item = (&str, &Arc<ActionSpec>)> {
        let actions = self.actions.iter().map(|(name, action)| (name.as_str(), action));
        actions.chain(self.hooks().map(|(_, hook)| (hook.name(), hook)))
    }

    /// Whether there is such an action, or hook.
    pub(crate) fn has_action(&self, name: &str) -> bool {
        self.actions.contains_key(name) || self.hooks().any(|(_, hook)| hook.name() == name)
    }

    /// Looks for what was forgotten or doubled.
    pub(crate) fn check(&mut self) {
        let mut problems = Vec::new();
        let of = |kind: Kind| self.nodes.iter().enumerate().filter(move |(_, node)| node.kind == kind);
        if of(Kind::Source).count() == 0 && of(Kind::ComeIn).count() == 0 {
            problems.push("there is no source; begin with flow.source(..)".to_owned());
        }
        let checkpoints = of(Kind::Checkpoint).count();
        if checkpoints > 1 {
            problems.push(format!("there are {checkpoints} checkpoints; join the fan-outs with .and(..) and end with one"));
        }
        let reaches = |from: usize, kind| self.downstream(from).iter().any(|node| self.nodes[*node].kind == kind);
        for (index, node) in of(Kind::Source).chain(of(Kind::ComeIn)) {
            if reaches(index, Kind::Leave) {
                continue;
            }
            let place = if node.detail.is_empty() { String::new() } else { format!(" ({})", node.detail) };
            let what = format!("{} \"{}\"{place}", node.kind.word(), node.name);
            if !reaches(index, Kind::Action) {
                problems.push(format!("{what} reaches no action; add .fan_out([..])"));
            } else if checkpoints == 0 {
                problems.push(format!("{what} reaches no checkpoint; end its fan-out with .checkpoint(Checkpoint::every(..))"));
            }
        }
        if checkpoints == 0 && problems.is_empty() {
            problems.push("there is no checkpoint; end a fan-out with .checkpoint(Checkpoint::every(..))".to_owned());
        }
        for (_, node) in of(Kind::Action).filter(|(index, _)| checkpoints > 0 && !reaches(*index, Kind::Checkpoint)) {
            problems.push(format!("action \"{}\" reaches no checkpoint; join its fan-out to the other with .and(..)", node.name));
        }
        let mut names = BTreeSet::new();
        for (_, node) in of(Kind::Action) {
            if node.name.trim().is_empty() {
                problems.push("an action has an empty name; its outcomes go by its name".to_owned());
            } else if !names.insert(node.name.as_str()) {
                problems.push(format!("two actions are named \"{}\"; names must be unique, outcomes go by them", node.name));
            }
        }
        for (name, hook) in self.hooks() {
            if hook.name().trim().is_empty() {
                problems.push(format!("action \"{name}\": its hook has an empty name; its outcomes go by its name"));
            } else if !names.insert(hook.name()) {
                problems.push(format!(
                    "action \"{name}\": its hook \"{}\" has the name of another action or hook; names must be unique, outcomes go by \
                     them",
                    hook.name()
                ));
            }
        }
        let mut names = BTreeSet::new();
        for (_, node) in of(Kind::Lookup) {
            if !names.insert(node.name.as_str()) {
                problems.push(format!("two lookups are named \"{}\"; give each a name of its own", node.name));
            }
        }
        for (name, lookup) in &self.lookups {
            if lookup.origin().is_none() {
                problems.push(format!("lookup \"{name}\" has no origin; say where its rows come from with .from(..)"));
            }
        }
        for (name, lookup) in &self.lookups {
            problems.extend(lookup.problems().into_iter().map(|problem| format!("lookup \"{name}\": {problem}")));
        }
        for (name, dedup) in &self.dedups {
            problems.extend(dedup.problems().into_iter().map(|problem| format!("dedup \"{name}\": {problem}")));
        }
        let lookups: Vec<&str> = of(Kind::Lookup).map(|(_, node)| node.name.as_str()).collect();
        for (name, action) in &self.actions {
            problems.extend(action.problems(&lookups).into_iter().map(|problem| format!("action \"{name}\": {problem}")));
        }
        self.check_conditions(&mut problems);
        self.problems.extend(problems);
    }

    /// A condition that needs what no source gives would have every update parked.
    fn check_conditions(&self, problems: &mut Vec<String>) {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.kind == Kind::Source) {
            if self.sources.get(&node.name).is_none_or(|source| source.gives_rows_before()) {
                continue;
            }
            for reached in self.downstream(index).into_iter().map(|node| &self.nodes[node]) {
                let condition = self.actions.get(&reached.name).filter(|_| reached.kind == Kind::Action);
                if let Some(condition) = condition.and_then(|spec| spec.condition()).filter(|condition| condition.needs_before())
                {
                    problems.push(format!(
                        "action \"{}\" acts on {condition}, which needs the row before an update, and source \"{}\" ({}) gives none: \
                         say which column holds it with .before(..), or ask less, as field(..).equals(..)",
                        reached.name, node.name, node.detail
                    ));
                }
            }
        }
    }

    /// The plan as lines of text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let from: Vec<String> = node.inputs.iter().map(|input| self.nodes[*input].title()).collect();
            let from = if from.is_empty() { String::new() } else { format!("  <- {}", from.join(", ")) };
            let detail = if node.detail.is_empty() { String::new() } else { format!("  ({})", node.detail) };
            let _ = writeln!(text, "{:>2}  {}{detail}{from}", index + 1, node.title());
        }
        text
    }

    /// The plan in the language of Graphviz.
    pub fn dot(&self) -> String {
        let mut dot = String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
        for (index, node) in self.nodes.iter().enumerate() {
            let label = format!("{}\n{}", node.title(), node.detail);
            let _ = writeln!(dot, "  n{index} [label={label:?}];");
            for input in &node.inputs {
                let _ = writeln!(dot, "  n{input} -> n{index};");
            }
        }
        dot.push_str("}\n");
        dot
    }
}

impl Node {
    fn title(&self) -> String {
        let word = self.kind.word();
        // The usual name of a stream is in its word already.
        match word == self.name || word.starts_with(&format!("{} ", self.name)) {
            true => word.to_owned(),
            false => format!("{word} {}", self.name),
        }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}
