//! Who is asked: the running pipeline, or the checkpoint store.

use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use highwater_operators::checkpoint::place::{Inspect, Letters};
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{Cause, Parked, ParkedId};
use highwater_operators::epoch::unix_ms;
use highwater_operators::parked::{Filter, Page, edited};
use highwater_operators::{Error, Result};

use super::unknown;
use crate::clerk::ask::{Answer, Ask, Record};
use crate::commands::{inspect, same_store, store_of};
use crate::monitor::notice::Notice;
use crate::monitor::parked::PATH;

/// How long the running pipeline may take for one answer: a slice of work.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records read at once.
const PAGE: usize = 1_000;

/// Who is asked.
pub(super) enum Source {
    /// The monitor of the running pipeline.
    Running { name: String, agent: ureq::Agent, url: String, token: String },
    /// The checkpoint store: nobody answers, or nobody runs.
    Store { name: String, inspection: Box<dyn Inspect>, letters: Arc<dyn Letters> },
    /// A queue of jobs.
    #[cfg(feature = "postgres")]
    Queue(super::queue::Queue),
}

impl Source {
    /// The running pipeline, if it answers; else its store.
    pub(super) fn find(name: &str, matches: &ArgMatches) -> Result<Source> {
        let letters = store_of(name, matches)?.letters(name)?;
        if let Some(notice) = Notice::read(&*letters).filter(|notice| !notice.token.is_empty()) {
            let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).http_status_as_error(false);
            let url = format!("{}/{PATH}", notice.url.trim_end_matches('/'));
            let name = name.to_owned();
            let running = Source::Running { name, agent: config.build().new_agent(), url, token: notice.token };
            // A notice may be of a run that was killed; then nobody is there, or another program.
            if running.ask(&Ask::Count { filter: Filter::of([0]), after: 0 }).is_ok() {
                return Ok(running);
            }
        }
        let (_, inspection) = inspect(name, matches)?;
        Ok(Source::Store { name: name.to_owned(), inspection, letters })
    }

    /// Whether what is asked is done at once.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self, Source::Store { .. })
    }

    /// The command that asks.
    pub(super) fn command(&self) -> &'static str {
        match self {
            Source::Running { .. } | Source::Store { .. } => "parked",
            #[cfg(feature = "postgres")]
            Source::Queue(_) => "jobs",
        }
    }

    /// What becomes of records that are retried.
    pub(super) fn on_the_way(&self) -> &'static str {
        match self {
            Source::Running { .. } | Source::Store { .. } => "on the way to their action again",
            #[cfg(feature = "postgres")]
            Source::Queue(_) => "in the queue again",
        }
    }

    /// How one record is shown, as a command.
    pub(super) fn call(&self, matches: &ArgMatches) -> String {
        match self {
            Source::Running { name, .. } | Source::Store { name, .. } => format!("{name} parked show ID{}", same_store(matches)),
            #[cfg(feature = "postgres")]
            Source::Queue(queue) => format!("highwater jobs show ID{}", queue.flags()),
        }
    }

    /// Asks for one slice of work.
    pub(super) fn ask(&self, ask: &Ask) -> Result<Answer> {
        match self {
            Source::Running { agent, url, token, .. } => post(agent, url, token, ask),
            #[cfg(feature = "postgres")]
            Source::Queue(queue) => queue.ask(ask),
            Source::Store { inspection, letters, .. } => match ask {
                Ask::List { filter, after, most, whole } => list(&**inspection, &**letters, filter, *after, *most, *whole),
                Ask::Count { filter, after } => count(&**inspection, filter, *after),
                Ask::Retry { filter, .. } => leave(&**inspection, &**letters, filter, true),
                Ask::Drop { filter, .. } => leave(&**inspection, &**letters, filter, false),
                Ask::Edit { id, row } => {
                    let parked = inspection.parked(*id)?.ok_or_else(|| unknown("parked", *id))?;
                    if let Err(why) = edited(&parked, row) {
                        return Ok(Answer { meant: 1, refused: Some(why), ..Answer::default() });
                    }
                    letters.leave(Request::Edit { id: *id, row: row.clone() })?;
                    Ok(Answer { meant: 1, done: 1, ..Answer::default() })
                }
            },
        }
    }

    /// One record, whole.
    pub(super) fn record(&self, id: ParkedId) -> Result<Record> {
        let ask = Ask::List { filter: Filter::of([id]), after: 0, most: 1, whole: true };
        self.ask(&ask)?.records.pop().ok_or_else(|| unknown(self.command(), id))
    }
}

