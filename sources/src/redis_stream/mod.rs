//! Streams of Redis as a source: one owner reads each from its mark, and a consumer group is only told how far that is.
//!
//! ```no_run
//! use highwater_sources::RedisStreams;
//! use highwater_sources::redis_stream::Entries;
//! // Entries with one field, which holds a change as JSON.
//! let orders = RedisStreams::stream("redis://reader@cache.example/0", "orders").group("billing");
//! // Two streams whose entries are rows.
//! let events = RedisStreams::streams("redis://cache.example/0", ["clicks", "views"]).entries(Entries::rows().key("visitor"));
//! ```
//!
//! **Nothing is lost.** Where reading goes on stands in the checkpoint, never in Redis. Each read asks in the same transaction what stands of the
//! stream, so that an entry that was trimmed or deleted before it was read is noticed: the run stops and says how many are gone. A
//! stream that was emptied, made anew, or lost its end in a fail-over is refused, and so is another server behind the same name
//! (`standing.rs` says how they are told).
//!
//! **Nothing is repeated by reading**: the id of an entry is its position, the same in every run.
//!
//! **Order** is that of the ids, within a stream. Each stream is a partition.
//!
//! **A consumer group** ([`group`](RedisStreams::group)) is told how far is durable, for `XINFO GROUPS`, for trimming and for whoever reads after us.
//! What another program left pending in it is read first (`begin.rs` says how).
//!
//! `docs/redis-streams.md` says what is refused and why, which rights are needed, and what it costs.

mod ask;
mod begin;
mod entries;
mod id;
mod progress;
mod reader;
mod standing;
mod stream;
mod tail;
mod token;

use std::sync::Arc;

use highwater_operators::in_flight::InFlight;
use highwater_operators::ingest::source::{Known, PartitionName};
use highwater_operators::ingest::{OrderOf, Partition, Reader, Source};
use highwater_operators::redis::{Connection, Url, inspect};
use highwater_operators::{Error, ErrorKind, Order, Result, ResumeToken};

pub use self::entries::Entries;
use self::entries::Taken;
use self::id::EntryId;
use self::progress::Progress;
use self::reader::{Reading, place};
use crate::OnReject;
use crate::ahead::apart;

/// Entries of an answer at most, unless [`count`](RedisStreams::count) says otherwise.
const COUNT: u32 = 2048;
/// The longest entry, unless [`entry_max`](RedisStreams::entry_max) says otherwise.
const ENTRY_MAX: usize = 8 << 20;

/// Streams of Redis. See the [module](self) for what it guarantees.
#[derive(Clone, Debug)]
pub struct RedisStreams(Arc<Description>);

/// What was said of them.
#[derive(Clone, Debug)]
struct Description {
    url: Result<Url, String>,
    streams: Vec<String>,
    entries: Entries,
    group: Option<String>,
    consumer: String,
    begin: Begin,
    count: u32,
    entry_max: usize,
    on_reject: OnReject,
    /// Of a stream that stands at the first id: it goes on behind the second.
    continued: Vec<(String, EntryId, EntryId)>,
    problem: Option<String>,
}

/// Where streams are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    First,
    End,
    Behind(EntryId),
}

impl RedisStreams {
    /// One stream of this server. Nothing is opened yet; a URL that cannot be read is told at start.
    pub fn stream(url: impl AsRef<str>, name: impl Into<String>) -> Self {
        Self::streams(url, [name])
    }

    /// Several streams, each of which is a partition.
    pub fn streams<N: Into<String>>(url: impl AsRef<str>, names: impl IntoIterator<Item = N>) -> Self {
        Self::of(Url::parse(url.as_ref()).map_err(|error| error.to_string()), names)
    }

    /// The same, of a URL that was read already.
    pub fn at<N: Into<String>>(url: &Url, names: impl IntoIterator<Item = N>) -> Self {
        Self::of(Ok(url.clone()), names)
    }

    fn of<N: Into<String>>(url: Result<Url, String>, names: impl IntoIterator<Item = N>) -> Self {
        RedisStreams(Arc::new(Description {
            url,
            streams: names.into_iter().map(Into::into).collect(),
            entries: Entries::default(),
            group: None,
            consumer: "highwater".to_owned(),
            begin: Begin::First,
            count: COUNT,
            entry_max: ENTRY_MAX,
            on_reject: OnReject::default(),
            continued: Vec::new(),
            problem: None,
        }))
    }

