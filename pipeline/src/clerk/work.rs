//! What the clerk is asked, done slice by slice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use highwater_operators::action::operator::{Command, CommandKind, Obeyed};
use highwater_operators::checkpoint::keeper::Drafts;
use highwater_operators::checkpoint::place::Letters;
use highwater_operators::checkpoint::requests::Request;
use highwater_operators::checkpoint::store::{Cause, Parked, ParkedId, Resolution, Resolved};
use highwater_operators::parked::{Filter, Page};
use highwater_operators::process::Process;
use highwater_operators::{Error, Result};

use super::ask::{Answer, Ask, LISTED_MAX, Record};

/// Records that are read for one page of commands.
const PAGE: usize = 256;
/// Commands that are being carried out at once, about: more wait in the store, where they cost nothing.
const IN_HAND_MAX: usize = 1024;
/// How long one slice may take, about.
const SLICE: Duration = Duration::from_millis(250);
/// How long the store and the workers may take for a page.
const PATIENCE: Duration = Duration::from_secs(20);
/// Letters that wait for other processes, at most.
const LETTERS_MAX: usize = 500;

/// Answers what is asked.
pub(super) fn answer(process: &Arc<Process>, letters: &Arc<dyn Letters>, ask: Ask) -> Result<Answer> {
    match ask {
        Ask::List { filter, after, most, whole } => {
            let Page { records, next } = page(process, filter, after, most.min(LISTED_MAX))?;
            let records: Vec<Record> = records.iter().map(|parked| Record::of(parked, whole)).collect();
            Ok(Answer { meant: records.len() as u64, records, next, ..Answer::default() })
        }
        Ask::Count { filter, after } => count(process, &filter, after),
        Ask::Retry { filter, after } => slice(process, letters, &filter, after, &CommandKind::Retry),
        Ask::Drop { filter, after } => slice(process, letters, &filter, after, &CommandKind::Drop),
        Ask::Edit { id, row } => {
            let answer = slice(process, letters, &Filter::of([id]), 0, &CommandKind::Edit(row))?;
            Ok(Answer { next: None, ..answer })
        }
    }
}

fn page(process: &Process, filter: Filter, after: ParkedId, most: usize) -> Result<Page> {
    let (tell, told) = bounded(1);
    process.keeper.page_of_parked(filter, after, most, move |page| drop(tell.send(page)));
    told.recv_timeout(PATIENCE).map_err(|_| silent())
}

fn silent() -> Error {
    Error::stop("the checkpoint store does not answer; `why` says what holds it")
}

fn count(process: &Process, filter: &Filter, mut after: ParkedId) -> Result<Answer> {
    let by_action = Filter { action: filter.action.clone(), ..Filter::default() };
    if *filter == by_action && !process.cluster.place().has_others() {
        let shelves = process.keeper.shelves().by_action();
        let of = shelves.iter().filter(|(action, _)| filter.action.as_ref().is_none_or(|wanted| wanted == *action));
        return Ok(Answer { meant: of.map(|(_, shelf)| shelf.records).sum(), ..Answer::default() });
    }
    let began = Instant::now();
    let mut answer = Answer::default();
    loop {
        let page = page(process, filter.clone(), after, PAGE * 4)?;
        answer.meant += page.records.len() as u64;
        answer.next = page.next;
        match page.next {
            Some(next) if began.elapsed() < SLICE => after = next,
            _ => return Ok(answer),
        }
    }
}

/// Passes a command on for what is meant, for as long as a slice lasts or until enough is in hand.
pub(super) fn slice(
    process: &Arc<Process>,
    letters: &Arc<dyn Letters>,
    filter: &Filter,
    after: ParkedId,
    kind: &CommandKind,
) -> Result<Answer> {
    let began = Instant::now();
    let mut answer = Answer { next: Some(after), ..Answer::default() };
    while let Some(after) = answer.next {
        if began.elapsed() >= SLICE || process.halt.is_halted() || process.is_stopping() {
            break;
        }
        if process.commands_in_hand() >= IN_HAND_MAX {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let done = pass_on(process, letters, filter.clone(), after, kind)?;
        answer = answer.and(done);
    }
    Ok(answer)
}

/// What became of one record.
pub(super) enum Became {
    Obeyed(Obeyed),
    /// It is a line that is no change.
    Rejected,
    /// Another process has its key.
    Elsewhere(ParkedId),
    /// Its action has ended in this run, for its source has been read to the end: there is no worker to do it.
    Ended,
}

/// Tells what became of a record, also if nobody says so.
struct Reply<F: FnOnce(Became)>(Option<F>);

impl<F: FnOnce(Became)> Reply<F> {
    fn give(mut self, became: Became) {
        if let Some(reply) = self.0.take() {
            reply(became);
        }
    }
}

impl<F: FnOnce(Became)> Drop for Reply<F> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            reply(Became::Ended);
        }
    }
}

