//! A seeded input: several partitions in memory, which readers deliver in batches of seeded sizes.

use std::sync::Arc;
use std::time::Duration;

use highwater::operators::change::{Change, Parts};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, Partition, Read, Reader, Rejected, Source};
use highwater::operators::{Position, ResumeToken};
use highwater::{Operation, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What calls come to for a change. It stands in the change's row, so that actions need no other knowledge.
pub const FATES: [&str; 5] = ["good", "flaky", "poison", "panic", "unwritable"];

/// Customers that a lookup knows; the input names some more.
pub const CUSTOMERS: u32 = 6;

/// One thing to read.
#[derive(Clone, Debug)]
pub struct Item {
    pub id: String,
    pub key: String,
    pub operation: Operation,
    pub time_ms: i64,
    pub customer: Option<String>,
    pub fate: &'static str,
    pub keep: bool,
    /// No change at all: a line that cannot be read.
    pub broken: bool,
}

impl Item {
    /// A change that everything succeeds for.
    pub fn good(id: impl Into<String>, key: impl Into<String>) -> Self {
        Item {
            id: id.into(),
            key: key.into(),
            operation: Operation::Insert,
            time_ms: 0,
            customer: None,
            fate: "good",
            keep: true,
            broken: false,
        }
    }

    /// The same with another fate.
    pub fn fate(mut self, fate: &'static str) -> Self {
        self.fate = fate;
        self
    }

    fn row(&self) -> String {
        let customer = self.customer.as_ref().map_or("null".to_owned(), |customer| format!("\"{customer}\""));
        format!(r#"{{"customer":{customer},"fate":"{}","keep":"{}"}}"#, self.fate, self.keep)
    }

    fn change(&self, position: Position) -> Change {
        let row = self.row();
        let (before, after) = match self.operation {
            Operation::Delete => (Some(row.as_str()), None),
            Operation::Update => (Some("{}"), Some(row.as_str())),
            _ => (None, Some(row.as_str())),
        };
        let (operation, time_ms) = (self.operation, self.time_ms);
        let parts = Parts { id: &self.id, table: "things", key: Some(&self.key), operation, time_ms, before, after };
        Change::new(Default::default(), position, parts).expect("the pieces are short")
    }
}

/// What there is to read, by partition.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub partitions: Vec<Vec<Item>>,
    /// Whether there may always be more: its readers rest at the end, and do not end.
    pub follows: bool,
}

/// How a seeded input is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub partitions: usize,
    pub items: usize,
    pub keys: u32,
    /// Whether there are changes that fail, panic or cannot be read.
    pub trouble: bool,
}

/// Time between two changes of a partition.
pub const STEP_MS: i64 = 10;

impl Input {
    /// The input of a seed.
    pub fn seeded(seed: u64, shape: Shape) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let partitions = (0..shape.partitions).map(|partition| Self::partition(partition, &mut rng, shape)).collect();
        Input { partitions, follows: false }
    }

    /// One partition of these items.
    pub fn of(items: impl IntoIterator<Item = Item>) -> Self {
        Input { partitions: vec![items.into_iter().collect()], follows: false }
    }

    fn partition(partition: usize, rng: &mut StdRng, shape: Shape) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for at in 0..shape.items {
            let time_ms = at as i64 * STEP_MS;
            // A copy of an earlier change: recent ones more often, so that windows matter.
            if !items.is_empty() && rng.random_bool(0.15) {
                let back = rng.random_range(1..=items.len().min(30));
                let copy = &items[items.len() - back];
                if !copy.broken {
                    items.push(Item { time_ms, ..copy.clone() });
                    continue;
                }
            }
            let fate = match rng.random_range(0..40) {
                0 if shape.trouble => "poison",
                1 if shape.trouble => "panic",
                2 if shape.trouble => "unwritable",
                3..8 => "flaky",
                _ => "good",
            };
            let operation = [Operation::Insert, Operation::Update, Operation::Delete][rng.random_range(0..3)];
            items.push(Item {
                // Ids of one partition mean nothing in another: the same ones stand there.
                id: format!("c{at}"),
                key: format!("k{partition}-{}", rng.random_range(0..shape.keys)),
                operation,
                time_ms,
                customer: rng.random_bool(0.9).then(|| format!("u{}", rng.random_range(0..CUSTOMERS + 2))),
                fate,
                keep: rng.random_bool(0.8),
                broken: shape.trouble && rng.random_bool(0.03),
            });
        }
        items
    }
}

/// The input as a source.
#[derive(Clone)]
pub struct Script {
    pub input: Arc<Input>,
    pub seed: u64,
}

impl Source for Script {
    fn kind(&self) -> &'static str {
        "script"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok((0..self.input.partitions.len()).map(|n| PartitionName { name: format!("part-{n}"), bytes: None }).collect())
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, _window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let number: usize = partition.name.strip_prefix("part-").and_then(|number| number.parse().ok()).expect("named above");
        Ok(Box::new(ScriptReader {
            input: self.input.clone(),
            number,
            id: partition.id,
            next: from.map_or(0, |token| token.order as usize),
            rng: StdRng::seed_from_u64(self.seed ^ number as u64),
        }))
    }
}

struct ScriptReader {
    input: Arc<Input>,
    number: usize,
    id: u32,
    next: usize,
    rng: StdRng,
}

impl Reader for ScriptReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let items = &self.input.partitions[self.number];
        if self.next >= items.len() {
            return Ok(if self.input.follows { Read::Idle(Duration::from_millis(5)) } else { Read::End });
        }
        let end = items.len().min(self.next + self.rng.random_range(1..=6));
        for (at, item) in (self.next..).zip(&items[self.next..end]) {
            let position = Position { partition: self.id, at: at as u64, within: 0 };
            if item.broken {
                batch.rejected.push(Rejected { position, why: "broken".to_owned(), text: item.id.clone() });
            } else {
                batch.changes.push(item.change(position));
            }
        }
        self.next = end;
        batch.token = ResumeToken { order: end as u64, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}
