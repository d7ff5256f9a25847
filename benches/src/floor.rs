//! The floor: the main example's job in a bare loop of two threads.
//!
//! It reads, parses, keeps a set and a map and writes the same files as the pipeline, with no dataflow, no checkpoint,
//! no order to defend and no fsync: what it loses in a crash it has lost. Nothing that does more can be expected to be
//! faster, so the pipeline's speed is told as a share of this one's, measured in the same minute.
//!
//! It is built to be fast, not to be beaten: blocks of 1 MiB that go back and forth between the threads, lines parsed in
//! place, ids kept as 64-bit hashes, one walk over a row, rows spliced into the output without being taken apart.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use hashbrown::{HashMap, HashSet};
use memchr::{memchr_iter, memrchr};
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;
/// Blocks on their way at a time.
const BLOCKS_MAX: usize = 4;
/// Ids kept, the oldest forgotten first: as many as the pipeline keeps.
const IDS_MAX: usize = 1_000_000;

/// What the loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    /// Lines read.
    pub read: u64,
    /// Lines that repeated an id.
    pub duplicate: u64,
    /// Lines written to `paid`.
    pub paid: u64,
    /// From the opening of the input to the last byte written.
    pub seconds: f64,
}

/// Reads `input` and `customers`, writes `out/all/floor.jsonl` and `out/paid/floor.jsonl`.
///
/// # Errors
///
/// What the file system answers; a line or a row that cannot be parsed.
pub fn run(input: &Path, customers: &Path, out: &Path) -> io::Result<Done> {
    let started = Instant::now();
    let (full_sender, full) = bounded(BLOCKS_MAX);
    let (empty_sender, empty) = bounded(BLOCKS_MAX);
    for _ in 0..BLOCKS_MAX {
        empty_sender.send(Batch::default()).map_err(io::Error::other)?;
    }
    let done = thread::scope(|scope| {
        let reader = scope.spawn(|| read(input, &empty, full_sender));
        let done = write(customers, out, &full, &empty_sender);
        // If the writer gave up, the reader must not wait for blocks that never come back.
        drop((full, empty_sender));
        // The reader's error comes first: without it the writer would not have ended early.
        reader.join().map_err(|_| io::Error::other("the reading thread panicked"))??;
        done
    })?;
    Ok(Done { seconds: started.elapsed().as_secs_f64(), ..done })
}

/// A block of whole lines and where in it things stand.
#[derive(Default)]
struct Batch {
    block: Vec<u8>,
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
struct Line {
    id: Span,
    op: Span,
    key: Span,
    before: Span,
    after: Span,
}

#[derive(Clone, Copy)]
struct Span(u32, u32);

impl Span {
    /// Where `part` stands in `whole`, of which it is a slice.
    fn of(part: &str, whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Span(start as u32, (start + part.len()) as u32)
    }