fn post(agent: &ureq::Agent, url: &str, token: &str, ask: &Ask) -> Result<Answer> {
    let failed = |error: ureq::Error| Error::stop(format!("the running pipeline does not answer at {url}")).because(error);
    let body = serde_json::to_string(ask).map_err(|error| Error::stop("a request could not be written").because(error))?;
    let mut response = agent.post(url).header("Authorization", format!("Bearer {token}")).send(&body).map_err(failed)?;
    let text = response.body_mut().with_config().limit(256 << 20).read_to_string().map_err(failed)?;
    if response.status().as_u16() != 200 {
        return Err(Error::stop(text.trim_end().to_owned()));
    }
    serde_json::from_str(&text).map_err(|error| {
        Error::stop("the running pipeline answers otherwise than this program expects: is it another version?").because(error)
    })
}

/// What was asked for and is not done yet, of a record: the pipeline does it, or its next run.
fn asked(pending: &[Request], parked: &Parked) -> Option<String> {
    let comes_back = parked.cause.comes_back() || parked.cause == Cause::Rejected;
    let is_meant = |request: &&Request| request.filter().means(parked) && !(comes_back && request.verb() == "retry");
    pending.iter().rev().find(is_meant).map(|request| request.verb().to_owned())
}

fn list(
    inspection: &dyn Inspect,
    letters: &dyn Letters,
    filter: &Filter,
    mut after: ParkedId,
    most: usize,
    whole: bool,
) -> Result<Answer> {
    let pending: Vec<Request> = letters.pending()?.into_iter().map(|(_, request)| request).collect();
    let mut records = Vec::new();
    loop {
        let Page { records: found, next } = inspection.parked_page(filter, after, most - records.len())?;
        records.extend(found.iter().map(|parked| Record { asked: asked(&pending, parked), ..Record::of(parked, whole) }));
        match next {
            Some(next) if records.len() < most => after = next,
            next => return Ok(Answer { meant: records.len() as u64, records, next, ..Answer::default() }),
        }
    }
}

fn count(inspection: &dyn Inspect, filter: &Filter, after: ParkedId) -> Result<Answer> {
    if filter.is_all() {
        return Ok(Answer { meant: inspection.parked_count(), ..Answer::default() });
    }
    let Page { records, next } = inspection.parked_page(filter, after, PAGE)?;
    Ok(Answer { meant: records.len() as u64, next, ..Answer::default() })
}

/// Leaves a request: one for each record that is named by number, else one for all that are meant.
fn leave(inspection: &dyn Inspect, letters: &dyn Letters, filter: &Filter, is_retry: bool) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut next = Some(0);
    while let Some(after) = next {
        let page = inspection.parked_page(filter, after, PAGE)?;
        next = page.next;
        for parked in &page.records {
            answer.meant += 1;
            match parked.cause {
                Cause::Rejected if is_retry => answer.rejected += 1,
                cause if cause.comes_back() && is_retry => answer.comes_back += 1,
                _ => {
                    answer.done += 1;
                    if super::which::is_by_number(filter) {
                        let id = parked.id;
                        letters.leave(if is_retry { Request::Retry { id } } else { Request::Drop { id } })?;
                    }
                }
            }
        }
    }
    if answer.done > 0 && !super::which::is_by_number(filter) {
        let (filter, asked_at_ms) = (filter.clone(), unix_ms() + 1);
        letters.leave(match is_retry {
            true => Request::RetryAll { filter, asked_at_ms },
            false => Request::DropAll { filter, asked_at_ms },
        })?;
    }
    Ok(answer)
}
