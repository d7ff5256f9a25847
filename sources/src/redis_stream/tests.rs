//! Streams on real servers: what is read, and every token that continues.

mod failing;
mod groups;
mod refused;

use std::time::{Duration, Instant};

use highwater_operators::change::Operation;
use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::{Batch, Read};
use highwater_operators::testing::redis::Server;
use highwater_operators::{Change, ResumeToken};

use super::*;

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

fn server() -> Server {
    Server::start().unwrap()
}

fn orders(server: &Server) -> RedisStreams {
    RedisStreams::at(&server.url(), ["orders"])
}

/// Adds entries whose ids are `1-N`, with one field that holds a change `c-N`.
fn add(server: &Server, stream: &str, numbers: std::ops::RangeInclusive<u64>) {
    let script = "for n = ARGV[1], ARGV[2] do redis.call('XADD', KEYS[1], '1-' .. n, 'change', \
         '{\"id\":\"c-' .. n .. '\",\"table\":\"orders\",\"op\":\"insert\",\"key\":\"k-' .. n % 7 .. '\",\"after\":{\"n\":' .. n .. '}}') end";
    let (from, to) = (numbers.start().to_string(), numbers.end().to_string());
    server.ask(&["EVAL", script, "1", stream, &from, &to]).unwrap();
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    pub changes: Vec<Change>,
    pub rejected: Vec<String>,
    pub token: Option<ResumeToken>,
}

impl Found {
    pub fn ids(&self) -> Vec<&str> {
        self.changes.iter().map(Change::id).collect()
    }
}

/// A source as a run has it, and the readers of its streams.
pub(super) struct Reading {
    pub source: Arc<dyn Source>,
    readers: Vec<Box<dyn Reader>>,
    pub found: Vec<Found>,
}

impl Reading {
    pub(super) fn start(streams: &RedisStreams, from: &[Option<ResumeToken>]) -> Result<Self> {
        Self::within(streams, from, &InFlight::new(u64::MAX, u64::MAX))
    }

    /// Begins in a window whose failpoints may strike.
    pub(super) fn within(streams: &RedisStreams, from: &[Option<ResumeToken>], window: &Arc<InFlight>) -> Result<Self> {
        let names = streams.partitions()?;
        let known = names.iter().zip(from).map(|(name, token)| Known { name: name.name.clone(), token: token.clone() });
        let source = streams.bind(&known.collect::<Vec<_>>())?.expect("streams are bound to a run");
        let mut readers = Vec::new();
        for ((number, name), token) in (0..).zip(&names).zip(from) {
            readers.push(source.open(&Partition { id: number, name: name.name.clone() }, token.as_ref(), window)?);
        }
        let found = from.iter().map(|_| Found::default()).collect();
        Ok(Reading { source, readers, found })
    }

    /// One read of each stream. The last that was said.
    pub(super) fn step(&mut self) -> Result<Read> {
        let mut said = Read::End;
        for (reader, found) in self.readers.iter_mut().zip(&mut self.found) {
            let mut batch = Batch::default();
            let read = reader.read(&mut batch)?;
            if read == Read::Some {
                let before = found.token.as_ref().map_or(0, |token| token.order);
                assert!(batch.token.order > before, "tokens grow by reading");
                found.changes.append(&mut batch.changes);
                found.rejected.extend(batch.rejected.into_iter().map(|rejected| rejected.why));
                found.token = Some(batch.token);
            }
            if said != Read::Some && !matches!(said, Read::Away(_)) {
                said = read;
            }
        }
        Ok(said)
    }

    /// Reads until it holds, or the time is over.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&[Found]) -> bool) {
        let began = Instant::now();
        while !holds(&self.found) {
            self.step().unwrap_or_else(|error| panic!("{what}: {error}"));
            let read: Vec<_> = self.found.iter().map(|found| found.changes.len()).collect();
            assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}, after {read:?} changes");
        }
    }

    #[track_caller]
    pub(super) fn until_read(&mut self, changes: usize) {
        self.until("all is read", |found| found.iter().map(|found| found.changes.len()).sum::<usize>() >= changes);
    }

    /// Reads until the streams were asked and have nothing, some times over.
    #[track_caller]
    pub(super) fn until_idle(&mut self) {
        let (began, mut idle) = (Instant::now(), 0);
        while idle < 3 {
            idle = if matches!(self.step().unwrap(), Read::Idle(_)) { idle + 1 } else { 0 };
            assert!(began.elapsed() < DEADLINE, "it does not come to rest");
        }
    }

    /// Reads until it is refused.
    #[track_caller]
    pub(super) fn until_refused(&mut self) -> String {
        let began = Instant::now();
        loop {
            match self.step() {
                Err(error) => return error.to_string(),
                Ok(_) => assert!(began.elapsed() < DEADLINE, "nothing is refused"),
            }
        }
    }

    /// A checkpoint has all that was read.
    pub(super) fn save(&self) {
        for ((number, name), found) in (0..).zip(self.source.partitions().unwrap()).zip(&self.found) {
            if let Some(token) = &found.token {
                self.source.saved(&Partition { id: number, name: name.name }, token);
            }
        }
    }

    pub(super) fn token(&self) -> Option<ResumeToken> {
        self.found[0].token.clone()
    }
}

