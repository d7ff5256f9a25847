//! What is asked of Redis about streams, and its answers taken apart.

use highwater_operators::redis::Line;
use highwater_operators::{Error, Result};
use redis::{Cmd, Pipeline, Value, cmd, pipe};

use super::entries::{Fields, bytes};
use super::id::EntryId;
use super::standing::Facts;

/// An entry as it came.
#[derive(Debug)]
pub(super) struct Raw {
    pub id: EntryId,
    /// Names and values in turn.
    pub fields: Vec<Value>,
}

/// A stream that is to be read on, behind an entry.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub stream: &'a str,
    pub behind: EntryId,
}

/// What was found of one of them.
#[derive(Debug)]
pub(super) struct Got {
    /// `None`: there is no such stream.
    pub facts: Option<Facts>,
    pub entries: Vec<Raw>,
}

/// A consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// The last entry that was given to a consumer.
    pub delivered: EntryId,
    /// How many entries there had been up to it, if the server knows.
    pub read: Option<u64>,
    /// Entries given to consumers and not acknowledged.
    pub pending: u64,
}

/// Several streams in one transaction: what stands of each, and up to `count` entries behind each.
pub(super) async fn read(line: &Line, wanted: &[Wanted<'_>], count: u32) -> Result<Vec<Got>> {
    const WHAT: &str = "reading streams";
    let mut commands = pipe();
    for wanted in wanted {
        commands.add_command(info(wanted.stream));
    }
    let mut reads = cmd("XREAD");
    reads.arg("COUNT").arg(count).arg("STREAMS");
    streams(&mut reads, wanted);
    commands.add_command(reads);
    let mut answers = together(line, WHAT, commands).await?;
    let entries = line.answer::<Value>(WHAT, answers.pop().unwrap_or(Value::Nil))?;
    let mut got = Vec::with_capacity(wanted.len());
    for (wanted, answer) in wanted.iter().zip(answers) {
        got.push(Got { facts: facts(line, wanted.stream, answer)?, entries: Vec::new() });
    }
    for (name, entries) in by_stream(entries) {
        let at = wanted.iter().position(|wanted| wanted.stream.as_bytes() == bytes(&name)).ok_or_else(odd)?;
        got[at].entries = raws(entries)?;
    }
    Ok(got)
}

/// The command that waits until there is something behind one of them.
pub(super) fn bell(wanted: &[Wanted<'_>], wait: std::time::Duration) -> Cmd {
    let mut waits = cmd("XREAD");
    waits.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis().max(1) as u64).arg("STREAMS");
    streams(&mut waits, wanted);
    waits
}

/// What stands of a stream, and the entry at `id`, in one transaction.
pub(super) async fn look(line: &Line, stream: &str, id: EntryId) -> Result<(Option<Facts>, Option<Raw>)> {
    let what = format!("looking at the stream {stream}");
    let mut commands = pipe();
    commands.add_command(info(stream));
    commands.cmd("XRANGE").arg(stream).arg(id.to_string()).arg(id.to_string());
    let [facts_of, entry] = <[Value; 2]>::try_from(together(line, &what, commands).await?).map_err(|_| odd())?;
    let facts = facts(line, stream, facts_of)?;
    Ok((facts, raws(line.answer(&what, entry)?)?.pop()))
}

/// The group of a stream; `None`: it has none of this name, or there is no such stream.
pub(super) async fn group(line: &Line, stream: &str, name: &str) -> Result<Option<Group>> {
    let what = format!("looking at the groups of the stream {stream}");
    let groups: Vec<Value> = match line.query(&what, cmd("XINFO").arg("GROUPS").arg(stream)).await {
        Err(error) if error.to_string().contains("no such key") => return Ok(None),
        groups => groups?,
    };
    for group in groups {
        let Value::Array(pairs) = group else { return Err(odd()) };
        let field = |name: &str| pairs.chunks_exact(2).find(|pair| bytes(&pair[0]) == name.as_bytes()).map(|pair| &pair[1]);
        if field("name").map(bytes) == Some(name.as_bytes()) {
            let delivered = field("last-delivered-id").and_then(|id| EntryId::read(bytes(id))).ok_or_else(odd)?;
            return Ok(Some(Group {
                delivered,
                read: field("entries-read").and_then(number),
                pending: field("pending").and_then(number).ok_or_else(odd)?,
            }));
        }
    }
    Ok(None)
}

/// The ids of entries that are pending from `from` to `to`, up to `count` of them, of all consumers or of one.
pub(super) async fn pending(
    line: &Line,
    stream: &str,
    group: &str,
    (from, to): (EntryId, EntryId),
    count: u32,
    consumer: Option<&str>,
) -> Result<Vec<EntryId>> {
    let what = format!("looking at what is pending in the group {group} of the stream {stream}");
    let mut asks = cmd("XPENDING");
    asks.arg(stream).arg(group).arg(from.to_string()).arg(to.to_string()).arg(count).arg(consumer);
    let found: Vec<Value> = line.query(&what, &asks).await?;
    let id = |entry: &Value| match entry {
        Value::Array(parts) => EntryId::read(bytes(parts.first()?)),
        _ => None,
    };
    found.iter().map(|entry| id(entry).ok_or_else(odd)).collect()
}

/// Entries by their ids; those that are gone are left out.
pub(super) async fn by_id(line: &Line, stream: &str, ids: &[EntryId]) -> Result<Vec<Raw>> {
    let what = format!("reading pending entries of the stream {stream}");
    let mut commands = pipe();
    for id in ids {
        commands.cmd("XRANGE").arg(stream).arg(id.to_string()).arg(id.to_string());
    }
    let mut found = Vec::with_capacity(ids.len());
    for answer in line.pipeline(&what, &commands).await? {
        found.extend(raws(line.answer(&what, answer)?)?);
    }
    Ok(found)
}

/// The names, then behind which entry of each.
fn streams(command: &mut Cmd, wanted: &[Wanted<'_>]) {
    for wanted in wanted {
        command.arg(wanted.stream);
    }
    for wanted in wanted {
        command.arg(wanted.behind.to_string());
    }
}

fn info(stream: &str) -> Cmd {
    let mut info = cmd("XINFO");
    info.arg("STREAM").arg(stream);
    info
}

/// The commands in one transaction; their answers.
async fn together(line: &Line, what: &str, commands: Pipeline) -> Result<Vec<Value>> {
    let mut transaction = pipe();
    transaction.cmd("MULTI");
    for command in commands.cmd_iter() {
        transaction.add_command(command.clone());
    }
    transaction.cmd("EXEC");
    let mut answers = line.pipeline(what, &transaction).await?;
    let done = answers.pop().ok_or_else(odd)?;
    // What is not even queued says why.
    for answer in answers {
        line.answer::<Value>(what, answer)?;
    }
    match done {
        Value::Array(answers) => Ok(answers),
        refused => line.answer::<Value>(what, refused).and_then(|_| Err(odd())),
    }
}

/// What Redis says of a stream; `None`: there is none.
fn facts(line: &Line, stream: &str, answer: Value) -> Result<Option<Facts>> {
    if let Value::ServerError(error) = &answer
        && error.details().is_some_and(|details| details.starts_with("no such key"))
    {
        return Ok(None);
    }
    let what = format!("looking at the stream {stream}");
    let Value::Array(pairs) = line.answer::<Value>(&what, answer)? else { return Err(odd()) };
    let field = |name: &str| pairs.chunks_exact(2).find(|pair| bytes(&pair[0]) == name.as_bytes()).map(|pair| &pair[1]);
    let count = |name: &str| field(name).and_then(number);
    let id = |name: &str| field(name).and_then(|id| EntryId::read(bytes(id)));
    let read = || {
        let length = count("length")?;
        let first = (length > 0).then_some(id("recorded-first-entry-id")?);
        let (last, deleted) = (id("last-generated-id")?, id("max-deleted-entry-id")?);
        Some(Facts { length, first, last, added: count("entries-added")?, deleted })
    };
    let missing =
        || Error::stop(format!("{what}: the server does not tell what Redis 7.0 and later tell of a stream (XINFO STREAM)"));
    read().map(Some).ok_or_else(missing)
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// Of an answer to XREAD: each stream and its entries.
fn by_stream(answer: Value) -> impl Iterator<Item = (Value, Value)> {
    let streams = match answer {
        Value::Array(streams) => streams,
        _ => Vec::new(),
    };
    streams.into_iter().filter_map(|stream| match stream {
        Value::Array(pair) => <[Value; 2]>::try_from(pair).ok().map(|[name, entries]| (name, entries)),
        _ => None,
    })
}

fn raws(entries: Value) -> Result<Vec<Raw>> {
    let Value::Array(entries) = entries else { return Ok(Vec::new()) };
    let raw = |entry: Value| {
        let Value::Array(pair) = entry else { return None };
        let [id, fields] = <[Value; 2]>::try_from(pair).ok()?;
        let Value::Array(fields) = fields else { return None };
        Some(Raw { id: EntryId::read(bytes(&id))?, fields })
    };
    entries.into_iter().map(|entry| raw(entry).ok_or_else(odd)).collect()
}

fn odd() -> Error {
    Error::stop("reading streams: the server's answer is not what was asked for; look whether it is a Redis")
}

impl Raw {
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.fields)
    }
}
