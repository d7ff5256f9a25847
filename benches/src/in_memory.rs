//! Changes that are in memory already: what is left to measure is the engine, without disk and parser.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater::operators::action::BoxFuture;
use highwater::operators::change::{Change, Parts};
use highwater::operators::in_flight::InFlight;
use highwater::operators::ingest::source::PartitionName;
use highwater::operators::ingest::{Batch, Partition, Read, Reader, Source};
use highwater::operators::lookup::Loader;
use highwater::operators::row::Fields;
use highwater::operators::{Position, ResumeToken};
use highwater::{Operation, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What changes are like, here and in the plain graph.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Share of the changes that are copies of one of the last 100,000.
    pub duplicates: f64,
    /// Ids that a dedup remembers.
    pub ids: usize,
    /// Entries that a cache holds.
    pub cached: usize,
    /// Keys that nearly all changes have: they fit the cache.
    pub hot: u64,
    /// Share of the changes that have one of many other keys.
    pub cold: f64,
}

impl Default for Shape {
    /// Of two million changes 5 % are duplicates, and 90 % of the lookups hit.
    fn default() -> Self {
        Shape { duplicates: 0.05, ids: 1_000_000, cached: 100_000, hot: 50_000, cold: 0.08 }
    }
}

impl Shape {
    /// Of which earlier one the `at`-th is a copy, if it is one.
    pub fn copy_of(&self, at: u64, rng: &mut SmallRng) -> Option<u64> {
        (at > 0 && rng.random_bool(self.duplicates)).then(|| at - 1 - rng.random_range(0..at.min(100_000)))
    }

    /// The key by which a change is looked up.
    pub fn looked_up(&self, rng: &mut SmallRng) -> u64 {
        match rng.random_bool(self.cold) {
            true => self.hot + rng.random_range(0..1 << 32),
            false => rng.random_range(0..self.hot),
        }
    }
}

/// Bytes of a block of lines, as the source of files has them.
const BLOCK: usize = 256 * 1024;

/// Changes by partition, held by blocks of lines.
#[derive(Debug)]
pub struct Changes {
    partitions: Vec<Vec<Change>>,
    /// Copies among them.
    pub duplicates: u64,
    /// Where each partition's batches end, in changes.
    batches: Vec<Vec<usize>>,
}

impl Changes {
    /// Makes so many changes in so many partitions.
    pub fn make(changes: u64, partitions: usize, shape: Shape) -> Self {
        let mut made = Changes { partitions: Vec::new(), duplicates: 0, batches: Vec::new() };
        for partition in 0..partitions as u32 {
            made.make_partition(changes / partitions as u64, partition, shape);
        }
        made
    }

    fn make_partition(&mut self, changes: u64, partition: u32, shape: Shape) {
        let mut rng = SmallRng::seed_from_u64(u64::from(partition));
        let (mut made, mut batches) = (Vec::with_capacity(changes as usize), Vec::new());
        let mut lines: Vec<(u64, u64, u64)> = Vec::with_capacity(changes as usize);
        let mut block = String::with_capacity(BLOCK);
        let mut pieces: Vec<[(usize, usize); 4]> = Vec::new();
        for at in 0..changes {
            let line = match shape.copy_of(at, &mut rng) {
                Some(earlier) => {
                    self.duplicates += 1;
                    lines[earlier as usize]
                }
                None => (at, rng.random_range(0..1 << 20), shape.looked_up(&mut rng)),
            };
            lines.push(line);
            pieces.push(write_line(&mut block, partition, line));
            if block.len() > BLOCK - 1024 || at + 1 == changes {
                let held = Bytes::copy_from_slice(block.as_bytes());
                for places in pieces.drain(..) {
                    made.push(place(&held, partition, made.len() as u64, places));
                }
                batches.push(made.len());
                block.clear();
            }
        }
        self.partitions.push(made);
        self.batches.push(batches);
    }

    /// Whether these are so many, in so many partitions.
    pub fn fits(&self, changes: u64, partitions: usize) -> bool {
        self.count() == changes && self.partitions.len() == partitions
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.partitions.iter().map(|changes| changes.len() as u64).sum()
    }
}