    /// How entries become changes. Default: one field holds the change in the default envelope.
    pub fn entries(self, entries: Entries) -> Self {
        self.with(|description| description.entries = entries)
    }

    /// Tells this consumer group how far is durable; it is made where it is missing. Default: none, and nothing is written to the server.
    ///
    /// Of a group that another program has used what it left pending is read first, then what follows its last-delivered-id. Stop that program
    /// before: two that read with one group are noticed, and the run stops.
    pub fn group(self, name: &str) -> Self {
        self.with(|description| description.group = Some(name.to_owned()))
    }

    /// The consumer that pending entries of a group are made over to (`highwater`).
    pub fn consumer(self, name: &str) -> Self {
        self.with(|description| name.clone_into(&mut description.consumer))
    }

    /// Begins behind what is there, the first time. Default: with the first entry. A group that was used says itself where it stands.
    pub fn from_end(self) -> Self {
        self.with(|description| description.begin = Begin::End)
    }

    /// Begins behind this id (`MS-SEQ`), the first time. Default: with the first entry.
    pub fn behind(self, id: &str) -> Self {
        self.with(|description| match EntryId::parse(id) {
            Some(id) => description.begin = Begin::Behind(id),
            None => description.is_no_id("behind", id),
        })
    }

    /// Entries of an answer at most, of each stream (2,048; at least 1). It has fewer where entries are large.
    pub fn count(self, entries: u32) -> Self {
        self.with(|description| description.count = entries.max(1))
    }

    /// The longest entry, in bytes of its names and values (8 MiB). A longer one is rejected.
    pub fn entry_max(self, bytes: usize) -> Self {
        self.with(|description| description.entry_max = bytes)
    }

    /// What becomes of an entry that is no change. Default: it is parked, and reading goes on.
    pub fn on_reject(self, what: OnReject) -> Self {
        self.with(|description| description.on_reject = what)
    }

    /// Of a stream whose checkpoint stands at the entry `mark`: goes on behind the entry `id`, and gives up what lies between. A refusal says which
    /// ids; it may stay in the program, for the mark moves on.
    pub fn continue_behind(self, stream: &str, mark: &str, id: &str) -> Self {
        self.with(|description| match (EntryId::parse(mark), EntryId::parse(id)) {
            (Some(mark), Some(id)) => description.continued.push((stream.to_owned(), mark, id)),
            (None, _) => description.is_no_id("continue_behind", mark),
            (_, None) => description.is_no_id("continue_behind", id),
        })
    }

    fn with(mut self, set: impl FnOnce(&mut Description)) -> Self {
        set(Arc::make_mut(&mut self.0));
        self
    }
}

impl Description {
    fn url(&self) -> Result<&Url> {
        self.url.as_ref().map_err(Error::stop)
    }

    fn is_no_id(&mut self, what: &str, id: &str) {
        self.problem.get_or_insert_with(|| format!("\"{id}\" in .{what}(..) is no id of an entry; it is like 1700000000000-0"));
    }

    /// Behind which entry a stream goes on that stands at `mark`, if that was said.
    fn continued(&self, stream: &str, mark: EntryId) -> Option<EntryId> {
        self.continued.iter().find(|(name, at, _)| name == stream && *at == mark).map(|(.., id)| *id)
    }

    /// Writes an entry into a block.
    fn take(&self, stream: &str, raw: &ask::Raw, out: &mut Vec<u8>) -> Taken {
        let fields = raw.fields();
        if fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > self.entry_max {
            return Taken::Rejected(format!("it is longer than {} bytes (entry_max)", self.entry_max));
        }
        self.entries.take(stream, raw.id, &fields, out)
    }

    fn check(&self) -> Result {
        self.url()?;
        let mut names: Vec<&String> = self.streams.iter().collect();
        names.sort();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let empty = |text: &str| text.is_empty();
        let problem = match () {
            () if self.problem.is_some() => self.problem.clone(),
            () if names.is_empty() => Some("no stream is named".to_owned()),
            () if names.iter().any(|name| empty(name)) => Some("a stream has an empty name".to_owned()),
            () if self.group.as_deref().is_some_and(empty) || self.consumer.is_empty() => {
                Some("the group or its consumer has an empty name".to_owned())
            }
            () => twice.map(|name| format!("the stream {name} is named twice")).or_else(|| self.entries.check().err()),
        };
        problem.map_or(Ok(()), |problem| Err(Error::stop(format!("streams of Redis: {problem}"))))
    }