/// Passes a command on for one page, and waits until the workers have taken it in hand.
fn pass_on(
    process: &Arc<Process>,
    letters: &Arc<dyn Letters>,
    filter: Filter,
    after: ParkedId,
    kind: &CommandKind,
) -> Result<Answer> {
    let (tell, told) = bounded(1);
    let (own, kind_of_all) = (process.clone(), kind.clone());
    process.keeper.page_of_parked(filter, after, PAGE, move |page| {
        // On the keeper's thread, so that every command is with its worker before what becomes of its record.
        let (became, all) = unbounded();
        let meant = page.records.len() as u64;
        for parked in page.records {
            command(&own, parked, &kind_of_all, move_to(&became));
        }
        let _ = tell.send((meant, page.next, all));
    });
    let (meant, next, all): (u64, Option<ParkedId>, Receiver<Became>) = told.recv_timeout(PATIENCE).map_err(|_| silent())?;
    let mut answer = Answer { meant, next, ..Answer::default() };
    let mut elsewhere = Vec::new();
    // It closes when the last command has been answered, or its worker is gone.
    let until = Instant::now() + PATIENCE;
    while let Ok(became) = all.recv_deadline(until) {
        match became {
            Became::Obeyed(Obeyed::Done) => answer.done += 1,
            Became::Obeyed(Obeyed::ComesBack) => answer.comes_back += 1,
            Became::Obeyed(Obeyed::UnderWay) => answer.under_way += 1,
            Became::Obeyed(Obeyed::Refused(why)) => answer.refused = Some(why),
            Became::Rejected => answer.rejected += 1,
            Became::Elsewhere(id) => elsewhere.push(id),
            Became::Ended => answer.ended += 1,
        }
    }
    answer.done += elsewhere.len() as u64;
    leave_to_others(process, letters, elsewhere, kind)?;
    Ok(answer)
}

fn move_to(became: &crossbeam_channel::Sender<Became>) -> impl FnOnce(Became) + Send + 'static {
    let became = became.clone();
    move |what| drop(became.send(what))
}

/// Sends a command to the worker that owns the key, if that is one of this process. What nobody owns is the leader's affair.
pub(super) fn command(process: &Arc<Process>, parked: Parked, kind: &CommandKind, became: impl FnOnce(Became) + Send + 'static) {
    let place = process.cluster.place();
    if parked.cause == Cause::Rejected {
        return match kind {
            CommandKind::Drop if place.leads() => {
                let resolved = Resolved { id: parked.id, action: parked.action, resolution: Resolution::Dropped };
                let drafts = Drafts { resolved: vec![resolved], ..Drafts::default() };
                process.keeper.commit(drafts, move |_| became(Became::Obeyed(Obeyed::Done)));
            }
            _ => became(Became::Rejected),
        };
    }
    if place.owner_of(parked.change.key_hash()) != place.process {
        return became(Became::Elsewhere(parked.id));
    }
    // Dropped with the command where no worker takes it.
    let reply = Reply(Some(became));
    let done = Box::new(move |obeyed| reply.give(Became::Obeyed(obeyed)));
    Command { parked, kind: kind.clone(), done }.send(process);
}

/// Leaves letters for the processes that own the keys of these records; each takes its own.
fn leave_to_others(process: &Process, letters: &Arc<dyn Letters>, ids: Vec<ParkedId>, kind: &CommandKind) -> Result {
    for id in ids {
        letters.leave(match kind {
            CommandKind::Retry => Request::Retry { id },
            CommandKind::Drop => Request::Drop { id },
            CommandKind::Edit(row) => Request::Edit { id, row: row.clone() },
        })?;
    }
    while letters.pending()?.len() > LETTERS_MAX && !process.halt.is_halted() && !process.is_stopping() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
