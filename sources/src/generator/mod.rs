//! Seeded changes, as many and as fast as one likes: for load, for trying a pipeline out, for tests.
//!
//! A change is a function of the seed, its partition and its number, and of nothing else. So every run, on any number of
//! workers, reads the same changes at the same positions, and reading resumes where it stopped.

mod zipf;

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_operators::change::{Change, Operation, Parts};
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::PartitionName;
use highwater_operators::ingest::{Batch, Partition, Read, Reader, Source};
use highwater_operators::{Error, PartitionId, Position, Result, ResumeToken};
use xxhash_rust::xxh3::xxh3_128;

use self::zipf::Zipf;

/// Bytes of one batch, about, and the most changes in it.
const BLOCK: usize = 128 * 1024;
const BATCH_MAX: u64 = 1024;
/// Largest payload.
const PAYLOAD_MAX: usize = 1 << 20;
/// How far back the original of a duplicate stands at most.
const BACK_MAX: u64 = 1000;
/// The commit time of the first change: November 2023.
const FIRST_MS: i64 = 1_700_000_000_000;
const STATUSES: [&str; 3] = ["new", "paid", "shipped"];

/// A source of seeded changes.
///
/// ```
/// use highwater_sources::Generator;
/// // A million changes of 10,000 keys, a few of them hot, one in twenty read twice; 50,000 a second.
/// let load = Generator::new(7).changes(1_000_000).keys(10_000).skew(1.1).duplicates(0.05).payload(200).rate(50_000);
/// ```
///
/// A change has the table `generated`, a key `k0`, `k1`, …, and the row
/// `{"number":17,"key":"k3","status":"new"|"paid"|"shipped","amount":…,"pad":"…"}`; it is an insert if new and else an update. A
/// duplicate says what its original says, id included, at a place of its own.
#[derive(Clone, Debug)]
pub struct Generator {
    seed: u64,
    changes: Option<u64>,
    rate: Option<u64>,
    partitions: u32,
    keys: u32,
    skew: f64,
    duplicates: f64,
    payload: usize,
}

impl Generator {
    /// Endless changes of 1,000 keys in one partition, as fast as they are taken.
    pub fn new(seed: u64) -> Self {
        Generator { seed, changes: None, rate: None, partitions: 1, keys: 1000, skew: 0.0, duplicates: 0.0, payload: 0 }
    }

    /// So many changes in all, duplicates included.
    pub fn changes(mut self, changes: u64) -> Self {
        self.changes = Some(changes);
        self
    }

    /// So many changes per second in all, whether they are taken or not: what the pipeline could not take in time comes as soon as it can, so
    /// that a slow moment is not hidden (an open loop).
    pub fn rate(mut self, per_second: u64) -> Self {
        self.rate = Some(per_second.max(1));
        self
    }

    /// Partitions, which are read side by side. Each has its share of changes and rate.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions.max(1);
        self
    }

    /// How many keys there are.
    pub fn keys(mut self, keys: u32) -> Self {
        self.keys = keys.max(1);
        self
    }

    /// How unequal keys are: the n-th most frequent comes with a weight of `1 / n^exponent` (Zipf). 0, the default: all
    /// alike; 1: as words in a text.
    pub fn skew(mut self, exponent: f64) -> Self {
        self.skew = exponent.clamp(0.0, 10.0);
        self
    }

    /// The share of changes that are copies of an earlier one, at most 1,000 back in its partition.
    pub fn duplicates(mut self, share: f64) -> Self {
        self.duplicates = share.clamp(0.0, 0.99);
        self
    }

    /// Bytes of padding in each row, at most 1 MiB.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes.min(PAYLOAD_MAX);
        self
    }

    /// Everything that decides what the changes are; how many and how fast does not.
    fn content(&self) -> String {
        let Generator { seed, changes: _, rate: _, partitions, keys, skew, duplicates, payload } = self;
        format!("{seed} {partitions} {keys} {skew} {duplicates} {payload}")
    }
}

impl Source for Generator {
    fn kind(&self) -> &'static str {
        "generator"
    }

    fn place(&self) -> String {
        let many = self.changes.map_or("endless".to_owned(), |changes| format!("{changes} changes"));
        format!("seed {}, {many}", self.seed)
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        let content = xxh3_128(self.content().as_bytes());
        Ok((0..self.partitions).map(|number| PartitionName { name: format!("{content:032x}-{number}"), bytes: None }).collect())
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let number = partition.name.rsplit('-').next().and_then(|number| number.parse().ok());
        let number: u64 = number.ok_or_else(|| Error::stop(format!("{} is no partition of a generator", partition.name)))?;
        let parts = u64::from(self.partitions);
        let share = |all: u64| all / parts + u64::from(number < all % parts);
        Ok(Box::new(GeneratorReader {
            dice: Dice(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            number,
            partition: partition.id,
            next: from.map_or(0, |token| token.order),
            end: self.changes.map_or(u64::MAX, share),
            pace: self.rate.map(|rate| Pace { since: Instant::now(), per_second: rate as f64 / parts as f64, made: 0 }),
            keys: Zipf::new(self.keys, self.skew),
            // A share of 2^32.
            duplicates: (self.duplicates * f64::from(u32::MAX)) as u32,
            payload: self.payload,
            padding: padding(self.seed, self.payload),
            window: window.clone(),
            written: Vec::new(),
        }))
    }

    fn has_global_ids(&self) -> bool {
        true
    }
}