    fn in_block(self, block: &[u8]) -> &[u8] {
        &block[self.0 as usize..self.1 as usize]
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: &'a str,
    op: &'a str,
    key: &'a str,
    #[serde(borrow)]
    before: &'a RawValue,
    #[serde(borrow)]
    after: &'a RawValue,
}

/// The first thread: blocks of whole lines, parsed.
fn read(input: &Path, empty: &Receiver<Batch>, full: Sender<Batch>) -> io::Result<()> {
    let mut file = File::open(input)?;
    let mut rest = Vec::new();
    // The channels are closed only when the writer has failed; its error is the one to tell.
    while let Ok(mut batch) = empty.recv() {
        batch.lines.clear();
        // What a block held before is written over, not cleared: a MiB of zeros would cost as much as reading it.
        let block = &mut batch.block;
        block.resize(rest.len() + BLOCK, 0);
        block[..rest.len()].copy_from_slice(&rest);
        let filled = rest.len() + fill(&mut file, &mut block[rest.len()..])?;
        let ended = filled < block.len();
        let whole = if ended { filled } else { memrchr(b'\n', block).map_or(0, |last| last + 1) };
        rest.clear();
        rest.extend_from_slice(&block[whole..filled]);
        block.truncate(whole);
        parse(&batch.block, &mut batch.lines)?;
        if full.send(batch).is_err() || ended {
            break;
        }
    }
    Ok(())
}

/// Reads until `space` is full or the file ends.
fn fill(file: &mut File, space: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < space.len() {
        match file.read(&mut space[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn parse(block: &[u8], lines: &mut Vec<Line>) -> io::Result<()> {
    let mut start = 0;
    for end in memchr_iter(b'\n', block).chain([block.len()]) {
        let line = &block[start..end];
        start = end + 1;
        if line.is_empty() {
            continue;
        }
        let envelope: Envelope<'_> = serde_json::from_slice(line)?;
        let [id, op, key] = [envelope.id, envelope.op, envelope.key].map(|part| Span::of(part, block));
        let [before, after] = [envelope.before.get(), envelope.after.get()].map(|part| Span::of(part, block));
        lines.push(Line { id, op, key, before, after });
    }
    Ok(())
}

/// What is wanted of a row, taken out in one walk.
#[derive(Default, Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    customer_id: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
}

/// A string that is copied only if it has escapes. (serde copies every `Option<Cow<str>>`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Row<'_> {
    fn is_paid(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.0 == "paid")
    }
}

/// A customer, as JSON text ready to be written.
#[derive(Clone)]
struct Customer {
    name: String,
    tier: String,
}

impl Customer {
    fn new(name: &str, tier: &str) -> io::Result<Self> {
        Ok(Customer { name: serde_json::to_string(name)?, tier: serde_json::to_string(tier)? })
    }
}

fn read_customers(path: &Path) -> io::Result<HashMap<String, Customer>> {
    #[derive(Deserialize)]
    struct Record {
        id: String,
        name: String,
        tier: String,
    }
    let mut customers = HashMap::new();
    for record in csv::Reader::from_path(path)?.deserialize() {
        let Record { id, name, tier } = record?;
        customers.insert(id, Customer::new(&name, &tier)?);
    }
    Ok(customers)
}

/// The second thread: what is new is looked up and written.
fn write(customers: &Path, out: &Path, full: &Receiver<Batch>, empty: &Sender<Batch>) -> io::Result<Done> {
    let customers = read_customers(customers)?;
    let nobody = Customer::new("", "")?;
    let mut ids = Ids::default();
    let mut all = create(&out.join("all"))?;
    let mut paid = create(&out.join("paid"))?;
    let mut done = Done::default();
    for batch in full {
        let block = &batch.block[..];
        for line in &batch.lines {
            done.read += 1;
            let [id, op, key] = [line.id, line.op, line.key].map(|span| span.in_block(block));
            if !ids.insert(xxh3_64(id)) {
                done.duplicate += 1;
                continue;
            }
            let [before, after] = [line.before, line.after].map(|span| span.in_block(block));
            let deleted = after == b"null";
            let row: Row<'_> = serde_json::from_slice(if deleted { before } else { after })?;
            let customer = row.customer_id.as_ref().and_then(|id| customers.get(&*id.0)).unwrap_or(&nobody);

            all.write_all(br#"{"id":""#)?;
            all.write_all(id)?;
            all.write_all(br#"","key":""#)?;
            all.write_all(key)?;
            all.write_all(br#"","op":""#)?;
            all.write_all(op)?;
            all.write_all(br#"","tier":"#)?;
            all.write_all(customer.tier.as_bytes())?;
            all.write_all(b"}\n")?;

            // The before row is looked at only where it can make a difference.
            if !deleted && row.is_paid() && !was_paid(before)? {
                done.paid += 1;
                paid.write_all(br#"{"id":""#)?;
                paid.write_all(id)?;
                paid.write_all(br#"","#)?;
                paid.write_all(&after[1..after.len() - 1])?;
                paid.write_all(br#","customer_name":"#)?;
                paid.write_all(customer.name.as_bytes())?;
                paid.write_all(br#","tier":"#)?;
                paid.write_all(customer.tier.as_bytes())?;
                paid.write_all(b"}\n")?;
            }
        }
        // The reader may have ended: then no one wants the block.
        let _ = empty.send(batch);
    }
    all.flush()?;
    paid.flush()?;
    Ok(done)
}

fn was_paid(before: &[u8]) -> io::Result<bool> {
    if before == b"null" {
        return Ok(false);
    }
    let row: Row<'_> = serde_json::from_slice(before)?;
    Ok(row.is_paid())
}

fn create(folder: &Path) -> io::Result<BufWriter<File>> {
    fs::create_dir_all(folder)?;
    Ok(BufWriter::with_capacity(1 << 18, File::create(folder.join("floor.jsonl"))?))
}

/// The last [`IDS_MAX`] ids.
#[derive(Default)]
struct Ids {
    set: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Ids {
    fn insert(&mut self, id: u64) -> bool {
        if !self.set.insert(id) {
            return false;
        }
        if self.order.len() == IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        self.order.push_back(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use highwater_examples::orders::{InputSpec, Verdict, generate_customers, generate_orders, verify};

    use super::*;

    /// Runs the floor, lets `spoil` change one of its outputs, and asks the oracle.
    fn verdict(output: &str, spoil: impl FnOnce(&mut Vec<String>)) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let [input, customers, out] = ["orders.jsonl", "customers.csv", "out"].map(|name| folder.path().join(name));
        // Some 5 MB: several blocks, with lines across their borders.
        let spec = InputSpec { events: 20_000, customers: 300, duplicates: 0.1, seed: 11 };
        generate_orders(&input, &spec, |_| ()).unwrap();
        generate_customers(&customers, &spec).unwrap();
        let done = run(&input, &customers, &out).unwrap();
        let file = out.join(output).join("floor.jsonl");
        let mut lines = fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect();
        spoil(&mut lines);
        fs::write(file, lines.join("\n")).unwrap();

        let verdict = verify(&input, &customers, &out).unwrap();
        assert_eq!((done.read, done.paid), (verdict.read, verdict.expected_paid));
        assert_eq!(done.read - done.duplicate, verdict.expected_all);
        assert!(verdict.expected_paid > 2_000 && done.duplicate > 1_000, "{verdict} {done:?}");
        verdict
    }

    #[test]
    fn the_oracle_agrees_with_the_floor() {
        let verdict = verdict("all", |_| ());
        assert!(verdict.is_clean(), "{verdict}");
    }

    #[test]
    fn the_oracle_misses_a_line_taken_away() {
        let verdict = verdict("paid", |lines| _ = lines.remove(1_000));
        assert_eq!([verdict.lost, verdict.repeated, verdict.wrong], [1, 0, 0], "{verdict}");
    }

    #[test]
    fn the_oracle_finds_a_line_written_twice() {
        let verdict = verdict("all", |lines| lines.push(lines[5].clone()));
        assert_eq!([verdict.lost, verdict.repeated, verdict.wrong], [0, 1, 0], "{verdict}");
    }

    #[test]
    fn the_oracle_finds_a_wrong_tier() {
        let verdict = verdict("all", |lines| lines[77] = lines[77].replace(r#""tier":""#, r#""tier":"x"#));
        assert_eq!([verdict.lost, verdict.repeated, verdict.wrong], [0, 0, 1], "{verdict}");
    }

    #[test]
    fn the_oracle_finds_a_key_that_runs_backwards() {
        let verdict = verdict("all", |lines| lines.reverse());
        assert_eq!([verdict.lost, verdict.repeated, verdict.wrong], [0, 0, 0], "{verdict}");
        assert!(verdict.out_of_order > 1_000, "{verdict}");
    }
}