#[test]
fn entries_become_changes_and_every_token_continues() {
    let server = server();
    add(&server, "orders", 1..=5000);
    let streams = orders(&server).count(700);
    let mut first = Reading::start(&streams, &[None]).unwrap();
    let mut tokens = Vec::new();
    first.until("all is read", |found| {
        tokens.extend(found[0].token.clone().map(|token| (token, found[0].changes.len())));
        found[0].changes.len() == 5000
    });
    let change = &first.found[0].changes[41];
    assert_eq!((change.id(), change.table(), change.key()), ("c-42", "orders", "k-0"));
    assert_eq!((change.operation(), change.after().parse("n")), (Operation::Insert, Some(42)));
    assert_eq!((change.position().at, change.position().within), (1, 42));
    tokens.dedup();
    assert!(tokens.len() > 3, "{}", tokens.len());
    for (token, read) in tokens {
        let mut rest = Reading::start(&streams, &[Some(token)]).unwrap();
        rest.until("the rest is read", |found| found[0].changes.len() + read >= 5000);
        rest.until_idle();
        assert_eq!(rest.found[0].changes, first.found[0].changes[read..]);
    }
    // Nothing was written: no group, no key.
    assert_eq!(server.ask(&["KEYS", "*"]).unwrap(), "orders");
    assert_eq!(server.ask(&["XINFO", "GROUPS", "orders"]).unwrap(), "");
}

#[test]
fn several_streams_are_read_together_and_each_goes_on_where_it_was() {
    let server = server();
    let names = ["orders", "payments", "empty"];
    let streams = RedisStreams::at(&server.url(), names);
    add(&server, "orders", 1..=3000);
    let mut reading = Reading::start(&streams, &[None, None, None]).unwrap();
    reading.until_read(3000);
    reading.until_idle();
    add(&server, "payments", 1..=10);
    add(&server, "orders", 3001..=3005);
    reading.until_read(3015);
    let tokens: Vec<_> = reading.found.iter().map(|found| found.token.clone()).collect();
    assert!(tokens[2].is_none(), "nothing was read of a stream that is not there");
    drop(reading);
    add(&server, "empty", 1..=3);
    add(&server, "payments", 11..=12);
    let mut again = Reading::start(&streams, &tokens).unwrap();
    again.until_read(5);
    again.until_idle();
    let read: Vec<_> = again.found.iter().map(|found| found.changes.len()).collect();
    assert_eq!(read, [0, 2, 3]);
}

#[test]
fn a_stream_that_nobody_takes_does_not_keep_the_others() {
    let server = server();
    let streams = RedisStreams::at(&server.url(), ["full", "other"]);
    add(&server, "full", 1..=40_000);
    let mut reading = Reading::start(&streams, &[None, None]).unwrap();
    let full = reading.readers.remove(0);
    reading.found.remove(0);
    // It is read as far as there is room for it; what comes to the other passes.
    for number in 1..=3 {
        add(&server, "other", number..=number);
        reading.until("it passes", |found| found[0].changes.len() as u64 == number);
    }
    reading.readers.insert(0, full);
    reading.found.insert(0, Found::default());
    reading.until_read(40_003);
}

#[test]
fn what_is_no_change_is_told_with_its_place_and_its_neighbours_are_read() {
    let server = server();
    add(&server, "orders", 1..=1);
    server.ask(&["XADD", "orders", "2-0", "change", "no json"]).unwrap();
    server.ask(&["XADD", "orders", "2-1", "a", "1", "b", "2"]).unwrap();
    server.ask(&["EVAL", "return redis.call('XADD', 'orders', '2-2', 'change', '\\255')", "0"]).unwrap();
    server.ask(&["EVAL", "return redis.call('XADD', 'orders', '2-3', 'change', string.rep('x', 2000))", "0"]).unwrap();
    let good = "{\"id\":\"c-9\",\"op\":\"delete\"}";
    server.ask(&["XADD", "orders", "3-0", "change", good]).unwrap();
    let mut reading = Reading::start(&orders(&server).entry_max(1000), &[None]).unwrap();
    reading.until("all is read", |found| found[0].changes.len() + found[0].rejected.len() == 6);
    assert_eq!(reading.found[0].ids(), ["c-1", "c-9"]);
    let mut rejected = reading.found[0].rejected.clone();
    rejected.sort();
    let [json, fields, text, long] = &rejected[..] else { panic!("{rejected:?}") };
    assert!(json.starts_with("entry 2-0 of the stream orders: "), "{json}");
    assert!(fields.contains("entry 2-1") && fields.contains("no field \"change\", and 2 fields"), "{fields}");
    assert!(text.contains("entry 2-2") && text.contains("not UTF-8"), "{text}");
    assert!(long.contains("entry 2-3") && long.contains("longer than 1000 bytes"), "{long}");
    let mut stopping = Reading::start(&orders(&server).on_reject(OnReject::Stop), &[None]).unwrap();
    let said = stopping.until_refused();
    assert!(said.contains("of the stream orders"), "{said}");
}

#[test]
fn reading_begins_where_it_is_told_to() {
    let server = server();
    add(&server, "orders", 1..=10);
    let read = |streams: RedisStreams| {
        let mut reading = Reading::start(&streams, &[None]).unwrap();
        reading.until_idle();
        reading
    };
    assert_eq!(read(orders(&server).behind("1-7")).found[0].ids(), ["c-8", "c-9", "c-10"]);
    let mut end = read(orders(&server).from_end());
    assert!(end.found[0].changes.is_empty());
    add(&server, "orders", 11..=11);
    end.until_read(1);
    assert_eq!(end.found[0].ids(), ["c-11"]);
    let token = end.token();
    drop(end);
    let mut again = Reading::start(&orders(&server).from_end(), &[token]).unwrap();
    add(&server, "orders", 12..=13);
    again.until_read(2);
    assert_eq!(again.found[0].ids(), ["c-12", "c-13"]);
}