    /// Looks at the streams as they are now, on a thread of its own: whoever calls may be in a runtime already.
    fn look(self: &Arc<Self>, known: Vec<(String, Option<token::Place>)>) -> Result {
        let description = self.clone();
        apart("redis-streams", move || async move {
            let connection = Connection::open(description.url()?, "looking").await?;
            let line = connection.line().await?;
            inspect(&line).await?;
            for (stream, from) in known {
                begin::look(&line, &description, &stream, from).await?;
            }
            Ok(())
        })
    }

    fn partitions(&self) -> Vec<PartitionName> {
        let db = self.url.as_ref().map_or(0, Url::db);
        self.streams.iter().map(|stream| PartitionName { name: format!("{db}/{stream}"), bytes: None }).collect()
    }

    /// The stream of a partition.
    fn stream<'p>(&self, partition: &'p Partition) -> &'p str {
        partition.name.split_once('/').map_or(partition.name.as_str(), |(_, stream)| stream)
    }
}

impl Source for RedisStreams {
    fn kind(&self) -> &'static str {
        "redis-streams"
    }

    fn place(&self) -> String {
        match &self.0.url {
            Ok(url) => format!("{} in {url}", self.0.streams.join(", ")),
            Err(problem) => problem.clone(),
        }
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        self.0.check()?;
        Ok(self.0.partitions())
    }

    /// One stream is one partition, and its ids grow.
    fn order(&self) -> Option<OrderOf> {
        (self.0.streams.len() == 1).then_some(|change| Order::of_place(change.position()))
    }

    /// Holds what earlier runs have read against the streams as they are. Where the server is away and the streams are known, the run begins, and
    /// waits for it.
    fn bind(&self, known: &[Known]) -> Result<Option<Arc<dyn Source>>> {
        self.0.check()?;
        let mut begun = Vec::new();
        for (partition, stream) in self.0.partitions().iter().zip(&self.0.streams) {
            let token = known.iter().find(|known| known.name == partition.name).and_then(|known| known.token.as_ref());
            begun.push((stream.clone(), token.map(place).transpose()?));
        }
        let are_known = begun.iter().any(|(_, place)| place.is_some());
        match self.0.look(begun) {
            Err(error) if error.kind() == ErrorKind::Retry && are_known => {
                tracing::warn!("{error}; the run begins, and waits for it");
            }
            looked => looked.map_err(|error| Error::stop(error.to_string()))?,
        }
        Ok(Some(Arc::new(Bound { source: self.clone(), progress: Arc::default(), reading: Reading::default() })))
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let stream = self.0.stream(partition);
        Ok(Box::new(Reading::default().open(&self.0, &Arc::default(), partition, stream, from, window)?))
    }
}

/// Streams as one run has them: one thread reads them, and another tells their group what is durable.
struct Bound {
    source: RedisStreams,
    progress: Arc<Progress>,
    reading: Reading,
}

impl Source for Bound {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn place(&self) -> String {
        self.source.place()
    }

    fn partitions(&self) -> Result<Vec<PartitionName>> {
        self.source.partitions()
    }

    fn open(&self, partition: &Partition, from: Option<&ResumeToken>, window: &Arc<InFlight>) -> Result<Box<dyn Reader>> {
        let description = &self.source.0;
        let stream = description.stream(partition);
        let reader = self.reading.open(description, &self.progress, partition, stream, from, window)?;
        self.progress.opened(stream);
        // What the last run could not tell any more.
        if let Some(place) = from.map(place).transpose()?
            && description.continued(stream, place.id).is_none()
        {
            self.progress.saved(stream, place);
        }
        Ok(Box::new(reader))
    }

    fn saved(&self, partition: &Partition, token: &ResumeToken) {
        if let Ok(place) = place(token) {
            self.progress.saved(self.source.0.stream(partition), place);
        }
    }

    fn over(&self) {
        self.progress.over();
    }
}

#[cfg(test)]
mod tests;