/// Random bits by number: no state, so any change can be made without those before it.
#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    /// The bits of a number, for one of several uses.
    fn roll(self, number: u64, usage: u64) -> u64 {
        let mut bits =
            self.0.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ usage.wrapping_mul(0xd1b5_4a32_d192_ed03);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// How many changes are due: one token per `1 / per_second`, and none is ever lost.
struct Pace {
    since: Instant,
    per_second: f64,
    made: u64,
}

impl Pace {
    /// How many may be made now, or how long until the next may.
    fn due(&self) -> Result<u64, Duration> {
        let due = (self.since.elapsed().as_secs_f64() * self.per_second) as u64;
        if due > self.made {
            return Ok(due - self.made);
        }
        let next = (self.made + 1) as f64 / self.per_second;
        let wait = Duration::from_secs_f64(next).saturating_sub(self.since.elapsed());
        Err(wait.max(Duration::from_millis(1)))
    }
}

struct GeneratorReader {
    dice: Dice,
    number: u64,
    partition: PartitionId,
    next: u64,
    end: u64,
    pace: Option<Pace>,
    keys: Zipf,
    duplicates: u32,
    payload: usize,
    padding: Vec<u8>,
    window: Arc<InFlight>,
    written: Vec<Written>,
}

/// Where the pieces of a change stand in the block: id, key and row one after the other.
struct Written {
    start: usize,
    id: usize,
    key: usize,
    row: usize,
    operation: Operation,
}

impl Reader for GeneratorReader {
    fn read(&mut self, batch: &mut Batch) -> Result<Read> {
        let left = self.end.saturating_sub(self.next);
        if left == 0 {
            return Ok(Read::End);
        }
        let mut many = left.min(BATCH_MAX);
        if let Some(pace) = &mut self.pace {
            match pace.due() {
                Ok(due) => many = many.min(due),
                Err(wait) => return Ok(Read::Idle(wait)),
            }
        }
        let mut text = self.window.buffer(BLOCK);
        text.clear();
        let first = self.next;
        while self.next < first + many && text.len() < BLOCK {
            self.write(self.next, &mut text);
            self.next += 1;
        }
        if let Some(pace) = &mut self.pace {
            pace.made += self.next - first;
        }
        let length = text.len();
        let block = self.window.block(text, length);
        let text = std::str::from_utf8(&block).expect("what is written is ASCII");
        batch.changes.reserve(self.written.len());
        for (at, written) in (first..).zip(self.written.drain(..)) {
            let parts = Parts {
                id: &text[written.start..written.id],
                table: "",
                key: Some(&text[written.id..written.key]),
                operation: written.operation,
                time_ms: FIRST_MS.saturating_add_unsigned(at),
                before: None,
                after: Some(&text[written.key + TABLE.len()..written.row]),
            };
            let parts = Parts { table: &text[written.key..written.key + TABLE.len()], ..parts };
            let position = Position { partition: self.partition, at, within: 0 };
            let change = Change::new(block.slice(written.start..written.row), position, parts);
            batch.changes.push(change.map_err(Error::stop)?);
        }
        batch.bytes = length as u64;
        batch.token = ResumeToken { order: self.next, ..ResumeToken::default() };
        Ok(Read::Some)
    }
}

const TABLE: &str = "generated";

impl GeneratorReader {
    fn write(&mut self, at: u64, out: &mut Vec<u8>) {
        let original = self.original(at);
        let bits = self.dice.roll(original, 1);
        let status = (bits >> 32) as usize % STATUSES.len();
        let start = out.len();
        number(self.number, out);
        out.push(b'-');
        number(original, out);
        let id = out.len();
        out.push(b'k');
        number(u64::from(self.keys.sample(self.dice.roll(original, 2))), out);
        let key = out.len();
        out.extend_from_slice(TABLE.as_bytes());
        out.extend_from_slice(b"{\"number\":");
        number(original, out);
        out.extend_from_slice(b",\"key\":\"");
        out.extend_from_within(id..key);
        out.extend_from_slice(b"\",\"status\":\"");
        out.extend_from_slice(STATUSES[status].as_bytes());
        out.extend_from_slice(b"\",\"amount\":");
        number(bits % 100_000, out);
        if self.payload > 0 {
            out.extend_from_slice(b",\"pad\":\"");
            let from = bits as usize % (self.padding.len() - self.payload + 1);
            out.extend_from_slice(&self.padding[from..from + self.payload]);
            out.push(b'"');
        }
        out.push(b'}');
        let operation = if status == 0 { Operation::Insert } else { Operation::Update };
        self.written.push(Written { start, id, key, row: out.len(), operation });
    }

    /// The number of the change that this one is, or is a copy of.
    fn original(&self, mut at: u64) -> u64 {
        loop {
            let bits = self.dice.roll(at, 3);
            if at == 0 || bits as u32 >= self.duplicates {
                return at;
            }
            at -= 1 + (bits >> 32) % at.min(BACK_MAX);
        }
    }
}

/// Letters that paddings are cut from.
fn padding(seed: u64, payload: usize) -> Vec<u8> {
    let dice = Dice(seed);
    let many = if payload == 0 { 0 } else { payload + 4096 };
    (0..many as u64).map(|at| b'a' + (dice.roll(at, 4) % 26) as u8).collect()
}

fn number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