/// Appends a line of some 290 bytes, and says where in it its id, key and rows stand.
fn write_line(block: &mut String, partition: u32, (id, key, customer): (u64, u64, u64)) -> [(usize, usize); 4] {
    let mut place = |before: &str, piece: std::fmt::Arguments<'_>| {
        block.push_str(before);
        let start = block.len();
        block.write_fmt(piece).expect("memory takes what is written");
        (start, block.len())
    };
    let customer = format!("c-{customer:010}");
    let id = place(r#"{"id":""#, format_args!("p{partition}-{id:010}"));
    let key = place(r#"","table":"orders","op":"update","ts":1700000000000,"key":""#, format_args!("o-{key:07}"));
    let before =
        place(r#"","before":"#, format_args!(r#"{{"customer_id":"{customer}","status":"new","amount":"{}.50"}}"#, id.0 % 1_000));
    let after = place(
        r#","after":"#,
        format_args!(
            r#"{{"customer_id":"{customer}","status":"paid","amount":"{}.50","note":"left at the door"}}"#,
            id.0 % 1_000
        ),
    );
    block.push_str("}\n");
    [id, key, before, after]
}

fn place(block: &Bytes, partition: u32, at: u64, places: [(usize, usize); 4]) -> Change {
    // The slice of a change begins at its line, where its id stands behind `{"id":"`, and ends behind its rows.
    let line = block.slice(places[0].0 - 7..places[3].1 + 1);
    let [id, key, before, after] = places.map(|(start, end)| std::str::from_utf8(&block[start..end]).expect("lines are text"));
    let parts = Parts {
        id,
        table: "",
        key: Some(key),
        operation: Operation::Update,
        time_ms: 1_700_000_000_000,
        before: Some(before),
        after: Some(after),
    };
    Change::new(line, Position { partition, at, within: 0 }, parts).expect("the pieces are short")
}

/// Hands changes over that are in memory: a reader only clones them, which counts up their block.
#[derive(Clone, Debug)]
pub struct InMemory(pub Arc<Changes>);

impl Source for InMemory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn place(&self) -> String {
        format!("{} changes", self.0.count())
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        Ok((0..self.0.partitions.len()).map(|number| PartitionName { name: format!("{number}"), bytes: None }).collect())
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, _window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let batch = from.map_or(0, |token| token.order) as usize;
        Ok(Box::new(Handing { changes: self.0.clone(), partition: partition.id as usize, batch }))
    }
}

struct Handing {
    changes: Arc<Changes>,
    partition: usize,
    batch: usize,
}

impl Reader for Handing {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let ends = &self.changes.batches[self.partition];
        let Some(end) = ends.get(self.batch) else { return Ok(Read::End) };
        let start = if self.batch == 0 { 0 } else { ends[self.batch - 1] };
        batch.changes.extend_from_slice(&self.changes.partitions[self.partition][start..*end]);
        self.batch += 1;
        batch.token = ResumeToken { order: self.batch as u64, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

/// Rows of any customer, at hand.
#[derive(Debug)]
pub struct Customers(Arc<[Box<str>]>);

impl Default for Customers {
    fn default() -> Self {
        Customers(["id", "tier"].map(Box::from).into())
    }
}

impl Loader for Customers {
    fn load<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Vec<Option<Fields>>>> {
        Box::pin(async { Ok(keys.iter().filter_map(|key| self.at_hand(key)).collect()) })
    }

    fn at_hand(&self, key: &str) -> Option<Option<Fields>> {
        Some(Some(Fields::named(self.0.clone(), [Some(key), Some("pro")])))
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

/// A source that has given one batch and waits for more until its time is over.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// What it gives at first.
    pub first: Arc<Changes>,
    /// How long it waits in all.
    pub until: std::time::Instant,
    /// After which time it wants to be asked again.
    pub patience: Duration,
}

impl Source for Waiting {
    fn kind(&self) -> &'static str {
        "waiting"
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        InMemory(self.first.clone()).partitions()
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let first = InMemory(self.first.clone()).open(partition, from, window)?;
        Ok(Box::new(WaitingReader { source: self.clone(), first }))
    }
}

struct WaitingReader {
    source: Waiting,
    first: Box<dyn Reader>,
}

impl Reader for WaitingReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        match self.first.read(batch)? {
            Read::End if std::time::Instant::now() < self.source.until => Ok(Read::Idle(self.source.patience)),
            other => Ok(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_say_what_their_lines_say() {
        let made = Changes::make(5_000, 2, Shape::default());
        assert_eq!(made.count(), 5_000);
        assert!((150..350).contains(&made.duplicates), "{}", made.duplicates);
        let change = &made.partitions[1][7];
        assert_eq!((change.id(), change.position().at), ("p1-0000000007", 7));
        assert!(change.became("status", "paid") && change.key().starts_with("o-"), "{change:?}");
        assert!(change.row().str("customer_id").is_some_and(|customer| customer.starts_with("c-")));
    }
}
