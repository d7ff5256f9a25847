//! `highwater jobs`: what stands parked in a queue of jobs, by the same commands as what is parked in a pipeline; and how the queue stands.

use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use highwater_operators::checkpoint::store::{Parked, ParkedId};
use highwater_operators::parked::{Filter, edited};
use highwater_operators::postgres::Url;
use highwater_operators::{Error, Result};
use highwater_sinks::PostgresJobQueue;
use highwater_sinks::jobs::{JobQueue, JobStore};
use serde_json::json;
use tokio::runtime::Runtime;

use super::source::Source;
use super::{carry_out, unknown, with_verbs};
use crate::clerk::ask::{Answer, Ask, Record};
use crate::report::count;

/// Records read at once.
const PAGE: usize = 1_000;

/// A queue that is asked.
pub(crate) struct Queue {
    runtime: Runtime,
    store: Arc<dyn JobStore>,
    /// Where it is, without secrets.
    url: String,
    name: String,
}

pub(crate) fn command() -> Command {
    let queue = Arg::new("queue").long("queue").value_name("URL").global(true).env("HIGHWATER_QUEUE").hide_env_values(true);
    let command = Command::new("jobs")
        .about("Lists, shows, retries, edits and drops parked jobs of a queue, and tells how it stands")
        .arg(queue.help("The Redis or Postgres that the queue is in"))
        .arg(Arg::new("name").long("name").value_name("NAME").global(true).default_value("jobs").help("The queue's name"));
    with_verbs(command, &|command| command, "highwater jobs --queue redis://localhost:6379 --name receipts", "").subcommand(
        Command::new("status")
            .about("Tells how many jobs wait, are in flight, are parked, and how old the oldest is")
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print it as JSON")),
    )
}

pub(crate) fn run(matches: &ArgMatches) -> Result {
    let Some((verb, matches)) = matches.subcommand() else { return Ok(()) };
    let queue = Queue::open(matches)?;
    match verb {
        "status" => queue.status(matches.get_flag("json")),
        verb => carry_out(verb, matches, &Source::Queue(queue)),
    }
}

impl Queue {
    fn open(matches: &ArgMatches) -> Result<Queue> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let (name, url) = (text("name").unwrap_or_default(), text("queue"));
        let url =
            url.ok_or_else(|| Error::stop("say which queue: --queue redis://host:6379 or --queue postgres://host/database"))?;
        let (queue, url) = queue(&url)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::stop("the command has no runtime").because(error))?;
        let store = runtime.block_on(queue.name(&name).store())?;
        Ok(Queue { runtime, store, url, name })
    }

    /// The flags by which another command finds it.
    pub(super) fn flags(&self) -> String {
        format!(" --queue {} --name {}", self.url, self.name)
    }

    fn status(&self, as_json: bool) -> Result {
        let counts = self.runtime.block_on(self.store.counts())?;
        if as_json {
            let line = json!({
                "queue": self.name, "ready": counts.ready, "later": counts.later, "behind": counts.behind, "in_flight": counts.in_flight,
                "parked": counts.parked, "age_seconds": counts.age.as_secs_f64(),
            });
            say!("{line}");
            return Ok(());
        }
        say!("{}", self.store.place());
        say!("ready      {}, the oldest for {:.1} s", count(counts.ready), counts.age.as_secs_f64());
        say!("later      {} (delayed, or waiting for the next attempt)", count(counts.later));
        say!("behind     {} (an earlier job of their key)", count(counts.behind));
        say!("in flight  {}", count(counts.in_flight));
        say!("parked     {}", count(counts.parked));
        Ok(())
    }

    /// Does one slice of work.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Answer> {
        match ask {
            Ask::List { filter, after, most, whole } => self.list(filter, *after, *most, *whole),
            Ask::Count { filter, after } => {
                if filter.is_all() {
                    let meant = self.runtime.block_on(self.store.counts())?.parked;
                    return Ok(Answer { meant, ..Answer::default() });
                }
                let (meant, next) = self.page(filter, *after)?;
                Ok(Answer { meant: meant.len() as u64, next, ..Answer::default() })
            }
            Ask::Retry { filter, after } => self.act(filter, *after, |numbers| self.runtime.block_on(self.store.retry(numbers))),
            Ask::Drop { filter, after } => self.act(filter, *after, |numbers| self.runtime.block_on(self.store.discard(numbers))),
            Ask::Edit { id, row } => self.edit(*id, row),
        }
    }

    /// Those that are meant among the next page of all that is parked, and after which number to go on.
    fn page(&self, filter: &Filter, after: ParkedId) -> Result<(Vec<Parked>, Option<ParkedId>)> {
        // Records that are named by number need not be looked for.
        let first = filter.ids.iter().copied().filter(|id| *id > after).min();
        let after = match first {
            Some(first) => first - 1,
            None if !filter.ids.is_empty() => return Ok((Vec::new(), None)),
            None => after,
        };
        let page = self.runtime.block_on(self.store.parked(after, PAGE))?;
        let next = (page.len() == PAGE).then(|| page.last().map(|parked| parked.id)).flatten();
        Ok((page.into_iter().filter(|parked| filter.means(parked)).collect(), next))
    }

    fn list(&self, filter: &Filter, mut after: ParkedId, most: usize, whole: bool) -> Result<Answer> {
        let mut records = Vec::new();
        loop {
            let (mut found, mut next) = self.page(filter, after)?;
            if found.len() > most - records.len() {
                found.truncate(most - records.len());
                next = found.last().map(|parked| parked.id);
            }
            records.extend(found.iter().map(|parked| Record::of(parked, whole)));
            match next {
                Some(next) if records.len() < most => after = next,
                next => return Ok(Answer { meant: records.len() as u64, records, next, ..Answer::default() }),
            }
        }
    }

    fn act(&self, filter: &Filter, after: ParkedId, act: impl Fn(&[ParkedId]) -> Result<u64>) -> Result<Answer> {
        let (meant, next) = self.page(filter, after)?;
        let numbers: Vec<ParkedId> = meant.iter().map(|parked| parked.id).collect();
        let done = if numbers.is_empty() { 0 } else { act(&numbers)? };
        Ok(Answer { meant: numbers.len() as u64, done, next, ..Answer::default() })
    }

    fn edit(&self, id: ParkedId, row: &str) -> Result<Answer> {
        let page = self.runtime.block_on(self.store.parked(id.saturating_sub(1), 1))?;
        let parked = page.into_iter().find(|parked| parked.id == id).ok_or_else(|| unknown("jobs", id))?;
        let change = match edited(&parked, row) {
            Ok(edited) => edited.change,
            Err(why) => return Ok(Answer { meant: 1, refused: Some(why), ..Answer::default() }),
        };
        let done = self.runtime.block_on(self.store.edit(id, &change))?;
        Ok(Answer { meant: u64::from(done), done: u64::from(done), ..Answer::default() })
    }
}

/// The queue of a URL, and the URL without secrets.
fn queue(url: &str) -> Result<(JobQueue, String)> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme {
        "postgres" | "postgresql" => Ok((PostgresJobQueue::with_workers(url, 1), Url::parse(url)?.to_string())),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "unix" => {
            let shown = highwater_operators::redis::Url::parse(url)?.to_string();
            Ok((highwater_sinks::RedisJobQueue::with_workers(url, 1), shown))
        }
        _ => Err(Error::stop(
            "the URL of a queue begins with redis://, rediss:// or unix:// (where Redis is built in), or with postgres://",
        )),
    }
}
